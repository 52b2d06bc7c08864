"""How a benchmark measures: contenders take turns, round after round, and ratios are taken within a round.

A machine's speed drifts, so that figures of different moments cannot be compared; the two halves of a ratio here are
of one moment. A figure is the median over the rounds, its spread the middle half of them.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simclr_plus.machine.cores import cpu_count

Seconds = dict[str, list[float]]


@dataclass(frozen=True)
class Row:
    """One contender: seconds of one turn (median, quartiles), how many times as fast as the base, bytes at the peak."""

    name: str
    seconds: float
    low: float
    high: float
    per_second: float
    times_base: float
    peak_memory: int | None = None


@dataclass(frozen=True)
class Comparison:
    """What was compared: the rows, `per_second` counting `items`, and the name of the row that is the base."""

    title: str
    items: str
    base: str
    rows: list[Row]


@dataclass(frozen=True)
class Report:
    """A benchmark's outcome; verdicts are sentences to act on, ratios the figures they rest on."""

    name: str
    settings: dict[str, Any]
    comparisons: list[Comparison]
    ratios: dict[str, float]
    verdicts: list[str]
    machine: dict[str, Any] = field(default_factory=lambda: hardware())

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"schema": 1, **asdict(self)}


def in_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> Seconds:
    """Seconds of each contender in each round, after one turn unmeasured; a contender may return its own seconds."""
    seconds: Seconds = {name: [] for name in contenders}
    for turn in contenders.values():
        turn()
    names = list(contenders)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:  # nobody always follows the same one
            started = clock()
            reported = contenders[name]()
            elapsed = clock() - started
            seconds[name].append(reported if isinstance(reported, float) else elapsed)
    return seconds


def clock_for(threads: int, device: torch.device) -> Callable[[], float]:
    """Processor time where one thread does everything, which what else runs on the machine disturbs less."""
    return time.process_time if threads == 1 and device.type == "cpu" else time.perf_counter


def compare(
    title: str,
    seconds: Seconds,
    *,
    base: str,
    items: str,
    count: int = 1,
    peaks: dict[str, int | None] | None = None,
) -> Comparison:
    """Rows of figures for turns that each make `count` items."""
    rows = []
    for name, times in seconds.items():
        low, median, high = (float(q) for q in np.quantile(times, (0.25, 0.5, 0.75)))
        faster = times_as_fast(seconds, name, base)
        rows.append(Row(name, median, low, high, count / median, faster, (peaks or {}).get(name)))
    return Comparison(title, items, base, rows)


def times_as_fast(seconds: Seconds, one: str, other: str) -> float:
    """How many times as fast `one` is as `other`: the median of the ratios of the rounds."""
    return float(np.median(np.array(seconds[other]) / np.array(seconds[one])))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_memory(work: Callable[[], object], device: torch.device) -> int | None:
    """Bytes by which memory grows while `work` runs; None where the system cannot tell (not Linux, not CUDA)."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed but is kept would hide what is taken again
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _kilobytes("VmRSS:")
        work()
        return max(0, _kilobytes("VmHWM:") - before) * 1024
    except OSError:
        return None


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def hardware(device: torch.device | None = None) -> dict[str, Any]:
    """What the figures were measured on."""
    parts = {
        "processor": _processor(),
        "cores": cpu_count(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightly", "numba", "simplejpeg", "simclr-plus")},
    }
    if device is not None and device.type == "cuda":
        parts["gpu"] = torch.cuda.get_device_name(device)
    return parts


def _processor() -> str:
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
