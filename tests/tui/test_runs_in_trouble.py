"""Runs whose files are damaged, deleted or full of nonsense, and the alarm."""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from driving import a_live_run, a_run, drive, line, screen_text, until
from parameters import rest_slow
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from simclr_plus.tui.screens.checkpoints import CheckpointsScreen
from simclr_plus.tui.screens.compare import CompareScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot


def test_a_run_that_is_damaged_or_deleted_while_it_is_watched_says_so(tmp_path: Path) -> None:
    run = a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen.query_one("#chart-loss", LineChart).curves) == 2)
        with run.metrics_file.open("a") as file:
            file.write("rubbish\n[]\n")
        app.screen.look()
        await until(pilot, lambda: "2 lines of metrics.jsonl are no JSON" in screen_text(app))
        shutil.rmtree(run.path)
        app.screen.look()
        await until(pilot, lambda: "! gone:" in screen_text(app))
        await pilot.press("s", "k", "l", "escape", "escape")
        await until(pilot, lambda: "Welcome" in screen_text(app))

    drive(SimclrPlusApp(tmp_path), steps)


def test_a_run_whose_recipe_cannot_be_read_is_listed_and_opens(tmp_path: Path) -> None:
    run = a_run(tmp_path, "one")
    run.recipe_file.write_text("[training]\nepochz = 1\n")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "unreadable" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: "did you mean training.epochs" in screen_text(app))
        assert len(app.screen.query_one("#chart-loss", LineChart).curves) == 2

    drive(SimclrPlusApp(tmp_path), steps, (200, 60))


def test_a_run_in_trouble_sounds_its_alarm(tmp_path: Path) -> None:
    run, lock = a_live_run(tmp_path, "one")
    for step in range(20, 100, 10):
        run.log_metrics(line(step, loss=math.nan))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: "! the loss is not finite since step 20" in screen_text(app))

    drive(SimclrPlusApp(tmp_path), steps, (80, 24))
    lock.release()


NASTY = [[[{}]], "1e999", 10**40, "text", [], {}, None, True, -1, 1e308]


@pytest.mark.parametrize("value", rest_slow(NASTY, 2), ids=repr)
def test_whatever_stands_in_the_files_of_a_run_the_screens_live(tmp_path: Path, value: Any) -> None:
    run = a_run(tmp_path, "one", lines=5)
    for name, text in (
        ("metrics.jsonl", json.dumps({**dict.fromkeys(line(0), value), "step": 60})),
        ("metrics.jsonl", json.dumps({"step": value})),
        ("events.jsonl", json.dumps({"event": "start", "steps": value, "processes": value, "host": value})),
        ("system.here.jsonl", json.dumps({"time": time.time(), "cpu": value, "memory_used": value, "gpus": [value]})),
    ):
        with (run.path / name).open("a") as file:
            file.write(text + "\n")
    status = {"state": "running", "slurm": value, "host": value, "updated": value, "processes": value, "why": value}
    run.status_file.write_text(json.dumps(status))
    run.results.mkdir()
    (run.results / "knn.json").write_text(json.dumps({"results": {"encoder": value}, "step": value, "data": value}))
    a_run(tmp_path, "two")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        table = app.screen.query_one(Rows)
        await until(pilot, lambda: table.row_count == 2)
        app.screen.query_one(Rows).move_cursor(row=[key.value for key in table.rows].index("one"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.feed.lines > 0)
        await pilot.press("x", "x", "y", "left", "k")
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))
        await pilot.press("escape", "escape", "up", "space", "space", "c")
        await until(pilot, lambda: isinstance(app.screen, CompareScreen))
        await until(pilot, lambda: len(app.screen.query_one(LineChart).curves) > 0)

    drive(SimclrPlusApp(tmp_path), steps)
