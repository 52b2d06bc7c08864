"""Starts a run's supervisor and, in the foreground, follows the run until it ends."""

from __future__ import annotations

import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.launch import batch_scripts
from simclr_plus.launch.order import INTERRUPTED, PREEMPTED, Order, meets_here
from simclr_plus.machine import slurm
from simclr_plus.machine.json_lines import Tail
from simclr_plus.machine.processes import is_same_start, signals_go_to, start_time
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.runs import states
from simclr_plus.runs.folder import Run
from simclr_plus.runs.progress import TrainingProgress

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_TO_LEAVE = 15.0  # what the supervisor may take once everything was killed
WORDS = ("", "now", "kill")  # what the first, the second and the third Ctrl-C ask for


def process_count(nproc: str, job_gpus: int | None = None) -> int:
    """A number of processes; "gpu": one for each GPU; "": one.

    job_gpus: of a SLURM job, what both words stand for: the machine that submits it may have no GPU.
    """
    if nproc in ("", "gpu") and job_gpus is not None:
        return job_gpus or 1
    nproc = nproc or "1"
    if nproc == "gpu":
        import torch

        count = torch.cuda.device_count()
        if count == 0:
            raise EnvironmentNotAbleError('--nproc gpu: PyTorch finds no GPU here; give a number, e.g. "--nproc 2"')
        return count
    if not nproc.isdigit() or int(nproc) < 1:
        raise RecipeError(f'--nproc {nproc}: give a number of processes, 1 or more, or "gpu"')
    return int(nproc)


def supervisor_command(run: Run, order: Order) -> list[str]:
    """What starts the processes of a run on this machine and watches them."""
    return [sys.executable, "-m", "simclr_plus.launch.supervisor", str(run.path), *order.arguments()]


def start(run: Run, order: Order) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own; raises SimclrPlusError when the run is being trained already."""
    if not order.rdzv:
        with states.locked(run):  # one look; the supervisor takes it for good
            run.stop_file.unlink(missing_ok=True)
    elif meets_here(order.rdzv) and not states.is_locked(run):
        run.stop_file.unlink(missing_ok=True)
    run.logs.mkdir(exist_ok=True)
    with (run.logs / f"launcher.{socket.gethostname()}.log").open("ab") as log:
        return subprocess.Popen(
            supervisor_command(run, order),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def detach(run: Run, order: Order) -> dict[str, Any]:
    """Start a run and leave it to its supervisor; returns what that says first."""
    supervisor = start(run, order)
    begun = start_time(supervisor.pid)
    while supervisor.poll() is None:
        status = states.read_status(run)
        if _is_by(status, supervisor, begun) or (order.rdzv and status):
            return status
        time.sleep(0.05)
    if _is_by(states.read_status(run), supervisor, begun):
        return states.read_status(run)
    raise SimclrPlusError(f"the supervisor of {run.path} ended at once: {_last_words(run)}")


def launch(run: Run, processes: int | Order, *, quiet: bool = False) -> int:
    """Train a run to its end, or until it is asked to stop; returns the exit code.

    Ctrl-C and SIGTERM ask the run to save and stop; a second Ctrl-C ends it within 35 seconds, a third one at once.
    When this process dies, the run goes on. Raises SimclrPlusError when training fails.
    """
    order = processes if isinstance(processes, Order) else Order(processes)
    metrics, events = Tail(run.metrics_file), Tail(run.events_file)
    metrics.skip()
    events.skip()
    supervisor = start(run, order)
    begun = start_time(supervisor.pid)
    with _passing_on_signals(run) as signals:
        _follow(run, supervisor, metrics, events, signals, quiet)
    return _outcome(run, supervisor, begun, signals)


def _is_by(status: dict[str, Any], supervisor: subprocess.Popen[bytes], begun: int | None) -> bool:
    """Whether this supervisor wrote it, and not an earlier one with its id: in containers ids come round again."""
    said = status.get("pid_started")
    is_known = begun is not None and said is not None
    return status.get("pid") == supervisor.pid and (not is_known or is_same_start(begun, said))


def submit_run(run: Run, allocation: batch_scripts.Allocation, *, max_restarts: int = 0) -> str:
    """Write the batch script, hand it to SLURM and note the job in status.json; returns the job's id."""
    script = run.path / "slurm.sh"
    run.logs.mkdir(exist_ok=True)
    write_text_whole(script, batch_scripts.batch_script(run, allocation, max_restarts=max_restarts))
    queued = {"state": states.QUEUED, "run": run.name, "started": time.time(), "nodes": str(allocation.nodes)}
    queued["processes"] = allocation.processes
    with states.locked(run):  # the job may begin before its id is known here
        try:
            job = slurm.submit(script)
        except SimclrPlusError as error:
            states.write_status(run, {**queued, "state": states.FAILED, "why": str(error), "exit_code": 1})
            raise
        states.write_status(run, {**queued, "slurm": {"job_id": job}, "updated": time.time()})
    return job


