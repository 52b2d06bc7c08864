"""Runs the cells of a study, several at once or as a SLURM array, and gathers what they found. No torch.

    runs/study-NAME/
      study.json               study, scale, seeds and the recipe it starts from
      cells/CELL/              an ordinary run folder; results/cell.json says that the cell is done
      logs/CELL.log            what its process said; CELL.failed: why it failed, until it is tried again
      locks/CELL               held by the process that works on it
      report.html report.md results.csv results.json plots/

A cell is done when its result file is there, which appears whole: killed at any moment, the same command goes on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.importers import with_normalisation
from simclr_plus.launch import batch_scripts
from simclr_plus.launch.order import INTERRUPTED, PREEMPTED
from simclr_plus.machine import slurm
from simclr_plus.machine.cores import cpu_count
from simclr_plus.machine.processes import signals_go_to
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.states import FINISHED, state_of
from simclr_plus.studies.catalogue import find_study
from simclr_plus.studies.findings import Findings, Found
from simclr_plus.studies.study import Cell, Study

SECONDS_BETWEEN_LOOKS = 0.2
Say = Callable[[str], None]


@dataclass(frozen=True)
class PlannedStudy:
    """A study with its folder: what is run, and where."""

    path: Path
    study: Study
    scale: str
    recipe: Recipe
    cells: tuple[Cell, ...]

    @property
    def runs(self) -> Path:
        """Folder of the cells' run folders."""
        return self.path / "cells"

    def result_file(self, cell: Cell) -> Path:
        """What says that a cell is done."""
        return self.runs / cell.name / "results" / "cell.json"

    def is_done(self, cell: Cell) -> bool:
        """Whether the cell needs no more work."""
        return self.result_file(cell).is_file()

    def failure_file(self, cell: Cell) -> Path:
        """Why the cell failed, while it has not been tried again."""
        return self.path / "logs" / f"{cell.name}.failed"

    def note_failure(self, cell: Cell, why: str) -> None:
        """Keep why the cell failed; "" forgets it."""
        file = self.failure_file(cell)
        if why:
            file.parent.mkdir(exist_ok=True)
            write_text_whole(file, why + "\n")
        else:
            file.unlink(missing_ok=True)

    def missing(self) -> list[Cell]:
        """The cells that can be run now, in order: later seeds of a tuned axis wait for the first, which chooses."""
        missing = [cell for cell in self.cells if not self.is_done(cell)]
        if not self.study.tuned:
            return missing
        chosen = self._chosen()
        return [
            cell for cell in missing if not cell.seed or chosen.get(self._untuned(cell)) == cell.place[self.study.tuned]
        ]

    @property
    def total(self) -> int:
        """Cells that the whole study runs."""
        if not self.study.tuned:
            return len(self.cells)
        return sum(not cell.seed for cell in self.cells) + len(
            {(cell.seed, self._untuned(cell)) for cell in self.cells if cell.seed}
        )

    def chance_of(self, cell: Cell) -> float:
        """That the cell is run: all are, but for later seeds at the values of a tuned axis."""
        tuned = self.study.tuned
        if not tuned or not cell.seed:
            return 1.0
        return 1 / len({c.place[tuned] for c in self.cells if self._untuned(c) == self._untuned(cell)})

    def _untuned(self, cell: Cell) -> tuple[tuple[str, Any], ...]:
        return tuple((axis, value) for axis, value in cell.place.items() if axis != self.study.tuned)

    def _chosen(self) -> dict[tuple[tuple[str, Any], ...], Any]:
        """The tuned axis's best value by held-out images, for places of which the first seed is done at all values."""
        first: dict[tuple[tuple[str, Any], ...], list[Cell]] = {}
        for cell in self.cells:
            if not cell.seed:
                first.setdefault(self._untuned(cell), []).append(cell)
        chosen = {}
        for place, cells in first.items():
            if all(map(self.is_done, cells)):
                scores = [result_of(self, cell)["numbers"].get("validation_top1", 0.0) for cell in cells]
                chosen[place] = cells[scores.index(max(scores))].place[self.study.tuned]
        return chosen

    def results(self) -> list[tuple[Cell, dict[str, Any]]]:
        """The cells that are done, with what their files say."""
        return [(cell, result_of(self, cell)) for cell in self.cells if self.is_done(cell)]

    def findings(self) -> Findings:
        """The figures of all cells that are done."""
        results = self.results()
        rows = [Found(cell.place, cell.seed, result["numbers"]) for cell, result in results]
        sizes = [int(row.numbers["test_images"]) for row in rows if "test_images" in row.numbers]
        return Findings(rows, self.scale, min(sizes, default=0), self.path.parent)


def plan_study(
    path: Path, study: Study, scale: str, seeds: int, recipe: Recipe, where: Sequence[str] = ()
) -> PlannedStudy:
    """The cells of a study, all or those `where` AXIS=VALUE,VALUE lets through; writes nothing.

    Raises RecipeError where one of them does not fit the recipe.
    """
    planned = _planned(path, study, scale, seeds, recipe, where)
    _require_recipes(planned.cells)
    return planned


