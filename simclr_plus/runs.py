"""The run folder: the only interface between training and whoever watches it. No torch.

    recipe.toml      the resolved recipe               checkpoints/  step_00012500.safetensors
    metrics.jsonl    one JSON object a logged step     results/      one JSON file an evaluation
    events.jsonl     start, resume, checkpoint, exit   logs/         what the processes printed
    control/STOP     asks the run to save and stop     run.lock      held while the run trains

Both .jsonl files are append-only and have one writer, process 0.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.recipe import Recipe, parse_recipe
from simclr_plus.whole_files import write_text_whole


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.toml"

    @property
    def metrics_file(self) -> Path:
        """One JSON object a logged step."""
        return self.path / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        """One JSON object an event."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def results(self) -> Path:
        """Folder of what evaluators found."""
        return self.path / "results"

    @property
    def logs(self) -> Path:
        """Folder of what the processes printed."""
        return self.path / "logs"

    @property
    def stop_file(self) -> Path:
        """A watcher makes this file to ask the run to save and stop."""
        return self.path / "control" / "STOP"

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        try:
            text = self.recipe_file.read_text(encoding="utf-8")
        except OSError as error:
            raise NotFoundError(f"run {self.path} has no readable recipe.toml: {error}") from None
        return parse_recipe(text, origin=str(self.recipe_file))

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        _append(self.metrics_file, values)

    def log_event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        _append(self.events_file, {"event": kind, "time": time.time(), **values})

    def metrics(self) -> list[dict[str, Any]]:
        """Logged steps in order; steps that a resumed run went through again are there once, as gone through last."""
        lines: list[dict[str, Any]] = []
        for line in _read_lines(self.metrics_file):
            step = line.get("step")
            if isinstance(step, int):
                while lines and lines[-1]["step"] >= step:
                    lines.pop()
                lines.append(line)
        return lines

    def events(self) -> list[dict[str, Any]]:
        """Events in order."""
        return list(_read_lines(self.events_file))

    def checkpoint_files(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted(self.checkpoints.glob("step_*.safetensors"))

    def checkpoint_file(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step_{step:08d}.safetensors"

    def latest_checkpoint(self) -> Path:
        """The newest complete checkpoint; raises NotFoundError where there is none."""
        found = self.checkpoint_files()
        if not found:
            raise NotFoundError(f"run {self.path} has no checkpoint in {self.checkpoints}; nothing was saved yet")
        return found[-1]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock; raises SimclrPlusError when another process trains the run."""
        import fcntl

        with (self.path / "run.lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SimclrPlusError(
                    f"run {self.path} is being trained by another process; wait for it or stop it"
                ) from None
            yield

    def ask_to_stop(self) -> None:
        """Make the file that asks the run to save and stop."""
        self.stop_file.parent.mkdir(exist_ok=True)
        self.stop_file.touch()

    def write_result(self, name: str, result: dict[str, Any]) -> Path:
        """Write results/NAME.json and return its path."""
        path = self.results / f"{name}.json"
        write_text_whole(path, json.dumps(_plain(result), indent=2) + "\n")
        return path


def create_run(recipe: Recipe, folder: Path, name: str) -> Run:
    """Make the folder of a new run and record the recipe in it; raises RecipeError when the name is taken."""
    if not name or "/" in name or name.startswith("."):
        raise RecipeError(f"run name {name!r} must be a plain folder name")
    path = folder / name
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise RecipeError(f"run {path} exists; choose another --name, or `simclr-plus resume {name}`") from None
    except OSError as error:
        raise SimclrPlusError(f"cannot make the run folder {path}: {error}") from None
    run = Run(path)
    write_text_whole(run.recipe_file, recipe.to_toml())
    return run


def default_name(recipe_name: str) -> str:
    """`recipe-20260812-101500`."""
    return f"{Path(recipe_name).stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        (Run(p.parent) for p in folder.glob("*/recipe.toml")), key=lambda run: run.recipe_file.stat().st_mtime
    )


def find_run(name: str, folder: Path) -> Run:
    """A run by path, name, unique prefix, or "latest"."""
    path = Path(name)
    if (path / "recipe.toml").is_file():
        return Run(path)
    runs = list_runs(folder)
    if name == "latest" and runs:
        return runs[-1]
    matching = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise NotFoundError(f"run {name!r} is ambiguous: {', '.join(run.name for run in matching)}")
    have = f"it has {', '.join(run.name for run in runs[-5:])}" if runs else "it has no runs"
    raise NotFoundError(f"no run {name!r} in {folder}: {have}; name one, give its path, or say latest")


def machine() -> dict[str, Any]:
    """Who runs here, for the start event."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "cpus": cpu_count()}


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _append(path: Path, values: dict[str, Any]) -> None:
    line = json.dumps(_plain(values)) + "\n"
    torn = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + line if torn else line)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; torn or foreign lines are left out."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            yield value


def _plain(value: Any) -> Any:
    """NaN and infinities become null, which every JSON reader takes."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
