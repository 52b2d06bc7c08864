"""The run folder: the only interface between training and whoever watches it. No torch.

    recipe.toml      the resolved recipe               checkpoints/  step_00012500.safetensors
    metrics.jsonl    one JSON object a logged step     results/      one JSON file an evaluation
    events.jsonl     start, resume, checkpoint, exit   logs/         what the processes printed
    control/STOP     asks the run to save and stop     run.lock      held while the run trains
    status.json      what its supervisor says of it    system.<host>.jsonl   figures of a node

The .jsonl files are append-only and have one writer: process 0, and for a node's figures its supervisor.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.recipe import Recipe, parse_recipe
from simclr_plus.tail import Tail
from simclr_plus.whole_files import write_text_whole

# what may stand in the STOP file, and how much it asks for: 1 save and stop, 2 end within 35 seconds, 3 end at once
STOP_WORDS = {"": 1, "requeue": 1, "now": 2, "kill": 3}
SECONDS_TO_APPEAR = 30.0  # a file that another machine wrote, on a network file system


@dataclass(frozen=True)
class Run:
    """A run folder."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def exists(self) -> bool:
        """Whether it is there: false once the folder was deleted, whatever was written in its place since."""
        return self.recipe_file.is_file()

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

    @property
    def status_file(self) -> Path:
        """What the run's supervisor says of it."""
        return self.path / "status.json"

    @property
    def lock_file(self) -> Path:
        """Locked while the run trains."""
        return self.path / "run.lock"

    def recipe(self) -> Recipe:
        """The resolved recipe of the run."""
        try:
            text = self.recipe_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise NotFoundError(f"run {self.path} has no readable recipe.toml: {error}") from None
        return parse_recipe(text, origin=str(self.recipe_file))

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl; raises NotFoundError when the run folder was deleted."""
        if not self.exists:
            raise NotFoundError(f"the run folder {self.path} was deleted while it trained; nothing more is saved")
        _append(self.metrics_file, values)

    def log_event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        _append(self.events_file, {"event": kind, "time": time.time(), **values})

    def log_system(self, host: str, values: dict[str, Any]) -> None:
        """Append a line to a node's system.<host>.jsonl."""
        _append(self.path / f"system.{host}.jsonl", values)

    def metrics(self) -> list[dict[str, Any]]:
        """Logged steps in order; steps that a resumed run went through again are there once, as gone through last."""
        lines: list[dict[str, Any]] = []
        for line in Tail(self.metrics_file).read():
            step = line.get("step")
            if isinstance(step, int):
                while lines and lines[-1]["step"] >= step:
                    lines.pop()
                lines.append(line)
        return lines

    def events(self) -> list[dict[str, Any]]:
        """Events in order."""
        return Tail(self.events_file).read()

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

    def try_lock(self, patience: float = 0.0) -> int | None:
        """Take the run's lock: an open descriptor that holds it until it is closed, or None when another has it.

        Whoever looks at the lock holds it for a moment (states.py); `patience` seconds outlast that. Where the file
        system has no locks it is taken for free.
        """
        import fcntl

        descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT, 0o644)
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    os.close(descriptor)
                    return None
                time.sleep(0.05)
                continue
            except OSError:
                pass
            return descriptor

    @contextmanager
    def locked(self, patience: float = 0.0) -> Iterator[int]:
        """Hold the run's lock; raises SimclrPlusError when another process has it."""
        descriptor = self.try_lock(patience)
        if descriptor is None:
            raise SimclrPlusError(f"run {self.path} is being trained by another process; wait for it or stop it")
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def ask_to_stop(self, word: str = "") -> None:
        """Make the file that asks the run to save and stop, or for more: see STOP_WORDS."""
        self.stop_file.parent.mkdir(exist_ok=True)
        aside = self.stop_file.with_name(f".STOP.{os.getpid()}")
        aside.write_text(word)
        aside.replace(self.stop_file)

    def stop_word(self) -> str | None:
        """What stands in the STOP file; None where there is none."""
        try:
            return self.stop_file.read_text().strip()
        except OSError:
            return None

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


def join_run(recipe: Recipe, folder: Path, name: str) -> Run:
    """The run that the first of several machines makes and the others find; raises RecipeError for another recipe."""
    try:
        return create_run(recipe, folder, name)
    except RecipeError:
        run = Run(folder / name)
        end = time.monotonic() + SECONDS_TO_APPEAR
        while not run.recipe_file.exists() and time.monotonic() < end:
            time.sleep(0.1)
        if run.path.is_dir() and not run.recipe().trains_as(recipe):
            raise RecipeError(f"run {run.path} has another recipe; give the same keys on each machine") from None
        if not run.path.is_dir():
            raise
        return run


def branch_run(parent: Run, recipe: Recipe, name: str, changes: list[str]) -> Run:
    """A new run beside its parent, with another recipe, that begins at the parent's newest checkpoint."""
    start = parent.latest_checkpoint()
    folder = parent.path.parent
    taken = (f"{parent.name}-{i}" for i in itertools.count(2))
    run = create_run(recipe, folder, name or next(n for n in taken if not (folder / n).exists()))
    run.checkpoints.mkdir()
    copy = run.checkpoints / start.name
    try:
        os.link(start, copy)  # checkpoints are never changed, so that one file will do for both
    except OSError:
        shutil.copyfile(start, copy)
    run.log_event("branch", parent=parent.name, checkpoint=start.name, changes=changes)
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


def _plain(value: Any) -> Any:
    """NaN and infinities become null, which every JSON reader takes."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
