"""The screens, driven by keys: what they show and what they leave in the run folder."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.line_chart import LineChart
from simclr_plus.tui.screens.rows import Rows
from textual.pilot import Pilot
from textual.widgets import Footer, Static

from simclr_plus.pulse import PulseWriter, pulse_file
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import Run, create_run
from simclr_plus.states import here, write_status

SIZES = [(80, 24), (120, 34), (200, 60)]
Steps = Callable[[SimclrPlusApp, Pilot[None]], Awaitable[None]]


def line(step: int, **changes: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    return {
        "step": step,
        "epoch": step / 78,
        "images": step * 128,
        "time": 1.7e9 + step,
        "loss": 1.5 + 4 * math.exp(-step / 100),
        "contrastive_accuracy": 0.8 - 0.8 * math.exp(-step / 100),
        "probe_accuracy": 0.7 - 0.6 * math.exp(-step / 100),
        "learning_rate": 0.003,
        "images_per_second": 700.0,
        "data_wait": 0.0,
        "feature_std": 0.6,
        "effective_rank": 60.0,
        **changes,
    }


def a_run(folder: Path, name: str, *, lines: int = 30, overrides: tuple[str, ...] = ()) -> Run:
    """A run that finished."""
    run = create_run(load_recipe("demo", overrides), folder, name)
    run.log_event("start", steps=lines * 10, processes=1, host="here")
    for i in range(1, lines + 1):
        run.log_metrics(line(i * 10))
    run.log_event("exit", reason="finished", step=lines * 10)
    write_status(run, {"state": "finished", "processes": 1, **here()})
    return run


def a_live_run(folder: Path, name: str) -> tuple[Run, int]:
    """A run that looks as if it trained, and its lock."""
    run = create_run(load_recipe("demo"), folder, name)
    run.log_event("start", steps=1000, processes=1, host="here")
    write_status(run, {"state": "running", "processes": 1, **here()})
    PulseWriter(pulse_file(run.logs, 0), 60).beat(10, "step")
    lock = run.try_lock()
    assert lock is not None
    run.log_metrics(line(10, time=time.time()))
    return run, lock


def drive(app: SimclrPlusApp, steps: Steps, size: tuple[int, int] = (120, 34)) -> None:
    """Run the app without a terminal."""

    async def all_of_it() -> None:
        async with app.run_test(size=size) as pilot:
            await steps(app, pilot)

    asyncio.run(all_of_it())


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something to hold."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {screen_text(pilot.app)}"
        await pilot.pause(0.02)


def screen_text(app: Any) -> str:
    """All characters on the screen."""
    height = app.size.height
    strips = app.screen._compositor.render_strips()
    return "\n".join(strip.text for strip in strips[:height])


def footer_keys(app: Any) -> set[str]:
    return {child.description for child in app.screen.query_one(Footer).query("FooterKey")}


@pytest.mark.parametrize("size", SIZES)
def test_an_empty_folder_explains_itself_and_offers_the_demo(tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Welcome" in screen_text(app))
        assert "start the demo" in screen_text(app)
        await pilot.press("d")
        await until(pilot, lambda: "training.batch_size" in screen_text(app) or "start.name" in screen_text(app))
        assert "demo" in str(app.screen.query_one("#head", Static).render())

    drive(SimclrPlusApp(tmp_path / "none"), steps, size)


def test_the_runs_are_listed_live_and_one_is_asked_to_stop(tmp_path: Path) -> None:
    run, lock = a_live_run(tmp_path, "first")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        table = app.screen.query_one(Rows)
        await until(pilot, lambda: table.row_count == 1)
        assert [str(cell) for cell in table.get_row("first")[1:4]] == ["first", "running", "1% of 1000"]
        run.log_metrics(line(20, loss=3.25))
        a_run(tmp_path, "second")
        app.screen.look()
        await until(pilot, lambda: table.row_count == 2 and "3.250" in map(str, table.get_row("first")))
        assert table.chosen_key == "first"
        await pilot.press("s", "enter")
        await until(pilot, run.stop_file.exists)
        assert run.stop_word() == ""
        os.close(lock)
        run.log_event("exit", reason="stopped")
        app.screen.look()
        await until(pilot, lambda: str(table.get_row("first")[2]) == "stopped")

    drive(SimclrPlusApp(tmp_path), steps)


@pytest.mark.parametrize("size", SIZES)
def test_a_run_opens_with_its_charts_and_they_follow_it(tmp_path: Path, size: tuple[int, int]) -> None:
    run, lock = a_live_run(tmp_path, "live")
    (run.logs / "rank_0.log").write_text("a first line\n")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: "a first line" in screen_text(app))
        assert "running" in screen_text(app) and "chance 5.54" in screen_text(app)
        chart = app.screen.query_one("#chart-loss", LineChart)
        drawn = chart.drawings
        for step in range(20, 200, 10):
            run.log_metrics(line(step))
        app.screen.look()
        await until(pilot, lambda: len(chart.curves[-1].x) == 19 and chart.drawings > drawn)

    drive(SimclrPlusApp(tmp_path), steps, size)
    os.close(lock)