def _planned(
    path: Path, study: Study, scale: str, seeds: int, recipe: Recipe, where: Sequence[str] = ()
) -> PlannedStudy:
    recipe = with_normalisation(recipe.with_whole_paths())  # all cells have the same, wherever the study goes on
    cells = every = study.cells(recipe, scale, seeds)
    for text in where:
        axis, _, values = text.partition("=")
        wanted = set(values.split(","))
        axes = sorted({name for cell in every for name in cell.place})
        if axis not in axes or not values:
            raise RecipeError(f"--where {text}: this study has the axes {', '.join(axes)}; write AXIS=VALUE,VALUE")
        values_of_axis = {f"{cell.place[axis]}" for cell in every if axis in cell.place}
        if wanted - values_of_axis:
            raise RecipeError(f"--where {text}: {axis} has the values {', '.join(sorted(values_of_axis))}")
        cells = [cell for cell in cells if f"{cell.place.get(axis)}" in wanted]
    if not cells:
        raise RecipeError(f"--where {' '.join(where)} leaves no cell")
    return PlannedStudy(path, study, scale, recipe, tuple(cells))


def _require_recipes(cells: Sequence[Cell]) -> None:
    """Raises RecipeError that names the places which do not fit, and how to leave them out."""
    wrong: dict[str, str] = {}
    axis = next(iter(cells[0].place))
    for cell in cells:
        try:
            if not cell.recipe.encoder.is_resnet:  # what a ResNet cannot do is known without measuring it
                make_plan(cell.recipe, cell.recipe.training.batch_size)
        except RecipeError as error:
            wrong.setdefault(f"{cell.place[axis]}", str(error))
    others = dict.fromkeys(f"{cell.place[axis]}" for cell in cells)
    fitting = [value for value in others if value not in wrong]
    if wrong:
        leave = f"; or leave that out: --where '{axis}={','.join(fitting)}'" if fitting else ""
        told = "; ".join(f"{axis}={value}: {why}" for value, why in wrong.items())
        raise RecipeError(f"{told}{leave}")


def record(planned: PlannedStudy, seeds: int) -> None:
    """Write study.json, or check that the folder holds the same study from the same recipe; seeds may grow."""
    file = planned.path / "study.json"
    document = {"schema": 1, "study": planned.study.name, "scale": planned.scale, "recipe": planned.recipe.to_toml()}
    if file.is_file():
        before = open_study(planned.path)
        was, now = {"study": before.study.name, "scale": before.scale}, {k: document[k] for k in ("study", "scale")}
        was |= _by_keys(before.recipe)  # read anew: a later version may have more keys
        now |= _by_keys(planned.recipe)
        other = [f"{key} = {was[key]} (now {now[key]})" for key in was if was[key] != now[key]]
        if other:
            raise RecipeError(
                f"{planned.path} holds a study with {'; '.join(other)}; give the same again, or another --name"
            )
        seeds = max(seeds, *(cell.seed + 1 for cell in before.cells))
    planned.path.mkdir(parents=True, exist_ok=True)
    write_text_whole(file, json.dumps({**document, "seeds": seeds}, indent=2) + "\n")


def open_study(path: Path) -> PlannedStudy:
    """The study of a folder, also cells left out for not fitting; raises NotFoundError where there is none."""
    file = path / "study.json"
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise NotFoundError(f"{path} is no folder of a study: {error}") from None
    kinds = {"recipe": str, "study": str, "scale": str, "seeds": int}
    wrong = [
        key for key, kind in kinds.items() if not isinstance(document, dict) or type(document.get(key)) is not kind
    ]
    if wrong:
        raise NotFoundError(f"{path} is no folder of a study: {file} says nothing usable of {', '.join(wrong)}")
    recipe = parse_recipe(document["recipe"], origin=str(file))
    study = find_study(document["study"])
    return _planned(path, study, document["scale"], document["seeds"], recipe)


def result_of(planned: PlannedStudy, cell: Cell) -> dict[str, Any]:
    """What the file of a cell that is done says; raises SimclrPlusError where it was damaged."""
    file = planned.result_file(cell)
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SimclrPlusError(f"{file} is damaged ({error}); delete it, and the same command does it again") from None
    if not isinstance(result, dict) or not isinstance(result.get("numbers"), dict):
        raise SimclrPlusError(f"{file} holds no numbers; delete it, and the same command does it again")
    return result


