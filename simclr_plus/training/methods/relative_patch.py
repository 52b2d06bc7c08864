"""Relative patch location: where does a patch lie from the centre? (Doersch, Gupta, Efros, ICCV 2015)

Each of nine patches goes through f once; its embedding stands in a row beside that of the central patch. h, for the
probe, is the mean over the patches; evaluators and the monitor show f whole images.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.parts.counted_dropout import dropout_keys
from simclr_plus.parts.patches import random_patches
from simclr_plus.parts.relative_patch import PAIRS, RelativePatchHead, pair_labels
from simclr_plus.recipe.method_keys.relative_patch import RelativePatchKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.classification import classified
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class RelativePatch(Method):
    """f, the embedding of a patch, and a classifier of the eight places around the centre."""

    source: ClassVar[str] = (
        "Doersch, Gupta, Efros 2015, arXiv:1505.05192; Kolesnikov, Zhai, Beyer 2019, arXiv:1901.09005"
    )

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, RelativePatchKeys)
        self.keys = recipe.method
        self.head = RelativePatchHead(
            encoder.feature_dim,
            embedding_dim=self.keys.embedding_dim,
            hidden_dim=self.keys.hidden_dim,
            dropout=self.keys.dropout,
        )

    def prepare(self, batch: Batch) -> Inputs:
        """The patches [9 B, 3, s, s], image by image, the places [8 B], and what decides dropout [8 B]."""
        k, seed, indices, epochs = self.keys, batch.seed, batch.counters.indices, batch.counters.epochs
        patches = random_patches(batch.views, k.patch_grid, k.gray_prob, seed=seed, indices=indices, epochs=epochs)
        dropped = dropout_keys(seed, indices, epochs, len(PAIRS)).flatten().to(batch.views.device, non_blocking=True)
        labels = pair_labels(len(batch.views), batch.views.device)
        return Inputs(patches.flatten(0, 1), labels, {"dropped": dropped})

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """The mean h of the patches of each image [B, F], and the logits of the places [8 B, 8]."""
        h = self.encoder(images)
        mean = h.unflatten(0, (-1, self.keys.patch_grid.count)).mean(dim=1)
        return {"h": mean, "places": self.head(h, more["dropped"]), **self.probed(mean)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean cross entropy of 8 B rows."""
        assert inputs.targets is not None
        return classified(outputs["h"], outputs["places"], inputs.targets)
