"""The form of a recipe: what stands on the screen is what is started, saved and copied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from parameters import rest_slow
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.form import FormScreen
from simclr_plus.tui.starting.recipe_form import Form
from simclr_plus.tui.widgets.dialogs import Ask
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot
from textual.widgets import Input

from simclr_plus.recipe import load_recipe

Steps = Callable[[SimclrPlusApp, FormScreen, Pilot[None]], Awaitable[None]]


class AtWork:
    """A command that goes on."""

    returncode = None

    def poll(self) -> None: ...


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of the commands that were started; none of them is run."""
    monkeypatch.chdir(tmp_path)
    words: list[list[str]] = []

    def start(given: Sequence[str], log: Path) -> AtWork:
        words.append(list(given))
        return AtWork()

    monkeypatch.setattr("simclr_plus.tui.starting.commands.start", start)
    return words


def in_the_form(steps: Steps, size: tuple[int, int] = (120, 34)) -> None:
    """The demo's form, driven by keys."""

    async def all_of_it() -> None:
        app = SimclrPlusApp(Path("runs"))
        async with app.run_test(size=size) as pilot:
            screen = FormScreen(Form("demo", load_recipe("demo").to_toml(), app.folder))
            await app.push_screen(screen)
            screen.form.change("start.name", "mine")
            await pilot.pause()
            await steps(app, screen, pilot)

    asyncio.run(all_of_it())


def row_of(screen: FormScreen, key: str) -> int:
    return [row.value for row in screen.query_one(Rows).rows].index(key)


async def type_over(screen: FormScreen, pilot: Pilot[None], key: str, text: str) -> None:
    """Open the editor of a key and write, without enter."""
    screen.query_one(Rows).move_cursor(row=row_of(screen, key))
    await pilot.press("enter")
    screen.query_one("#editor", Input).value = text
    await pilot.pause()


def test_a_value_that_was_typed_but_not_entered_is_started_with(started: list[list[str]]) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await type_over(screen, pilot, "training.epochs", "3")
        await pilot.press("ctrl+l")

    in_the_form(steps)
    assert started == [["run", "demo", "training.epochs=3", "--name", "mine", "-d"]]


def test_a_pair_in_the_search_counts_as_typed_too(started: list[list[str]]) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await pilot.press("slash", *"data.limit=200", "ctrl+l")

    in_the_form(steps)
    assert started == [["run", "demo", "data.limit=200", "--name", "mine", "-d"]]


@pytest.mark.parametrize("how", rest_slow(["key", "action", "palette"]))
def test_a_value_that_was_refused_starts_nothing_and_has_the_cursor(started: list[list[str]], how: str) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await type_over(screen, pilot, "data.limit", "20oo")
        await pilot.press("enter")  # refused in red
        if how == "key":
            await pilot.press("ctrl+l")
        elif how == "action":
            screen.set_focus(None)
            screen.action_launch()
        else:
            await screen.run_action("launch")
        await pilot.pause()
        assert app.screen is screen and screen.focused is not None and screen.focused.id == "editor"
        assert screen.query_one("#editor", Input).value == "20oo"
        screen.query_one("#editor", Input).value = "2000"
        await pilot.press("ctrl+l")

    in_the_form(steps)
    assert started == [["run", "demo", "data.limit=2000", "--name", "mine", "-d"]]


def test_a_click_on_another_row_takes_what_was_typed(started: list[list[str]]) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await type_over(screen, pilot, "training.epochs", "3")
        for _ in range(2):
            await pilot.click("#keys", offset=(5, 3))
            await pilot.pause()
        await pilot.press("ctrl+l")

    in_the_form(steps)
    assert started == [["run", "demo", "training.epochs=3", "--name", "mine", "-d"]]


def test_a_click_on_another_row_does_not_leave_what_was_refused(started: list[list[str]]) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await type_over(screen, pilot, "training.epochs", "many")
        for _ in range(2):
            await pilot.click("#keys", offset=(5, 3))
            await pilot.pause()
        assert screen.editing == "training.epochs" and screen.focused is screen.query_one("#editor")
        await pilot.press("tab")
        await pilot.pause()
        assert screen.focused is screen.query_one("#editor")
        await pilot.press("ctrl+l")
        await pilot.press("escape")  # thrown away: the recipe's value stands there again
        assert screen.form.value("training.epochs") == "22"
        await pilot.press("ctrl+l")

    in_the_form(steps)
    assert started == [["run", "demo", "--name", "mine", "-d"]]


def test_what_is_saved_and_copied_is_what_was_typed(started: list[list[str]], tmp_path: Path) -> None:
    copied: list[str] = []

    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        app.copy_to_clipboard = copied.append  # type: ignore[method-assign]
        await type_over(screen, pilot, "training.epochs", "x")
        screen.action_copy()
        screen.action_save()
        await pilot.pause()
        assert app.screen is screen and copied == []
        screen.query_one("#editor", Input).value = "3"
        screen.action_copy()
        await type_over(screen, pilot, "loss.temperature", "0.3")
        screen.action_save()
        await pilot.pause()
        assert isinstance(app.screen, Ask)
        await pilot.press("enter")
        await pilot.pause()

    in_the_form(steps)
    assert copied == ["simclr-plus run demo training.epochs=3 --name mine -d"]
    saved = load_recipe(tmp_path / "my_demo.toml")
    assert (saved.training.epochs, saved.loss.temperature) == (3, 0.3)


def test_pressing_start_twice_starts_one_run(started: list[list[str]]) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+l", "ctrl+l")

    in_the_form(steps)
    assert len(started) == 1


def test_a_form_that_is_left_at_once_leaves_no_error(started: list[list[str]]) -> None:
    async def all_of_it() -> None:
        app: Any = SimclrPlusApp(Path("runs"))
        async with app.run_test() as pilot:
            for _ in range(3):
                app.push_screen(FormScreen(Form("demo", load_recipe("demo").to_toml(), app.folder)))
                app.pop_screen()
                app.open_recipes()
                app.pop_screen()
            await pilot.pause()

    asyncio.run(all_of_it())
