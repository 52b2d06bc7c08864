"""In what state a run is, decided from its folder alone: status.json, lock, pulse, events. No torch.

status.json is written by the run's supervisor. It can die without a word, so what it says is believed only while its
lock is held (on this machine) or while it keeps its promise to write again (on others).
"""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import dataclass
from typing import Any

from simclr_plus import slurm
from simclr_plus.processes import boot_id, start_time
from simclr_plus.pulse import pulse_file, read_pulse
from simclr_plus.runs import Run
from simclr_plus.tail import last_objects
from simclr_plus.whole_files import write_text_whole

QUEUED, STARTING, RUNNING, STOPPING = "queued", "starting", "running", "stopping"
STOPPED, FINISHED, FAILED, LOST, STALE = "stopped", "finished", "failed", "lost", "stale"
ENDED = (STOPPED, FINISHED, FAILED)
ALIVE = (STARTING, RUNNING, STOPPING)
GRACE = 60.0  # seconds that another machine's sign may come late: clocks, network file systems


@dataclass(frozen=True)
class State:
    """A word of the list above, and why."""

    name: str
    why: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether processes of the run are at work, as far as can be told."""
        return self.name in (*ALIVE, STALE)


def write_status(run: Run, status: dict[str, Any]) -> None:
    """Replace status.json."""
    write_text_whole(run.status_file, json.dumps({"schema": 1, **status}, indent=2) + "\n")


def read_status(run: Run) -> dict[str, Any]:
    """What the supervisor last said; empty where there is nothing yet."""
    try:
        value = json.loads(run.status_file.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def here() -> dict[str, Any]:
    """Names this machine in status.json."""
    return {"host": socket.gethostname(), "boot_id": boot_id()}


def state_of(run: Run, *, now: float | None = None) -> State:
    """The state of a run. Reads a few kilobytes; writes nothing."""
    status = read_status(run)
    said = str(status.get("state", ""))
    if not said:
        return _without_supervisor(run)
    if said == QUEUED:
        return _queued(run, status)
    same_machine = bool(status.get("boot_id")) and status["boot_id"] == boot_id()
    held = is_locked(run) if same_machine else None
    if said in ENDED:
        return State(STARTING) if held and not _is_writer_alive(status) else State(said, _why(status))
    if held is False:
        return _after_the_supervisor(run, status)
    if held is None:
        if _job_is_gone(status):
            return _after_the_supervisor(run, status)
        if status.get("host") == socket.gethostname() and status.get("boot_id") != boot_id():
            return State(LOST, "this machine was started anew since")
        promised = float(status.get("updated", 0)) + float(status.get("next_in", 0))
        overdue = (time.time() if now is None else now) - promised - GRACE
        if overdue > 0:
            return State(STALE, f"{status.get('host')} is silent for {overdue:.0f} s longer than it promised")
    return _at_work(run, status)


def is_locked(run: Run) -> bool | None:
    """Whether a supervisor of this machine holds the run's lock; None where the file system has no locks."""
    import fcntl

    try:
        descriptor = os.open(run.lock_file, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _at_work(run: Run, status: dict[str, Any]) -> State:
    said = str(status["state"])
    if said == STOPPING or run.stop_file.exists():
        return State(STOPPING, "a checkpoint is saved first")
    pulse = read_pulse(pulse_file(run.logs, 0))  # of this attempt: the supervisor removes older ones before it starts
    if pulse is None or pulse.doing == "preparing":
        return State(STARTING, pulse.doing if pulse else "")
    return State(RUNNING, pulse.doing if pulse.doing in ("evaluating", "saving") else "")


def _after_the_supervisor(run: Run, status: dict[str, Any]) -> State:
    """The lock is free, yet the supervisor never said how the run ended."""
    end = last_exit(run, after=int(status.get("events_before", 0)))
    if end.get("reason") in (FINISHED, STOPPED):
        return State(str(end["reason"]))
    return State(LOST, "its supervisor was killed; resume goes on from the newest checkpoint")


def _without_supervisor(run: Run) -> State:
    """A run that was trained by the loop alone, or that nobody has started yet."""
    if is_locked(run):
        return State(STARTING)
    pulse = read_pulse(pulse_file(run.logs, 0))
    if pulse is not None and pulse.started is not None and start_time(pulse.pid) == pulse.started:
        return State(RUNNING, pulse.doing)
    for event in last_objects(run.events_file):
        if event.get("event") == "exit":
            return State(str(event.get("reason")), str(event.get("message", "")))
        if event.get("event") in ("start", "resume"):
            return State(LOST, "its process is gone")
    return State(QUEUED, "not started yet")


def _is_writer_alive(status: dict[str, Any]) -> bool:
    """Whether the supervisor that wrote status.json still lives: after its last word it holds the lock for a moment."""
    pid, started = status.get("pid"), status.get("pid_started")
    return isinstance(pid, int) and started is not None and start_time(pid) == started


def _job_is_gone(status: dict[str, Any]) -> bool:
    job = (status.get("slurm") or {}).get("job_id")
    return bool(job) and slurm.state_of_job(str(job)) == slurm.GONE


def _queued(run: Run, status: dict[str, Any]) -> State:
    job = (status.get("slurm") or {}).get("job_id")
    place = slurm.state_of_job(str(job)) if job else None
    if place is None:
        return State(QUEUED, f"SLURM job {job}" if job else "")
    if place == slurm.GONE:
        return State(LOST, f"SLURM job {job} is gone before it began")
    return State(QUEUED if place == slurm.PENDING else STARTING, f"SLURM job {job}")


def last_exit(run: Run, *, after: int) -> dict[str, Any]:
    """The last exit event beyond that byte of events.jsonl, else empty: by place, for clocks jump."""
    try:
        with run.events_file.open("rb") as file:
            file.seek(after)
            lines = file.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") == "exit":
            return event
    return {}


def events_size(run: Run) -> int:
    """Bytes of events.jsonl."""
    return run.events_file.stat().st_size if run.events_file.exists() else 0


def _why(status: dict[str, Any]) -> str:
    return str(status.get("why") or "")
