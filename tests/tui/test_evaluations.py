"""The figure that the terminal UI tells of an evaluation is the one that its command printed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.checkpoints import CheckpointsScreen, result_rows
from simclr_plus.tui.widgets.dialogs import Tell
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run

Steps = Callable[[SimclrPlusApp, Pilot[None]], Awaitable[None]]

# evaluate EVALUATOR [--fast] TARGET --json: what it is to find stands beside the target
COMMAND = """#!/usr/bin/env python3
import json, pathlib, sys, time
target = pathlib.Path(next(word for word in sys.argv[1:] if "/" in word))
told = json.loads(target.with_suffix(".told").read_text())
print("knn: encoder", file=sys.stderr)
time.sleep(told["seconds"])
if told["fails"]:
    print("something of no interest", file=sys.stderr)
    sys.exit("error: " + told["fails"])
print("a library says this")
result = {"step": told["step"], "file": told["file"], "test_images": 2000}
result["results"] = {"encoder": {"top1": told["top1"]}}
print(json.dumps(result, indent=2))
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run with two checkpoints and a planted result; commands are stand-ins."""
    command = tmp_path / "command"
    command.write_text(COMMAND.replace("/usr/bin/env python3", sys.executable))
    command.chmod(0o755)
    monkeypatch.setattr("simclr_plus.tui.starting.commands.sys.executable", str(command))
    run = create_run(load_recipe("demo"), tmp_path / "runs", "one")
    run.log_event("start", steps=24, processes=1, host="here")
    run.checkpoints.mkdir()
    for step in (20, 24):
        run.checkpoint_file(step).write_bytes(b"")
    run.results.mkdir()
    plant(run, 0.988)
    return run


def plant(run: Run, top1: float) -> None:
    """A result of another evaluation, newer than any other."""
    file = run.results / "knn_step_00000020.json"
    file.write_text(json.dumps({"step": 20, "results": {"encoder": {"top1": top1}}}))
    os.utime(file, (time.time() + 1000, time.time() + 1000))


def will_find(run: Run, step: int, top1: float, *, seconds: float = 0, fails: str = "") -> Path:
    checkpoint = run.checkpoint_file(step)
    told = {"step": step, "top1": top1, "seconds": seconds, "fails": fails, "file": f"results/of_{step}.json"}
    checkpoint.with_suffix(".told").write_text(json.dumps(told))
    return checkpoint


def drive(run: Run, steps: Steps) -> list[str]:
    """What was said in the corner."""
    said: list[str] = []

    async def all_of_it() -> None:
        app: Any = SimclrPlusApp(run.path.parent)
        say = app.notify

        def notify(message: str, **given: Any) -> None:
            said.append(f"{given.get('title', '')}: {message}")
            say(message, **given)

        app.notify, app.said = notify, said
        async with app.run_test(size=(120, 34)) as pilot:
            await app.push_screen(CheckpointsScreen(run))
            await steps(app, pilot)

    asyncio.run(all_of_it())
    return [text for text in said if "started" not in text]


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await pilot.pause(0.05)


async def ended(app: Any, pilot: Pilot[None], count: int = 1, seconds: float = 60) -> None:
    """Wait until so many commands were told of."""
    await until(pilot, lambda: len([text for text in app.said if "started" not in text]) >= count, seconds)


async def evaluate(app: SimclrPlusApp, pilot: Pilot[None], step: int) -> None:
    """`e`, enter on the row of a checkpoint, by keys."""
    table = app.screen.query_one("#files", Rows)
    row = next(i for i, key in enumerate(table.rows) if f"{step:08d}" in str(key.value))
    table.move_cursor(row=row)
    await pilot.press("e", "enter")


def test_the_figure_is_that_of_the_command_and_not_of_a_newer_file(run: Run) -> None:
    will_find(run, 24, 0.594)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await evaluate(app, pilot, 24)
        plant(run, 0.988)
        await ended(app, pilot)

    (told,) = drive(run, steps)
    assert "59.4%" in told and "98.8" not in told and "step 24" in told and "results/of_24.json" in told


def test_several_at_the_same_time_are_told_apart(run: Run) -> None:
    will_find(run, 20, 0.25, seconds=1.5)
    will_find(run, 24, 0.75)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await evaluate(app, pilot, 20)
        await evaluate(app, pilot, 24)
        await ended(app, pilot, 2)

    told = {int(step): text for text in drive(run, steps) for step in re.findall(r"of one step_0*(\d+):", text)}
    assert "25.0%" in told[20] and "75.0%" in told[24]


def test_a_run_is_evaluated_by_what_its_command_says(run: Run) -> None:
    run.path.with_suffix(".told").write_text(
        json.dumps({"step": 24, "top1": 0.5, "seconds": 0, "fails": "", "file": "f.json"})
    )

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.ask_to_evaluate(run.path, run)
        await pilot.press("enter")
        await ended(app, pilot)

    (told,) = drive(run, steps)
    assert "50.0% ±2.2" in told and "98.8" not in told


def test_a_command_that_fails_tells_its_own_last_line(run: Run) -> None:
    will_find(run, 24, 0.5, fails="no labels [/in] this folder")
    shown: list[str] = []

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await evaluate(app, pilot, 24)
        await until(pilot, lambda: isinstance(app.screen, Tell))
        assert isinstance(app.screen, Tell)
        shown.append(app.screen.text)

    assert drive(run, steps) == []
    assert shown[0].splitlines()[0] == "error: no labels [/in] this folder"


def test_results_have_the_interval_that_their_test_images_leave(tmp_path: Path) -> None:
    file = tmp_path / "knn.json"
    file.write_text(json.dumps({"test_images": 2000, "results": {"encoder": {"top1": 0.83}, "pixels": {"top5": 0.9}}}))
    assert [row[3] for row in result_rows(file)] == ["83.0% ±1.6", ""]
    file.write_text(json.dumps({"test_images": "many", "results": {"encoder": {"top1": 0.83}}}))
    assert [row[3] for row in result_rows(file)] == ["83.0%"]


@pytest.mark.slow
def test_an_older_checkpoint_is_told_its_own_accuracy(tmp_path: Path, tiny: list[str]) -> None:
    """A real run and the real command."""
    given = [*tiny, "training.epochs=2", "checkpoints.every_epochs=1", "training.warmup_epochs=0"]
    words = [sys.executable, "-m", "simclr_plus.cli"]
    train = [*words, "run", "demo", *given, "--name", "one", "--runs", str(tmp_path)]
    subprocess.run(train, check=True, capture_output=True, timeout=300)
    run = Run(tmp_path / "one")
    older = run.checkpoint_files()[0]
    said = subprocess.run(
        [*words, "evaluate", "knn", str(older), "--json"], check=True, capture_output=True, text=True, timeout=300
    )
    expected = json.loads(said.stdout)["results"]["encoder"]["top1"]
    run.results.mkdir(exist_ok=True)
    plant(run, 0.988)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await evaluate(app, pilot, int(older.stem.removeprefix("step_")))
        await ended(app, pilot, seconds=500)

    (told,) = drive(run, steps)
    assert f"{expected:.1%}" in told and "98.8" not in told
