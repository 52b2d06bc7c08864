"""What is known of one run, kept fresh by a thread: its metrics by columns, recipe, state, figures of its machines.

A run folder may be damaged, half-written or gone at any moment: what cannot be read becomes a sentence in `trouble`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeGuard

import numpy as np

from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine.json_lines import Tail, last_objects
from simclr_plus.recipe.plan import KNN_BANK, KNN_NEIGHBOURS, KNN_QUERIES, Schedule, make_schedule
from simclr_plus.recipe.reading import load_recipe, shipped_recipes
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import heartbeat_file, read_heartbeat
from simclr_plus.runs.metrics_table import MetricsTable
from simclr_plus.runs.overview import glance

from ..charts.raster import Floats

SECONDS_AT_ONCE = 0.05  # of reading, then the screen has its turn
AXIS_NAMES = {"step": "steps", "epoch": "epochs", "images": "images", "time": "hours"}
AXES = tuple(AXIS_NAMES)
TOO_LARGE = 1e300  # to be reckoned with
NUMBERS = ("step", "steps", "epoch", "loss", "images_per_second", "time", "seconds_left")  # of a glance


@dataclass(frozen=True)
class KnnBasis:
    """What a kNN accuracy stands on: held-out images, the neighbours that vote, the images they are looked for in."""

    queries: int = KNN_QUERIES
    neighbours: int = KNN_NEIGHBOURS
    bank: int = KNN_BANK

    def name(self) -> str:
        """The protocol in words."""
        return f"kNN ({self.queries:,} held out, {self.neighbours} of {self.bank:,} neighbours)"


@dataclass(frozen=True)
class KnnResult:
    """What `evaluate knn` found for a checkpoint, with the recipe's own data and usual settings."""

    step: int
    top1: float
    basis: KnnBasis | None


@dataclass(frozen=True)
class Start:
    """What the trainer said when it began, as far as it did: runs of older versions say less."""

    images: int = 0
    classes: int = 0
    steps: int = 0
    feature_dim: int = 0
    knn: KnnBasis = KnnBasis()


@dataclass
class Facts:
    """A look at a run: `glance` as `ps` shows it, the recipe if it can be read, a line of figures for each machine."""

    glance: dict[str, Any] = field(default_factory=dict)
    recipe: Recipe | None = None
    machines: dict[str, dict[str, Any]] = field(default_factory=dict)
    last_line_at: float | None = None
    trouble: str = ""
    doing: tuple[str, int, float] | None = None  # by the heartbeat of process 0: word, step, when
    origin: Recipe | None = None  # the shipped recipe that this one was made from
    knn_results: list[KnnResult] = field(default_factory=list)


