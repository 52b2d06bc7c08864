"""The processes of a run: who am I, gather, sum."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from simclr_plus import lightly_parts
from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def rank_to_be() -> int:
    """The number that torchrun gave this process, before it joined the others too; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def start(device: str) -> torch.device:
    """Join the processes that torchrun started, if any, and give this process its device ("auto", "cpu", "cuda")."""
    wants_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if wants_cuda and not torch.cuda.is_available():
        raise EnvironmentNotAbleError('training.device = "cuda", but PyTorch finds no CUDA device; use "cpu" or "auto"')
    if wants_cuda:
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise EnvironmentNotAbleError(
                f"process {local_rank} has no GPU: {torch.cuda.device_count()} GPUs are visible; lower --nproc"
            )
        torch.cuda.set_device(local_rank)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if wants_cuda else "gloo", timeout=timedelta(minutes=30))
    return torch.device("cuda", torch.cuda.current_device()) if wants_cuda else torch.device("cpu")


def stop() -> None:
    """Leave the group of processes."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def gather(x: Tensor, *, equal_rows: bool = False) -> Tensor:
    """[n, ...] of this process -> [processes, n, ...]; the backward pass sums over processes.

    Raises SimclrPlusError when the processes hold different numbers of rows. Asking them makes the host wait for the
    device; who knows that they are equal says so (equal_rows=True), on all processes or on none.
    """
    sizes = [] if equal_rows else all_gather(torch.tensor([x.shape[0]], device=x.device)).flatten().tolist()
    if len(set(sizes)) > 1:
        raise SimclrPlusError(
            f"uneven batches: the processes hold {sizes} rows, but a loss over the global batch needs equal numbers; "
            "drop the last batch (drop_last=True) or pad it"
        )
    return torch.stack(lightly_parts.gather(x))


def all_gather(x: Tensor) -> Tensor:
    """[...] -> [processes, ...], equal shapes, no gradient."""
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def sum_over_processes(x: Tensor) -> Tensor:
    """The sum of x over all processes, no gradient; x itself in a single process."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def any_process(flag: bool, device: torch.device) -> bool:
    """True on all processes when it is true on one."""
    if world_size() == 1:
        return flag
    return bool(sum_over_processes(torch.tensor([float(flag)], device=device)).item())


def from_main(value: T) -> T:
    """What process 0 holds, on all processes; whoever asks a file system asks it there, so that all go the same way."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def require_agreement(facts: Mapping[str, object], remedy: str) -> None:
    """Raises SimclrPlusError on all processes when one of them holds another value of a fact: name, values, remedy.

    One collective. The values are compared as they print, so they are numbers and strings, long ones as digests.
    """
    if world_size() == 1:
        return
    told: list[dict[str, str]] = [{}] * world_size()
    dist.all_gather_object(told, {name: str(value) for name, value in facts.items()})
    differing = [name for name in told[0] if len({process.get(name) for process in told}) > 1]
    if not differing:
        return
    lines = []
    for name in differing:
        holders: dict[str | None, list[int]] = {}
        for number, process in enumerate(told):
            holders.setdefault(process.get(name), []).append(number)
        each = "; ".join(f"{value} on {_numbered(numbers)}" for value, numbers in holders.items())
        lines.append(f"{name}: {each}")
    raise SimclrPlusError(f"the processes do not agree, so nothing was started. {'. '.join(lines)}. {remedy}")


def _numbered(numbers: list[int]) -> str:
    """ "process 3", "processes 1, 2, 5 and 12 more"."""
    word = "process" if len(numbers) == 1 else "processes"
    more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
    return f"{word} {', '.join(map(str, numbers[:8]))}{more}"


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        dist.barrier()
