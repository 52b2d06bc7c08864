"""In what state a run is, decided from its folder alone: status.json, lock, heartbeat, events. No torch.

status.json is written by the run's supervisor. It can die without a word, so what it says is believed only while its
lock is held (on this machine) or while the heartbeat deadline in status.json has not passed (on others).
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine import processes, slurm
from simclr_plus.machine.json_lines import is_number, last_objects
from simclr_plus.machine.locks import GRACE, Hold, is_held
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.runs.folder import Run, list_runs
from simclr_plus.runs.heartbeat import heartbeat_file, read_heartbeat

QUEUED, STARTING, RUNNING, STOPPING = "queued", "starting", "running", "stopping"
STOPPED, FINISHED, FAILED, LOST, STALE = "stopped", "finished", "failed", "lost", "stale"
ENDED = (STOPPED, FINISHED, FAILED)
ALIVE = (STARTING, RUNNING, STOPPING)
UNREADABLE = "unreadable"
LONGEST_STATUS = 1 << 20  # bytes
JOB = re.compile(r"\d[\w+.]*")  # of SLURM


@dataclass(frozen=True)
class State:
    """A word of the lists above, and why."""

    name: str
    why: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether processes of the run are at work, as far as can be told."""
        return self.name in (*ALIVE, STALE, UNREADABLE)


def write_status(run: Run, status: dict[str, Any]) -> None:
    """Replace status.json."""
    write_text_whole(run.status_file, json.dumps({"schema": 1, **status}, indent=2) + "\n")


def read_status(run: Run) -> dict[str, Any]:
    """What the supervisor last said; empty where there is nothing yet. What is not of its kind is left out."""
    return _look_at_status(run)[0]


def _look_at_status(run: Run) -> tuple[dict[str, Any], str]:
    """status.json as it may be relied on, and what is wrong with the file: it may have been damaged or edited."""
    file = run.status_file
    try:
        with file.open("rb") as opened:
            text = opened.read(LONGEST_STATUS + 1)
        if len(text) > LONGEST_STATUS:
            return {}, f"{file} is too long for what a supervisor says"
        value = json.loads(text)
    except FileNotFoundError:
        return {}, ""
    except (OSError, ValueError, RecursionError) as error:
        return {}, f"{file} cannot be read: {error}"
    if not isinstance(value, dict):
        return {}, f"{file} holds no JSON object"
    good = {key: item for key, item in value.items() if key not in KINDS or KINDS[key](item)}
    bad = [f"{key} = {_shortly(value[key])}" for key in value if key not in good]
    if isinstance(good.get("restarts"), list):
        good["restarts"] = [failure for failure in good["restarts"] if isinstance(failure, dict)]
    return good, f"{file} says {', '.join(bad)}, which no supervisor writes" if bad else ""