def _by_keys(recipe: Recipe) -> dict[str, Any]:
    """Every value by its dotted key."""
    dumped = recipe.model_dump(exclude={"about"})
    sections = {k: v for k, v in dumped.items() if isinstance(v, dict)}
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def run_cells(planned: PlannedStudy, *, at_once: int, processes: int, gpus: Sequence[str], say: Say) -> list[str]:
    """Run what is missing, `at_once` cells at a time; returns a line for each cell that failed.

    Ctrl-C and SIGTERM ask the cells at work to save and stop, and begin no other. Raises KeyboardInterrupt then.
    """
    waiting, working = planned.missing(), dict[int, tuple[Cell, subprocess.Popen[bytes]]]()
    failures: list[str] = []
    total, started = len(waiting), time.monotonic()
    with _passing_on_signals(lambda: [process for _, process in working.values()]) as signals:
        while waiting or working:
            for slot in range(at_once):
                if slot not in working and waiting and not signals:
                    cell = waiting.pop(0)
                    working[slot] = (cell, _start(planned, cell, slot, at_once, processes, gpus))
            for slot, (cell, process) in list(working.items()):
                if process.poll() is None:
                    continue
                del working[slot]
                done = total - len(waiting) - len(working)
                if planned.is_done(cell):
                    left = (time.monotonic() - started) / done * (total - done)
                    say(f"{done}/{total} {cell.name}: {_figures_of(planned, cell)}; about {left / 60:.0f} min left")
                elif not signals or process.returncode not in (PREEMPTED, INTERRUPTED, -signal.SIGKILL, -signal.SIGINT):
                    failures.append(f"{cell.name}: {why_missing(planned, cell)}")
                    say(f"{done}/{total} {failures[-1]}")
            if signals and not working:
                raise KeyboardInterrupt
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return failures


def submit_cells(planned: PlannedStudy, allocation: batch_scripts.Allocation, at_once: int) -> str:
    """Hand the missing cells to SLURM as an array, `at_once` of them together (0: as SLURM likes); returns its id."""
    whole = open_study(planned.path)  # the numbers count all cells of the folder
    missing = {cell.name for cell in planned.missing()}
    numbers = [number for number, cell in enumerate(whole.cells) if cell.name in missing]
    if not numbers:
        raise RecipeError(f"every cell of {planned.path} is done; --report writes the report")
    note = planned.path / "slurm_job"
    before = note.read_text(encoding="utf-8", errors="replace").strip() if note.is_file() else ""
    if before and slurm.state_of_job(before) in (slurm.PENDING, slurm.ACTIVE):
        raise RecipeError(f"job {before} works on {planned.path}; wait for it, or end it with scancel {before}")
    (planned.path / "logs").mkdir(exist_ok=True)
    script = planned.path / "slurm.sh"
    command = _command(planned.path.resolve(), allocation.processes)
    text = batch_scripts.array_script(planned.path.name, planned.path, command, numbers, allocation, at_once=at_once)
    write_text_whole(script, text)
    job = slurm.submit(script)
    write_text_whole(note, f"{job}\n")
    return job


def _command(path: Path, processes: int) -> list[str]:
    """What runs one cell, whose name or number in the plan is still to be added."""
    return [sys.executable, "-m", "simclr_plus.studies.running.cell", str(path), "--processes", str(processes)]


def _start(
    planned: PlannedStudy, cell: Cell, slot: int, at_once: int, processes: int, gpus: Sequence[str]
) -> subprocess.Popen[bytes]:
    """A cell in a process of its own, with its share of cores and GPUs; what it says goes to its log."""
    logs = planned.path / "logs"
    logs.mkdir(exist_ok=True)
    environment = {"OMP_NUM_THREADS": str(max(1, cpu_count() // (at_once * processes))), **os.environ}
    if gpus:  # at_once times processes of them, see study_verbs
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot * processes : (slot + 1) * processes])
    with (logs / f"{cell.name}.log").open("wb") as log:
        return subprocess.Popen(
            [*_command(planned.path, processes), cell.name, "--parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


@contextmanager
def _passing_on_signals(processes: Callable[[], list[subprocess.Popen[bytes]]]) -> Iterator[list[int]]:
    """Whatever asks to stop becomes a Ctrl-C to the processes; yields the signals that came."""
    signals: list[int] = []

    def ask(number: int, _frame: FrameType | None) -> None:
        signals.append(number)
        for process in processes():
            process.send_signal(signal.SIGINT)

    with signals_go_to(ask):
        yield signals


def _figures_of(planned: PlannedStudy, cell: Cell) -> str:
    result = result_of(planned, cell)
    figures = [f"{key} {value:.3f}" for key, value in result["numbers"].items() if key != "test_images"]
    return f"{', '.join(figures)} ({result['seconds_training'] + result['seconds_measuring']:.0f} s)"


def why_missing(planned: PlannedStudy, cell: Cell) -> str:
    """Why a cell is not done: what it noted when it failed, else what its run says; empty where it never began."""
    note, log = planned.failure_file(cell), planned.path / "logs" / f"{cell.name}.log"
    if note.is_file():
        why = note.read_text(encoding="utf-8", errors="replace").strip()
        return f"failed: {why}{f' (see {log})' if log.is_file() else ''}"
    run = Run(planned.runs / cell.name)
    if not run.exists:
        return ""
    state = state_of(run)
    if state.name == FINISHED:
        return "trained, not measured"
    return f"{state.name}{f': {state.why}' if state.why else ''}"


def require_all(failures: Sequence[str], planned: PlannedStudy) -> None:
    """Raises SimclrPlusError when cells failed, after the report of the others was written."""
    if failures:
        raise SimclrPlusError(
            f"{len(failures)} of {len(planned.cells)} cells failed; the report has the others, and the same command "
            f"tries these again: {failures[0]}"
        )
