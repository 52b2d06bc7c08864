"""A run at a glance, and two runs side by side: plain dicts for the screen and for --json. No torch."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine.json_lines import is_number, last_objects
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.metrics_table import MetricsTable
from simclr_plus.runs.states import UNREADABLE, State, read_status, state_of
from simclr_plus.runs.time_left import lines_of_a_start, seconds_left

# what reading a folder that anyone may have written to can come to
UNREADABLE_FOLDER = (OSError, ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError)


def glance(run: Run) -> dict[str, Any]:
    """What `ps` shows of a run; reads the ends of files only. A folder that cannot be read is shown so, with why."""
    try:
        return _view(run, read_status(run), state_of(run), _last_line(run), _last_event(run, "start", "resume"))
    except UNREADABLE_FOLDER as error:
        return _view(run, {}, State(UNREADABLE, str(error)), {}, {})


def _view(
    run: Run, status: dict[str, Any], state: State, last: dict[str, float], start: dict[str, Any]
) -> dict[str, Any]:
    begun, host = _numbers(start), start.get("host")
    return {
        "run": run.name,
        "path": str(run.path),
        "state": state.name,
        "why": state.why,
        "step": last.get("step", begun.get("from_step", 0)),
        "steps": begun.get("steps"),
        "epoch": last.get("epoch"),
        "loss": last.get("loss"),
        "images_per_second": last.get("images_per_second"),
        "time": last.get("time", begun.get("time")),
        "seconds_left": _seconds_left(run, begun) if last else None,
        "host": status.get("host", host if isinstance(host, str) else None),
        "processes": begun.get("processes", status.get("processes")),
        "job_id": status.get("slurm", {}).get("job_id"),
    }


def whole_view(run: Run) -> dict[str, Any]:
    """What `show` tells of a run."""
    files = run.checkpoint_files()
    systems = sorted(run.path.glob("system.*.jsonl"))
    return {
        "schema": 1,
        **glance(run),
        "status": read_status(run),
        "parent": _parent(run),
        "last": _last_object(run.metrics_file),
        "checkpoints": [file.name for file in files],
        "results": sorted(path.name for path in run.results.glob("*.json")),
        "nodes": {path.name[7:-6]: _last_object(path) for path in systems},
        "recipe": _recipe(run),
    }


def _last_object(path: Path) -> dict[str, Any]:
    """The last object of a .jsonl file; empty where there is none, or the file cannot be read."""
    try:
        return next(last_objects(path), {})
    except OSError:
        return {}


def _parent(run: Run) -> dict[str, Any] | None:
    """Of which run it is a branch, and by which changes."""
    try:
        branch = _last_event(run, "branch")
    except OSError:
        return None
    if not branch:
        return None
    parent, checkpoint, changes = (branch.get(key) for key in ("parent", "checkpoint", "changes"))
    listed = changes if isinstance(changes, list) else []
    return {"parent": str(parent), "checkpoint": str(checkpoint), "changes": [str(change) for change in listed]}


def _recipe(run: Run) -> dict[str, Any] | None:
    """The recipe by its keys; None where it cannot be read."""
    try:
        return run.recipe().model_dump()
    except SimclrPlusError:
        return None


def differences(runs: list[Run]) -> dict[str, Any]:
    """Recipe keys that differ between runs, their numbers at the last step common to all, and their last numbers."""
    recipes = [_flat(run.recipe().model_dump()) for run in runs]
    keys = [key for key in recipes[0] if any(a.get(key) != b.get(key) for a, b in pairwise(recipes))]
    tables = [MetricsTable(run.metrics_file) for run in runs]
    for table in tables:
        table.look()
    common = set(tables[0].steps).intersection(*(table.steps for table in tables[1:]))
    step = max(common, default=None)
    return {
        "schema": 1,
        "runs": [run.name for run in runs],
        "states": [state_of(run).name for run in runs],
        "recipe": {key: [recipe.get(key) for recipe in recipes] for key in keys},
        "common_step": step,
        "at_common_step": _side_by_side([{} if step is None else table.at(step) for table in tables]),
        "last_step": [table.steps[-1] if table.steps else None for table in tables],
        "last": _side_by_side([table.at(table.steps[-1]) if table.steps else {} for table in tables]),
    }


def _side_by_side(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    keys = {key: None for row in rows for key in row if key != "time"}
    return {key: [row.get(key) for row in rows] for key in keys}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return {key: value for key, value in flat.items() if not key.startswith("about.")}


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    """What can be reckoned with of a line: files may hold anything."""
    return {key: value for key, value in line.items() if is_number(value)}


def _last_line(run: Run) -> dict[str, float]:
    return _numbers(next(last_objects(run.metrics_file), {}))


def _last_event(run: Run, *kinds: str) -> dict[str, Any]:
    return next((event for event in last_objects(run.events_file) if event.get("event") in kinds), {})


def _seconds_left(run: Run, start: dict[str, Any]) -> float | None:
    """By the pace of the lines since the run was started last."""
    lines = lines_of_a_start(last_objects(run.metrics_file), start.get("from_step", 0))
    left = seconds_left(lines, start.get("steps"))
    return None if left is None else round(left)


def recipe_title(run: Run) -> str:
    """What it trains in a line; empty where the recipe cannot be read."""
    try:
        return title_of(run.recipe())
    except SimclrPlusError:
        return ""


def title_of(recipe: Recipe) -> str:
    """The method, unless it is SimCLR, the encoder and the data in a line."""
    method = "" if recipe.method.name == "simclr" else f"{recipe.method.name}, "
    return f"{method}{recipe.encoder_title} on {recipe.data.name}"
