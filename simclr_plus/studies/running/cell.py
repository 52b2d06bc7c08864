"""One cell of a study: trains its run, or goes on with it, measures, and writes the file that says it is done.

python -m simclr_plus.studies.running.cell FOLDER CELL --processes N     CELL: its name, or its number in the plan
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simclr_plus.errors import NotFoundError, SimclrPlusError
from simclr_plus.launch.order import INTERRUPTED
from simclr_plus.launch.start import launch
from simclr_plus.machine import torchrun
from simclr_plus.machine.cores import cpu_count
from simclr_plus.machine.processes import die_with_parent
from simclr_plus.machine.whole_files import remove_unfinished, write_text_whole
from simclr_plus.runs.folder import Run, join_run
from simclr_plus.runs.result_folders import read_result
from simclr_plus.runs.states import ALIVE, state_of
from simclr_plus.runs.time_spent import seconds_of_training
from simclr_plus.studies.running.cells import PlannedStudy, open_study
from simclr_plus.studies.study import Cell

SECONDS_BETWEEN_LOOKS = 0.5


def run_cell(planned: PlannedStudy, cell: Cell, processes: int) -> int:
    """Train and measure; returns 0, or the code with which it was stopped. Another process on it is waited for."""
    with _alone(planned, cell):
        if planned.is_done(cell):
            return 0
        planned.note_failure(cell, "")
        folder = planned.runs / cell.name
        if folder.is_dir() and not Run(folder).recipe_file.exists():  # killed before the recipe was in it
            remove_unfinished(folder)
            with suppress(OSError):  # another is just beginning it, where there are no locks to wait for
                folder.rmdir()
        run = join_run(cell.recipe, planned.runs, cell.name)
        _wait_for_supervisor(run)
        if not _is_trained(run):
            code = launch(run, processes, quiet=True)
            if code:
                return code
            if not _is_trained(run):
                raise SimclrPlusError(f"{run.path} was stopped before its end; the same command goes on with it")
        if processes > 1:
            code = _share_measures(planned, cell, processes)
            if code:
                return code
        measure(planned, cell)
        _write_result(planned, cell, run)
    return 0


def _share_measures(planned: PlannedStudy, cell: Cell, processes: int) -> int:
    """Those measures that several processes can share, by so many; returns the code with which they ended."""
    from simclr_plus.studies.measures import SHARED

    run = Run(planned.runs / cell.name)
    if all(_measured(run, name, planned.scale) for name in SHARED.intersection(cell.measures)):
        return 0
    command = [sys.executable, "-m", "simclr_plus.studies.running.cell", str(planned.path), cell.name, "--measure"]
    command += ["--processes", str(processes), "--parent", str(os.getpid())]
    return subprocess.run(command, check=False).returncode


def measure(planned: PlannedStudy, cell: Cell) -> None:
    """Write results/measure_NAME.json for each measure that has none yet; among several, only what they share."""
    from simclr_plus.distributed import from_main, rank, start, world_size
    from simclr_plus.studies.measures import SHARED, forget_states, measured

    run, device = Run(planned.runs / cell.name), start(cell.recipe.training.device)
    for name in cell.measures:
        shared = world_size() == 1 or name in SHARED
        if shared and not from_main(_measured(run, name, planned.scale)):
            started = time.monotonic()
            numbers = measured(run, name, planned.scale, device)
            if rank() == 0:
                of = {"weights": run.latest_checkpoint().name, "scale": planned.scale}
                text = json.dumps({**of, "numbers": numbers, "seconds": time.monotonic() - started}, indent=2)
                write_text_whole(_measure_file(run, name), text + "\n")
                forget_states(run)


def _measured(run: Run, name: str, scale: str) -> bool:
    """Whether a measure is there, and is of the newest checkpoint and of this scale as far as it says."""
    result = read_result(_measure_file(run, name))
    if result is None or not isinstance(result.get("numbers"), dict):
        return False
    of = {"weights": run.latest_checkpoint().name, "scale": scale}
    return all(result.get(key, value) == value for key, value in of.items())


def _measure_file(run: Run, name: str) -> Path:
    return run.results / f"measure_{name}.json"


def _write_result(planned: PlannedStudy, cell: Cell, run: Run) -> None:
    """The file that says that the cell is done."""
    from simclr_plus.datasets.images import TEST, TRAIN, open_images

    measures = [json.loads(_measure_file(run, name).read_text(encoding="utf-8")) for name in cell.measures]
    lines = run.metrics()
    train, test = open_images(cell.recipe.data, TRAIN), open_images(cell.recipe.data, TEST)
    result = {
        "schema": 1,
        "place": dict(cell.place),
        "seed": cell.seed,
        "numbers": {key: value for one in measures for key, value in one["numbers"].items()},
        "images": lines[-1]["images"] if lines else 0,
        "data": {"name": train.name, "train": len(train), "test": len(test), "classes": len(train.classes)},
        "seconds_training": seconds_of_training(run),
        "seconds_measuring": sum(one["seconds"] for one in measures),
        "host": socket.gethostname(),
        "device": _device(),
    }
    write_text_whole(planned.result_file(cell), json.dumps(result, indent=2) + "\n")


@contextmanager
def _alone(planned: PlannedStudy, cell: Cell) -> Iterator[None]:
    """Hold the cell: a second study on the same folder, here or where the file system's locks reach, waits its turn."""
    locks = planned.path / "locks"
    locks.mkdir(exist_ok=True)
    with (locks / cell.name).open("w") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _wait_for_supervisor(run: Run) -> None:
    """Of a study that was killed: its run goes on alone. Interrupted while waiting, it is asked to save and stop."""
    if state_of(run).name in ALIVE:
        print(f"waiting for {run.path}, which is being trained", flush=True)
    try:
        while state_of(run).name in ALIVE:
            time.sleep(SECONDS_BETWEEN_LOOKS)
    except KeyboardInterrupt:
        run.ask_to_stop()
        raise


