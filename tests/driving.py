"""What the tests of the screens share: runs to look at, an app driven by keys, and waiting for what it shows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from simclr_plus.tui.app import SimclrPlusApp
from textual.pilot import Pilot

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.heartbeat import HeartbeatWriter, heartbeat_file
from simclr_plus.runs.states import this_host, write_status

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
    write_status(run, {"state": "finished", "processes": 1, **this_host()})
    return run


def a_live_run(folder: Path, name: str) -> tuple[Run, int]:
    """A run that looks as if it trained, and its lock."""
    run = create_run(load_recipe("demo"), folder, name)
    run.log_event("start", steps=1000, processes=1, host="here")
    write_status(run, {"state": "running", "processes": 1, **this_host()})
    HeartbeatWriter(heartbeat_file(run.logs, 0), 60).beat(10, "step")
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


async def until(pilot: Pilot[None], condition: Callable[[], bool], seconds: float = 60) -> None:
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
