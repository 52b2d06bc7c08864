"""The processes of a run: who am I, gather, sum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from simclr_plus import lightly_parts
from simclr_plus.errors import AnotherProcessError, EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.machine import torchrun

T = TypeVar("T")

WEEK = 7 * 24 * 3600.0
HUNG_AFTER = 1800.0  # as monitor.hung_after_seconds, where no recipe says it


def world_size() -> int:
    """Number of processes that train together; 1 without torchrun."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def start(device: str, *, hung_after: float = HUNG_AFTER) -> torch.device:
    """Join the processes that torchrun started, if any, and give this process its device ("auto", "cpu", "cuda").

    hung_after: seconds after which the supervisor calls a step hung, 0: never. Collectives wait for longer than the
    supervisor does, so that it is the supervisor that speaks first and names the process that is behind.
    """
    place = torchrun.place()
    if not torchrun.started_this_process() or dist.is_initialized():
        return _own_device(device, place)
    timeout = collective_timeout(hung_after)
    store, rank, size = next(iter(dist.rendezvous("env://", timeout=timeout)))  # type: ignore[attr-defined]
    store.set_timeout(timeout)
    own_device = _devices_together(device, place, store)
    dist.init_process_group(
        "nccl" if own_device.type == "cuda" else "gloo",
        store=dist.PrefixStore("group", store),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=timeout,
        device_id=own_device if own_device.type == "cuda" else None,
    )
    return own_device


def _own_device(device: str, place: torchrun.Place) -> torch.device:
    wants_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    if not wants_cuda:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise EnvironmentNotAbleError('training.device = "cuda", but PyTorch finds no CUDA device; use "cpu" or "auto"')
    if place.local_rank >= torch.cuda.device_count():
        raise EnvironmentNotAbleError(
            f"process {place.local_rank} has no GPU: {torch.cuda.device_count()} GPUs are visible; lower --nproc"
        )
    torch.cuda.set_device(place.local_rank)
    return torch.device("cuda", torch.cuda.current_device())


def _devices_together(device: str, place: torchrun.Place, store: Any) -> torch.device:
    """This process's device, once all have one of a kind: GPUs do not talk to CPUs, and would wait for them."""
    error, own_device = None, torch.device("cpu")
    try:
        own_device = _own_device(device, place)
    except EnvironmentNotAbleError as raised:
        error = raised
    store.set(f"device of {place.rank}", f"failed: {error}" if error else own_device.type)
    devices = [store.get(f"device of {rank}").decode() for rank in range(place.world_size)]
    if error is not None:
        raise error
    failed = [rank for rank, text in enumerate(devices) if text.startswith("failed")]
    if failed:
        raise AnotherProcessError(f"{_numbered(failed)} {devices[failed[0]]}")
    if len(set(devices)) > 1:
        gpus = _numbered([rank for rank, text in enumerate(devices) if text == "cuda"])
        raise EnvironmentNotAbleError(
            f"{gpus} found a GPU, the others none: they cannot train together; set training.device = "
            '"cpu", or start processes where there are GPUs'
        )
    return own_device


def collective_timeout(hung_after: float) -> timedelta:
    """Longer than runs/heartbeat.py lets a process wait (four times `hung_after`); a week where that is 0."""
    return timedelta(seconds=min(4 * hung_after + 600, WEEK) if hung_after else WEEK)


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


def mean_over_processes(x: Tensor) -> float:
    """The mean of a number that every process has; all must ask."""
    return float(sum_over_processes(x) / world_size())


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


@contextmanager
def failing_together() -> Iterator[None]:
    """What fails on one process ends all of them here: each of the others raises AnotherProcessError with its words.

    One collective at the end. What is inside must hold none, for a process that failed would not take part.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    words: list[str | None] = [None] * world_size()
    if world_size() > 1:
        dist.all_gather_object(words, None if error is None else f"{error}" or type(error).__name__)
    if error is not None:
        raise error
    failed = [number for number, text in enumerate(words) if text is not None]
    if failed:
        raise AnotherProcessError(f"{_numbered(failed)} failed: {words[failed[0]]}")


def require_agreement(facts: Mapping[str, object], remedy: str) -> None:
    """Raises SimclrPlusError on all processes when one of them holds another value of a fact: name, values, remedy.

    One collective. The values are compared as they print, so they are numbers and strings, long ones as digests.
    """
    if world_size() == 1:
        return
    facts_by_rank: list[dict[str, str]] = [{}] * world_size()
    dist.all_gather_object(facts_by_rank, {name: str(value) for name, value in facts.items()})
    differing = [name for name in facts_by_rank[0] if len({process.get(name) for process in facts_by_rank}) > 1]
    if not differing:
        return
    lines = []
    for name in differing:
        holders: dict[str | None, list[int]] = {}
        for number, process in enumerate(facts_by_rank):
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
