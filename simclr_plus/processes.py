"""What Linux knows about processes: who dies with whom, whether one still lives. Elsewhere less is known. No torch."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path


def die_with_parent(parent: int) -> None:
    """Linux kills this process when `parent` (its parent's id) dies: no orphan goes on training.

    To be called by the main thread, early. Elsewhere than on Linux it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


def start_time(pid: int) -> int | None:
    """When a process began (clock ticks since boot), which tells it from a later one with its id; None: it is gone."""
    fields = _stat(pid)
    return None if fields is None or fields[0] in ("Z", "X") else int(fields[19])


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP) or a debugger."""
    fields = _stat(pid)
    return fields is not None and fields[0] in ("T", "t")


def kill(pid: int, started: int | None, number: int = signal.SIGKILL) -> None:
    """Send a signal to the process with that id that began then, and to no other."""
    if started is not None and start_time(pid) == started:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def boot_id() -> str:
    """Names this start of this machine's kernel; empty where unknown. Containers of a machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def out_of_memory_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory since boot; 0 where unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on (proc(5)): state, parent, ..."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
