"""DIM: an image's features find its places among those of other images (Hjelm et al. 2019), the local objective."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.streams import Stream, uniforms
from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.parts.amdim import on_grid, place_accuracy
from simclr_plus.parts.dim import DIMHeads, DIMLoss, PriorDiscriminator, PriorTerms, prior_terms
from simclr_plus.recipe.method_keys.dim import DIMKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class DIM(Method):
    """f, a linear layer and two networks that score places; with a prior, a discriminator."""

    source: ClassVar[str] = "Hjelm et al. 2019, arXiv:1808.06670"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, DIMKeys)
        self.keys = recipe.method
        channels, _ = recipe.architecture.map_shape(self.keys.stage, recipe.augmentation.image_size)
        self.heads = DIMHeads(encoder.feature_dim, channels, self.keys.units, self.keys.global_dim)
        self.criterion = DIMLoss(self.keys.objective, self.keys.exact_mask)
        self.discriminator = PriorDiscriminator(self.keys.global_dim) if self.keys.prior_weight else None

    def prepare(self, batch: Batch) -> Inputs:
        """The images [B, 3, S, S]; with a prior a sample [B, D] of it for each."""
        if self.discriminator is None:
            return Inputs(batch.views)
        samples = uniforms(
            batch.seed, Stream.LATENTS, batch.counters.indices, batch.counters.epochs, self.keys.global_dim
        )
        return Inputs(batch.views, more={"samples": samples.to(batch.views)})

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) [B, F]; of the whole image [B, U], of its places [B, U, G, G]; the terms of the prior."""
        h, maps = self.encoder.features_and_maps(images)
        vector, whole, places = self.heads(h, on_grid(maps[f"layer{self.keys.stage}"], self.keys.grid))
        prior: dict[str, Tensor] = {}
        if self.discriminator is not None:  # here, because DDP sees what happens in this pass
            prior = prior_terms(self.discriminator, vector, more["samples"])._asdict()
        return {"h": h, "whole": whole, "places": places, **prior, **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The local objective; what is minimised has the two sides of the prior beside it."""
        whole, places = outputs["whole"], outputs["places"]
        loss, objective = (self.criterion(whole, places, equal_rows=True),) * 2
        prior: dict[str, Tensor] = {}
        if self.discriminator is not None:
            terms = PriorTerms(*(outputs[name] for name in PriorTerms._fields))
            objective = loss + self.keys.prior_weight * terms.encoder + terms.discriminator + terms.penalty
            prior = {"prior_loss": terms.encoder.detach(), "discriminator_loss": terms.discriminator.detach()}
        metrics = partial(_metrics, whole.detach(), places.detach(), prior)
        return StepResult(outputs["h"].detach(), loss.detach(), objective, metrics)


def _metrics(whole: Tensor, places: Tensor, prior: Mapping[str, Tensor]) -> dict[str, float]:
    """Places found among those of all other images; both sides of the prior."""
    columns = {"place_accuracy": place_accuracy(whole, places, equal_rows=True), **prior}
    return {name: distributed.mean_over_processes(value) for name, value in columns.items()}
