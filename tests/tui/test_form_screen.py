"""The form of a recipe, driven by keys: changed, checked, saved, started, searched."""

from __future__ import annotations

from pathlib import Path

import pytest
from driven_screens import Started
from driving import drive, screen_text, until
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.form import FormScreen
from simclr_plus.tui.screens.recipes import RecipesScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.widgets.dialogs import Tell
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot
from textual.widgets import Static

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import create_run


async def open_form(app: SimclrPlusApp, pilot: Pilot[None]) -> FormScreen:
    await until(pilot, lambda: "Welcome" in screen_text(app))
    await pilot.press("d")
    await until(pilot, lambda: isinstance(app.screen, FormScreen) and app.screen.query_one(Rows).row_count > 20)
    assert isinstance(app.screen, FormScreen)
    return app.screen


def test_a_form_is_changed_checked_saved_and_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = Started(monkeypatch)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        form = await open_form(app, pilot)
        await pilot.press("slash", *"lr=0.1", "enter")
        await until(
            pilot, lambda: "did you mean optimizer.learning_rate?" in screen_text(app) and form.form.overrides == {}
        )
        await pilot.press("escape", "slash", *"training.epochs=x")
        assert "training.epochs" in str(form.query_one("#editor-problem", Static).render())
        await pilot.press("backspace", "3", "enter")
        assert form.form.overrides == {"training.epochs": "3"}
        await pilot.press("slash", *"start.name=mine", "enter", "slash", *"optimizer name", "enter", "space")
        assert form.chosen() is not None and form.form.overrides["optimizer.name"] == "adamw"
        await pilot.press("backspace")
        assert "optimizer.name" not in form.form.overrides
        await pilot.press("w")
        await until(pilot, lambda: "Save the edited recipe" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, (tmp_path / "my_places.toml").exists)
        assert load_recipe(tmp_path / "my_places.toml") == load_recipe("places", ["training.epochs=3"])
        create_run(load_recipe("demo"), tmp_path / "runs", "mine2")
        await pilot.press("ctrl+l")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))
        assert app.screen.run_folder.name == "mine"

    drive(SimclrPlusApp(Path("runs")), steps)
    assert started.words == [["run", "places", "training.epochs=3", "--name", "mine", "-d"]]


def test_a_command_that_fails_says_why_in_its_own_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Started(monkeypatch, "import sys; sys.exit('no such device anywhere')")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await open_form(app, pilot)
        await pilot.press("ctrl+l")
        await until(pilot, lambda: "no such device anywhere" in screen_text(app))
        await pilot.press("escape")
        await until(pilot, lambda: isinstance(app.screen, FormScreen))

    drive(SimclrPlusApp(Path("runs")), steps)


def test_a_recipe_that_cannot_be_planned_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = Started(monkeypatch)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await open_form(app, pilot)
        await pilot.press("slash", *"start.processes=3", "enter", "ctrl+l")
        await until(pilot, lambda: "does not divide by 3 processes" in screen_text(app))
        assert isinstance(app.screen, Tell)

    drive(SimclrPlusApp(tmp_path / "runs"), steps)
    assert started.words == []


def test_recipes_are_searched_and_ones_own_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(load_recipe("demo").to_toml())
    (tmp_path / "wrong.toml").write_text("[training]\nepochz = 3\n")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Welcome" in screen_text(app))
        await pilot.press("n")
        await until(pilot, lambda: isinstance(app.screen, RecipesScreen) and app.screen.query_one(Rows).row_count > 5)
        screen = app.screen
        assert isinstance(screen, RecipesScreen) and screen.chosen() == "mine.toml"
        await pilot.press("down")
        await until(pilot, lambda: "did you mean training.epochs" in screen_text(app))
        await pilot.press("slash", *"imagenet 4x", "enter")
        assert [str(key.value) for key in screen.query_one(Rows).rows] == ["r50_4x"]
        await until(pilot, lambda: "76.5 %" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FormScreen))

    drive(SimclrPlusApp(Path("runs")), steps)
