"""NT-Xent, the normalised temperature-scaled cross entropy over the global batch (paper, equation 1).

N: images of this process, M: images of all processes, D: dimensions of z. Rows are [view 0; view 1].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simclr_plus import distributed

CHUNK_ELEMENTS = 1 << 22  # logits held at a time: 16 MiB of float32, which a CPU keeps nearer than memory


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    gather: bool = False,
    equal_rows: bool = False,
) -> Tensor:
    """Two views' projections, [N, D] each -> the paper's mean over 2N rows, a scalar in float32 (or float64).

    gather=True takes the negatives of all processes; the mean over processes, which DistributedDataParallel takes of
    the gradients, is then the loss of the global batch. The authors' code adds both views' losses: twice this.
    It has first derivatives only. equal_rows=True: see distributed.gather.
    Raises ValueError for wrong shapes or temperature, SimclrPlusError for uneven batches.
    """
    rows, columns, first = rows_and_columns(z0, z1, normalize, gather, equal_rows)
    check_temperature(temperature)
    loss: Tensor = _RowsAgainstColumns.apply(rows, columns, temperature, first)
    return loss


def contrastive_metrics(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    gather: bool = False,
    equal_rows: bool = False,
) -> tuple[Tensor, Tensor]:
    """Contrastive accuracy and entropy (nats) of view 0 against the M candidates of view 1 (authors' metrics.py)."""
    with torch.no_grad(), torch.autocast(z0.device.type, enabled=False):
        rows, columns, first = rows_and_columns(z0, z1, normalize, gather, equal_rows)
        n = len(z0)
        logits = rows[:n] @ columns[len(columns) // 2 :].T / temperature
        p = logits.softmax(dim=1)
        target = torch.arange(first, first + n, device=z0.device)
        accuracy = (logits.argmax(dim=1) == target).float().mean()
        entropy = -(p * (p + 1e-8).log()).sum(dim=1).mean()
        both = torch.stack([accuracy, entropy.float()])
        both = distributed.sum_over_processes(both) / distributed.world_size() if gather else both
        return both[0], both[1]


class NTXentLoss(nn.Module):
    """`nt_xent` as a module with Lightly's arguments (there the temperature is 0.5 and the gather off by default)."""

    def __init__(self, temperature: float = 0.1, *, normalize: bool = True, gather_distributed: bool = True) -> None:
        super().__init__()
        check_temperature(temperature)
        self.temperature = temperature
        self.normalize = normalize
        self.gather_distributed = gather_distributed

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Projections of the two views, [N, D] each -> scalar."""
        return nt_xent(z0, z1, temperature=self.temperature, normalize=self.normalize, gather=self.gather_distributed)


def check_temperature(temperature: float) -> None:
    """Raises ValueError for a temperature that is not above 0."""
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}; the loss needs a temperature above 0")


def rows_and_columns(
    z0: Tensor, z1: Tensor, normalize: bool, gather: bool, equal_rows: bool
) -> tuple[Tensor, Tensor, int]:
    """Own rows [2N, D], all columns [2M, D] (view 0 of all, then view 1), the number of the first own image.

    In float32 (or float64), divided by their length where `normalize` says so. Raises as `nt_xent`.
    """
    if z0.shape != z1.shape or z0.ndim != 2 or not len(z0):
        raise ValueError(
            f"the loss takes two [N, D] tensors of one shape, N > 0, got {tuple(z0.shape)} and {tuple(z1.shape)}"
        )
    z = torch.stack([z0, z1])
    z = z if z.dtype == torch.float64 else z.float()
    if normalize:  # the floor is on the squared norm, as in the authors' code
        z = z * torch.rsqrt((z * z).sum(dim=-1, keepdim=True).clamp_min(1e-12))
    rows = z.flatten(0, 1)
    if not gather or distributed.world_size() == 1:
        return rows, rows, 0
    columns = distributed.gather(z.transpose(0, 1), equal_rows=equal_rows).flatten(0, 1).transpose(0, 1)  # [2, M, D]
    return rows, columns.flatten(0, 1), distributed.rank() * len(z0)


class _RowsAgainstColumns(torch.autograd.Function):
    """Mean cross entropy of rows [2N, D] against columns [2M, D]; image `first` is row 0.

    The logits exist a chunk of rows at a time: the gradients are made in the forward pass, while a chunk is there,
    so that no [2N, 2M] matrix is kept. Half-precision autocast stays out.
    """

    @staticmethod
    def forward(ctx, rows, columns, temperature, first):  # type: ignore[no-untyped-def]
        n, m = len(rows) // 2, len(columns) // 2
        own = torch.arange(first, first + n, device=rows.device)
        itself, positive = torch.cat([own, own + m]), torch.cat([own + m, own])
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_rows = torch.empty_like(rows if needs_gradient else rows[:0])
        grad_columns = torch.zeros_like(columns if needs_gradient else columns[:0])
        total = rows.new_zeros(())
        with torch.autocast(rows.device.type, enabled=False):
            for chunk in torch.arange(2 * n, device=rows.device).split(max(1, CHUNK_ELEMENTS // (2 * m))):  # type: ignore[no-untyped-call]
                here = torch.arange(len(chunk), device=rows.device)
                logits = (rows[chunk] @ columns.T).div_(temperature)
                logits[here, itself[chunk]] = -torch.inf
                log_sum = logits.logsumexp(dim=1)
                total += (log_sum - logits[here, positive[chunk]]).sum()
                if needs_gradient:
                    p = logits.sub_(log_sum[:, None]).exp_()
                    p[here, positive[chunk]] -= 1
                    p /= 2 * n * temperature
                    grad_rows[chunk] = p @ columns
                    grad_columns.addmm_(p.T, rows[chunk])
        if needs_gradient:
            ctx.save_for_backward(grad_rows, grad_columns)
        return total / (2 * n)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_rows, grad_columns = ctx.saved_tensors
        return grad * grad_rows, grad * grad_columns, None, None
