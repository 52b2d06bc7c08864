"""Screens on any terminal: narrow and tiny ones, without colors, without Unicode, in every theme."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import pytest
from driven_screens import footer_keys
from driving import a_run, drive, line, screen_text, until
from parameters import rest_slow
from rich.color import ColorType
from simclr_plus.tui.app import THEMES, SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from simclr_plus.tui.screens.recipes import RecipesScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.widgets.key_bar import KeyBar
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import create_run


@pytest.mark.parametrize("width", rest_slow([40, 200, 80, 120]))
def test_no_key_is_cut_off_and_help_and_quit_are_always_there(tmp_path: Path, width: int) -> None:
    run = a_run(tmp_path, "one")
    run.checkpoints.mkdir()
    a_run(tmp_path, "two")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 2)
        for keys in (["enter"], ["escape", "k"], ["escape", "space", "space", "c"], ["escape", "n"], ["enter"]):
            before = app.screen
            if width == 200:  # there is room for all
                await until(pilot, lambda: footer_keys(app) >= set(keys_of(app)))
            assert (await whole_keys(app, pilot))[-2:] == ["Help", "Quit"], type(app.screen)
            await pilot.press(*keys)
            await until(pilot, lambda before=before: app.screen is not before)

    drive(SimclrPlusApp(tmp_path), steps, (width, 24))


def keys_of(app: Any) -> list[str]:
    bindings = [active.binding for active in app.screen.active_bindings.values()]
    return list(dict.fromkeys(b.description for b in bindings if b.show))


async def whole_keys(app: Any, pilot: Pilot[None]) -> list[str]:
    """The words of the last line, each of which must stand there whole and within the screen."""
    bar = app.screen.query_one(KeyBar)
    await until(pilot, lambda: any(key.description == "Quit" and key.region.width for key in bar.query("FooterKey")))
    keys = list(bar.query("FooterKey"))
    last_line = screen_text(app).splitlines()[-1]
    assert all(f"{key.key_display} {key.description}" in last_line for key in keys), last_line
    assert (
        all(a.region.right <= b.region.x for a, b in itertools.pairwise(keys))
        and keys[-1].region.right <= app.size.width
    )
    return [key.description for key in keys if not key.has_class("-command-palette")]


def test_a_chart_has_the_background_of_its_theme(tmp_path: Path) -> None:
    a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) == 2 and chart.drawings > 0)
        for _ in range(2):
            expected = chart.rich_style.bgcolor
            assert expected is not None
            grounds = {s.style and s.style.bgcolor for y in range(8) for s in chart.render_line(y)}
            assert expected in grounds and grounds <= {expected, chart._band_color(0)}
            await pilot.press("t")

    drive(SimclrPlusApp(tmp_path), steps)


def test_without_colours_every_screen_is_drawn_in_gray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    a_run(tmp_path, "one")
    create_run(load_recipe("demo"), tmp_path, "waiting")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 2)
        for keys in (
            ["enter"],
            ["escape", "down", "enter"],
            ["escape", "k"],
            ["escape", "n"],
            ["enter"],
            ["question_mark"],
        ):
            before = app.screen
            await pilot.press(*keys)
            await until(pilot, lambda before=before: app.screen is not before)
            await pilot.pause(0.1)
            for strip in app.screen._compositor.render_strips():
                for color in (c for _, style, _ in strip if style for c in (style.color, style.bgcolor) if c):
                    assert color.triplet is None or len(set(color.triplet)) == 1

    drive(SimclrPlusApp(tmp_path), steps, (80, 24))


@pytest.mark.parametrize("size", rest_slow([(80, 24), (40, 12)]))
def test_a_terminal_without_unicode_gets_ascii_alone(tmp_path: Path, size: tuple[int, int]) -> None:
    a_run(tmp_path, "older")
    run = a_run(tmp_path, "newer")
    run.log_event("resume", from_step=200)
    run.log_metrics(line(210, knn_accuracy=0.5))
    run.log_system("here", {"time": time.time(), "cpu": 0.5, "memory_used": 2**30, "memory_total": 2**33})
    run.logs.mkdir()
    (run.logs / "rank_0.log").write_text("naïve 文 →\n", encoding="utf-8")
    seen: list[str] = []

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 2)
        for keys in (
            *(["e"], ["escape", "enter"], ["question_mark"], ["escape", "escape", "k"], ["escape"]),
            *(["space", "space", "c"], ["escape", "n"], ["enter"], ["ctrl+p"]),
        ):
            before = app.screen
            await pilot.press(*keys)
            await until(pilot, lambda before=before: app.screen is not before)
            await pilot.pause(0.3)
            seen.append(screen_text(app))

    drive(SimclrPlusApp(tmp_path, ascii_only=True), steps, size)
    found = {character for text in seen for character in text if not character.isascii()}
    assert found == set()
    assert any("+--" in text for text in seen) and any("Change" in text for text in seen)
    assert any("naive ?? ?" in text for text in seen) or size[1] < 24


@pytest.mark.parametrize("theme", rest_slow(["16", "light", "dark"]))
def test_every_theme_draws_and_the_16_colours_stay_sixteen(tmp_path: Path, theme: str) -> None:
    a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        chart = app.screen.query_one("#chart-loss", LineChart)
        await until(pilot, lambda: len(chart.curves) == 2)
        color = chart.color(0).color
        assert color is not None and (color.type == ColorType.STANDARD) == (theme == "16")
        await pilot.press("t")
        assert app.theme != THEMES[theme][0]

    drive(SimclrPlusApp(tmp_path, theme=theme), steps)


@pytest.mark.parametrize("size", rest_slow([(1, 1), (20, 5), (40, 10)]))
def test_a_tiny_terminal_is_survived(tmp_path: Path, size: tuple[int, int]) -> None:
    a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        await pilot.pause(0.1)
        await pilot.press("escape", "n")
        await until(pilot, lambda: isinstance(app.screen, RecipesScreen))

    drive(SimclrPlusApp(tmp_path), steps, size)


def test_without_braille_nothing_is_drawn_but_ascii(tmp_path: Path) -> None:
    a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.screen.query_one(Rows).row_count == 1)
        await pilot.press("enter")
        await until(pilot, lambda: len(app.screen.query_one("#chart-loss", LineChart).curves) == 2)
        chart = app.screen.query_one("#chart-loss", LineChart)
        text = "".join(chart.render_line(y).text for y in range(chart.size.height))
        assert text.isascii() and "'" in text

    drive(SimclrPlusApp(tmp_path, ascii_only=True), steps)