def _shortly(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else f"{text[:60]}..."


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_job(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    job, restarts = value.get("job_id"), value.get("restart_count", 0)
    return isinstance(job, str) and JOB.fullmatch(job) is not None and type(restarts) is int


# of what kind each value is that is reckoned with or shown
KINDS: dict[str, Callable[[object], bool]] = {
    **dict.fromkeys(("state", "why", "host", "boot_id", "namespace", "run", "rdzv"), _is_text),
    **dict.fromkeys(("updated", "next_in", "started", "ended", "attempt_started"), is_number),
    **dict.fromkeys(("pid", "attempt", "processes", "events_before", "from_step", "step", "exit_code"), _is_count),
    "restarts": lambda value: isinstance(value, list),
    "failure": lambda value: value is None or isinstance(value, dict),
    "stopped_by": lambda value: value is None or isinstance(value, str),
    "pid_started": lambda value: value is None or is_number(value),
    "slurm": _is_job,
}


def this_host() -> dict[str, Any]:
    """Names this machine in status.json."""
    return {"host": socket.gethostname(), "boot_id": processes.boot_id()}


def state_of(run: Run, *, now: float | None = None) -> State:
    """The state of a run. Reads a few kilobytes; writes nothing."""
    status, trouble = _look_at_status(run)
    said = status.get("state", "")
    if not said:
        state = _without_supervisor(run)
        return State(QUEUED, trouble) if trouble and state.name == QUEUED else state
    if said == QUEUED:
        return _queued(run, status)
    same_machine = processes.is_this_boot(status.get("boot_id"))
    held = is_locked(run) if same_machine else None
    if said in ENDED:
        return State(STARTING) if held and processes.lives(status) is False else State(said, _why(status))
    if said not in ALIVE:
        return State(UNREADABLE, f"{run.status_file} says state = {said!r}, which no supervisor writes")
    if held is False:
        return _after_the_supervisor(run, status)
    if held is None:
        if _job_is_gone(run, status):
            return _after_the_supervisor(run, status)
        if status.get("host") == socket.gethostname() and not same_machine:
            return State(LOST, "this machine was started anew since")
        if "updated" not in status and trouble:
            return State(UNREADABLE, trouble)
        late = _seconds_late(status, now)
        if late > 0:
            return State(STALE, f"{status.get('host')} is silent for {late:.0f} s longer than it said")
    return _at_work(run, status)


def _seconds_late(status: dict[str, Any], now: float | None = None) -> float:
    """By how many seconds another machine's supervisor has missed its heartbeat deadline."""
    deadline = float(status.get("updated", 0)) + float(status.get("next_in", 0))
    return (time.time() if now is None else now) - deadline - GRACE


@contextmanager
def locked(run: Run) -> Iterator[Hold]:
    """Hold the run's lock for a moment, to start it; raises SimclrPlusError when it is being trained, wherever."""
    require_not_elsewhere(run)
    with run.locked(patience=2.0, renewed_within=GRACE, is_over=is_over) as held:
        yield held


def require_not_elsewhere(run: Run) -> None:
    """Raises SimclrPlusError until another machine's supervisor misses its deadline, for locks may not reach there.

    Where the file system has no locks that holds for other containers of this machine too.
    """
    status = read_status(run)
    if status.get("state") not in ALIVE or is_over(status.get("slurm")):
        return
    is_here = processes.is_this_boot(status.get("boot_id"))
    if is_here and (is_locked(run) is not None or processes.lives(status) is False):
        return  # the lock tells, or the process is gone
    if state_of(run).name in ALIVE:
        raise SimclrPlusError(
            f"run {run.path} is being trained by another process, on {status.get('host')}; wait for it or stop it. If "
            f"that machine is gone, try again in {max(1.0, -_seconds_late(status)):.0f} s: it may be silent so long"
        )


def is_over(job: object) -> bool:
    """Whether a SLURM job has ended: it is gone, or it is this process's own at an earlier start."""
    if not _is_job(job) or not isinstance(job, dict):
        return False
    mine = slurm.job_here()
    if job["job_id"] == mine.get("job_id"):
        return bool(job.get("restart_count") != mine["restart_count"])
    return slurm.state_of_job(job["job_id"]) == slurm.GONE


def is_locked(run: Run) -> bool | None:
    """Whether a supervisor of this machine holds the run's lock; None where that cannot be told."""
    return is_held(run.lock_file)


def _at_work(run: Run, status: dict[str, Any]) -> State:
    if status.get("state") == STOPPING or run.stop_file.exists():
        return State(STOPPING, "a checkpoint is saved first")
    heartbeat = read_heartbeat(
        heartbeat_file(run.logs, 0)
    )  # of this attempt: the supervisor removes older ones before it starts
    if heartbeat is None or heartbeat.doing == "preparing":
        return State(STARTING, heartbeat.doing if heartbeat else "")
    return State(RUNNING, heartbeat.doing if heartbeat.doing in ("evaluating", "saving") else "")


def _after_the_supervisor(run: Run, status: dict[str, Any]) -> State:
    """The lock is free, yet the supervisor never said how the run ended."""
    end = last_exit(run, after=status.get("events_before", 0))
    if end.get("reason") in (FINISHED, STOPPED):
        return State(str(end["reason"]))
    return State(LOST, "its supervisor was killed; resume goes on from the newest checkpoint")


def _without_supervisor(run: Run) -> State:
    """A run that was trained by the loop alone, or that nobody has started yet."""
    if is_locked(run):
        return State(STARTING)
    heartbeat = read_heartbeat(heartbeat_file(run.logs, 0))
    if heartbeat is not None and processes.is_alive(heartbeat.pid, heartbeat.started):
        return State(RUNNING, heartbeat.doing)
    for event in last_objects(run.events_file):
        if event.get("event") == "exit" and event.get("reason") in ENDED:
            return State(str(event["reason"]), str(event.get("message", "")))
        if event.get("event") in ("start", "resume", "exit"):
            return State(LOST, "its process is gone")
    return State(QUEUED, "not started yet")


def _job_is_gone(run: Run, status: dict[str, Any]) -> bool:
    return _place_of_job(run, status) == slurm.GONE


def _queued(run: Run, status: dict[str, Any]) -> State:
    job, place = _job_id(status), _place_of_job(run, status)
    if place is None:
        return State(QUEUED, f"SLURM job {job}" if job else "")
    if place == slurm.GONE:
        return State(LOST, f"SLURM job {job} is gone before it began")
    return State(QUEUED if place == slurm.PENDING else STARTING, f"SLURM job {job}")


def _job_id(status: dict[str, Any]) -> str:
    return str(status.get("slurm", {}).get("job_id", ""))


def _place_of_job(run: Run, status: dict[str, Any]) -> str | None:
    """Where the run's job stands; SLURM is asked about those of the runs beside it too, so that it is asked once."""
    job = _job_id(status)
    if not job:
        return None
    if slurm.has_to_ask(job):
        beside = (read_status(other) for other in list_runs(run.path.parent))
        slurm.expect(_job_id(other) for other in beside if other.get("state") in (QUEUED, *ALIVE))
    return slurm.state_of_job(job)


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
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and event.get("event") == "exit":
            return event
    return {}


def events_size(run: Run) -> int:
    """Bytes of events.jsonl."""
    return run.events_file.stat().st_size if run.events_file.exists() else 0


def _why(status: dict[str, Any]) -> str:
    return str(status.get("why", ""))
