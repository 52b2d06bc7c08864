"""A run on the screen: a bar on a terminal, plain lines elsewhere. It only shows what metrics.jsonl holds."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from simclr_plus.machine.printing import visible
from simclr_plus.machine.words import duration
from simclr_plus.recipe.method_keys import Figure
from simclr_plus.runs.time_left import LINES, seconds_left

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Shows logged lines, with the figures of the run's method; `with` it."""

    def __init__(
        self, name: str, first_step: int, total_steps: int, *, quiet: bool = False, of_method: Sequence[Figure] = ()
    ) -> None:
        self.total_steps, self.quiet, self.of_method = total_steps, quiet, of_method
        self._last_line = 0.0
        self._lines: deque[dict[str, Any]] = deque(maxlen=LINES)
        self._bar: Progress | None = None
        if not quiet and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TextColumn("{task.fields[left]}", markup=False, style="cyan"),
                console=Console(file=sys.stdout),
            )
            self._task = self._bar.add_task(visible(name), total=total_steps, completed=first_step, figures="", left="")

    def begin(self, first_step: int, total_steps: int) -> None:
        """The run starts, or starts again, at a step."""
        self.total_steps = total_steps
        self._lines.clear()
        if self._bar:
            self._bar.update(self._task, total=total_steps, completed=first_step, left="")

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Show a line of metrics."""
        step = line.get("step")
        if self.quiet or not isinstance(step, int):
            return
        self._lines.append(line)
        left = seconds_left(list(self._lines), self.total_steps)
        in_words = "" if left is None else f"{duration(left)} left"
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures(line, self.of_method), left=in_words)
            return
        now = time.perf_counter()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step >= self.total_steps:
            self._last_line = now
            print(
                "  ".join(
                    part
                    for part in (f"step {step}/{self.total_steps}", figures(line, self.of_method), in_words)
                    if part
                )
            )
            sys.stdout.flush()

    def say(self, text: str) -> None:
        """Print a line of talk."""
        if self._bar:
            self._bar.console.print(visible(text, lines=True), highlight=False, markup=False)
        elif not self.quiet:
            print(visible(text, lines=True), flush=True)


BEFORE = (("epoch", "epoch {:.2f}"), ("loss", "loss {:.3f}"))
AFTER = (
    ("probe_accuracy", "probe {:.1%}"),
    ("knn_accuracy", "kNN {:.1%}"),
    ("images_per_second", "{:.0f} images/s"),
    ("data_wait", "data wait {:.0%}"),
)


def figures(line: dict[str, Any], of_method: Sequence[Figure] = ()) -> str:
    """The figures of a metrics line that fit on one line of a screen; a dash for one that is null, as NaN is."""
    forms = [(f.column, f"{f.title.removesuffix(' accuracy')} {{:{'.1%' if f.share else '.3g'}}}") for f in of_method]
    return "  ".join(_written(form, line[key]) for key, form in (*BEFORE, *forms, *AFTER) if key in line)


def _written(form: str, value: object) -> str:
    if isinstance(value, int | float) and math.isfinite(value):
        return form.format(value)
    before, _, rest = form.partition("{")
    return f"{before}-{rest.partition('}')[2]}"
