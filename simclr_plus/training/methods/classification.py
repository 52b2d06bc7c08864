"""The loss of a task that asks for a class of each row: the mean cross entropy, and the share that is told right."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.full_precision import in_full
from simclr_plus.training.methods.method import StepResult


def classified(h: Tensor, logits: Tensor, labels: Tensor) -> StepResult:
    """Of logits [R, K] and labels [R]; h are the features of the step."""
    logits = in_full(logits)
    loss = F.cross_entropy(logits, labels)
    right = (logits.detach().argmax(dim=1) == labels).float().mean()
    return StepResult(h.detach(), loss.detach(), loss, partial(_metrics, right))


def _metrics(right: Tensor) -> dict[str, float]:
    return {"pretext_accuracy": distributed.mean_over_processes(right)}