def find_cell(planned: PlannedStudy, which: str) -> Cell:
    """A cell by name, or by its number in the plan."""
    if which.isdigit() and int(which) < len(planned.cells):
        return planned.cells[int(which)]
    for cell in planned.cells:
        if cell.name == which:
            return cell
    raise NotFoundError(f"no cell {which!r} in {planned.path}: it has {len(planned.cells)}")


def _is_trained(run: Run) -> bool:
    return (run.path / "encoder.safetensors").is_file() and bool(run.checkpoint_files())


def _device() -> str:
    """What trained, for the report."""
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} of {torch.cuda.get_device_name()}"
    return f"CPU, {cpu_count()} cores"


def main() -> None:
    """Entry of a cell's process."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell script's background has it ignored
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("cell")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--parent", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help="the shared measures alone, of a trained cell")
    options = parser.parse_args()
    if options.parent:
        die_with_parent(options.parent)
    if options.measure and not torchrun.started_this_process():
        _under_torchrun(options.folder, options.cell, options.processes)
        return
    try:
        planned = open_study(options.folder)
        cell = find_cell(planned, options.cell)
        with _noting_failure(planned, cell):
            if options.measure:
                measure(planned, cell)
                from simclr_plus.distributed import stop

                stop()
                return
            sys.exit(0 if planned.is_done(cell) else run_cell(planned, cell, options.processes))
    except SimclrPlusError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


@contextmanager
def _noting_failure(planned: PlannedStudy, cell: Cell) -> Iterator[None]:
    """Keep for the report why the cell failed."""
    try:
        yield
    except SimclrPlusError as error:
        planned.note_failure(cell, str(error))
        raise
    except Exception as error:
        planned.note_failure(cell, f"{type(error).__name__}: {error}")
        raise


def _under_torchrun(folder: Path, cell: str, processes: int) -> None:
    """This process becomes the torchrun of the measures; its processes end with it, as it ends with the cell."""
    from torch.distributed.run import main as run_torchrun

    ours = torchrun.without_torchrun(os.environ)
    os.environ.clear()
    os.environ.update(ours)
    options = ["--standalone", "--nproc-per-node", str(processes), "-m", "simclr_plus.studies.running.cell"]
    run_torchrun([*options, str(folder), cell, "--measure", "--parent", str(os.getpid())])


if __name__ == "__main__":
    main()
