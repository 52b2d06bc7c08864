"""The screens, driven by keys: what they show and what they leave in the run folder."""

from __future__ import annotations

import io
import os
import socket
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driven_screens import Started, footer_keys
from driving import SIZES, a_live_run, a_run, drive, line, screen_text, until
from parameters import rest_slow
from safetensors.numpy import save_file
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from simclr_plus.tui.screens.checkpoints import CheckpointsScreen
from simclr_plus.tui.screens.compare import CompareScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.served import serve_in_browser
from simclr_plus.tui.widgets.dialogs import Help
from simclr_plus.tui.widgets.rows import Rows
from textual.binding import Binding
from textual.pilot import Pilot
from textual.widgets import Static

from simclr_plus.cli import first_steps
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run


@pytest.mark.parametrize("size", rest_slow(SIZES))
def test_an_empty_folder_explains_itself_and_offers_the_demo(tmp_path: Path, size: tuple[int, int]) -> None:
    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Welcome" in screen_text(app))
        await until(pilot, lambda: "the demo: it learns" in screen_text(app))
        await pilot.press("d")
        await until(pilot, lambda: "training.batch_size" in screen_text(app) or "start.name" in screen_text(app))
        assert "places" in str(app.screen.query_one("#head", Static).render())

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
        lock.release()
        run.log_event("exit", reason="stopped")
        app.screen.look()
        await until(pilot, lambda: str(table.get_row("first")[2]) == "stopped")

    drive(SimclrPlusApp(tmp_path), steps)


@pytest.mark.parametrize("size", rest_slow(SIZES))
def test_a_run_opens_with_its_charts_and_they_follow_it(tmp_path: Path, size: tuple[int, int]) -> None:
    run, lock = a_live_run(tmp_path, "live")
    (run.logs / "rank_0.log").write_text("a first line\n")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: "a first line" in screen_text(app))
        await until(pilot, lambda: "running" in screen_text(app) and "chance 5.54" in screen_text(app))
        chart = app.screen.query_one("#chart-loss", LineChart)
        drawn = chart.drawings
        for step in range(20, 200, 10):
            run.log_metrics(line(step))
        app.screen.look()
        await until(pilot, lambda: len(chart.curves[-1].x) == 19 and chart.drawings > drawn)

    drive(SimclrPlusApp(tmp_path), steps, size)
    lock.release()


def test_a_run_that_learns_labels_may_lower_its_rank(tmp_path: Path) -> None:
    for name, overrides in (("labels", ["loss.name=cross_entropy"]), ("views", [])):
        run = create_run(load_recipe("demo", overrides), tmp_path, name)
        run.log_event("start", steps=400, processes=1, host="here")
        for i in range(1, 41):
            values = line(i * 10, loss=5.0, effective_rank=60.0 if i < 20 else 6.0)
            run.log_metrics({k: v for k, v in values.items() if name == "views" or not k.startswith("contrastive")})

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        seen = {}
        for name in ("labels", "views"):
            screen = RunScreen(Run(tmp_path / name))
            await app.push_screen(screen)
            chart = screen.query_one("#chart-loss", LineChart)
            await until(pilot, lambda chart=chart: chart.drawings > 0 and bool(chart.curves))
            await until(pilot, lambda screen=screen: screen.feed.lines == 40 and screen.feed.facts.recipe is not None)
            screen.show()
            await pilot.pause(0.1)
            seen[name] = ("collapse" in screen_text(app), "chance" in screen_text(app))
        assert seen == {"labels": (False, False), "views": (True, True)}

    drive(SimclrPlusApp(tmp_path), steps, (200, 60))


