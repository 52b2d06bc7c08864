"""Owns the processes of a run on one node: starts them, watches them, says how they ended. No torch.

python -m simclr_plus.launch.supervisor RUN --processes N ...

It lives in a session of its own, so that a closed terminal does not matter to it, and holds the run's lock. When it
dies, all that it started dies. SIGTERM, SIGINT and SIGUSR2 ask the run to save and stop, as the STOP file does; a
second one ends the processes within 35 seconds, a third one at once.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.launch.ending import cause_of_end, end_hung, end_leftovers, heartbeats_here, kill_group
from simclr_plus.launch.hanging import hung
from simclr_plus.launch.order import INTERRUPTED, OK, PREEMPTED, Order, meets_here, torchrun_options
from simclr_plus.launch.sinks import sink_processes
from simclr_plus.launch.supervision import RENEWED_WITHIN, SECONDS_BETWEEN_SIGNS, Supervision, say
from simclr_plus.machine import processes, slurm, torchrun
from simclr_plus.machine.cores import cpu_count
from simclr_plus.machine.figures import SECONDS_BETWEEN_LINES, SystemFigures
from simclr_plus.machine.locks import Hold
from simclr_plus.runs import states
from simclr_plus.runs.failures import (
    Failure,
    forget_failures,
    note_failure,
    noted_failures,
)
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import Heartbeat, heartbeat_file, read_heartbeat, read_heartbeats
from simclr_plus.runs.states import FAILED, FINISHED, QUEUED, RUNNING, STARTING, STOPPED, STOPPING
from simclr_plus.runs.stop_level import StopLevel

SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_HEARTBEATS = 0.2, 1.0
SECONDS_TO_END = 35.0  # torchrun gives its processes 30
SECONDS_TO_TAKE = 2.0  # the lock, which who looks at it holds for a moment
SECONDS_TO_SPEAK = 10.0  # until a supervisor that took the lock has written status.json
# what torchrun tells its processes; some schedulers set a part of it too
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")


def supervise(run: Run, order: Order) -> int:
    """Start the processes, watch them to their end, restart them as ordered; returns the exit code."""
    run.logs.mkdir(exist_ok=True)
    lock = _take_lock(run, order)
    s = Supervision(run, order, lock, _first_status(run, order))
    try:
        if s.speaks:
            _forget_old_stop(run)
        s.hold_reserve()
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with processes.signals_go_to(s.heed_signal):
            with sink_processes(s.run) if s.speaks else nullcontext():
                state, failure, why = _attempts(s)
            return _end(s, state, failure, why)
    finally:
        if lock is not None:
            lock.release()


def _forget_old_stop(run: Run) -> None:
    """Remove a STOP file from before the last word on the run: an attempt that was killed since, or the submission.

    A job that SLURM starts again by itself would heed it and stop at once. What was asked since then stays.
    """
    with suppress(OSError):
        if run.stop_file.stat().st_mtime <= states.read_status(run).get("updated", 0.0):
            run.stop_file.unlink()


def _attempts(s: Supervision) -> tuple[str, Failure | None, str]:
    """Start the processes until they end well or a restart is of no use: state, failure, why no restart."""
    saved, without_progress = _saved_step(s.run), 0
    while True:
        failure = _attempt(s)
        if failure is None:
            return STOPPED if s.stop_level else FINISHED, None, ""
        without_progress = without_progress + 1 if _saved_step(s.run) == saved else 0
        saved = _saved_step(s.run)
        # where several nodes meet, torchrun restarts them
        may_restart = len(s.status["restarts"]) < s.order.max_restarts and not s.order.rdzv
        if not may_restart or failure.would_happen_again or s.stop_level:
            return FAILED, failure, ""
        if without_progress > 1:
            return FAILED, failure, "failed twice without a new checkpoint, so it is not restarted"
        s.tell(restarts=[*s.status["restarts"], failure.as_dict()])
        say(f"{failure.sentence()}; restarting from step {saved}")


def _first_status(run: Run, order: Order) -> dict[str, Any]:
    before = states.read_status(run)
    job = slurm.job_here()
    return {
        "state": STARTING,
        "run": run.name,
        "why": "",
        **processes.me(),
        "attempt": before.get("attempt", 0),
        "started": time.time(),
        "processes": order.processes,
        "nodes": order.nodes,
        "rdzv": order.rdzv,
        "restarts": [],
        "failure": None,
        **({"slurm": job} if job else {}),
    }


def _attempt(s: Supervision) -> Failure | None:
    """One start of the processes, to their end; returns why they failed, None when they did not."""
    run = s.run
    if s.speaks:
        forget_failures(run.logs)
        for rank in read_heartbeats(run.logs):
            (run.logs / f"rank_{rank}.pulse").unlink(missing_ok=True)
    s.tell(
        state=STARTING,
        attempt=s.status["attempt"] + 1,
        attempt_started=time.time(),
        events_before=states.events_size(run),
        from_step=_saved_step(run),
    )
    memory_kills = processes.out_of_memory_kills()
    exits_file = run.logs / f".exits.{socket.gethostname()}.json"
    exits_file.unlink(missing_ok=True)
    process = _start(s, exits_file)
    failure = _watch(s, process)
    left = end_leftovers(run, process)
    if left:
        say(f"processes {left} do not end")
    if failure:
        return failure
    event = states.last_exit(run, after=s.status["events_before"])
    reason = event.get("reason")
    if reason == STOPPED:  # it may have been quicker than the last look at the STOP file
        s.note_asker(event.get("asked"), int(event.get("signal") or 0))
    if reason in (FINISHED, STOPPED):  # whatever the exit code: torchrun calls it a failure when SIGTERM stopped them
        s.stop_level = max(s.stop_level, StopLevel.SAVE) if reason == STOPPED else StopLevel.NONE
        return None
    if s.stop_level >= StopLevel.END and not noted_failures(run.logs):
        return None
    memory_kills = processes.out_of_memory_kills() - memory_kills
    return cause_of_end(run, s.order, process.returncode, exits_file, memory_kills)


def _start(s: Supervision, exits_file: Path) -> subprocess.Popen[bytes]:
    """The trainer itself or torchrun, in a session of its own, with the lock in its hands."""
    me = str(os.getpid())
    environment = torchrun.without_torchrun(os.environ)
    if s.order.is_alone:
        for name in OF_TORCHRUN:  # left over from who started us: the process would wait for others that nobody starts
            environment.pop(name, None)
        command = [sys.executable, "-m", "simclr_plus.training.process", str(s.run.path), "--to-logs", "--parent", me]
    else:
        agent = [sys.executable, "-m", "simclr_plus.launch.agent", str(s.run.path), str(exits_file), me]
        command = [*agent, *torchrun_options(s.run, s.order)]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // s.order.processes)))  # torchrun would say 1
        if s.order.rdzv:
            # a node that comes back would wait for an address that nobody tells it (torch 2.14, dynamic_rendezvous.py)
            environment.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    log = s.run.logs / f"launcher.{socket.gethostname()}.log"
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            pass_fds=[] if s.lock is None else [s.lock.descriptor],
        )


def _watch(s: Supervision, process: subprocess.Popen[bytes]) -> Failure | None:
    """Wait for the end; meanwhile pass on what is asked, keep figures, find out whether it hangs."""
    figures, next_line, next_heartbeat = SystemFigures(), time.monotonic(), time.monotonic()
    heartbeats: dict[int, Heartbeat] = {}
    seen: dict[int, tuple[Heartbeat, float]] = {}
    deadline = 0.0
    level = StopLevel.NONE  # what was done so far of what is asked for
    while process.poll() is None:
        s.look_at_stop_file()
        if s.stop_level >= StopLevel.END and level < StopLevel.END:
            level, deadline = StopLevel.END, time.monotonic() + SECONDS_TO_END
            process.terminate()
        is_too_late = level == StopLevel.END and time.monotonic() > deadline
        if (s.stop_level == StopLevel.KILL or is_too_late) and level < StopLevel.KILL:
            level = StopLevel.KILL
            kill_group(process)
        if time.monotonic() >= next_heartbeat:
            next_heartbeat = time.monotonic() + SECONDS_BETWEEN_HEARTBEATS
            heartbeats = _own_heartbeats(s, heartbeats)
            _note_progress(s, heartbeats)
            failure = hung(heartbeats, seen, time.monotonic(), lambda: read_heartbeats(s.run.logs))
            if failure and level < StopLevel.KILL:
                with suppress(SimclrPlusError):  # the disk may be full
                    note_failure(s.run.logs, failure)
                end_hung(heartbeats, process)
                return failure
        if heartbeats and time.monotonic() >= next_line:
            alive = [p.pid for p in heartbeats.values() if processes.is_alive(p.pid, p.started)]
            if alive:  # not before there are processes, and not of one that has just ended: it has no memory
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
                with suppress(OSError):
                    s.run.log_system(socket.gethostname(), figures.look(alive))
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_BETWEEN_LOOKS)
    s.look_at_stop_file()
    return None


def _own_heartbeats(s: Supervision, before: dict[int, Heartbeat]) -> dict[int, Heartbeat]:
    """The heartbeats of the processes on this node; those of hundreds on others are not read once its own are known."""
    again = {rank: read_heartbeat(heartbeat_file(s.run.logs, rank)) for rank in before}
    heartbeats = {rank: p for rank, p in again.items() if p is not None and p.host == socket.gethostname()[:64]}
    if len(heartbeats) < s.order.processes or not all(
        processes.is_alive(p.pid, p.started) for p in heartbeats.values()
    ):
        return heartbeats_here(s.run)
    return heartbeats


def _note_progress(s: Supervision, heartbeats: dict[int, Heartbeat]) -> None:
    state = s.status["state"]
    at_work = any(heartbeat.doing != "preparing" for heartbeat in heartbeats.values())
    now = STOPPING if s.stop_level else RUNNING if at_work else STARTING
    if now != state or time.monotonic() - s.last_written > SECONDS_BETWEEN_SIGNS:
        s.tell(state=now)


def _end(s: Supervision, state: str, failure: Failure | None, why: str) -> int:
    code = failure.exit_code if failure else _code(s) if state == STOPPED else OK
    sentence = failure.sentence() if failure else ""
    if state == STOPPED and s.stopped_by == "requeue":
        state = QUEUED
    s.give_reserve_back()
    s.tell(
        state=state,
        why="; ".join(x for x in (sentence, why) if x),
        stopped_by=s.stopped_by or None,
        failure=failure.as_dict() if failure else None,
        exit_code=code,
        ended=time.time(),
        step=_saved_step(s.run),
    )
    if sentence:
        say(sentence)
    return code


def _code(s: Supervision) -> int:
    if not s.speaks:  # srun would kill the others for it, the one that speaks too
        return OK
    if s.stopped_by == "SIGINT":
        return INTERRUPTED
    return PREEMPTED if s.stopped_by in ("SIGTERM", "SIGUSR2", "requeue") else OK


def _take_lock(run: Run, order: Order) -> Hold | None:
    """The run's lock, or None on a node whose supervisor does not speak for the run.

    Of several nodes' supervisors the one where the nodes meet speaks; the lock decides where that is not unique.
    """
    if order.rdzv and not meets_here(order.rdzv):
        return None
    states.require_not_elsewhere(run)
    lock = run.try_lock(SECONDS_TO_TAKE, renewed_within=RENEWED_WITHIN, job=slurm.job_here(), is_over=states.is_over)
    if lock is None and not (order.rdzv and _is_met_at(run, order.rdzv)):
        raise SimclrPlusError(f"run {run.path} is being trained by another process; wait for it or stop it")
    return lock


def _is_met_at(run: Run, rdzv: str) -> bool:
    """Whether the supervisor that holds the lock is one of those that meet there, and no other."""
    end = time.monotonic() + SECONDS_TO_SPEAK
    while True:
        status = states.read_status(run)
        if status.get("state") in states.ALIVE and status.get("rdzv") == rdzv and processes.lives(status) is not False:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _saved_step(run: Run) -> int:
    files = run.checkpoint_files()
    return int(files[-1].stem.removeprefix("step_")) if files else 0


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser("simclr_plus.launch.supervisor")
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--nodes", default="1")
    parser.add_argument("--rdzv", default="")
    parser.add_argument("--max-restarts", type=int, default=0)
    options = parser.parse_args()
    try:
        code = supervise(Run(options.run), Order(options.processes, options.nodes, options.rdzv, options.max_restarts))
    except (SimclrPlusError, OSError) as error:
        say(str(error))
        code = error.exit_code if isinstance(error, SimclrPlusError) else EnvironmentNotAbleError.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
