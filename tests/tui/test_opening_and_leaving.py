"""What a screen shows of a run without figures; and screens that are left at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import a_live_run, a_run, drive, line, screen_text, until
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.compare import CompareScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.widgets.rows import Rows
from textual.geometry import Region
from textual.pilot import Pilot
from textual.widgets import RichLog, Static

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.heartbeat import HeartbeatWriter, heartbeat_file
from simclr_plus.runs.states import this_host, write_status


def test_a_run_that_failed_before_its_first_figures_shows_cause_remedy_and_log(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "one")
    cause = "the loss is not finite at step 3 (learning rate 0.003): training stopped; no checkpoint was saved before. "
    remedy = "Lower optimizer.learning_rate, lengthen training.warmup_epochs, or set optimizer.gradient_clip"
    write_status(run, {"state": "failed", "why": cause + remedy, "processes": 1, **this_host()})
    run.logs.mkdir()
    (run.logs / "rank_0.log").write_text("".join(f"said {i}\n" for i in range(30)))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await until(pilot, lambda: "said 29" in screen_text(app))
        words = " ".join(screen_text(app).split())
        assert cause.strip() in words and remedy in words
        await until(pilot, lambda: sum(f"said {i}" in screen_text(app) for i in range(30)) >= 10)
        assert not app.screen.query_one("#charts").display

    drive(SimclrPlusApp(tmp_path), steps, (80, 24))


def test_a_log_that_was_read_before_it_had_a_place_is_not_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines that are broken to a width below nought are empty, and the file does not change any more."""
    run, real, asked = create_run(load_recipe("demo"), tmp_path, "one"), RichLog.scrollable_content_region, [0]
    run.logs.mkdir()
    (run.logs / "rank_0.log").write_text("the last words\n")

    def late(log: RichLog) -> Region:
        asked[0] += 1
        return Region(0, 0, -2, 0) if asked[0] < 4 else real.fget(log)

    monkeypatch.setattr(RichLog, "scrollable_content_region", property(late))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await until(pilot, lambda: "the last words" in screen_text(app))

    drive(SimclrPlusApp(tmp_path), steps)


def test_the_first_minute_is_told_in_phases_until_there_are_figures(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "one")
    write_status(run, {"state": "running", "processes": 1, **this_host()})
    lock = run.try_lock()
    assert lock is not None
    heartbeat = HeartbeatWriter(heartbeat_file(run.logs, 0), 60)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        screen = app.screen
        for step, doing, expected in (
            (0, "preparing", "now   images are listed"),
            (0, "step", "now   the first step"),
            (7, "step", "at step 7 now"),
        ):
            heartbeat.beat(step, doing)
            screen.look()  # type: ignore[attr-defined]
            await until(pilot, lambda expected=expected: expected in screen_text(app))
            assert not screen.query_one("#charts").display
        run.log_metrics(line(10, time=time.time()))
        screen.look()  # type: ignore[attr-defined]
        await until(pilot, lambda: bool(screen.query_one("#charts").display))
        assert not screen.query_one("#instead", Static).display

    drive(SimclrPlusApp(tmp_path), steps)
    lock.release()


@pytest.mark.parametrize("screen_type", [RunScreen, CompareScreen])
def test_a_screen_that_is_being_taken_apart_draws_nothing_and_raises_nothing(
    tmp_path: Path, screen_type: type[Any]
) -> None:
    runs = [a_run(tmp_path, name, lines=5) for name in ("one", "two")]

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        for wait in (0.0, 0.3):
            screen = screen_type(runs[0] if screen_type is RunScreen else runs)
            await app.push_screen(screen)
            await pilot.pause(wait)
            gone = app.pop_screen()
            for _ in range(2):  # what timers, threads and messages may still ask for: before and after it is gone
                screen.look(), screen.show(), screen.draw(), screen.on_live_screen_has_read()
                screen._redraw(None)
                if screen_type is RunScreen:
                    screen.on_resize(), screen._arrange(), screen._show_log(anew=True)
                await gone
                await pilot.pause()

    drive(SimclrPlusApp(tmp_path), steps)


BUSY = "import os; parent = os.getppid()\nwhile os.getppid() == parent: sum(range(10_000))"


@pytest.mark.parametrize("rounds", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_a_run_is_opened_and_left_at_once_again_and_again(tmp_path: Path, rounds: int) -> None:
    a_run(tmp_path, "one", lines=10)
    a_run(tmp_path, "two", lines=10)
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(1 if rounds > 20 else 0)]
    opened = []

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 2)
        generator = np.random.default_rng(0)
        for i in range(rounds):
            run = Run(tmp_path / "one")
            screen = RunScreen(run) if i % 2 else CompareScreen([run, Run(tmp_path / "two")])
            app.push_screen(screen)
            await pilot.pause(float(generator.choice([0, 0, 0.005, 0.02])))
            app.pop_screen()
            opened.append(screen)
        await pilot.pause(0.2)
        assert len(app.screen_stack) == 2

    try:
        drive(SimclrPlusApp(tmp_path), steps)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(opened) == rounds


def test_the_app_is_left_while_a_run_is_being_opened(tmp_path: Path) -> None:
    run, lock = a_live_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        app.exit()

    drive(SimclrPlusApp(tmp_path), steps)
    lock.release()