class Feed:
    """A run as it grows. `look` may take long and is for a thread; the rest is quick."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.facts = Facts()
        self.version = 0  # grows when the metrics did
        self.is_behind = False  # there are lines that were not read yet
        self._table = MetricsTable(run.metrics_file)
        self._events = Tail(run.events_file)
        self._resumes: list[int] = []
        self.start: Start | None = None
        self._schedule: tuple[tuple[object, ...], Schedule | None] = ((), None)
        self._lock = threading.Lock()
        self._axis_of, self._axis = ("", -1), np.empty(0)

    def look(self) -> bool:
        """Read what is new, for a moment; returns whether there is more to read."""
        facts = facts_of(self.run, self.facts.recipe)
        facts.origin = self.facts.origin or (shipped_origin(facts.recipe) if facts.recipe is not None else None)
        facts.doing = _doing(self.run)
        facts.knn_results = list(_knn_results(self.run))
        more = False
        with self._lock:
            before = self._mark()
            try:
                more = self._table.look(SECONDS_AT_ONCE)
            except OSError as error:
                facts.trouble = facts.trouble or f"{self.run.metrics_file} cannot be read: {error}"
            self._read_events()
            if self._table.bad_lines and not facts.trouble:
                facts.trouble = f"{self._table.bad_lines} lines of metrics.jsonl are no JSON and were left out"
            if self._mark() != before:
                self.version += 1
            self.is_behind = more
        self.facts = facts
        return more

    def columns(self, *names: str, last: int = 0) -> dict[str, Floats]:
        """Copies of columns as numbers, or of their `last` ones; those that no line has are left out."""
        begin = -last if last else None
        columns: dict[str, Floats] = {}
        with self._lock:
            for name in names:
                if name == "step":
                    columns[name] = np.array(self._table.steps[begin:], dtype=np.float64)
                elif name in self._table.columns:
                    columns[name] = np.array(self._table.columns[name][begin:], dtype=np.float64)
        return {name: _reckonable(column) for name, column in columns.items()}

    def discarded(self, *names: str) -> list[dict[str, Floats]]:
        """Stretches that a resumed run went through again, as far as they have such columns."""
        with self._lock:
            return [
                {name: _reckonable(np.array(stretch[name])) for name in names if name in stretch}
                for stretch in self._table.discarded
            ]

    def resumes(self, axis: str) -> list[float]:
        """Where on an axis the run was resumed and went on."""
        x, steps = self.axis(axis), self.columns("step")["step"]
        places = np.unique(np.searchsorted(steps, self._resumes, "right"))
        return [float(x[place]) for place in places if place < len(x)]

    @property
    def lines(self) -> int:
        """Logged steps that were read."""
        return len(self._table.steps)

    def names(self) -> list[str]:
        """The columns that lines have."""
        with self._lock:
            return list(self._table.columns)

    def has(self, *names: str) -> bool:
        """Whether a line had one of these numbers."""
        return any(name in self._table.columns for name in names)

    def axis(self, name: str) -> Floats:
        """The x of every line: step, epoch, images, or hours since the first line; never falling."""
        if (name, self.version) != self._axis_of:
            self._axis_of, self._axis = (name, self.version), self._axis_values(name)
        return self._axis

    def _axis_values(self, name: str) -> Floats:
        columns = self.columns("step", name)
        steps = columns["step"]
        values = columns.get(name, steps)
        if len(values) != len(steps) or not np.isfinite(values).all():
            finite = np.isfinite(values)
            values = np.interp(steps, steps[finite], values[finite]) if finite.any() else steps
        if name == "time" and name in columns and len(values):
            values = self.hours(values)
        return np.maximum.accumulate(values) if len(values) else values

    def hours(self, times: Floats) -> Floats:
        """Seconds since 1970 as hours since the first line."""
        first = self.columns("time").get("time", times)[:1]
        hours: Floats = (times - first) / 3600
        return hours

    @property
    def schedule(self) -> Schedule | None:
        """That of the run's steps; None where the recipe gives another one than the run follows, or none yet."""
        recipe, images, steps = self.facts.recipe, self.images, self.steps
        mark = (id(recipe), images, steps)
        if mark != self._schedule[0]:
            schedule = None
            if recipe is not None and images > 0 and steps > 0:
                try:
                    schedule = make_schedule(recipe, images)
                except (SimclrPlusError, ArithmeticError, ValueError):
                    schedule = None
            self._schedule = (mark, schedule if schedule is not None and schedule.total_steps == steps else None)
        return self._schedule[1]

    @property
    def feature_dim(self) -> int:
        """Dimensions of h: as the run recorded them, or those of a ResNet by its recipe; 0 where neither tells."""
        if self.start is not None and self.start.feature_dim:
            return self.start.feature_dim
        recipe = self.facts.recipe
        return recipe.feature_dim if recipe is not None and recipe.encoder.is_resnet else 0

    @property
    def steps(self) -> int:
        """Planned steps; 0 where the run did not say."""
        return self.start.steps if self.start is not None else 0

    @property
    def images(self) -> int:
        """Training images: as the start event says, or as epochs and images of the last line give them; else 0."""
        if self.start is not None and self.start.images:
            return self.start.images
        last = self.columns("images", "epoch", last=1)
        if len(last) < 2 or not (last["epoch"][-1:] > 0).all() or not np.isfinite(last["images"][-1:]).all():
            return 0
        return round(float(last["images"][-1] / last["epoch"][-1])) if len(last["images"]) else 0

    def end(self, axis: str) -> float:
        """Where an axis of x ends: at the planned last step, or at the last line where no plan or less is known."""
        x = self.axis(axis)
        last = float(x[-1]) if len(x) else 0.0
        return max(last, self.steps * self.each(axis))

    def each(self, axis: str) -> float:
        """How far a step goes on an axis; 0 where that is not known, as of hours to come."""
        if axis == "step":
            return 1.0
        x, steps = self.axis(axis), self.columns("step", last=1)["step"]
        if axis in ("epoch", "images") and len(x) and steps[-1] > 0:
            return float(x[-1]) / float(steps[-1])
        return 0.0

    def _read_events(self) -> None:
        """Take in new events: where the run was resumed, and what it began with."""
        try:
            events = self._events.read()
        except OSError:
            return
        for event in events:
            if event.get("event") == "resume" and _is_count(event.get("from_step")):
                self._resumes.append(event["from_step"])
            if event.get("event") in ("start", "resume"):
                self.start = _start_of(event)

    def _mark(self) -> tuple[int, int]:
        steps = self._table.steps
        return len(steps), steps[-1] if steps else 0


