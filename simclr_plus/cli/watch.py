"""The verbs that look at runs: they read run folders only, import neither torch nor textual, and change nothing."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simclr_plus.cli.options import RUNS, AsJson, RunName, RunsFolder
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.machine.json_lines import is_number
from simclr_plus.machine.printing import print_json, print_table, say, visible
from simclr_plus.machine.words import duration

if TYPE_CHECKING:
    from simclr_plus.runs.folder import Run

app = typer.Typer()
SECONDS_BETWEEN_LOOKS = 0.3


@app.command()
def ps(runs: RunsFolder = RUNS, as_json: AsJson = False) -> None:
    """List the runs and how they do."""
    from simclr_plus.runs.folder import list_runs
    from simclr_plus.runs.overview import glance

    glances = [glance(run) for run in list_runs(runs)]
    if as_json:
        print_json({"schema": 1, "runs": glances})
        return
    if not glances:
        say(f"no runs in {runs}; start one: simclr-plus run demo")
        return
    columns = ["run", "state", "step", "epoch", "loss", "images/s", "left", "where", ""]
    print_table(columns, [_row(run) for run in glances])


def _row(run: dict[str, Any]) -> list[str]:
    where = f"job {run['job_id']}" if run["job_id"] else run["host"] or ""
    left = run["seconds_left"] if run["state"] == "running" else None
    return [
        run["run"],
        run["state"],
        f"{run['step']}/{run['steps']}" if run["steps"] else str(run["step"] or ""),
        _number(run["epoch"], ".1f"),
        _number(run["loss"], ".3f"),
        _number(run["images_per_second"], ".0f"),
        "" if left is None else duration(left),
        where,
        run["why"].splitlines()[0] if run["why"] else "",
    ]


def _number(value: Any, form: str) -> str:
    return format(value, form) if is_number(value) else ""


@app.command()
def show(run: RunName, runs: RunsFolder = RUNS, as_json: AsJson = False) -> None:
    """Everything about a run: state, failure, figures, checkpoints, results."""
    from simclr_plus.runs.folder import find_run
    from simclr_plus.runs.overview import recipe_title, whole_view

    found = find_run(run, runs)
    view = whole_view(found)
    if as_json:
        print_json(view)
        return
    status = view["status"]
    rows = [
        ["run", view["path"]],
        *_lines("state", f"{view['state']}{': ' if view['why'] else ''}{view['why']}"),
        ["trains", recipe_title(found) or "its recipe.toml cannot be read"],
        ["step", f"{view['step']}" + (f" of {view['steps']}" if view["steps"] else "")],
        ["where", f"{view['host']}, {view['processes']} processes" if view["host"] else ""],
    ]
    if view["parent"]:
        branch = view["parent"]
        rows.append(["parent", f"{branch['parent']}, {branch['checkpoint']}, {' '.join(branch['changes'])}"])
    if status.get("attempt", 0) > 1:
        rows.append(["started", f"{status['attempt']} times, last from step {status.get('from_step')}"])
    for failure in status.get("restarts") or []:
        rows += _lines("restarted after", _failure(failure))
    if view["job_id"]:
        rows.append(["SLURM job", str(view["job_id"])])
    rows += [[key, f"{value:.6g}"] for key, value in view["last"].items() if isinstance(value, float) and key != "time"]
    rows.append(["checkpoints", ", ".join(view["checkpoints"][-3:])])
    rows.append(["results", ", ".join(view["results"])])
    rows += [[f"node {host}", _figures(line)] for host, line in view["nodes"].items()]
    print_table(["", "value"], [row for row in rows if row[1]])


def _lines(name: str, text: str) -> list[list[str]]:
    """A row for each line of a text."""
    return [["" if i else name, line] for i, line in enumerate(text.splitlines())]


def _failure(failure: dict[str, Any]) -> str:
    rank = "" if failure.get("rank") is None else f"rank {failure['rank']} "
    return f"{rank}{failure.get('message')}"


def _figures(line: dict[str, Any]) -> str:
    shown = [f"CPU {line['cpu']:.0%}"] if is_number(line.get("cpu")) else []
    used = _gib(line.get("memory_used"))
    shown += [f"memory {used} of {_gib(line.get('memory_total'))} GiB"] if used else []
    gpus = line.get("gpus")
    for gpu in gpus if isinstance(gpus, list) else []:
        if isinstance(gpu, dict):
            memory = _gib(gpu.get("memory_used"))
            figures = [f"{gpu['utilisation']:.0%}"] if is_number(gpu.get("utilisation")) else []
            figures += [f"{memory} GiB"] if memory else []
            figures += [f"{gpu['power']:.0f} W"] if is_number(gpu.get("power")) else []
            shown.append(f"GPU {gpu.get('index')} {' '.join(figures)}")
    return ", ".join(shown)


def _gib(value: object) -> str:
    return f"{value / 2**30:.1f}" if is_number(value) else ""


@app.command()
def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run ends.")] = False,
    rank: Annotated[int, typer.Option(min=0, help="Process whose log is shown.")] = 0,
    launcher: Annotated[bool, typer.Option("--launcher", help="What the supervisor and torchrun say instead.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Last lines to begin with; 0: all.")] = 0,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """What a run's processes print; with --json a JSON object a line."""
    from simclr_plus.runs.folder import find_run

    found = find_run(run, runs)
    paths = sorted(found.logs.glob("launcher.*.log")) if launcher else [found.logs / f"rank_{rank}.log"]
    if not follow and not any(path.exists() for path in paths):
        have = ", ".join(sorted(path.name for path in found.logs.glob("*.log"))) or "nothing yet"
        raise NotFoundError(f"run {found.path} has no {paths[0].name if paths else 'launcher log'}; logs holds {have}")
    for path in paths:
        _print_log(found, path, lines, follow=follow and path == paths[-1], as_json=as_json)


