"""The runs of a folder at a glance, read again only where something changed. For a thread; no Textual."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simclr_plus.machine.json_lines import last_objects
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run, list_runs
from simclr_plus.runs.states import ENDED, LOST

from .feed import facts_of, is_number

SAMPLES = 24  # places of metrics.jsonl that a sparkline shows
BLOCK = 4096


@dataclass
class Line:
    """A run in the list: `glance`, its last accuracies (task, probe, knn), samples of its loss."""

    run: Run
    glance: dict[str, Any]
    last: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    trouble: str = ""

    @property
    def state(self) -> str:
        """A word of runs/states.py, or "unreadable"."""
        return "unreadable" if self.trouble and not self.glance.get("state") else str(self.glance.get("state", ""))


class RunList:
    """Keeps the lines of a folder; `look` is for a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.trouble = ""
        self.read = 0  # runs that were read in the last look
        self._known: dict[str, tuple[tuple[int, ...], Line]] = {}

    def look(self) -> list[Line]:
        """The lines, newest run first."""
        self.read = 0
        try:
            runs = list_runs(self.folder)
            self.trouble = ""
        except OSError as error:  # one vanished between two looks at it
            self.trouble = f"{self.folder} cannot be read: {error}"
            return [line for _, line in self._known.values()]
        lines = [self._line(run) for run in reversed(runs)]
        self._known = {line.run.name: self._known[line.run.name] for line in lines}
        return lines

    def _line(self, run: Run) -> Line:
        mark = signature(run)
        cached = self._known.get(run.name)
        if cached and cached[0] == mark and cached[1].state in (*ENDED, LOST, "unreadable"):
            return cached[1]
        self.read += 1
        line = line_of(run, cached[1] if cached and cached[0][:2] == mark[:2] else None)
        self._known[run.name] = (mark, line)
        return line


def signature(run: Run) -> tuple[int, ...]:
    """Sizes and times of the files that a line depends on, the metrics' first."""
    marks: list[int] = []
    for path in (run.metrics_file, run.status_file, run.events_file, run.recipe_file, run.stop_file):
        try:
            status = path.stat()
            marks += [status.st_size, status.st_mtime_ns]
        except OSError:
            marks += [-1, -1]
    return tuple(marks)


def line_of(run: Run, before: Line | None = None) -> Line:
    """Read a run; `before` is a line whose metrics are still the same."""
    facts = facts_of(run)
    line = Line(run, facts.glance, trouble=facts.trouble)
    if facts.recipe is None and facts.trouble:
        line.glance = {**facts.glance, "state": "unreadable", "why": facts.trouble}
    if before is not None:
        line.last, line.losses = before.last, before.losses
        return line
    try:
        line.last = _last_numbers(run, _columns_of(facts.recipe))
        line.losses = samples(run.metrics_file, "loss")
    except OSError as error:
        line.trouble = line.trouble or str(error)
    return line


def _columns_of(recipe: Recipe | None) -> dict[str, str]:
    """Where the list's accuracies stand; that of the task is the first share that the method logs."""
    shares = [] if recipe is None else [figure.column for figure in recipe.method.figures(recipe) if figure.share]
    return {**({"task": shares[0]} if shares else {}), "probe": "probe_accuracy", "knn": "knn_accuracy"}


def _last_numbers(run: Run, columns: dict[str, str]) -> dict[str, Any]:
    """The newest accuracies; kNN may stand some lines back."""
    numbers: dict[str, Any] = {}
    for i, values in enumerate(last_objects(run.metrics_file)):
        for name, column in columns.items():
            if is_number(values.get(column)):
                numbers.setdefault(name, values[column])
        if i >= 500 or len(numbers) == len(columns):
            break
    return numbers


def samples(path: Path, key: str, count: int = SAMPLES) -> list[float]:
    """A key's value at evenly spread places of a .jsonl file and at its end; NaN where it is missing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return []
    try:
        end = os.fstat(descriptor).st_size
        losses = []
        for i in range(count):
            place = end * i // count
            lines = os.pread(descriptor, BLOCK, place).split(b"\n")
            whole = lines[:-1] if place == 0 else lines[1:-1]
            if whole:
                losses.append(_value(whole[0], key))
    finally:
        os.close(descriptor)
    last = next(last_objects(path), {})
    return [*losses, _finite(last.get(key))] if losses else []


def _value(line: bytes, key: str) -> float:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return math.nan
    return _finite(values.get(key)) if isinstance(values, dict) else math.nan


def _finite(value: object) -> float:
    return float(value) if is_number(value) else math.nan
