"""What charts say is so: axes, figures, names, levels, evaluations at their steps."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import SIZES, drive, line, screen_text, until
from made_up_curves import LIGHT, STEPS, decay
from parameters import rest_slow
from rich.console import Console
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.average import REACH
from simclr_plus.tui.charts.line_chart import Curve, LineChart, View, shared
from simclr_plus.tui.charts.raster import Window, halves
from simclr_plus.tui.charts.ticks import axis_labels, powers, rounded, short, ticks
from simclr_plus.tui.reading.alarms import alarms, thresholds
from simclr_plus.tui.reading.feed import Feed, KnnBasis
from simclr_plus.tui.screens.compare import CompareScreen
from simclr_plus.tui.screens.plots import PLOTS, changes_that_matter, curves_of, end_of, levels_of, wilson
from simclr_plus.tui.screens.run import RunScreen
from textual.pilot import Pilot

from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.plan import make_schedule
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.progress import TrainingProgress
from simclr_plus.runs.states import this_host, write_status

PLOT = {plot.key: plot for plot in PLOTS}


def a_noisy_run(
    folder: Path, name: str, *, upto: int = STEPS, steps: int = STEPS, every: int = 10, **start: Any
) -> Run:
    """A run of the demo whose loss is a known curve with noise; every other figure is quiet."""
    run = create_run(load_recipe("demo"), folder, name)
    run.log_event("start", steps=steps, processes=1, host="here", images=10_000, classes=10, **start)
    generator = np.random.default_rng(5)
    for step in range(every, upto + 1, every):
        loss = float(decay(step) + 0.1 * generator.normal())
        run.log_metrics(line(step, loss=loss, images=step * 128, epoch=step * 128 / 10_000))
    write_status(run, {"state": "stopped", "processes": 1, **this_host()})
    return run


def read(run: Run) -> Feed:
    feed = Feed(run)
    while feed.look():
        pass
    return feed


def test_a_run_and_its_first_part_are_the_same_line_in_the_comparison(tmp_path: Path) -> None:
    runs = [a_noisy_run(tmp_path, "part", upto=570, steps=570), a_noisy_run(tmp_path, "whole")]

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        screen = CompareScreen(runs)
        await app.push_screen(screen)
        await until(pilot, lambda: len(screen.query_one(LineChart).curves) == 4)
        chart = screen.query_one(LineChart)
        part, whole = (next(c for c in chart.curves if c.label == name) for name in ("part", "whole"))
        assert chart.span == (0, STEPS)
        before = part.x < 570 - 2 * REACH * LIGHT
        np.testing.assert_allclose(part.y[before], np.interp(part.x[before], whole.x, whole.y), atol=2e-3)
        assert abs(part.y[-1] - np.interp(570, whole.x, whole.y)) < 0.15
        title = screen_text(app).splitlines()[1]
        newest = [run.metrics()[-1]["loss"] for run in runs]
        assert f"part {short(newest[0])}" in title and f"whole {short(newest[1])}" in title
        assert "average: light" in title
        before_m = [curve.y.copy() for curve in chart.curves if not curve.faint]
        await pilot.press("m")
        await until(pilot, lambda: "average: strong" in screen_text(app).splitlines()[1])
        assert any(
            len(a) != len(c.y) or not np.allclose(a, c.y) for a, c in zip(before_m, chart.curves[1::2], strict=True)
        )
        await pilot.press("m")
        await until(pilot, lambda: "not averaged" in screen_text(app).splitlines()[1] and len(chart.curves) == 2)

    drive(SimclrPlusApp(tmp_path), steps)


@pytest.mark.parametrize("size", rest_slow(SIZES))
def test_figures_in_titles_are_those_of_the_file_and_the_crosshair_leaves_with_the_mouse(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    run = a_noisy_run(tmp_path, "one")
    by_step = {values["step"]: values for values in run.metrics()}

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await pilot.pause()
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) == 2 and chart.drawings > 0)

        def title() -> str:
            return chart.render_line(0).text

        newest = short(by_step[max(by_step)]["loss"])
        assert newest in title()
        await pilot.hover("#chart-loss", offset=(20, 3))
        await until(pilot, lambda: chart.crosshair is not None)
        at = chart.crosshair
        assert at in by_step and newest in title() and f" {short(by_step[at]['loss'])} " in title()
        assert f"step {at:,.0f}" in chart.render_line(chart.size.height - 1).text
        await pilot.hover("#head")
        await until(pilot, lambda: chart.crosshair is None)
        await pilot.click("#chart-loss", offset=(20, 3))
        await pilot.hover("#head")
        await pilot.pause(0.1)
        assert chart.crosshair == at  # a click holds it
        await pilot.click("#chart-loss", offset=(20, 3))
        await pilot.hover("#head")
        await until(pilot, lambda: chart.crosshair is None)

    drive(SimclrPlusApp(tmp_path), steps, size)


def test_raw_values_are_a_band_from_least_to_greatest_in_each_column() -> None:
    generator = np.random.default_rng(0)
    x, y = np.arange(4000.0), generator.uniform(2, 8, 4000)
    window = Window(0, 3999, 0, 10)
    spanned, touched = halves(x, y, window, 40, 10)
    assert not touched.any() and spanned.any(axis=0).all()
    rows = np.flatnonzero(spanned[:, 20])
    assert rows.tolist() == list(range(4, 16))
    flat, thin = halves(x, np.full(4000, 5.2), window, 40, 10)
    assert not flat.any() and (thin.sum(axis=0) == 1).all()
    gap = np.where((x > 1000) & (x < 2000), np.nan, y)
    assert not halves(x, gap, window, 40, 10)[0][:, 11:19].any()


def test_of_lines_that_coincide_none_is_hidden() -> None:
    a, b = np.ones((2, 6), dtype=bool), np.zeros((2, 6), dtype=bool)
    b[0] = True
    owner = shared([a, b])
    assert owner.tolist() == [[0, 1, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]]
    assert (shared([np.zeros((1, 3), dtype=bool)]) == -1).all()


def drawn(chart: LineChart) -> Window:
    assert chart.window is not None
    return chart.window


@pytest.mark.parametrize("upto", rest_slow([600, 10, 20]))
def test_all_charts_go_from_nought_to_the_planned_end_in_whole_steps(tmp_path: Path, upto: int) -> None:
    run = a_noisy_run(tmp_path, "one", upto=upto)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.feed.lines == upto // 10)
        charts = [chart for chart in app.screen.query(LineChart) if chart.display]
        await until(pilot, lambda: all(chart.drawings for chart in charts if chart.curves) and bool(charts[0].curves))
        await pilot.pause(0.1)
        assert {(drawn(c).x0, drawn(c).x1) for c in charts if c.curves} == {(0.0, float(STEPS))}
        for chart in charts:
            foot = chart.render_line(chart.size.height - 1).text.split()
            assert foot[0] == "steps" and all(label.rstrip("k").replace(".", "").isdigit() for label in foot[1:])
        assert "stopped" in charts[0].render_line(1).text + charts[0].render_line(2).text
        await pilot.press("w")
        await pilot.pause(0.1)
        assert {(drawn(c).x0, drawn(c).x1) for c in charts if c.curves} == {(0.0, float(upto))}

    drive(SimclrPlusApp(tmp_path), steps, (200, 60))


def test_ticks_of_what_comes_in_ones_are_whole() -> None:
    assert ticks(0, 2, 6, whole=True) == [0, 1, 2] and ticks(0, 1, 6, whole=True) == [0, 1]
    assert ticks(9.6, 10.4, 6, whole=True) == [10]


def test_an_axis_has_one_power_of_ten_and_nothing_stands_for_nought_but_nought() -> None:
    assert axis_labels([0, 0.0005, 0.001], short) == (["0", "0.0005", "0.001"], 0)
    assert axis_labels([0, 2e-4, 4e-4], short) == (["0", "2", "4"], -4)
    assert axis_labels([9000, 10_000, 12_500], short)[0] == ["9k", "10k", "12.5k"]
    assert powers([1e-5, 1e-3, 0.1], short) == ["1e-5", "1e-3", "1e-1"]
    assert rounded(2.6e-9, 0.003) == 0 and rounded(2e-5, 0.003) == 2e-5


def ranges(folder: Path, keys: list[str], **changes: Any) -> dict[str, Window]:
    run = create_run(load_recipe("demo"), folder, "one")
    run.log_event("start", steps=STEPS, processes=1, images=10_000, classes=10)
    generator = np.random.default_rng(0)
    for step in range(10, 610, 10):
        n = generator.normal(size=3)
        values = {"data_wait": 0.004 * abs(n[0]), "effective_rank": 63 + n[1], "feature_std": 0.575 + 0.003 * n[2]}
        run.log_metrics(line(step, **values, **changes))
    found: dict[str, Window] = {}

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await until(pilot, lambda: isinstance(app.screen, RunScreen) and app.screen.feed.lines == 60)
        charts = list(app.screen.query(LineChart))
        await until(pilot, lambda: all(chart.drawings and chart.curves for chart in charts))
        await pilot.press(*keys)
        await pilot.pause(0.2)
        found.update({str(chart.id).removeprefix("chart-"): drawn(chart) for chart in charts})
        found["text"] = screen_text(app)  # type: ignore[assignment]

    drive(SimclrPlusApp(folder), steps, (200, 60))
    return found


def test_small_changes_are_drawn_small(tmp_path: Path) -> None:
    whole = ranges(tmp_path / "a", [])
    assert whole["wait"].y0 == 0 and whole["wait"].y1 >= 0.1
    assert whole["rank"].y0 == 0 and whole["rank"].y1 >= 128
    assert whole["spread"].y0 == 0 == whole["speed"].y0 == whole["rate"].y0 == whole["task"].y0
    text = str(whole["text"])
    for words in ("of 128", "alarm above 30.0%", "alarm below 0.14", "chance 0.8%", "chance, 10 classes: 10.0%"):
        assert words in text, words
    tight = ranges(tmp_path / "b", ["a"])
    assert tight["wait"].y1 < 0.02 and tight["rank"].y0 > 50 and tight["spread"].y0 > 0.5


def test_an_alarm_sounds_where_the_chart_says() -> None:
    healthy = {"step": np.arange(1.0, 41), "feature_std": np.full(40, 0.6), "effective_rank": np.full(40, 60.0)}
    limits = thresholds(healthy)
    for name, limit in limits.items():
        for share, expected in ((0.99, True), (1.01, False)):
            values = np.r_[healthy[name][:30], np.full(10, limit * share)]
            assert bool(alarms({}, {**healthy, name: values}, None, None)) == expected
    assert limits == {"feature_std": pytest.approx(0.15), "effective_rank": pytest.approx(15)}


def test_the_monitors_knn_is_named_with_what_it_is_and_with_its_interval(tmp_path: Path) -> None:
    knn = {"bank": 3000, "queries": 500, "neighbours": 20}
    run = a_noisy_run(tmp_path, "small", upto=600, knn=knn)
    run.log_metrics(line(610, knn_accuracy=0.8))
    feed = read(run)
    assert feed.start is not None and feed.start.knn == KnnBasis(500, 20, 3000)
    found = {curve.label: curve for curve in curves_of(PLOT["accuracy"], feed, "step", LIGHT)}
    low, high = found["kNN"].low, found["kNN"].high
    assert low is not None and high is not None
    assert (low[0], high[0]) == (pytest.approx(0.7628, abs=1e-4), pytest.approx(0.8328, abs=1e-4))  # Wilson, n = 500

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        app.open_run(run)
        await until(pilot, lambda: "kNN 80.0% ±3.5" in screen_text(app))
        await pilot.press("3")
        await until(pilot, lambda: "kNN (500 held out, 20 of 3,000 neighbours)" in screen_text(app))

    drive(SimclrPlusApp(tmp_path), steps)


def test_wilsons_interval_stays_within_what_a_share_can_be() -> None:
    low, high = wilson(np.array([0.0, 0.5, 1.0, -1.0, 3.0]), 50)
    assert (low >= 0).all() and (high <= 1).all() and (low[0], high[2]) == pytest.approx((0, 1))
    assert (low[1], high[1]) == (pytest.approx(0.3664, abs=1e-4), pytest.approx(0.6336, abs=1e-4))


def test_the_stated_score_is_that_of_the_kind_that_is_drawn_and_in_brackets_for_another_run(tmp_path: Path) -> None:
    found = {}
    for name, overrides in (
        ("same", ["training.seed=3", "monitor.log_every_steps=5"]),
        ("shorter", ["training.epochs=8"]),
        ("other", ["about.summary=mine"]),
    ):
        feed = read(create_run(load_recipe("demo", overrides), tmp_path, name))
        found[name] = [(level.label, level.y) for level in levels_of(PLOT["accuracy"], feed.facts.recipe, feed)]
    stated = pytest.approx(0.806)
    assert found["same"] == [("recipe: kNN 80.6, 22 epochs", stated)]
    assert found["shorter"] == [("(recipe: kNN 80.6, 22 epochs)", stated)]
    assert found["other"] == [("(recipe: kNN 80.6)", stated)]
    demo = load_recipe("demo")
    changed = load_recipe("demo", ["training.seed=5", "loss.temperature=0.5", "data.threads=2"])
    assert changes_that_matter(changed, demo) == ["loss.temperature"]


def test_what_evaluate_found_stands_at_the_step_of_its_checkpoint(tmp_path: Path) -> None:
    run = a_noisy_run(tmp_path, "one")
    result = {"step": 860, "test_images": 2000, "train_images": 10_000, "results": {"encoder": {"top1": 0.83, "k": 20}}}
    run.write_result("knn_step_00000860", result)
    run.write_result("knn_step_00000860_labels-100", {**result, "results": {"encoder": {"top1": 0.6}}})
    run.write_result("linear_step_00000860", {**result, "results": {"encoder": {"top1": 0.9}}})
    (run.results / "knn_step_00000430.json").write_text('{"step": 430, "results": {"encoder": {"top1": null}}}')
    feed = read(run)
    diamonds = [curve for curve in curves_of(PLOT["accuracy"], feed, "step", LIGHT) if curve.marker == "◆"]
    assert [(curve.x.tolist(), curve.y.tolist(), curve.joined) for curve in diamonds] == [([860.0], [0.83], False)]
    (in_epochs,) = [curve for curve in curves_of(PLOT["accuracy"], feed, "epoch", 0.2) if curve.marker == "◆"]
    assert in_epochs.x[0] == pytest.approx(860 * 128 / 10_000)


def test_a_null_where_the_newest_line_has_no_number_is_no_older_number(tmp_path: Path) -> None:
    chart = LineChart("loss")
    curve = Curve("", np.arange(5.0), np.array([3.0, 2.0, 1.5, 1.25, math.nan]))
    assert chart._written(float(curve.values.y[-1]), 3.0) == "-"


def test_a_figure_is_written_as_its_axis_is() -> None:
    chart = LineChart("learning rate")
    assert [chart._written(value, 0.003) for value in (0.003, 5.1e-4, 2.6e-9)] == ["0.003", "0.00051", "0"]
    assert chart._written(2.6e-9, 5e-9) == "2.6e-09"


def test_a_name_with_brackets_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    with TrainingProgress("[red]one[/x]", 0, 100) as progress:
        progress.show({**line(10), "loss": None})
        assert progress._bar is not None
        console = Console(file=io.StringIO(), width=200)
        console.print(progress._bar.get_renderable())
    assert "[red]one[/x]" in console.file.getvalue() and "loss -" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_end_of_an_axis_is_the_plans_on_every_axis(tmp_path: Path) -> None:
    plan = make_schedule(load_recipe("demo"), 10_000)
    feed = read(a_noisy_run(tmp_path, "one", upto=600, steps=plan.total_steps))
    assert feed.schedule == plan
    assert [end_of([feed], axis) for axis in ("step", "epoch", "images")] == pytest.approx(
        [plan.total_steps, plan.total_steps * 128 / 10_000, plan.total_steps * 128]
    )
    assert end_of([feed], "time") == pytest.approx(590 / 3600)  # nobody knows it beforehand
    nothing = read(create_run(load_recipe("demo"), tmp_path, "nothing"))
    assert end_of([nothing], "step") == 1 and nothing.schedule is None
    other = read(a_noisy_run(tmp_path, "other", upto=600, steps=999))
    assert other.schedule is None  # the run does not follow what its recipe gives


def test_a_chart_without_points_or_with_one_is_drawn(tmp_path: Path) -> None:
    chart = LineChart("x")
    for y in ([], [math.nan], [0.0], [5.0]):
        x = np.arange(float(len(y)))
        chart.show([Curve("", x, np.array(y))] if y else [], view=View(span=(0.0, 10.0), low=0.0, high=0.1))
        window = chart._window()
        assert (window is None) == (not y or math.isnan(y[0]))
        assert window is None or (window.y0 == 0 and window.y1 > 0 and (window.x0, window.x1) == (0, 10))


def test_the_rank_is_bounded_by_what_the_run_says_of_its_features(tmp_path: Path) -> None:
    def bound(name: str, *overrides: str, **said: int) -> float:
        run = create_run(load_recipe("demo", overrides), tmp_path, name)
        run.log_event("start", steps=10, **said)
        feed = read(run)
        (level,) = levels_of(PLOT["rank"], feed.facts.recipe, feed)
        return level.y

    assert bound("resnet") == 128  # of a ResNet-18 (0.25x), which a run of an older version does not say
    by_name = "encoder.name=timm:test_vit"
    assert bound("said", by_name, feature_dim=64) == 64
    assert bound("unsaid", by_name) == 255  # the rows that are looked at, but for one