def test_runs_are_sorted_filtered_and_laid_over_each_other(tmp_path: Path) -> None:
    for i, name in enumerate(("alpha", "beta", "gamma")):
        run = a_run(tmp_path, name, overrides=(f"optimizer.learning_rate={0.001 * (i + 1)}",))
        run.log_metrics(line(310, loss=3.0 - i))
        os.utime(run.recipe_file, (1e9 + i, 1e9 + i))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        table = app.screen.query_one(Rows)
        await until(pilot, lambda: table.row_count == 3)
        assert [key.value for key in table.rows] == ["gamma", "beta", "alpha"]
        await pilot.press("o")
        assert [key.value for key in table.rows] == ["alpha", "beta", "gamma"]
        await pilot.press("o", "o")
        assert [key.value for key in table.rows] == ["gamma", "beta", "alpha"]
        await pilot.press("slash", *"nosuch")
        await until(pilot, lambda: "no run holds these words" in screen_text(app))
        await pilot.press("escape", "slash", *"eta", "enter")
        assert [key.value for key in table.rows] == ["beta"]
        await pilot.press("space", "escape")
        assert table.row_count == 3
        await pilot.press("up", "c")
        await until(
            pilot, lambda: isinstance(app.screen, CompareScreen) and "optimizer.learning_rate" in screen_text(app)
        )
        screen = app.screen
        assert isinstance(screen, CompareScreen)
        names = {curve.label: curve for curve in screen.query_one(LineChart).curves if not curve.faint}
        assert set(names) == {"beta", "gamma"} and names["beta"].color != names["gamma"].color
        rows = screen.query_one("#compare-table", Rows)
        cells = [[str(cell) for cell in rows.get_row_at(i)] for i in range(rows.row_count)]
        assert ["optimizer.learning_rate", "0.002", "0.003"] in cells or [
            "optimizer.learning_rate",
            "0.003",
            "0.002",
        ] in cells
        await pilot.press("2")
        assert screen.query_one(LineChart).title == "contrastive accuracy"

    drive(SimclrPlusApp(tmp_path), steps)


def test_checkpoints_are_shown_by_their_headers_and_damaged_ones_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started = Started(monkeypatch)
    run = a_run(tmp_path / "runs", "one")
    run.checkpoints.mkdir()
    run.results.mkdir()
    save_file({"encoder.conv1.weight": np.zeros((8, 3, 3, 3), np.float32)}, run.checkpoint_file(100), {"step": "100"})
    run.checkpoint_file(50).write_bytes(b"rubbish!rubbish!")
    result = {"step": 100, "data": "embedded", "results": {"encoder": {"top1": 0.8125, "top5": 0.99}}}
    run.write_result("knn_step_00000100", result)
    (run.results / "bad.json").write_text("{")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("k")
        await until(pilot, lambda: "encoder.conv1.weight" in screen_text(app))
        await until(pilot, lambda: "8 x 3 x 3 x 3" in screen_text(app) and "81.2%" in screen_text(app))
        await until(pilot, lambda: "unreadable" in screen_text(app))
        await pilot.press("x")
        await until(pilot, lambda: "Write the encoder to" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: len(started.words) == 1)
        await until(pilot, lambda: isinstance(app.screen, CheckpointsScreen))
        await pilot.press("e")
        await until(pilot, lambda: "nearest neighbours" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: len(started.words) == 2)
        await pilot.press("down")
        await until(pilot, lambda: "header length" in screen_text(app))

    drive(SimclrPlusApp(Path("runs")), steps)
    path = str(Path("runs") / "one" / "checkpoints" / "step_00000100.safetensors")
    assert started.words == [
        ["export", path, "-o", "one_step_00000100.safetensors"],
        ["evaluate", "knn", path, "--json"],
    ]


def test_reading_only_offers_nothing_that_changes_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)
    run, lock = a_live_run(tmp_path, "live")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        assert not footer_keys(app) & {"New", "Stop", "Resume", "Evaluate"}
        await pilot.press("s", "r", "e", "n", "d", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert not footer_keys(app) & {"Stop", "Resume", "Evaluate"}
        await pilot.press("s", "r", "e")
        assert isinstance(app.screen, RunScreen)

    drive(SimclrPlusApp(tmp_path, readonly=True), steps)
    lock.release()
    assert not run.stop_file.exists() and started.words == []


def test_help_is_made_from_the_keys_of_the_screen(tmp_path: Path) -> None:
    a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        bindings = [b for b in RunScreen.BINDINGS if isinstance(b, Binding)]
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Help))
        assert isinstance(app.screen, Help)
        told = [text for _, text in app.screen.keys]
        assert all((binding.tooltip or binding.description) in told for binding in bindings)
        await pilot.press("escape")
        assert isinstance(app.screen, RunScreen)

    drive(SimclrPlusApp(tmp_path), steps, (80, 24))


