from __future__ import annotations

import asyncio
import os
from pathlib import Path

from simclr_plus.tui.app import WatchApp
from textual.widgets import DataTable, Static

from simclr_plus.pulse import PulseWriter, pulse_file
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import create_run
from simclr_plus.states import here, state_of, write_status

LINE = {
    "step": 10,
    "epoch": 0.5,
    "loss": 4.5,
    "contrastive_accuracy": 0.25,
    "images_per_second": 700.0,
    "data_wait": 0.0,
}


def test_the_watcher_shows_runs_follows_them_and_asks_one_to_stop(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "first")
    run.log_metrics(LINE)
    write_status(run, {"state": "running", **here()})
    PulseWriter(pulse_file(run.logs, 0), 60).beat(10, "step")
    lock = run.try_lock()
    assert lock is not None

    async def look() -> None:
        app = WatchApp(tmp_path)
        async with app.run_test(size=(100, 30)) as pilot:
            table = app.query_one(DataTable)
            assert [str(c) for c in table.get_row("first")[:4]] == ["first", "running", "10", "4.500"]
            assert "loss 4.500" in str(app.query_one("#figures", Static).render())
            run.log_metrics({**LINE, "step": 20, "loss": 3.25})
            create_run(load_recipe("demo"), tmp_path, "second")
            await pilot.press("r")
            assert str(table.get_row("first")[3]) == "3.250" and table.row_count == 2
            await pilot.press("s")
            assert run.stop_file.exists()
            os.close(lock)
            run.log_event("exit", reason="stopped")
            await pilot.press("r")
            assert str(table.get_row("first")[1]) == state_of(run).name == "stopped"

    asyncio.run(look())


def test_an_empty_folder_says_what_to_type(tmp_path: Path) -> None:
    async def look() -> None:
        app = WatchApp(tmp_path / "none")
        async with app.run_test(size=(80, 24)):
            assert "simclr-plus run demo" in str(app.query_one("#figures", Static).render())

    asyncio.run(look())