def _reckonable(column: Floats) -> Floats:
    """NaN where a number is too large to be reckoned with."""
    return np.where(np.abs(column) < TOO_LARGE, column, np.nan)


def _is_count(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _start_of(event: dict[str, Any]) -> Start:
    numbers = {key: event[key] for key in ("images", "classes", "steps", "feature_dim") if _is_count(event.get(key))}
    knn = event.get("knn")
    basis = _basis(*(knn.get(key) for key in ("queries", "neighbours", "bank"))) if isinstance(knn, dict) else None
    return Start(**numbers, knn=basis or KnnBasis())


def _basis(queries: object, neighbours: object, bank: object) -> KnnBasis | None:
    if not (_is_count(queries) and _is_count(neighbours) and _is_count(bank) and queries > 0):
        return None
    return KnnBasis(queries, neighbours, bank)


def _doing(run: Run) -> tuple[str, int, float] | None:
    heartbeat = read_heartbeat(heartbeat_file(run.logs, 0))
    if heartbeat is None or not (_is_count(heartbeat.step) and is_number(heartbeat.time)):
        return None
    return str(heartbeat.doing), heartbeat.step, heartbeat.time


def _knn_results(run: Run) -> Iterator[KnnResult]:
    """Results of `evaluate knn` with nothing changed; the files of others say in their names what was."""
    for path in sorted(run.results.glob("knn_*.json")):
        if not re.fullmatch(r"knn_(step_\d+|encoder)", path.stem):
            continue
        try:
            result = json.loads(path.read_bytes())
            step, top1 = result["step"], result["results"]["encoder"]["top1"]
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            continue
        if _is_count(step) and is_number(top1) and 0 <= top1 <= 1:
            k = result["results"]["encoder"].get("k", KNN_NEIGHBOURS)
            yield KnnResult(step, float(top1), _basis(result.get("test_images"), k, result.get("train_images")))


@lru_cache(maxsize=64)
def _shipped() -> tuple[Recipe, ...]:
    return tuple(load_recipe(path) for path in shipped_recipes())


def shipped_origin(recipe: Recipe) -> Recipe | None:
    """The shipped recipe that a recipe was made from: they say the same of themselves."""
    try:
        return next((shipped for shipped in _shipped() if shipped.about == recipe.about), None)
    except SimclrPlusError:
        return None


def facts_of(run: Run, recipe: Recipe | None = None) -> Facts:
    """A look at everything but the metrics; never raises for what is wrong with the folder."""
    facts = Facts(recipe=recipe)
    if not run.path.is_dir():
        facts.glance = {"run": run.name, "state": "gone", "why": f"{run.path} is no longer there"}
        facts.trouble = facts.glance["why"]
        return facts
    try:
        if recipe is None:
            facts.recipe = run.recipe()
    except (SimclrPlusError, OSError, ValueError, RecursionError) as error:
        facts.trouble = str(error)
    try:
        facts.glance = _checked(glance(run))
        facts.last_line_at = run.metrics_file.stat().st_mtime if run.metrics_file.exists() else None
        for path in sorted(run.path.glob("system.*.jsonl")):
            line = next(last_objects(path), {})
            if time.time() - _number(line.get("time"), 0.0) < 60:
                facts.machines[path.name[7:-6]] = line
    except (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        facts.glance = facts.glance or {"run": run.name, "state": "unreadable", "why": str(error)}
        facts.trouble = facts.trouble or f"{run.path} cannot be read: {error}"
    return facts


def _checked(view: dict[str, Any]) -> dict[str, Any]:
    """A glance in which a number is a number: files may hold anything."""
    return {key: value if key not in NUMBERS or is_number(value) else None for key, value in view.items()}


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a finite number."""
    return isinstance(value, int | float) and abs(value) < TOO_LARGE


def processes_on(glance: dict[str, Any]) -> str:
    """How many processes train a run, and where."""
    count = glance.get("processes") or 1
    return f"{count} process{'' if count == 1 else 'es'} on {glance.get('host')}"


def _number(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) else otherwise


def expected_figures(text: str) -> dict[str, tuple[str, float]]:
    """Scores that a recipe's `about.expected` states: kind (linear, kNN) to whose they are and the share.

    >>> expected_figures("paper: linear top-1 69.3 %, top-5 89.0 %")
    {'linear': ('paper', 0.693)}
    """
    whose = text.partition(":")[0].partition(",")[0].strip()
    figures: dict[str, tuple[str, float]] = {}
    for kind, figure in re.findall(r"(linear|kNN)(?: top-1)?(?: about)? (\d+(?:\.\d+)?) ?%", text):
        figures.setdefault(kind, (whose, float(figure) / 100))
    return figures
