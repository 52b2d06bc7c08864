"""What a training process does now, and by when it will say so again; overwritten in place. No torch.

logs/rank_N.pulse is one line of JSON of fixed width. A process that says nothing for longer than it said is hung or
gone; clocks of other machines and heartbeat files that come late over a network are allowed for by who reads it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from simclr_plus.machine.json_lines import is_number
from simclr_plus.machine.processes import start_time

WIDTH = 320
# what is done at a step number, first to last: a save of step s comes before the batch and the update that follow it
ORDER_OF_WORK = ("preparing", "measuring", "evaluating", "saving", "data", "step", "done")
LONG = 4  # preparing, evaluating and saving may take so many times what a step may


@dataclass(frozen=True)
class Heartbeat:
    """`next_in`: seconds after `time` within which the process will give its next sign."""

    step: int
    doing: str  # of ORDER_OF_WORK
    time: float
    next_in: float
    pid: int
    started: int | None  # of the process: see processes.start_time
    host: str


class HeartbeatWriter:
    """Says what a process does; `longest` is the most seconds that a step may take. Without a path it is silent."""

    def __init__(self, path: Path | None = None, longest: float = 0.0) -> None:
        self._file = -1
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        self._longest = longest
        self._me = {"pid": os.getpid(), "started": start_time(os.getpid()), "host": socket.gethostname()[:64]}

    def beat(self, step: int, doing: str) -> None:
        """Give a sign."""
        if self._file < 0:
            return
        longest = self._longest * (1 if doing in ("data", "step", "measuring") else LONG)
        heartbeat = {"step": step, "doing": doing, "time": time.time(), "next_in": longest, **self._me}
        with suppress(OSError):  # a full disk stops the run where something is lost by it, not here
            os.pwrite(self._file, json.dumps(heartbeat).ljust(WIDTH - 1).encode() + b"\n", 0)


def read_heartbeat(path: Path) -> Heartbeat | None:
    """The last sign of a process; None where it gave none, is just writing it, or the file holds anything else."""
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(2 * WIDTH))
        heartbeat = Heartbeat(**{field.name: values[field.name] for field in fields(Heartbeat)})
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    numbers = (
        type(heartbeat.step) is type(heartbeat.pid) is int
        and is_number(heartbeat.time)
        and is_number(heartbeat.next_in)
    )
    started = heartbeat.started is None or is_number(heartbeat.started)
    return (
        heartbeat
        if numbers and started and heartbeat.doing in ORDER_OF_WORK and isinstance(heartbeat.host, str)
        else None
    )


def heartbeat_file(logs: Path, rank: int) -> Path:
    """Where a process leaves its heartbeat."""
    return logs / f"rank_{rank}.pulse"


def read_heartbeats(logs: Path) -> dict[int, Heartbeat]:
    """The last signs of all processes of a run, by rank."""
    heartbeats = {}
    for path in logs.glob("rank_*.pulse"):
        rank, heartbeat = path.stem.removeprefix("rank_"), read_heartbeat(path)
        if heartbeat is not None and rank.isdecimal():
            heartbeats[int(rank)] = heartbeat
    return dict(sorted(heartbeats.items()))
