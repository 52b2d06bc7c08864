"""Ends the processes of a run on this node, whatever state they are in, and says why they failed. No torch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from simclr_plus.launch.order import Order
from simclr_plus.machine import processes
from simclr_plus.runs.failures import KILLED, Exit, Failure, noted_failures, root_cause
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import Heartbeat, read_heartbeats


def heartbeats_here(run: Run) -> dict[int, Heartbeat]:
    """The heartbeats of the processes on this node."""
    return {rank: p for rank, p in read_heartbeats(run.logs).items() if p.host == socket.gethostname()[:64]}


def end_hung(heartbeats: dict[int, Heartbeat], process: subprocess.Popen[bytes]) -> None:
    """SIGABRT makes each process write its stacks (faulthandler) and end; then everything is killed."""
    for heartbeat in heartbeats.values():
        processes.kill(heartbeat.pid, heartbeat.started, signal.SIGABRT)
    time.sleep(2)
    kill_group(process)
    process.wait()


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it started in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def end_leftovers(run: Run, process: subprocess.Popen[bytes], patience: float = 10.0) -> list[int]:
    """Kill what still lives of the processes here, known by id and start; returns those that do not go."""
    kill_group(process)
    end = time.monotonic() + patience
    while True:
        alive = [p for p in heartbeats_here(run).values() if processes.is_alive(p.pid, p.started)]
        for heartbeat in alive:
            processes.kill(heartbeat.pid, heartbeat.started)
        if not alive or time.monotonic() > end:
            return [p.pid for p in alive]
        time.sleep(0.05)


def cause_of_end(run: Run, order: Order, code: int, exits_file: Path, memory_kills: int) -> Failure:
    """Why the processes failed: from what they noted, their exit codes, and how many were killed for want of memory."""
    noted = noted_failures(run.logs)
    if not run.exists:
        return Failure(KILLED, f"the run folder {run.path} was deleted while it trained")
    if order.is_alone:
        return root_cause(noted, [Exit(0, code)], memory_kills=memory_kills)
    try:
        exits = [Exit(end["rank"], end["code"]) for end in json.loads(exits_file.read_bytes())]
    except (OSError, ValueError):
        exits = []
    if code < 0 and not exits and not noted:
        name = signal.Signals(-code).name
        return Failure(KILLED, f"torchrun was killed by {name}", host=socket.gethostname(), time=time.time())
    if not exits and not noted:
        log = run.logs / f"launcher.{socket.gethostname()}.log"
        tail = log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()[-5:]
        return Failure(KILLED, f"torchrun ended with {code}; {log} says:\n" + "\n".join(tail))
    return root_cause(noted, exits, memory_kills=memory_kills)
