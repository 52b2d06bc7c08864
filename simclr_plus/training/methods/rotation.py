"""Rotation prediction: by which angle was the image turned? (Gidaris, Singh, Komodakis, ICLR 2018)

Every image is shown by every angle in one batch, rows image by image, after the flip: a flip after turning would make
90 and 270 degrees one class. Turning is exact, an order of pixels, and leaves no trace at the edges.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.datasets.batches import Batch
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.full_precision import in_full
from simclr_plus.parts.rotation import RotationHead, turned
from simclr_plus.recipe.method_keys.rotation import RotationKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class Rotation(Method):
    """f, and a linear classifier of the angles on it."""

    source: ClassVar[str] = "Gidaris, Singh, Komodakis 2018, arXiv:1803.07728"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, RotationKeys)
        self.angles = recipe.method.angles
        self.upright = self.angles.index(0) if 0 in self.angles else 0
        self.classifier = RotationHead(encoder.feature_dim, len(self.angles))

    def prepare(self, batch: Batch) -> Inputs:
        """The turned views [B K, 3, S, S] and the number of each one's angle."""
        labels = torch.arange(len(self.angles), device=batch.views.device).repeat(len(batch.views))
        return Inputs(turned(batch.views, self.angles), labels)

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) of each image that is not turned [B, F], and the logits of the angles [B K, K].

        Where the angles leave out 0, h is of each image by the first of them.
        """
        h = self.encoder(images)
        upright = h[self.upright :: len(self.angles)]
        return {"h": upright, "angles": self.classifier(h), **self.probed(upright)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean cross entropy of B K rows."""
        assert inputs.targets is not None
        logits = in_full(outputs["angles"])
        loss = F.cross_entropy(logits, inputs.targets)
        right = (logits.detach().argmax(dim=1) == inputs.targets).float().mean()
        return StepResult(outputs["h"].detach(), loss.detach(), loss, partial(_metrics, right))


def _metrics(right: Tensor) -> dict[str, float]:
    return {"pretext_accuracy": distributed.mean_over_processes(right)}
