"""What each of three processes, and then each of two of them, finds of norms and losses: the program behind a test.

python tests/drop_in_processes.py FOLDER RANK
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from simclr_plus import GlobalBatchNorm, GlobalBatchNorm1d, global_batch_norm
from simclr_plus.errors import SimclrPlusError
from simclr_plus.losses import nt_xent
from simclr_plus.losses.compared import nt_logistic


def data(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NORMS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "1d": ({}, (7, 4)),
    "2d": ({}, (7, 4, 3, 2)),
    "3d": ({}, (7, 4, 2, 3, 2)),
    "no offset": ({"center": False}, (7, 4, 3, 2)),
    "no weights": ({"affine": False}, (7, 4)),
    "no statistics": ({"track_running_stats": False}, (7, 4)),
    "averages": ({"momentum": None}, (7, 4)),
}
ROWS = {2: ([3, 4], [0, 7], [7, 0]), 3: ([3, 2, 2], [0, 6, 1], [7, 0, 0])}


def two_batches(settings: dict[str, Any], x: Tensor, factor: Tensor, channels_last: bool = False) -> dict[str, Tensor]:
    """Output and gradients of the second of two batches, and the statistics after both."""
    norm = GlobalBatchNorm(4, **settings).double()
    if norm.weight is not None:
        nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(3))
    norm(2 * x + 1)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last and x.ndim == 4 else x
    x = x.clone().requires_grad_()
    y = norm(x)
    (y * factor).sum().backward()
    found = {"y": y.detach(), "x": x.grad, **{f"of {name}": p.grad for name, p in norm.named_parameters()}}
    return found | norm.state_dict()


def refusal(function: Callable[[], Any]) -> str:
    try:
        function()
    except (SimclrPlusError, RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def plain_kernels(patch: pytest.MonkeyPatch) -> None:
    """The path of several GPUs on CPUs: what each kernel of PyTorch's gives, in plain operations."""

    def wide(v: Tensor, x: Tensor) -> Tensor:
        return v.view(1, -1, *[1] * (x.ndim - 2))

    def over(x: Tensor) -> list[int]:
        return [d for d in range(x.ndim) if d != 1]

    def dense(x: Tensor) -> bool:
        return any(x.is_contiguous(memory_format=m) for m in (torch.channels_last, torch.contiguous_format))

    def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        assert dense(x) and x.numel()
        return x.mean(over(x)), 1 / (x.var(over(x), correction=0) + eps).sqrt()

    def elemt(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, inverse: Tensor, _: float) -> Tensor:
        assert (weight is None) == (bias is None) and x.numel()
        y = (x - wide(mean, x)) * wide(inverse, x)
        return y if weight is None or bias is None else y * wide(weight, x) + wide(bias, x)

    def reduce(g: Tensor, x: Tensor, mean: Tensor, _i: Tensor, _w: Any, *_needs: bool) -> tuple[Tensor, ...]:
        assert g.stride() == x.stride()
        return g.sum(over(x)), (g * (x - wide(mean, x))).sum(over(x)), torch.empty(0), torch.empty(0)

    def gradient(
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        inverse: Tensor,
        weight: Tensor | None,
        total: Tensor,
        with_x: Tensor,
        n: Tensor,
    ) -> Tensor:
        assert n.dtype == torch.int32 and n.ndim == 1
        factor = inverse if weight is None else inverse * weight
        centred = g - wide(total / n.sum(), x) - (x - wide(mean, x)) * wide(inverse**2 * with_x / n.sum(), x)
        return centred * wide(factor, x)

    patch.setattr(global_batch_norm, "_steps_for", lambda _x: global_batch_norm._WithKernels)
    patch.setattr(torch, "batch_norm_stats", stats)
    patch.setattr(torch, "batch_norm_elemt", elemt)
    patch.setattr(torch, "batch_norm_backward_reduce", reduce)
    patch.setattr(torch, "batch_norm_backward_elemt", gradient)


def work(rank: int, processes: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (settings, shape) in NORMS.items():
        x, factor = data(shape, 1), data(shape, 2)
        for sizes in ROWS[processes]:
            own, own_factor = x.split(sizes)[rank], factor.split(sizes)[rank]
            found[f"{name} {sizes}"] = two_batches(settings, own, own_factor)
            with pytest.MonkeyPatch.context() as patch:
                plain_kernels(patch)
                found[f"{name} {sizes} kernels"] = two_batches(settings, own, own_factor)
                found[f"{name} {sizes} kernels last"] = two_batches(settings, own, own_factor, channels_last=True)
    for momentum in (0.1, None):
        norm = GlobalBatchNorm1d(4, momentum=momentum)
        norm(torch.empty(0, 4, requires_grad=True)).sum().backward()
        found[f"nobody {momentum}"] = norm.state_dict() | {"gradient": norm.weight.grad}
    norm = GlobalBatchNorm1d(4).bfloat16()
    norm(data((3, 4), rank).bfloat16()).sum().backward()
    found["bfloat16"] = (norm.running_mean, norm.weight.grad)

    x = data((3, 4), rank).requires_grad_()
    norm = GlobalBatchNorm1d(4).double()
    found["twice norm"] = refusal(lambda: torch.autograd.grad((norm(x) * x.detach()).sum(), x, create_graph=True))
    z0, z1 = (data((6, 5), seed).split(6 // processes)[rank].requires_grad_() for seed in (4, 5))
    for name, loss in (("nt_xent", nt_xent), ("nt_logistic", nt_logistic)):
        twice = refusal(lambda loss=loss: torch.autograd.grad(loss(z0, z1, gather=True), z0, create_graph=True))
        found[f"twice {name}"] = twice
        rows = data((0 if rank == 0 else 2, 5), 6)
        found[f"uneven {name}"] = refusal(lambda loss=loss, rows=rows: loss(rows, rows, gather=True))
        found[f"nobody {name}"] = refusal(lambda loss=loss: loss(z0[:0], z0[:0], gather=True))
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = nt_xent(z0, z1, temperature=temperature, gather=True)
    loss.backward()
    found["loss"] = (loss.detach(), z0.grad, z1.grad, temperature.grad)
    return found


if __name__ == "__main__":
    out, rank = Path(sys.argv[1]), int(sys.argv[2])
    for count in ROWS:
        if rank < count:
            dist.init_process_group("gloo", init_method=f"file://{out}/store{count}", rank=rank, world_size=count)
            torch.save(work(rank, count), out / f"{rank}of{count}.pt")
            dist.barrier()
            dist.destroy_process_group()
