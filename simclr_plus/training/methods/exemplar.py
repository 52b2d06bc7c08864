"""Exemplar: many views of an image are near each other, and other images farther (Kolesnikov, Zhai, Beyer 2019).

As Dosovitskiy et al. (2014) had it each image is a class of its own: `method.loss = "surrogate"`.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import RecipeError
from simclr_plus.full_precision import in_full
from simclr_plus.parts.exemplar import embedding_deviation, exemplar_triplet_loss, nearest_is_own
from simclr_plus.recipe.method_keys.exemplar import ExemplarKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class Exemplar(Method):
    """f, and a linear layer to the embedding, or to the images as classes."""

    source: ClassVar[str] = (
        "Dosovitskiy, Fischer, Springenberg, Riedmiller, Brox 2014, arXiv:1406.6909; Kolesnikov, Zhai, Beyer 2019, "
        "arXiv:1901.09005"
    )

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, ExemplarKeys)
        self.keys = recipe.method
        if problem := self.keys.problem_of_images(images):
            raise RecipeError(problem)
        width = self.keys.output_dim if self.keys.loss == "triplet" else max(1, images)
        self.head = nn.Linear(encoder.feature_dim, width)

    def prepare(self, batch: Batch) -> Inputs:
        """The views [V B, 3, S, S] and the number of the image of each [V B]."""
        return Inputs(batch.views, batch.indices.repeat(self.keys.views))

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h [V B, F], and the embedding [V B, D] or the logits of the images [V B, n]."""
        h = self.encoder(images)
        return {"h": h, "z": self.head(h), **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """Of the triplets of the global batch, or the mean cross entropy of the images."""
        assert inputs.targets is not None
        z, images, k = in_full(outputs["z"]), inputs.targets, self.keys
        if k.loss == "surrogate":
            loss = F.cross_entropy(z, images)
            right = (z.detach().argmax(dim=1) == images).float().mean()
            return StepResult(outputs["h"].detach(), loss.detach(), loss, partial(_share, right))
        rows, numbers = z, images
        if k.group_images:  # the views of an image side by side
            rows = torch.unflatten(z, 0, (k.views, -1)).transpose(0, 1).flatten(0, 1)
            numbers = images.view(k.views, -1).T.flatten()
        loss = exemplar_triplet_loss(
            rows,
            numbers,
            margin=k.margin,
            normalize=k.normalize,
            group_rows=k.group_images * k.views,
            gather=True,
            equal_rows=True,
        )
        return StepResult(outputs["h"].detach(), loss.detach(), loss, partial(_spread, z.detach(), images))


def _share(right: Tensor) -> dict[str, float]:
    return {"pretext_accuracy": distributed.mean_over_processes(right)}


def _spread(z: Tensor, images: Tensor) -> dict[str, float]:
    """Of the rows of all processes."""
    if distributed.world_size() > 1:
        z, images = distributed.all_gather(z).flatten(0, 1), distributed.all_gather(images).flatten()
    return {
        "contrastive_accuracy": float(nearest_is_own(z, images)),
        "embedding_deviation": float(embedding_deviation(z)),
    }
