"""Screens as text at three sizes; `PYTHONPATH=tests python tests/tui/test_snapshots.py` writes them anew.

Read the diff then. The footer is left out, for it is Textual's own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import textual
from driving import SIZES, drive, line, screen_text, until
from parameters import rest_slow
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from simclr_plus.tui.starting import recipe_form
from textual.pilot import Pilot

from simclr_plus.recipe import find_recipe, load_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.runs.states import write_status

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCREENS: dict[str, list[str]] = {
    "runs": [],
    "run": ["enter"],
    "compare": ["space", "space", "c"],
    "form": ["n"],  # then the demo's, wherever it stands in the list
}


def folder_of_runs() -> None:
    """Two finished runs in ./runs that are the same on every machine."""
    for name, rate in (("older", 0.003), ("newer", 0.001)):
        run = create_run(load_recipe("demo", [f"optimizer.learning_rate={rate}"]), Path("runs"), name)
        run.log_event("start", steps=400, processes=2)
        for i in range(1, 41):
            run.log_metrics(line(i * 10, loss=line(i * 10)["loss"] + rate * 100, learning_rate=rate))
        run.log_metrics(line(410, knn_accuracy=0.75))
        run.log_event("exit", reason="finished", step=400)
        write_status(run, {"state": "finished", "processes": 2, "host": "here"})
        run.logs.mkdir()
        (run.logs / "rank_0.log").write_text("step 400/400  epoch 5.13\n")
        stamp = 1.7e9 + (name == "newer")
        os.utime(run.recipe_file, (stamp, stamp))


def is_settled(app: SimclrPlusApp, name: str) -> bool:
    if name == "runs":
        return "2 runs" in screen_text(app)
    if name == "form":
        return "demo-now" in screen_text(app)
    charts = [chart for chart in app.screen.query(LineChart) if chart.display]
    drawn = bool(charts) and all(chart.curves or "writes no" in chart.note for chart in charts)
    return drawn and ("rank_0.log" in screen_text(app) or "at step" in screen_text(app))


def snapshot(name: str, size: tuple[int, int]) -> str:
    """The screen that the keys lead to."""
    seen: list[str] = []

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.animation_level = "none"
        await until(pilot, lambda: is_settled(app, "runs"))
        await pilot.press(*SCREENS[name])
        if name == "form":
            app.open_recipe("demo", find_recipe("demo"))
        await until(pilot, lambda: is_settled(app, name))
        await pilot.pause(0.3)
        seen.extend(text.rstrip() for text in screen_text(app).splitlines()[:-1])

    drive(SimclrPlusApp(Path("runs"), ascii_only=False), steps, size)
    return "\n".join(seen) + "\n"


def prepare(monkeypatch: Any) -> None:
    monkeypatch.setattr(recipe_form, "default_name", lambda name: f"{name}-now")
    folder_of_runs()


@pytest.mark.skipif(not textual.__version__.startswith("8."), reason="the snapshots were made with Textual 8")
@pytest.mark.parametrize("size", rest_slow(SIZES), ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_looks_as_it_did(
    name: str, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(monkeypatch)
    expected = SNAPSHOTS / f"{name}_{size[0]}x{size[1]}.txt"
    assert snapshot(name, size) == expected.read_text(encoding="utf-8")


def write_all() -> None:
    SNAPSHOTS.mkdir(exist_ok=True)
    os.chdir(tempfile.mkdtemp())
    with pytest.MonkeyPatch.context() as monkeypatch:
        prepare(monkeypatch)
        for name in SCREENS:
            for size in SIZES:
                (SNAPSHOTS / f"{name}_{size[0]}x{size[1]}.txt").write_text(snapshot(name, size), encoding="utf-8")


if __name__ == "__main__":
    write_all()
