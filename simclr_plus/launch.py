"""Starts a run's processes here and says how they ended: one process in place, several under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.runs import Run, cpu_count

if TYPE_CHECKING:
    from collections.abc import Iterator

OK, PREEMPTED, INTERRUPTED = 0, 75, 130


def process_count(nproc: str) -> int:
    """A number of processes: "gpu" is one for each GPU."""
    if nproc == "gpu":
        import torch

        count = torch.cuda.device_count()
        if count == 0:
            raise EnvironmentNotAbleError('--nproc gpu: PyTorch finds no GPU here; give a number, e.g. "--nproc 2"')
        return count
    if not nproc.isdigit() or int(nproc) < 1:
        raise RecipeError(f'--nproc {nproc}: give a number of processes, 1 or more, or "gpu"')
    return int(nproc)


def torchrun_command(run: Run, processes: int, *, quiet: bool = False) -> list[str]:
    """What starts the processes of a run on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*command, "-m", "simclr_plus.trainer", str(run.path), *(["--quiet"] if quiet else [])]


def launch(run: Run, processes: int, *, quiet: bool = False) -> int:
    """Train a run to its end, or until it is asked to stop; returns the exit code.

    Ctrl-C and SIGTERM ask the run to save and stop; a second Ctrl-C terminates it, a third kills it. Raises
    SimclrPlusError when training fails.
    """
    with run.locked():
        run.stop_file.unlink(missing_ok=True)
        if processes == 1:
            return _train_here(run, quiet)
        return _train_under_torchrun(run, processes, quiet)


def _train_here(run: Run, quiet: bool) -> int:
    from simclr_plus.trainer import FAILED, train

    try:
        train(run, quiet=quiet)
    except SimclrPlusError as error:
        with suppress(OSError):  # the disk may be full
            run.log_event("exit", reason=FAILED, message=str(error), exit_code=error.exit_code)
        raise
    return _exit_code(run.events()[-1], 0)


def _train_under_torchrun(run: Run, processes: int, quiet: bool) -> int:
    run.logs.mkdir(exist_ok=True)
    log = run.logs / "torchrun.log"
    threads = max(1, cpu_count() // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}  # torchrun would say 1
    events_before = len(run.events())
    with log.open("ab") as stderr:
        start = stderr.tell()
        agent = subprocess.Popen(
            torchrun_command(run, processes, quiet=quiet), stderr=stderr, env=environment, start_new_session=True
        )
        with _signals_passed_on(agent, run) as asked:
            code = agent.wait()
    exits = [e for e in run.events()[events_before:] if e.get("event") == "exit"]
    failed = [e for e in exits if e.get("reason") == "failed"]
    if failed:
        error = SimclrPlusError(str(failed[0]["message"]))
        error.exit_code = int(failed[0].get("exit_code", 1))
        raise error
    if code != 0 or not exits:
        with log.open("rb") as text:
            text.seek(start)
            tail = text.read().decode(errors="replace").strip().splitlines()[-15:]
        raise SimclrPlusError(
            f"a process of the run failed (torchrun ended with {code}); {log} says:\n" + "\n".join(tail)
        )
    return _exit_code(exits[-1], asked[0] if asked else 0)


@contextmanager
def _signals_passed_on(agent: subprocess.Popen[bytes], run: Run) -> Iterator[list[int]]:
    """The first signal asks the run to save and stop, a second one terminates the processes, a third kills them."""
    asked: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        if len(asked) == 1:
            run.ask_to_stop()
            sys.stderr.write("stopping: a checkpoint is saved first; Ctrl-C again to end the processes now\n")
        else:
            agent.send_signal(signal.SIGTERM if len(asked) == 2 else signal.SIGKILL)

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_code(last: dict[str, Any], asked_by: int) -> int:
    """Finished or asked to stop by a file is 0; stopped by Ctrl-C 130, by another signal 75."""
    by = asked_by or last.get("signal", 0)
    if last.get("reason") != "stopped" or not by:
        return OK
    return INTERRUPTED if by == signal.SIGINT else PREEMPTED
