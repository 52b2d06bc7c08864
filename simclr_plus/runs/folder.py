"""The run folder: the only interface between training and whoever watches it. No torch.

    recipe.toml      the resolved recipe               checkpoints/  step_00012500.safetensors
    metrics.jsonl    one JSON object a logged step     results/      one JSON file an evaluation
    events.jsonl     start, resume, checkpoint, exit   logs/         what the processes printed
    control/STOP     asks the run to save and stop     run.lock*     held while the run trains (machine/locks.py)
    status.json      what its supervisor says of it    system.<host>.jsonl   figures of a node

The .jsonl files are append-only and have one writer: process 0, and for a node's figures its supervisor.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.machine import locks
from simclr_plus.machine.cores import cpu_count
from simclr_plus.machine.json_lines import Tail, append_line, without_nan
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.recipe.reading import parse_recipe, recipe_text
from simclr_plus.recipe.recipe import Recipe

LATEST = "latest"  # stands for the newest run
LONGEST_NAME = 200  # bytes; file systems take 255, and a study or SLURM adds to it
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
        if not self.exists:
            raise NotFoundError(f"run {self.path} has no recipe.toml")
        return parse_recipe(recipe_text(self.recipe_file), origin=str(self.recipe_file))

    def log_metrics(self, values: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl; raises NotFoundError when the run folder was deleted."""
        if not self.exists:
            raise NotFoundError(f"the run folder {self.path} was deleted while it trained; nothing more is saved")
        append_line(self.metrics_file, values)

    def log_event(self, kind: str, **values: Any) -> None:
        """Append a line to events.jsonl."""
        append_line(self.events_file, {"event": kind, "time": time.time(), **values})

    def log_system(self, host: str, values: dict[str, Any]) -> None:
        """Append a line to a node's system.<host>.jsonl."""
        append_line(self.path / f"system.{host}.jsonl", values)

    def metrics(self) -> list[dict[str, Any]]:
        """Logged steps in order; steps that a resumed run went through again are there once, as gone through last."""
        lines: list[dict[str, Any]] = []
        for line in Tail(self.metrics_file).read():
            step = line.get("step")
            if type(step) is int:
                while lines and lines[-1]["step"] >= step:
                    lines.pop()
                lines.append(line)
        return lines

    def events(self) -> list[dict[str, Any]]:
        """Events in order."""
        return Tail(self.events_file).read()

    def checkpoint_files(self) -> list[Path]:
        """Complete checkpoints, oldest first; files of other names are somebody else's."""
        steps = {file: file.stem.removeprefix("step_") for file in self.checkpoints.glob("step_*.safetensors")}
        return sorted((file for file, step in steps.items() if step.isdecimal()), key=lambda file: int(steps[file]))

    def checkpoint_file(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.checkpoints / f"step_{step:08d}.safetensors"

    def latest_checkpoint(self) -> Path:
        """The newest complete checkpoint; raises NotFoundError where there is none."""
        files = self.checkpoint_files()
        if not files:
            raise NotFoundError(f"run {self.path} has no checkpoint in {self.checkpoints}; nothing was saved yet")
        return files[-1]

    def try_lock(self, patience: float = 0.0, **claim: Any) -> locks.Hold | None:
        """Take the run's lock until it is released; None when another has it. `claim`: see locks.hold.

        Whoever looks at the lock holds it for a moment (states.py); `patience` seconds outlast that.
        """
        end = time.monotonic() + patience
        while (held := locks.hold(self.lock_file, **claim)) is None and time.monotonic() < end:
            time.sleep(0.05)
        return held

    @contextmanager
    def locked(self, patience: float = 0.0, **claim: Any) -> Iterator[locks.Hold]:
        """Hold the run's lock; raises SimclrPlusError when another process has it."""
        held = self.try_lock(patience, **claim)
        if held is None:
            raise SimclrPlusError(f"run {self.path} is being trained by another process; wait for it or stop it")
        try:
            yield held
        finally:
            held.release()

    def ask_to_stop(self, word: str = "") -> None:
        """Make the file that asks the run to save and stop, or for more: see stop_level.STOP_WORDS."""
        self.stop_file.parent.mkdir(exist_ok=True)  # and not that of a run that was deleted
        write_text_whole(self.stop_file, word)
        with suppress(OSError):  # by the clock of who asks, not of who keeps the files: see launch/supervisor.py
            os.utime(self.stop_file)

    def stop_word(self) -> str | None:
        """What stands in the STOP file; None where there is none."""
        try:
            with self.stop_file.open("rb") as file:
                return file.read(100).decode(errors="replace").strip()
        except OSError:
            return None

    def write_result(self, name: str, result: dict[str, Any]) -> Path:
        """Write results/NAME.json and return its path."""
        path = self.results / f"{name}.json"
        write_text_whole(path, json.dumps(without_nan(result), indent=2) + "\n")
        return path


def run_name_problem(name: str) -> str:
    """Why a run or a study cannot be called so; empty where it can."""
    if not name or "/" in name or name[0] in ".-" or name != name.strip() or not name.isprintable():
        return (
            f'name {name!r} must be a plain folder name: of printable characters, without "/", and it begins neither '
            "with a dot, a dash nor a blank, and does not end with a blank"
        )
    if len(name.encode()) > LONGEST_NAME:
        return f"name {name!r} has {len(name.encode())} bytes; at most {LONGEST_NAME} fit in a folder's name with ours"
    if name == LATEST:
        return f"name {name!r} stands for the newest run; choose another"
    return ""


def check_run_name(name: str) -> None:
    """Raises RecipeError where a run or a study cannot be called so."""
    problem = run_name_problem(name)
    if problem:
        raise RecipeError(problem)


def create_run(recipe: Recipe, folder: Path, name: str) -> Run:
    """Make the folder of a new run and record the recipe in it, its paths whole; RecipeError when the name is taken."""
    check_run_name(name)
    run = _made(recipe, folder / name)
    if run is None:
        raise RecipeError(
            f"run {folder / name} exists; choose another --name, or `simclr-plus resume {shlex.quote(name)}`"
        )
    return run


def create_numbered_run(recipe: Recipe, folder: Path, name: str) -> Run:
    """A new run of that name, or of NAME-2, NAME-3, ... where it is taken, if only a moment ago."""
    check_run_name(name)
    names = itertools.chain([name], (f"{name}-{i}" for i in itertools.count(2)))
    return next(run for run in (_made(recipe, folder / taken) for taken in names) if run is not None)


def join_run(recipe: Recipe, folder: Path, name: str) -> Run:
    """The run that the first of several machines makes and the others find; raises RecipeError for another recipe."""
    check_run_name(name)
    new = _made(recipe, folder / name)
    if new is not None:
        return new
    run = Run(folder / name)
    if not run.path.is_dir():
        raise RecipeError(f"{run.path} exists and is no folder; choose another --name")
    end = time.monotonic() + SECONDS_TO_APPEAR
    while not run.recipe_file.exists() and time.monotonic() < end:
        time.sleep(0.1)
    other = run.recipe().with_whole_paths().differences(recipe.with_whole_paths())
    if other:
        raise RecipeError(
            f"run {run.path} has another recipe ({'; '.join(other[:3])}); give the same keys on each machine"
        )
    return run


def _made(recipe: Recipe, path: Path) -> Run | None:
    """A new run's folder with its recipe, its paths whole; None where something of that name is there."""
    recipe = recipe.with_whole_paths()
    if recipe.normalisation_is_open:
        raise RecipeError(
            f"encoder.pretrained = {recipe.encoder.pretrained!r} without encoder.mean and encoder.std: a run records "
            "how its images are normalised; simclr_plus.importers.with_normalisation(recipe) looks it up"
        )
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(path):
            return None
        raise SimclrPlusError(f"cannot make the run folder {path}: {error}") from None
    run = Run(path)
    write_text_whole(run.recipe_file, recipe.to_toml())
    return run


def branch_run(parent: Run, recipe: Recipe, name: str, changes: list[str]) -> Run:
    """A new run beside its parent, with another recipe, that begins at the parent's newest checkpoint.

    The checkpoint is fetched before the run is made, so that a run without one never stands there.
    """
    folder = parent.path.parent
    try:
        fetched = Path(tempfile.mkdtemp(prefix=".branch-", dir=folder))
    except OSError as error:
        raise SimclrPlusError(f"cannot make a run in {folder}: {error}") from None
    try:
        start = _fetched(parent, fetched)
        run = create_run(recipe, folder, name or branch_name(parent))
        try:
            run.checkpoints.mkdir()
            (fetched / start).replace(run.checkpoints / start)
            run.log_event("branch", parent=parent.name, checkpoint=start, changes=changes)
        except BaseException:
            shutil.rmtree(run.path, ignore_errors=True)
            raise
    finally:
        shutil.rmtree(fetched, ignore_errors=True)
    return run


def branch_name(parent: Run) -> str:
    """What a run made from another is called, where no name is given."""
    return next(name for i in itertools.count(2) if not (parent.path.parent / (name := f"{parent.name}-{i}")).exists())


def _fetched(parent: Run, folder: Path) -> str:
    """Put the parent's newest checkpoint there too and return its name; the parent may just drop it for a newer one."""
    while True:
        start = parent.latest_checkpoint()
        try:
            _link_or_copy(start, folder / start.name)
        except FileNotFoundError:
            if start.exists():
                raise
            continue
        return start.name


def _link_or_copy(file: Path, to: Path) -> None:
    """Checkpoints never change, so that one file will do for both where the file system can link."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)


def default_name(recipe_name: str) -> str:
    """`recipe-20260812-101500`."""
    stem = "".join(letter if letter.isprintable() else "_" for letter in Path(recipe_name).stem)
    stem = stem.encode()[: LONGEST_NAME // 2].decode(errors="ignore").lstrip(".- ") or "run"
    return f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder, oldest first; one that vanishes meanwhile is left out."""
    if not folder.is_dir():
        return []
    begun = []
    for file in folder.glob("*/recipe.toml"):
        with suppress(OSError):
            begun.append((file.lstat().st_mtime, file.parent.name, Run(file.parent)))
    return [run for _, _, run in sorted(begun, key=lambda one: one[:2])]


def find_run(name: str, folder: Path) -> Run:
    """A run by path, name, unique prefix, or "latest"."""
    path = Path(name)
    if (path / "recipe.toml").is_file():
        return Run(path)
    runs = list_runs(folder)
    if name == LATEST and runs:
        return runs[-1]
    matching = [run for run in runs if run.name == name] or [run for run in runs if run.name.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise NotFoundError(f"run {name!r} is ambiguous: {', '.join(run.name for run in matching)}")
    have = f"it has {', '.join(run.name for run in runs[-5:])}" if runs else "it has no runs"
    raise NotFoundError(f"no run {name!r} in {folder}: {have}; name one, give its path, or say latest")


def describe_machine() -> dict[str, Any]:
    """Who runs here, for the start event."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "cpus": cpu_count()}
