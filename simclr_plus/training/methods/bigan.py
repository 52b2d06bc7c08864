"""BiGAN with f as its encoder: D tells (x, E(x)) from (G(z), z), E and G make them alike, and so E inverts G.

All players move at once, by one backward pass of the sum of their losses: D's scores for E and G come from a frozen D,
so that each parameter has the gradient of its own player's loss alone. DDP and the optimizer see an ordinary step.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.streams import Stream, normals, uniforms
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.grayness import count_gray
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import RecipeError
from simclr_plus.full_precision import in_full
from simclr_plus.parts.bigan import (
    Frozen,
    JointDiscriminator,
    LatentHead,
    SpectralDiscriminator,
    discriminator_loss,
    encoder_generator_loss,
    scores_of,
)
from simclr_plus.parts.decoder import Decoder, averaged, in_unit_range, reconstructed_share
from simclr_plus.recipe.method_keys.bigan import BiGANKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class BiGAN(Method):
    """f with a layer to the code (E), generator (G) and discriminator (D)."""

    source: ClassVar[str] = "Donahue, Krähenbühl, Darrell 2017, arXiv:1605.09782; BigBiGAN 2019, arXiv:1907.02544"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, BiGANKeys)
        self.keys = keys = recipe.method
        side, self.channels = keys.side(recipe), keys.channel_count(recipe)
        self.to_code = LatentHead(encoder.feature_dim, keys.latent_dim, keys.prior)
        self.generator = Decoder(keys.latent_dim, side, keys.width, self.channels)
        shape = (keys.latent_dim, side, keys.width, self.channels)
        self.discriminator: JointDiscriminator | SpectralDiscriminator = (
            SpectralDiscriminator(*shape, unary=keys.unary)
            if keys.discriminator == "spectral"
            else JointDiscriminator(*shape)
        )
        self.rate_factors = {"encoder.": keys.encoder_rate, "to_code.": keys.encoder_rate}

    def study_images(self, images: Images, law: ViewLaw) -> Iterable[str]:
        """One channel is made for gray images: three unequal ones would give fakes away, whatever they show."""
        gray, seen = count_gray(images)
        mostly_gray, name = 2 * gray > seen, self.recipe.data.name
        if mostly_gray == (self.channels == 1):
            return ()
        sentence = (
            f"{self.channels} channel{'s' if self.channels > 1 else ''} are generated, and {gray} of {seen} images "
            f'looked at are gray (data.name = "{name}"); '
        )
        remedy = f"method.channels = {1 if mostly_gray else 3}"
        if self.keys.channels == 0:
            raise RecipeError(f"method.channels = 0: {sentence}use {remedy}")
        return (f"method.channels = {self.keys.channels}: {sentence}{remedy} may do better",)

    def prepare(self, batch: Batch) -> Inputs:
        """Views in [0, 1], and codes z by the place in the global batch and the step; for a normal prior E's noise."""
        draw = uniforms if self.keys.prior == "uniform" else normals
        codes = draw(batch.seed, Stream.LATENTS, batch.counters.places, batch.step, self.keys.latent_dim)
        more = {"codes": 2 * codes - 1 if self.keys.prior == "uniform" else codes}
        if self.keys.prior == "normal":
            more["noise"] = normals(batch.seed, Stream.NOISE, batch.counters.places, batch.step, self.keys.latent_dim)
        views = in_unit_range(batch.views)
        return Inputs(views, more={name: x.to(views, non_blocking=True) for name, x in more.items()})

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) [B, F]; scores of real and fake pairs [B, 1 or 3] by D, and by a frozen D for E and G."""
        h = self.encoder(images)
        x, z = self.seen(images), more["codes"]
        code, made = self.to_code(h, more.get("noise")), self.generator(z)
        real, fake = scores_of(self.discriminator, (x, code.detach()), (made.detach(), z))
        real_frozen, fake_frozen = scores_of(Frozen(self.discriminator), (x, code), (made, z))
        scores = {"real": real, "fake": fake, "real_frozen": real_frozen, "fake_frozen": fake_frozen}
        return {"h": h, "x": x, "code": code.detach(), **scores, **self.probed(h)}

    def seen(self, images: Tensor) -> Tensor:
        """What D sees of images, and G makes: [B, 1 or 3, S_g, S_g]."""
        pictures = averaged(images, self.generator.image_size)
        return pictures.mean(dim=1, keepdim=True) if self.channels == 1 else pictures

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """D's loss + that of E and G."""
        s = {name: in_full(outputs[name]) for name in ("real", "fake", "real_frozen", "fake_frozen")}
        of_d = discriminator_loss(s["real"], s["fake"], self.keys.loss)
        of_eg = encoder_generator_loss(s["real_frozen"], s["fake_frozen"], self.keys.loss)
        objective = of_d + of_eg
        metrics = partial(self._metrics, of_d.detach(), of_eg.detach(), outputs["x"], outputs["code"])
        return StepResult(outputs["h"].detach(), objective.detach(), objective, metrics)

    @torch.no_grad()
    def _metrics(self, of_d: Tensor, of_eg: Tensor, x: Tensor, code: Tensor) -> dict[str, float]:
        """Both losses, and what comes back of the images: G(E(x)) by the new G, whose statistics stay."""
        return {
            "reconstructed": reconstructed_share(Frozen(self.generator)(code), x),
            "discriminator_loss": distributed.mean_over_processes(of_d),
            "encoder_generator_loss": distributed.mean_over_processes(of_eg),
        }
