"""CMC: lightness and colors of an image, seen by two networks, find each other (Tian, Krishnan, Isola, ECCV 2020).

f is the pair, so that evaluators feed RGB to it and read both halves of h. Each half has a memory of every image: it is
compared with that of the other half, and goes into its own after the update.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.grayness import count_gray
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.parts.cmc import CMCCompared, CMCHead, CMCLoss
from simclr_plus.recipe.method_keys.cmc import CMCKeys
from simclr_plus.recipe.method_keys.memory import note_on_few_images
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.gray_images import notes_on_gray
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class CMC(Method):
    """f, a linear layer on each half of h, and two memories of every image."""

    source: ClassVar[str] = "Tian, Krishnan, Isola 2020, arXiv:1906.05849"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, CMCKeys)
        keys = self.keys = recipe.method
        self.head = CMCHead(encoder.feature_dim, keys.output_dim)
        self.criterion = CMCLoss(
            images,
            keys.output_dim,
            loss=keys.loss,
            negatives=keys.negatives,
            temperature=keys.temperature,
            momentum=keys.momentum,
            z_momentum=keys.z_momentum,
            seed=recipe.training.seed,
        )

    def study_images(self, images: Images, law: ViewLaw) -> Iterator[str]:
        """Refuse gray images, of which a sample that is spread evenly is read; a note where there are few for nce."""
        yield from notes_on_gray(self.keys, images, self.recipe.data.name, *count_gray(images))
        note = note_on_few_images("loss", self.keys.loss, len(images))
        if note:
            yield note

    def prepare(self, batch: Batch) -> Inputs:
        """The views [B, 3, S, S], and whose rows of the memories they are compared with [B, 1 + K], or [B] for all."""
        return Inputs(batch.views, self.criterion.candidates(batch.indices, batch.step))

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h [B, F], and z of lightness and of colors [B, D] of unit length."""
        h = self.encoder(images)
        lightness, colors = self.head(h)
        return {"h": h, "lightness": lightness, "colors": colors, **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The sum of both halves' losses, against the memories as they are before this step."""
        assert inputs.targets is not None
        z = outputs["lightness"], outputs["colors"]
        compared = self.criterion.compare(*z, inputs.targets)
        kept = torch.stack(z).detach()
        return StepResult(
            outputs["h"].detach(), compared.loss.detach(), compared.loss, partial(_metrics, compared), kept
        )

    def after_step(self, result: StepResult, batch: Batch) -> None:
        """The batch goes into both memories."""
        assert result.memory is not None
        self.criterion.update(batch.indices, *result.memory, equal_rows=True)


def _metrics(compared: CMCCompared) -> dict[str, float]:
    columns = {"pretext_accuracy": compared.nearest}
    columns |= {"lightness_accuracy": compared.lightness.nearest, "color_accuracy": compared.colors.nearest}
    return {column: distributed.mean_over_processes(share) for column, share in columns.items()}
