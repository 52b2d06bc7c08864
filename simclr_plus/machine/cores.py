"""Cores that this process may use, of the machine or of its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

from simclr_plus.machine import torchrun


def cpu_count() -> int:
    """Cores that this process may use: of those it may run on, as many as its container is given time of."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _quota(Path("/sys/fs/cgroup")))))


def _quota(cgroup: Path) -> float:
    """Cores' worth of time that a control group may use, of version 2 or 1; infinite where it has no limit."""
    try:
        files = ["cpu.max"] if (cgroup / "cpu.max").exists() else ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]
        quota, period = " ".join((cgroup / file).read_text() for file in files).split()
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no control groups here
        return math.inf


def default_threads() -> int:
    """Cores that this process may use, shared with the other processes of this machine."""
    return max(1, cpu_count() // torchrun.place().local_world_size)
