"""AMDIM: a view finds the places of the other one at two scales (Bachman, Hjelm, Buchwalter 2019).

Its features are those of a ResNet here, or of a network by name: the authors' own network keeps places apart that
overlap in their maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.streams import Stream, whole_numbers
from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.full_precision import in_full
from simclr_plus.parts.amdim import AMDIMHeads, AMDIMLoss, Scales, on_grid, place_accuracy
from simclr_plus.recipe.method_keys.amdim import AMDIMKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult

SCALES = ("whole", "coarse", "fine")


class AMDIM(Method):
    """f, a batch norm of h, and a network of places for each of two maps."""

    source: ClassVar[str] = "Bachman, Hjelm, Buchwalter 2019, arXiv:1906.00910"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, AMDIMKeys)
        self.keys, size = recipe.method, recipe.augmentation.image_size
        fine, coarse = (recipe.architecture.map_shape(stage, size)[0] for stage in self.keys.stages)
        self.heads = AMDIMHeads(encoder.feature_dim, coarse, fine, self.keys.units)
        self.criterion = AMDIMLoss(self.keys.clip, self.keys.regulariser)

    def prepare(self, batch: Batch) -> Inputs:
        """The views [2 B, 3, S, S], and the coarse place [2, B] that each view of an image is told from."""
        side = self.keys.sides(self.recipe)[1]
        places = whole_numbers(
            batch.seed, Stream.PLACES, batch.counters.indices, batch.counters.epochs, 2, below=side**2
        )
        return Inputs(batch.views, places.T.to(batch.views.device))

    def forward(self, images: Tensor, **_more: Tensor) -> Outputs:
        """h = f(x) [2 B, F]; of each view its whole [2 B, D], coarse and fine map [2 B, D, G, G].

        The heads see a view at a time, so that their batch norms do as the authors'.
        """
        h, maps = self.encoder.features_and_maps(images)
        fine, coarse = (
            on_grid(maps[f"layer{stage}"], grid) for stage, grid in zip(self.keys.stages, self.keys.grids, strict=True)
        )
        views = [self.heads(*view) for view in zip(h.chunk(2), coarse.chunk(2), fine.chunk(2), strict=True)]
        scales = {name: torch.cat([getattr(view, name) for view in views]) for name in SCALES}
        return {"h": h, **scales, **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The sum of the three tasks and of the regulariser."""
        assert inputs.targets is not None
        first, second = (Scales(*view) for view in zip(*(in_full(outputs[n]).chunk(2) for n in SCALES), strict=True))
        terms = self.criterion.terms(first, second, *inputs.targets, equal_rows=True)
        of_whole = {"coarse_accuracy": second.coarse.detach(), "fine_accuracy": second.fine.detach()}
        metrics = partial(_metrics, first.whole.detach(), of_whole, terms.mean_square.detach())
        return StepResult(outputs["h"].detach(), terms.total.detach(), terms.total, metrics)


def _metrics(whole: Tensor, maps: Mapping[str, Tensor], mean_square: Tensor) -> dict[str, float]:
    """The whole of view 0 against the places of view 1; the root mean square of all scores."""
    accuracies = {name: place_accuracy(whole, places, equal_rows=True) for name, places in maps.items()}
    columns = {name: distributed.mean_over_processes(value) for name, value in accuracies.items()}
    return columns | {"score_size": distributed.mean_over_processes(mean_square) ** 0.5}
