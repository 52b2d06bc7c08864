"""All that SimCLR+ takes from Lightly 1.x. No other module imports it, so that Lightly 2.0 touches this file alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def gather(x: Tensor) -> list[Tensor]:
    """[n, ...] of this process -> those of all processes in order; the backward pass sums over processes.

    Lightly's sum has no derivative, so that asking for second ones raises RuntimeError.
    """
    from lightly.utils.dist import gather as lightly_gather

    return list(lightly_gather(_DerivedOnce.apply(x.contiguous())))


class _DerivedOnce(torch.autograd.Function):
    """x itself, whose gradient has no gradient."""

    @staticmethod
    def forward(_ctx, x):  # type: ignore[no-untyped-def]
        return x.view_as(x)

    @staticmethod
    def backward(_ctx, grad):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a loss over several processes has first derivatives only; for second ones (create_graph=True) take "
                "the negatives of this process alone (gather_distributed=False), or use one process"
            )
        return grad


def knn_ranking(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, *, k: int, temperature: float
) -> Tensor:
    """Classes [B, classes], the likeliest first, of unit features [B, D] among those of a bank [M, D]; k at most M."""
    from lightly.utils.benchmarking.knn import knn_predict

    return torch.as_tensor(knn_predict(features, bank.T, bank_labels, classes, knn_k=k, knn_t=temperature))


def update_momentum(model: nn.Module, follower: nn.Module, momentum: float) -> None:
    """Move the parameters of a copy, in place: momentum of their own, the rest of the model's; buffers stay."""
    from lightly.models.utils import update_momentum as lightly_update

    lightly_update(model, follower, momentum)


def simclr_transform(input_size: int, **settings: Any) -> Callable[[Any], list[Tensor]]:
    """Lightly's SimCLRTransform, for comparison."""
    from lightly.transforms import SimCLRTransform

    transform: Callable[[Any], list[Tensor]] = SimCLRTransform(input_size, **settings)
    return transform


def nt_xent_loss(temperature: float) -> nn.Module:
    """Lightly's NTXentLoss, for comparison."""
    from lightly.loss import NTXentLoss

    loss: nn.Module = NTXentLoss(temperature=temperature)
    return loss


def projection_head(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> nn.Module:
    """Lightly's SimCLRProjectionHead, for comparison."""
    from lightly.models.modules import SimCLRProjectionHead

    head: nn.Module = SimCLRProjectionHead(input_dim, hidden_dim, output_dim, num_layers)
    return head


def lars(parameters: Iterable[Tensor], lr: float, **settings: Any) -> torch.optim.Optimizer:
    """Lightly's LARS, for comparison."""
    from lightly.utils.lars import LARS

    optimizer: torch.optim.Optimizer = LARS(parameters, lr, **settings)
    return optimizer
