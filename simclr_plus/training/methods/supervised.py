"""Supervised training of the same network in the same loop: one view an image, the cross entropy of its label."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.datasets.batches import Batch
from simclr_plus.full_precision import in_full
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class Supervised(Method):
    """f learns through the classifier that stands where other methods have their probe."""

    source: ClassVar[str] = "Chen et al. 2020, sections 3.2 and B.8"

    def prepare(self, batch: Batch) -> Inputs:
        """Views and their labels [B]."""
        return Inputs(batch.views, batch.labels)

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) [B, F] and the logits of the classes [B, C]."""
        assert self.probe is not None
        h = self.encoder(images)
        return {"h": h, "classes": self.probe(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean cross entropy."""
        assert inputs.targets is not None
        logits = in_full(outputs["classes"])
        loss = F.cross_entropy(logits, inputs.targets)
        right = (outputs["classes"].argmax(dim=1) == inputs.targets).float().mean()
        return StepResult(outputs["h"].detach(), loss.detach(), loss, partial(_metrics, right))


def _metrics(right: Tensor) -> dict[str, float]:
    return {"probe_accuracy": distributed.mean_over_processes(right)}
