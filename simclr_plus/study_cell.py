"""One cell of a study: trains its run, or goes on with it, measures, and writes the file that says it is done.

python -m simclr_plus.study_cell FOLDER CELL --processes N     CELL: its name, or its number in the plan
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from simclr_plus.errors import NotFoundError, SimclrPlusError
from simclr_plus.launch import launch
from simclr_plus.processes import die_with_parent
from simclr_plus.runs import Run, join_run
from simclr_plus.states import state_of
from simclr_plus.studies.study import Cell
from simclr_plus.study_runs import PlannedStudy, open_study
from simclr_plus.whole_files import write_text_whole

SECONDS_BETWEEN_LOOKS = 0.5


def run_cell(planned: PlannedStudy, cell: Cell, processes: int) -> int:
    """Train and measure; returns 0, or the code with which the training was stopped."""
    folder = planned.runs / cell.name
    with suppress(OSError):
        folder.rmdir()  # killed before the recipe was in it
    run = join_run(cell.recipe, planned.runs, cell.name)
    while state_of(run).is_alive:  # its study was killed, the run was not
        time.sleep(SECONDS_BETWEEN_LOOKS)
    if not _is_trained(run):
        code = launch(run, processes, quiet=True)
        if code:
            return code
    from simclr_plus.distributed import start
    from simclr_plus.studies.measures import measured

    started = time.monotonic()
    numbers = measured(run, cell.measures, planned.scale, start(cell.recipe.training.device))
    lines = run.metrics()
    result = {
        "schema": 1,
        "place": dict(cell.place),
        "seed": cell.seed,
        "numbers": numbers,
        "images": lines[-1]["images"] if lines else 0,
        "seconds_training": _seconds_of_training(run),
        "seconds_measuring": time.monotonic() - started,
        "host": socket.gethostname(),
    }
    write_text_whole(planned.result_file(cell), json.dumps(result, indent=2) + "\n")
    return 0


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


def _seconds_of_training(run: Run) -> float:
    """From each start to the end that followed it, waiting between them left out."""
    seconds, began = 0.0, 0.0
    for event in run.events():
        if event.get("event") in ("start", "resume"):
            began = event["time"]
        elif event.get("event") == "exit" and began:
            seconds, began = seconds + event["time"] - began, 0.0
    return seconds


def main() -> None:
    """Entry of a cell's process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("cell")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--parent", type=int, default=0)
    given = parser.parse_args()
    if given.parent:
        die_with_parent(given.parent)
    try:
        planned = open_study(given.folder)
        cell = find_cell(planned, given.cell)
        sys.exit(0 if planned.is_done(cell) else run_cell(planned, cell, given.processes))
    except SimclrPlusError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
