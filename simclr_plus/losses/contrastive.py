"""NT-Xent, the normalised temperature-scaled cross entropy over the global batch (paper, equation 1).

N: images of this process, M: images of all processes, D: dimensions of z. Rows are [view 0; view 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.full_precision import in_full

CHUNK_ELEMENTS = 1 << 22  # logits held at a time: 16 MiB of float32, which a CPU keeps nearer than memory


def nt_xent(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    gather: bool = False,
    equal_rows: bool = False,
) -> Tensor:
    """Two views' projections, [N, D] each -> the paper's mean over 2N rows, a scalar in float32 (or float64).

    gather=True takes the negatives of all processes; the mean over processes, which DistributedDataParallel takes of
    the gradients, is then the loss of the global batch. The authors' code adds both views' losses: twice this.
    The temperature may be learned: a tensor of one number. Second derivatives are right in one process and refused
    (RuntimeError) where negatives of others are gathered. equal_rows=True: see distributed.gather.
    Raises ValueError for wrong shapes, types or temperature, SimclrPlusError for uneven batches.
    """
    rows, columns, first = rows_and_columns(z0, z1, normalize, gather, equal_rows)
    check_temperature(temperature)
    if isinstance(temperature, Tensor):  # divided by here, where it has its gradient
        rows, temperature = rows / temperature.to(rows.dtype).reshape(()), 1.0
    if torch._C._are_functorch_transforms_active():  # torch.func looks into no Function of ours
        return _plain_loss(rows, columns, temperature, first)
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
    """`nt_xent` as a module with Lightly's arguments (there the temperature is 0.5 and the gather off by default).

    SimCLR has no memory bank: `memory_bank_size` is 0.
    """

    def __init__(
        self,
        temperature: float | Tensor = 0.1,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = True,
        *,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_temperature(temperature)
        entries = memory_bank_size if isinstance(memory_bank_size, int) else next(iter(memory_bank_size), 0)
        if entries != 0:
            raise ValueError(
                f"memory_bank_size = {memory_bank_size}: SimCLR's negatives are the other images of the batch; leave "
                "it out or give 0, or take lightly.loss.NTXentLoss"
            )
        self.temperature = temperature
        self.normalize = normalize
        self.gather_distributed = gather_distributed

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Projections of the two views, [N, D] each -> scalar."""
        return nt_xent(z0, z1, temperature=self.temperature, normalize=self.normalize, gather=self.gather_distributed)


def check_temperature(temperature: float | Tensor) -> None:
    """Raises ValueError for a temperature that is no number above 0."""
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise ValueError(f"temperature has the shape {tuple(temperature.shape)}; the loss needs one number above 0")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature = {temperature}; the loss needs a number above 0")


def rows_and_columns(
    z0: Tensor, z1: Tensor, normalize: bool, gather: bool, equal_rows: bool
) -> tuple[Tensor, Tensor, int]:
    """Own rows [2N, D], all columns [2M, D] (view 0 of all, then view 1), the number of the first own image.

    In float32 (or float64), divided by their length where `normalize` says so. Raises as `nt_xent`.
    """
    gather = gather and distributed.world_size() > 1
    # a process without rows goes on to the gathering, where all of them are told
    if z0.shape != z1.shape or z0.ndim != 2 or not (len(z0) or gather):
        raise _wrong_shapes(z0, z1)
    if not (z0.is_floating_point() and z1.is_floating_point()) or z0.device != z1.device:
        raise ValueError(
            f"the loss takes two tensors of real numbers on one device, got {z0.dtype} on {z0.device} and "
            f"{z1.dtype} on {z1.device}"
        )
    z = torch.stack([z0, z1])
    z = in_full(z)
    if normalize:  # the floor is on the squared norm, as in the authors' code
        z = z * torch.rsqrt((z * z).sum(dim=-1, keepdim=True).clamp_min(1e-12))
    rows = z.flatten(0, 1)
    if not gather:
        return rows, rows.view_as(rows), 0  # torch.compile wants no tensor twice
    columns = distributed.gather(z.transpose(0, 1), equal_rows=equal_rows).flatten(0, 1).transpose(0, 1)  # [2, M, D]
    if not len(z0):
        raise _wrong_shapes(z0, z1)
    return rows, columns.flatten(0, 1), distributed.rank() * len(z0)


