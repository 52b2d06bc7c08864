"""A process of a run, started by a supervisor, alone or under torchrun.

python -m simclr_plus.training.process RUN [--to-logs] [--parent PID] [--quiet]
"""

from __future__ import annotations

import faulthandler
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from simclr_plus import distributed
from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine import torchrun
from simclr_plus.machine.processes import die_with_parent
from simclr_plus.runs.failures import failure_of, note_failure
from simclr_plus.runs.folder import Run
from simclr_plus.training.state import FAILED
from simclr_plus.training.trainer import train


def main() -> None:
    """Entry of a process of the run; why it failed is left in the run folder, for its supervisor.

    With --to-logs what it prints goes to logs/rank_N.log; with --parent PID it dies with that process.
    """
    options = sys.argv[2:]
    if "--parent" in options:
        die_with_parent(int(options[options.index("--parent") + 1]))
    run = Run(Path(sys.argv[1]))
    if "--to-logs" in options:
        _print_to(run.logs / f"rank_{torchrun.place().rank}.log")
    faulthandler.enable()  # a crash, or SIGABRT from a supervisor that finds us hung, prints the stacks of all threads
    try:
        train(run, quiet="--quiet" in options)
    except Exception as error:
        traceback.print_exc()
        failure = failure_of(error, torchrun.place().rank)
        with suppress(SimclrPlusError, OSError):  # the disk may be full
            note_failure(run.logs, failure)
            if failure.rank == 0:
                run.log_event("exit", reason=FAILED, message=failure.sentence(), exit_code=failure.exit_code)
        _leave_process(failure.exit_code)  # other processes may wait in a collective: do not wait for them
    distributed.stop()
    _leave_process(0)  # everything is on disk; gloo's threads now and then abort an ordinary exit


def _print_to(log: Path) -> None:
    log.parent.mkdir(exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _leave_process(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
