"""The autoencoder: a decoder makes the view again from h; denoising and variational by keys.

The target is the view that f sees, before noise. Augmenting the input with another target is another method. The
decoder sees h alone: with a map as code, or connections beside it, the identity is learnt and h learns nothing.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.augmentations.streams import Stream, normals
from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.full_precision import in_full
from simclr_plus.parts.autoencoder import (
    active_dimensions,
    corrupted,
    kl_divergence,
    reconstruction_loss,
    sampled,
    variational_loss,
)
from simclr_plus.parts.decoder import Decoder, averaged, in_unit_range, reconstructed_share
from simclr_plus.recipe.method_keys.autoencoder import AutoencoderKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class Autoencoder(Method):
    """f, the code's linear layer where the recipe asks for one, and the decoder."""

    source: ClassVar[str] = "Vincent et al. 2008; Kingma, Welling 2014, arXiv:1312.6114"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, AutoencoderKeys)
        self.keys, features = recipe.method, encoder.feature_dim
        self.variational = self.keys.kl_weight > 0
        self.code: nn.Module = nn.Identity()
        if self.keys.latent_dim:
            self.code = nn.Linear(features, self.keys.latent_dim * (2 if self.variational else 1))
        self.decoder = Decoder(self.keys.latent_dim or features, self.keys.side(recipe), self.keys.width)

    def prepare(self, batch: Batch) -> Inputs:
        """Views in [0, 1], with noise where it is asked for; the targets are the clean views, averaged to S_g."""
        views = in_unit_range(batch.views)
        images, more = views, {}
        if self.keys.noise_deviation:
            noise = _drawn(batch, Stream.NOISE, views[0].numel())
            images = corrupted(views, noise.view_as(views), self.keys.noise_deviation)
        if self.variational:
            more["noise"] = _drawn(batch, Stream.LATENTS, self.keys.latent_dim)
        return Inputs(images, averaged(views, self.decoder.image_size), more)

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) [B, F], what is decoded from it [B, 3, S_g, S_g]; mean and log variance [B, D] of the code."""
        h = self.encoder(images)
        code = self.code(h)
        outputs = {"h": h, **self.probed(h)}
        if self.variational:
            mean, log_variance = in_full(code).chunk(2, dim=1)
            code = sampled(mean, log_variance, more["noise"])
            outputs |= {"mean": mean, "log_variance": log_variance}
        return {**outputs, "decoded": self.decoder(code)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean squared error of B images, with its divergence for a variational one."""
        made, images = outputs["decoded"], inputs.targets
        assert images is not None
        if self.variational:
            moments = (outputs["mean"], outputs["log_variance"])
            loss = variational_loss(made, images, *moments, kl_weight=self.keys.kl_weight)
        else:
            loss = reconstruction_loss(made, images)
        kept = {name: x.detach() for name, x in outputs.items()}
        return StepResult(kept["h"], loss.detach(), loss, partial(_metrics, kept, images))


def _drawn(batch: Batch, stream: Stream, count: int) -> Tensor:
    """[B, count] from N(0, 1), by the place of an image in the global batch and the step."""
    views = batch.views
    return normals(batch.seed, stream, batch.counters.places, batch.step, count).to(views, non_blocking=True)


def _metrics(outputs: Outputs, images: Tensor) -> dict[str, float]:
    figures = {"reconstructed": reconstructed_share(outputs["decoded"], images)}
    if "mean" in outputs:
        kl = kl_divergence(outputs["mean"], outputs["log_variance"]).mean()
        figures |= {"kl": distributed.mean_over_processes(kl), "active_latents": active_dimensions(outputs["mean"])}
    return figures