def _wrong_shapes(z0: Tensor, z1: Tensor) -> ValueError:
    return ValueError(
        f"the loss takes two [N, D] tensors of one shape, N > 0, got {tuple(z0.shape)} and {tuple(z1.shape)}"
    )


class _RowsAgainstColumns(torch.autograd.Function):
    """Mean cross entropy of rows [2N, D] against columns [2M, D]; image `first` is row 0.

    The logits exist a chunk of rows at a time: the gradients are made in the forward pass, while a chunk is there,
    so that no [2N, 2M] matrix is kept. Half-precision autocast stays out. Where a second derivative is asked for, the
    first is made anew, in plain operations on the whole matrix.
    """

    @staticmethod
    def forward(ctx, rows, columns, temperature, first):  # type: ignore[no-untyped-def]
        n, m = len(rows) // 2, len(columns) // 2
        itself, positive = _itself_and_positive(rows, columns, first)
        needs_gradient = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        grad_rows = torch.empty_like(rows if needs_gradient else rows[:0])
        grad_columns = torch.zeros_like(columns if needs_gradient else columns[:0])
        total = rows.new_zeros(())
        with torch.autocast(rows.device.type, enabled=False):
            for chunk in torch.arange(2 * n, device=rows.device).split(max(1, CHUNK_ELEMENTS // (2 * m))):  # type: ignore[no-untyped-call]
                here = torch.arange(len(chunk), device=rows.device)
                logits = (rows[chunk] @ columns.T).div_(temperature)
                logits.scatter_(1, itself[chunk, None], -torch.inf)  # by index the host would wait for a GPU
                log_sum = logits.logsumexp(dim=1)
                total += (log_sum - logits[here, positive[chunk]]).sum()
                if needs_gradient:
                    p = logits.sub_(log_sum[:, None]).exp_()
                    p[here, positive[chunk]] -= 1
                    p /= 2 * n * temperature
                    grad_rows[chunk] = p @ columns
                    grad_columns.addmm_(p.T, rows[chunk])
        if needs_gradient:
            ctx.save_for_backward(grad_rows, grad_columns, rows, columns)
            ctx.temperature, ctx.first = temperature, first
        return total / (2 * n)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        grad_rows, grad_columns, rows, columns = ctx.saved_tensors
        if torch.is_grad_enabled():
            grad_rows, grad_columns = _plain_gradients(rows, columns, ctx.temperature, ctx.first)
        return grad * grad_rows, grad * grad_columns, None, None


def _itself_and_positive(rows: Tensor, columns: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """For each row [2N], which column is the row itself and which is the other view of its image."""
    n, m = len(rows) // 2, len(columns) // 2
    rows_of_process = torch.arange(first, first + n, device=rows.device)
    return torch.cat([rows_of_process, rows_of_process + m]), torch.cat([rows_of_process + m, rows_of_process])


def _plain_loss(rows: Tensor, columns: Tensor, temperature: float, first: int) -> Tensor:
    """The same as plain operations on the whole matrix."""
    with torch.autocast(rows.device.type, enabled=False):
        logits, positive = _logits_and_positive(rows, columns, temperature, first)
        return F.cross_entropy(logits, positive)


def _plain_gradients(rows: Tensor, columns: Tensor, temperature: float, first: int) -> tuple[Tensor, Tensor]:
    """Of the loss, for rows and columns, as plain operations that can be differentiated again."""
    with torch.autocast(rows.device.type, enabled=False):
        logits, positive = _logits_and_positive(rows, columns, temperature, first)
        p = (logits.softmax(dim=1) - F.one_hot(positive, len(columns))) / (len(rows) * temperature)
        return p @ columns, p.T @ rows


def _logits_and_positive(rows: Tensor, columns: Tensor, temperature: float, first: int) -> tuple[Tensor, Tensor]:
    itself, positive = _itself_and_positive(rows, columns, first)
    return ((rows / temperature) @ columns.T).scatter(1, itself[:, None], float("-inf")), positive