def test_a_run_without_a_contrastive_task_shows_what_it_has(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo", ["loss.name=cross_entropy"]), tmp_path, "supervised")
    run.log_event("start", steps=400, processes=1)
    for i in range(1, 41):
        run.log_metrics({k: v for k, v in line(i * 10).items() if not k.startswith("contrastive")})

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) == 2)
        shown = [c.id for c in app.screen.query(LineChart) if c.display]
        assert "chart-task" not in shown and len(shown) == 6
        assert not chart.levels and "chance" not in screen_text(app)
        await pilot.press("2")  # asked for, it says why it is empty
        await until(pilot, lambda: "the run learns labels" in screen_text(app))

    drive(SimclrPlusApp(tmp_path), steps)


def test_a_resumed_run_shows_where_and_what_it_went_through_again(tmp_path: Path) -> None:
    run = a_run(tmp_path, "one", lines=40)
    run.log_event("resume", from_step=300, steps=600)
    for step in range(310, 610, 10):
        run.log_metrics(line(step, loss=0.5))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) == 3 and chart.drawings > 0)
        again = chart.curves[0]
        assert again.faint and again.x.tolist() == list(range(310, 410, 10)) and again.y.min() > 1
        assert chart.marks_at == [310]
        await until(pilot, lambda: "┊" in screen_text(app))
        await pilot.press("question_mark")
        await until(pilot, lambda: "gray" in screen_text(app))

    drive(SimclrPlusApp(tmp_path), steps)


def test_escape_leaves_the_search_in_the_log_before_the_run(tmp_path: Path) -> None:
    run = a_run(tmp_path, "one")
    run.logs.mkdir()
    (run.logs / "rank_0.log").write_text("alpha\nbeta\n")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: "beta" in screen_text(app))
        await pilot.press("slash", *"alpha", "enter")
        await until(pilot, lambda: "only: alpha" in screen_text(app) and "beta" not in screen_text(app))
        await pilot.press("slash", "escape")
        await until(pilot, lambda: "beta" in screen_text(app) and isinstance(app.screen, RunScreen))
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, RunScreen))

    drive(SimclrPlusApp(tmp_path), steps)


def test_charts_are_zoomed_pointed_at_and_put_on_other_axes(tmp_path: Path) -> None:
    a_run(tmp_path, "one", lines=50)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) == 2)
        await pilot.press("left", "plus")
        assert chart.crosshair == 490 and chart.span == pytest.approx((245, 495))
        await pilot.press("z", "x")
        assert chart.x_name == "epochs" and chart.curves[0].x[-1] == pytest.approx(500 / 78)
        assert chart.span == pytest.approx((0, 500 / 78)) and chart.crosshair is None
        await pilot.press("y")
        assert chart.log_y
        await pilot.press("m", "m")
        assert len(chart.curves) == 1
        await pilot.press("3")
        shown = [c.id for c in app.screen.query(LineChart) if c.display]
        assert shown == ["chart-accuracy"]
        await pilot.hover("#chart-accuracy", offset=(40, 5))
        await until(pilot, lambda: app.screen.query_one("#chart-accuracy", LineChart).crosshair is not None)

    drive(SimclrPlusApp(tmp_path), steps)


def test_serving_needs_its_package_and_a_free_port_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[str, dict[str, Any]]] = []

    class Server:
        def __init__(self, command: str, **given: Any) -> None:
            served.append((command, given))

        def serve(self) -> None: ...

    module = types.ModuleType("textual_serve.server")
    monkeypatch.setitem(sys.modules, "textual_serve.server", None)
    with pytest.raises(EnvironmentNotAbleError, match=r"simclr-plus\[serve\]"):
        serve_in_browser(["tui", "runs"], 8000, print)
    module.Server = Server  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "textual_serve", types.ModuleType("textual_serve"))
    monkeypatch.setitem(sys.modules, "textual_serve.server", module)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(EnvironmentNotAbleError, match="choose another"):
            serve_in_browser(["tui", "runs"], taken.getsockname()[1], print)
        port = taken.getsockname()[1]
    serve_in_browser(["tui", "my runs", "--readonly"], port, print)
    command, given = served[0]
    assert command.endswith("-m simclr_plus.cli tui 'my runs' --readonly") and given["host"] == "127.0.0.1"


def test_without_a_terminal_the_verb_says_what_to_type_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with pytest.raises(EnvironmentNotAbleError, match="simclr-plus ps --json"):
        first_steps.tui(tmp_path, False, "", False, False, 8000)
    with pytest.raises(RecipeError, match="--theme 'pink'"):
        first_steps.tui(tmp_path, False, "pink", False, False, 8000)
