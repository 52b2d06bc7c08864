"""The probe: a linear classifier that learns beside a method, on features that its gradient does not reach."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from simclr_plus.full_precision import in_full
from simclr_plus.training.methods.method import Outputs


@dataclass(frozen=True)
class ProbeResult:
    """Its cross entropy, which is minimised with the method's objective, and its accuracy on this process's rows."""

    loss: Tensor
    accuracy: Tensor


def probe_result(outputs: Outputs, labels: Tensor) -> ProbeResult | None:
    """Of a step's outputs and labels [B]; None where the method has no probe."""
    logits = outputs.get("probe")
    if logits is None:
        return None
    labels = labels.repeat(len(logits) // len(labels))  # as often as there are views
    accuracy = (logits.argmax(dim=1) == labels).float().mean()
    return ProbeResult(F.cross_entropy(in_full(logits), labels), accuracy)
