"""Starts a run's processes here and says how they ended: one process in place, several under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.runs import Run

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
        raise EnvironmentNotAbleError(f'--nproc {nproc}: give a number of processes, 1 or more, or "gpu"')
    return int(nproc)


def torchrun_command(run: Run, processes: int, *, quiet: bool = False) -> list[str]:
    """What starts the processes of a run on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*command, "-m", "simclr_plus.trainer", str(run.path), *(["--quiet"] if quiet else [])]


def launch(run: Run, processes: int, *, quiet: bool = False) -> int:
    """Train a run to its end, or until it is asked to stop; returns the exit code.

    Ctrl-C asks the run to save and stop, a second one ends it at once. Raises SimclrPlusError when training fails.
    """
    if processes == 1:
        return _train_here(run, quiet)
    return _train_under_torchrun(run, processes, quiet)


def _train_here(run: Run, quiet: bool) -> int:
    from simclr_plus.trainer import FAILED, train

    try:
        train(run, quiet=quiet)
    except SimclrPlusError as error:
        run.log_event("exit", reason=FAILED, message=str(error), exit_code=error.exit_code)
        raise
    return _exit_code(run)


def _train_under_torchrun(run: Run, processes: int, quiet: bool) -> int:
    run.logs.mkdir(exist_ok=True)
    log = run.logs / "torchrun.log"
    command = torchrun_command(run, processes, quiet=quiet)
    threads = max(1, len(os.sched_getaffinity(0)) // processes)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}  # torchrun would say 1
    with log.open("ab") as stderr:
        start = stderr.tell()
        agent = subprocess.Popen(command, stderr=stderr, env=environment, start_new_session=True)
        code = _wait(agent, run)
    last = run.events()[-1] if run.events() else {}
    if last.get("reason") == "failed":
        error = SimclrPlusError(str(last["message"]))
        error.exit_code = int(last.get("exit_code", 1))
        raise error
    if code != 0 and last.get("event") != "exit":
        with log.open("rb") as text:
            text.seek(start)
            tail = text.read().decode(errors="replace").strip().splitlines()[-15:]
        raise SimclrPlusError(
            f"a process of the run failed (torchrun ended with {code}); {log} says:\n" + "\n".join(tail)
        )
    return _exit_code(run)


def _wait(agent: subprocess.Popen[bytes], run: Run) -> int:
    interrupts = 0
    while True:
        try:
            return agent.wait()
        except KeyboardInterrupt:
            interrupts += 1
            if interrupts == 1:
                run.stop_file.parent.mkdir(exist_ok=True)
                run.stop_file.touch()
                sys.stderr.write("stopping: a checkpoint is saved first; Ctrl-C again to end the processes now\n")
            else:
                os.killpg(agent.pid, signal.SIGTERM if interrupts == 2 else signal.SIGKILL)


def _exit_code(run: Run) -> int:
    """From the last event: finished or asked to stop is 0; stopped by Ctrl-C 130, by another signal 75."""
    last = run.events()[-1]
    by = last.get("signal", 0)
    if last.get("reason") != "stopped" or not by:
        return OK
    return INTERRUPTED if by == signal.SIGINT else PREEMPTED
