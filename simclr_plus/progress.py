"""A run on the screen: a bar on a terminal, plain lines elsewhere. It only shows what metrics.jsonl holds."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from simclr_plus.printing import visible

SECONDS_BETWEEN_LINES = 10.0


class TrainingProgress:
    """Shows logged lines; `with` it."""

    def __init__(self, name: str, first_step: int, total_steps: int, *, quiet: bool = False) -> None:
        self.total_steps, self.quiet = total_steps, quiet
        self._last_line = 0.0
        self._first_step, self._started = first_step, time.perf_counter()
        self._bar: Progress | None = None
        if not quiet and sys.stdout.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", style="bold", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[figures]}", markup=False),
                TimeRemainingColumn(),
                console=Console(file=sys.stdout),
            )
            self._task = self._bar.add_task(visible(name), total=total_steps, completed=first_step, figures="")

    def begin(self, first_step: int, total_steps: int) -> None:
        """The run starts, or starts again, at a step."""
        self._first_step, self.total_steps, self._started = first_step, total_steps, time.perf_counter()
        if self._bar:
            self._bar.update(self._task, total=total_steps, completed=first_step)

    def __enter__(self) -> TrainingProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def show(self, line: dict[str, Any]) -> None:
        """Show a line of metrics."""
        if self.quiet:
            return
        step = int(line["step"])
        if self._bar:
            self._bar.update(self._task, completed=step, figures=figures(line))
            return
        now = time.perf_counter()
        if now - self._last_line >= SECONDS_BETWEEN_LINES or step >= self.total_steps:
            self._last_line = now
            left = (now - self._started) / max(1, step - self._first_step) * (self.total_steps - step)
            print(f"step {step}/{self.total_steps}  {figures(line)}  {_minutes(left)} left", flush=True)

    def say(self, text: str) -> None:
        """Print a line of talk."""
        if self._bar:
            self._bar.console.print(visible(text, lines=True), highlight=False, markup=False)
        elif not self.quiet:
            print(visible(text, lines=True), flush=True)


def figures(line: dict[str, Any]) -> str:
    """The figures of a metrics line that fit on one line of a screen."""
    shown = [
        f"epoch {line['epoch']:.2f}",
        f"loss {line['loss']:.3f}",
    ]
    for name, key in (("contrastive", "contrastive_accuracy"), ("probe", "probe_accuracy"), ("kNN", "knn_accuracy")):
        shown += [f"{name} {line[key]:.1%}"] if key in line else []
    shown += [f"{line['images_per_second']:.0f} images/s", f"data wait {line['data_wait']:.0%}"]
    return "  ".join(shown)


def _minutes(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}"