def _print_log(run: Run, path: Path, lines: int, *, follow: bool, as_json: bool) -> None:
    from simclr_plus.runs.states import state_of

    offset, first, unfinished = 0, True, b""
    while True:
        ended = not state_of(run).is_alive  # before the look, so that the last lines are not missed
        if path.exists():
            with path.open("rb") as file:
                if path.stat().st_size < offset:
                    offset, unfinished = 0, b""
                file.seek(offset)
                text = file.read()
            offset += len(text)
            *whole, unfinished = (unfinished + text).split(b"\n")
            if first and lines:
                whole = whole[-lines:]
            first = False
            for line in whole:
                _print_line(path, line.decode(errors="replace"), as_json)
        if not follow or ended:
            if unfinished:
                _print_line(path, unfinished.decode(errors="replace"), as_json)
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _print_line(path: Path, line: str, as_json: bool) -> None:
    if not as_json and sys.stdout.isatty():
        line = visible(line.rstrip("\r").rpartition("\r")[2], lines=True)
    print(json.dumps({"log": path.name, "line": line}) if as_json else line, flush=True)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Two runs or more.")],
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Runs side by side: keys that differ, numbers at the last step common to all, last numbers."""
    from simclr_plus.runs.folder import find_run
    from simclr_plus.runs.overview import differences

    if len(names) < 2:
        raise RecipeError("compare takes two runs or more, by name, unique prefix or path")
    view = differences([find_run(name, runs) for name in names])
    if as_json:
        print_json(view)
        return
    rows = [["state", *view["states"]]]
    rows += [[key, *(json.dumps(value) for value in values)] for key, values in view["recipe"].items()]
    if view["common_step"] is not None:
        rows.append([f"at step {view['common_step']}", *[""] * len(names)])
        rows += [[f"  {key}", *(_number(v, ".6g") for v in values)] for key, values in view["at_common_step"].items()]
    rows.append(["last step", *(str(step) for step in view["last_step"])])
    rows += [[f"  {key}", *(_number(v, ".6g") for v in values)] for key, values in view["last"].items()]
    print_table(["", *view["runs"]], rows)
