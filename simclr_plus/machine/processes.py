"""What is known about processes: who dies with whom, whether one still lives. No torch."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from simclr_plus.machine.json_lines import is_number

SAME_START = 200  # hundredths of a second; no id of a process comes round again so soon


def die_with_parent(parent: int) -> None:
    """Linux kills this process when `parent` (its parent's id) dies: no orphan goes on training.

    To be called by the main thread, early. Elsewhere than on Linux it does nothing.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)


@contextmanager
def signals_go_to(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """SIGINT, SIGTERM and SIGUSR2, which ask to stop, are answered by this meanwhile; for the main thread."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def start_time(pid: int) -> int | None:
    """When a process began (hundredths of a second since boot), which tells it from a later one with its id.

    None: it is gone, or a zombie. Since boot, and not by the clock, which may be set while a run trains.
    """
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        booted = psutil.boot_time()  # first: older versions of psutil reckon with what it said last
        return round((process.create_time() - booted) * 100)
    except (psutil.Error, OSError, RuntimeError, ValueError):
        return None


def is_alive(pid: object, started: object) -> bool:
    """Whether the process with that id that began then lives; False for what is no id and no time."""
    if type(pid) is not int or not is_number(started) or pid <= 0:
        return False
    return is_same_start(start_time(pid), started)


def is_same_start(one: object, other: object) -> bool:
    """Whether two start times are one; False for what is none."""
    return is_number(one) and is_number(other) and abs(one - other) <= SAME_START


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal (SIGSTOP) or a debugger."""
    try:
        return psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except (psutil.Error, OSError, ValueError):
        return False


def kill(pid: int, started: int | None, number: int = signal.SIGKILL) -> None:
    """Send a signal to the process with that id that began then, and to no other."""
    if is_alive(pid, started):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def boot_id() -> str:
    """Names this start of this machine's kernel; empty where unknown. Containers of a machine share it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        pass
    try:
        return f"booted {psutil.boot_time():.0f}"
    except (psutil.Error, OSError, RuntimeError):
        return ""


def is_this_boot(said: object) -> bool:
    """Whether a boot_id names this start of this machine; where it is a time, a clock that is set moves it a little."""
    mine = boot_id()
    times = [text.removeprefix("booted ") for text in (str(said), mine) if text.startswith("booted ")]
    if len(times) == 2 and all(time.isdecimal() for time in times):
        return abs(int(times[0]) - int(times[1])) <= 60
    return bool(mine) and said == mine


def namespace() -> str:
    """Names the ids of processes that are known here: a container has its own. Empty where there is but one kind."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def me() -> dict[str, Any]:
    """Names this process for others, on this machine and elsewhere: see `lives`."""
    here = {"host": socket.gethostname(), "boot_id": boot_id(), "namespace": namespace()}
    return {**here, "pid": os.getpid(), "pid_started": start_time(os.getpid())}


def lives(who: Mapping[str, Any]) -> bool | None:
    """Whether a process that named itself by `me` lives; None where that cannot be told from here."""
    if is_this_boot(who.get("boot_id")) and who.get("namespace", namespace()) == namespace():
        return is_alive(who.get("pid"), who.get("pid_started"))
    return None


def out_of_memory_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory since boot; 0 where unknown."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0