def resubmit(run: Run) -> str:
    """Hand the batch script of a run that has ended to SLURM again; returns the job's id."""
    script = run.path / "slurm.sh"
    if not script.exists():
        raise RecipeError(f"run {run.path} was not started with --slurm; resume it without, or start a new run")
    status = states.read_status(run)
    waiting = str(status.get("slurm", {}).get("job_id", "")) if status.get("state") == states.QUEUED else ""
    if waiting and slurm.state_of_job(waiting) in (slurm.PENDING, slurm.ACTIVE):
        raise SimclrPlusError(f"run {run.path} is in the queue already, as SLURM job {waiting}; wait for it or stop it")
    with states.locked(run):
        run.stop_file.unlink(missing_ok=True)
        job = slurm.submit(script)
        before = {
            key: value for key, value in states.read_status(run).items() if key in ("attempt", "processes", "nodes")
        }
        queued = {**before, "state": states.QUEUED, "run": run.name, "started": time.time(), "updated": time.time()}
        states.write_status(run, {**queued, "slurm": {"job_id": job}})
    return job


def stop(run: Run, word: str = "") -> bool:
    """Ask a run to stop, wherever it trains (words: see stop_level.py); returns whether there is anything to stop."""
    status, state = states.read_status(run), states.state_of(run)
    job = str((status.get("slurm") or {}).get("job_id") or "")
    if state.name == states.QUEUED and job:
        slurm.cancel(job)
        states.write_status(run, {**status, "state": states.STOPPED, "why": "cancelled before it began"})
        return True
    if not state.is_alive:
        return False
    run.ask_to_stop(word)
    if job and word == "kill":
        slurm.cancel(job)
    return True


def _follow(
    run: Run, supervisor: subprocess.Popen[bytes], metrics: Tail, events: Tail, signals: list[int], quiet: bool
) -> None:
    """Show what the run writes until its supervisor ends, or does not answer the third Ctrl-C."""
    recipe = run.recipe()
    progress = TrainingProgress(run.name, 0, 0, quiet=quiet, of_method=recipe.method.figures(recipe))
    killed_at = 0.0
    with progress:
        while True:
            ended = supervisor.poll() is not None
            for event in events.read():
                _show_event(progress, event)
            for line in metrics.read():
                progress.show(line)
            if len(signals) >= len(WORDS):
                killed_at = killed_at or time.monotonic()
            if ended or (killed_at and time.monotonic() - killed_at > SECONDS_TO_LEAVE):
                return
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _show_event(progress: TrainingProgress, event: dict[str, Any]) -> None:
    if event.get("event") in ("start", "resume"):
        progress.begin(_count(event.get("from_step")), _count(event.get("steps")))
    elif event.get("event") == "note":
        progress.say(f"note: {event.get('message')}")


def _count(value: Any) -> int:
    return value if type(value) is int else 0


def _outcome(run: Run, supervisor: subprocess.Popen[bytes], begun: int | None, signals: list[int]) -> int:
    status, code = states.read_status(run), supervisor.poll()
    state = str(status.get("state", ""))
    if not run.exists:
        raise SimclrPlusError(f"the run folder {run.path} was deleted while it trained; nothing of it is left")
    if not _is_by(status, supervisor, begun) and code not in (0, PREEMPTED, INTERRUPTED):  # another node's speaks
        raise SimclrPlusError(f"the run failed on this node: {_last_words(run)}")
    if code == 0:
        status = _last_status(run)
        state = str(status.get("state", ""))
    if state == states.FAILED:
        error = SimclrPlusError(str(status.get("why") or "the run failed"))
        error.exit_code = int(status.get("exit_code", 1))
        raise error
    if code not in (None, 0, PREEMPTED, INTERRUPTED) and code > 0 and state not in states.ENDED:
        raise SimclrPlusError(f"the run failed and {run.status_file} cannot say why: {_last_words(run)}")
    if code is None or code < 0:
        raise SimclrPlusError(
            f"the supervisor of {run.path} was killed; `simclr-plus resume {shlex.quote(run.name)}` goes on from the "
            f"newest checkpoint (state: {states.state_of(run).name})"
        )
    if state == states.STOPPED and signals:
        return INTERRUPTED if signals[0] == signal.SIGINT else PREEMPTED
    return code


def _last_status(run: Run) -> dict[str, Any]:
    """The status with the end in it; where another node speaks for the run, that may take a moment."""
    end = time.monotonic() + SECONDS_TO_LEAVE
    while True:
        status = states.read_status(run)
        if status.get("state") in states.ENDED or time.monotonic() > end:
            return status
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _passing_on_signals(run: Run) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM become words in the STOP file, a stronger one each time; yields the signals that came."""
    signals: list[int] = []
    answers = (
        "stopping: a checkpoint is saved first; Ctrl-C again to end the processes within 35 seconds\n",
        "ending the processes; Ctrl-C again to kill them\n",
        "killed\n",
    )

    def ask(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) <= len(WORDS):
            run.ask_to_stop(WORDS[len(signals) - 1])
            sys.stderr.write(answers[len(signals) - 1])

    with signals_go_to(ask):
        yield signals


def _last_words(run: Run) -> str:
    log = run.logs / f"launcher.{socket.gethostname()}.log"
    try:
        return "\n".join(log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()[-8:])
    except OSError as error:
        return str(error)
