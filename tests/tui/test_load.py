"""Many runs, long files, long evenings: the terminal UI stays quick, small and quiet. Counts and shares, not clocks."""

from __future__ import annotations

import asyncio
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from driving import a_live_run, a_run, drive, line, until
from places import TESTS
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot

from simclr_plus.runs.folder import Run

WRITER = """
import json, sys, time
sys.path.insert(0, sys.argv[2])
from driving import line
step = 20
with open(sys.argv[1], "a") as file:
    while True:
        file.write("".join(json.dumps(line(step + 10 * i, time=time.time())) + "\\n" for i in range(10)))
        file.flush()
        step += 100
        time.sleep(0.5)
"""


def test_what_did_not_change_is_neither_read_nor_drawn_again(tmp_path: Path) -> None:
    run = a_run(tmp_path, "done")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: chart.drawings > 0 and len(chart.curves) == 2)
        screen = app.screen
        assert isinstance(screen, RunScreen)
        await pilot.pause(0.3)
        before, version = chart.drawings, screen.feed.version
        for _ in range(5):
            screen.read()
            screen.show()
            await pilot.pause()
        assert (chart.drawings, screen.feed.version) == (before, version)
        run.log_metrics(line(1000))
        screen.read()
        screen.show()
        await until(pilot, lambda: chart.drawings == before + 1)

    drive(SimclrPlusApp(tmp_path), steps)


def test_a_display_on_hold_stays_as_it_is(tmp_path: Path) -> None:
    run, lock = a_live_run(tmp_path, "live")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) > 0)
        await pilot.press("space")
        run.log_metrics(line(20))
        screen = app.screen
        assert isinstance(screen, RunScreen)
        screen.read()
        screen.show()
        assert len(chart.curves[-1].x) == 1
        await pilot.press("space")
        await until(pilot, lambda: len(chart.curves[-1].x) == 2)

    drive(SimclrPlusApp(tmp_path), steps)
    lock.release()


@pytest.mark.slow
def test_five_hundred_runs_are_listed_and_read_once(tmp_path: Path) -> None:
    a_run(tmp_path, "run000")
    for i in range(1, 500):
        shutil.copytree(tmp_path / "run000", tmp_path / f"run{i:03}")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        table = app.screen.query_one(Rows)
        await until(pilot, lambda: table.row_count == 500, 120)
        await pilot.press("down", "down", "down")
        assert table.cursor_row == 3
        screen = app.screen
        screen.list.look()
        assert screen.list.read == 0
        await pilot.press("slash", *"run49")
        await until(pilot, lambda: table.row_count == 10)

    drive(SimclrPlusApp(tmp_path), steps)


@pytest.mark.slow
def test_a_million_lines_come_bit_by_bit_and_keys_are_answered_meanwhile(tmp_path: Path) -> None:
    run = a_run(tmp_path, "long", lines=1)
    block = [json.dumps({"loss": 2.0, "contrastive_accuracy": 0.5, "images_per_second": 700.0})[1:]] * 10_000
    with run.metrics_file.open("w") as file:
        for begin in range(0, 1_000_000, 10_000):
            file.write("".join(f'{{"step": {begin + i}, {text}\n' for i, text in enumerate(block)))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        screen = app.screen
        assert isinstance(screen, RunScreen)
        chart = app.screen.query_one("#chart-loss", LineChart)
        begin = last = time.monotonic()
        longest = 0.0
        while not (chart.curves and len(chart.curves[0].x) == 1_000_000):
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()
            assert last - begin < 240
        assert screen.feed.lines == 1_000_000
        assert longest < 0.25 * (last - begin)  # keys are answered while it is read
        await pilot.press("y")
        assert screen.log_y

    drive(SimclrPlusApp(tmp_path), steps)


BYTES_OF_A_LINE = 400  # 13 numbers, and each curve raw and averaged


def follow_for(seconds: float, folder: Path) -> tuple[float, list[int], int]:
    """What following a fast writer (20 lines a second) costs: share of a core, KiB at four moments, lines meanwhile."""
    run, lock = a_live_run(folder, "live")
    words = [sys.executable, "-c", WRITER, str(run.metrics_file), str(TESTS)]
    writer = subprocess.Popen(words)
    found: list[float] = []
    memory: list[int] = []

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        screen = app.screen
        assert isinstance(screen, RunScreen)
        await until(pilot, lambda: screen.feed.lines > 50)
        wall, cpu = time.monotonic(), time.process_time()
        for _ in range(4):
            await pilot.pause(seconds / 4)
            memory.append(resident_kib())
        found.append((time.process_time() - cpu) / (time.monotonic() - wall))

    try:
        drive(SimclrPlusApp(folder), steps)
    finally:
        writer.kill()
        writer.wait()
        lock.release()
    lines = len(Run(run.path).metrics())
    assert lines > 5 * seconds
    return found[0], memory, lines


def resident_kib() -> int:
    """Resident memory of this process now; the most it ever was where that is not known."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize() // 1024


@pytest.mark.slow
def test_following_a_run_for_a_minute_is_cheap_and_does_not_grow(tmp_path: Path) -> None:
    share, memory, lines = follow_for(60, tmp_path)
    assert share < 0.15
    assert memory[-1] < 1.05 * memory[0] + BYTES_OF_A_LINE * lines / 1024, memory


@pytest.mark.soak
@pytest.mark.timeout(2400)
def test_following_a_run_for_half_an_hour_is_cheap_and_does_not_grow(tmp_path: Path) -> None:
    share, memory, lines = follow_for(1800, tmp_path)
    assert share < 0.15
    assert memory[-1] < 1.05 * memory[0] + BYTES_OF_A_LINE * lines / 1024, memory
