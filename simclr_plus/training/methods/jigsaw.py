"""Jigsaw puzzles: in which order do the patches of an image stand? (Noroozi, Favaro, ECCV 2016)

Each patch goes through f once; its embeddings are put in several orders, drawn for each image. h, for the probe, is the
mean over the patches; evaluators and the monitor show f whole images.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import RecipeError
from simclr_plus.parts.counted_dropout import dropout_keys
from simclr_plus.parts.jigsaw import JigsawHead, drawn_labels
from simclr_plus.parts.patches import random_patches
from simclr_plus.parts.permutation_set import checked_permutations, permutation_set
from simclr_plus.recipe.method_keys.jigsaw import JigsawKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.classification import classified
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class Jigsaw(Method):
    """f, the embedding of a patch, and a classifier of permutations. The set of permutations [P, M] is a buffer."""

    source: ClassVar[str] = "Noroozi, Favaro 2016, arXiv:1603.09246; Kolesnikov, Zhai, Beyer 2019, arXiv:1901.09005"
    permutations: Tensor

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, JigsawKeys)
        self.keys = recipe.method
        self.register_buffer("permutations", torch.from_numpy(_permutations(self.keys).astype(np.int64)))
        self.head = JigsawHead(
            encoder.feature_dim,
            patches=self.keys.patch_grid.count,
            permutations=self.keys.permutations,
            embedding_dim=self.keys.embedding_dim,
            hidden_dim=self.keys.hidden_dim,
            dropout=self.keys.dropout,
        )

    def prepare(self, batch: Batch) -> Inputs:
        """The patches [M B, 3, s, s], image by image; the numbers of the orders [B K], the orders [B, K, M], and what
        decides dropout [B K].
        """
        k, seed, indices, epochs = self.keys, batch.seed, batch.counters.indices, batch.counters.epochs
        patches = random_patches(batch.views, k.patch_grid, k.gray_prob, seed=seed, indices=indices, epochs=epochs)
        drawn = (
            drawn_labels(seed, indices, epochs, k.per_image, k.permutations),
            dropout_keys(seed, indices, epochs, k.per_image).flatten(),
        )
        labels, dropped = (x.to(batch.views.device, non_blocking=True) for x in drawn)
        more = {"orders": self.permutations[labels], "dropped": dropped}
        return Inputs(patches.flatten(0, 1), labels.flatten(), more)

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """The mean h of the patches of each image [B, F], and the logits of the permutations [B K, P]."""
        h = self.encoder(images)
        mean = h.unflatten(0, (-1, self.keys.patch_grid.count)).mean(dim=1)
        return {"h": mean, "orders": self.head(h, more["orders"], more["dropped"]), **self.probed(mean)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean cross entropy of B K rows."""
        assert inputs.targets is not None
        return classified(outputs["h"], outputs["orders"], inputs.targets)


def _permutations(keys: JigsawKeys) -> NDArray[np.uint8]:
    """Those of the file, or those of the law; raises RecipeError for a file that holds no such set."""
    count, patches = keys.permutations, keys.patch_grid.count
    if not keys.file:
        return permutation_set(count, patches)
    remedy = (
        f"give a .npy file of whole numbers [{count}, {patches}], each row a permutation from 0 or from 1 on, and "
        "method.permutations = its rows; or leave method.file out"
    )
    try:
        with Path(keys.file).open("rb") as file:
            rows = np.lib.format.read_array(file, allow_pickle=False)  # np.load would try zips and pickles too
    except (OSError, ValueError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "it is no .npy file of numbers"
        raise RecipeError(f"method.file = {keys.file!r} cannot be read ({reason}); {remedy}") from None
    try:
        return checked_permutations(rows, count, patches)
    except ValueError as error:
        raise RecipeError(f"method.file = {keys.file!r} {error}; {remedy}") from None
