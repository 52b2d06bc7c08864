"""All that SimCLR+ takes from Lightly 1.x. No other module imports it, so that Lightly 2.0 touches this file alone."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(x: Tensor) -> list[Tensor]:
    """[n, ...] of this process -> those of all processes in order; the backward pass sums over processes."""
    from lightly.utils.dist import gather as lightly_gather

    return list(lightly_gather(x.contiguous()))


def knn_ranking(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, *, k: int, temperature: float
) -> Tensor:
    """Classes [B, classes], the likeliest first, of unit features [B, D] among those of a bank [M, D]; k at most M."""
    from lightly.utils.benchmarking.knn import knn_predict

    return torch.as_tensor(knn_predict(features, bank.T, bank_labels, classes, knn_k=k, knn_t=temperature))
