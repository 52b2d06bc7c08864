"""The form of a recipe: what stands on the screen is what is started, saved and copied."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from driving import until
from parameters import rest_slow
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.form import FormScreen
from simclr_plus.tui.starting.recipe_form import Form, keys_of, rows_of
from simclr_plus.tui.widgets.dialogs import Ask, Choose, Tell
from simclr_plus.tui.widgets.rows import Rows
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.method_keys import METHODS

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


def test_a_method_is_chosen_from_a_list_and_brings_its_keys(started: list[list[str]]) -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        rows = screen.query_one(Rows)
        shown = [key.name for key, _, _ in rows_of(screen.form)]
        assert {"head.num_layers", "loss.temperature"} <= set(shown)
        assert [name for name in shown if name.startswith("method.")] == ["method.name"]
        rows.move_cursor(row=shown.index("method.name"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        options = app.screen.query_one(OptionList)
        assert [options.get_option_at_index(i).id for i in range(options.option_count)] == list(METHODS)
        assert options.highlighted == 0  # the one that holds
        options.highlighted = list(METHODS).index("rotation")
        await pilot.press("enter")
        await until(pilot, lambda: screen.is_current and screen.form.value("method.name") == "rotation")
        shown = [key.name for key, _, _ in rows_of(screen.form)]
        assert [name for name in shown if name.startswith("method.")] == ["method.name", "method.angles"]
        assert not [name for name in shown if name.startswith(("head.", "loss."))]
        chosen = screen.chosen()
        assert chosen is not None and chosen.name == "method.name" and "angle" in chosen.help
        await pilot.press("ctrl+l")
        await until(pilot, lambda: bool(started))
        assert "method.name=rotation" in started[0]

    in_the_form(steps)


def test_a_method_that_does_not_go_with_the_recipe_says_why_and_changes_nothing() -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        screen.form.change("augmentation.image_size", "32")  # the ImageNet stem leaves AMDIM a single place
        why = dict(screen.form.methods())["amdim"]
        assert why.startswith("needs a change: ") and "encoder.stem" in why
        screen.query_one(Rows).move_cursor(row=[key.name for key, _, _ in rows_of(screen.form)].index("method.name"))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Choose))
        app.screen.query_one(OptionList).highlighted = list(METHODS).index("amdim")
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, Tell))
        assert screen.form.value("method.name") == "simclr"

    in_the_form(steps)


def test_space_goes_on_to_the_next_value_that_can_stand() -> None:
    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        screen.form.change("augmentation.image_size", "32")
        screen.form.change("method.name", "rotation")
        screen.show()
        screen.query_one(Rows).move_cursor(row=[key.name for key, _, _ in rows_of(screen.form)].index("method.name"))
        after = [*METHODS][[*METHODS].index("rotation") + 1 :]
        expected = next(name for name in after if not screen.form.problem("method.name", name))
        assert after[0] == "amdim" != expected
        await pilot.press("space")
        await until(pilot, lambda: screen.form.value("method.name") == expected)

    in_the_form(steps)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_has_its_own_keys_with_its_own_meanings(method: str) -> None:
    fields = METHODS[method].model_fields
    keys = {name: key for name, key in keys_of(method).items() if name.startswith("method.") and name != "method.name"}
    assert keys.keys() == {f"method.{name}" for name in fields if name != "name"}
    for name, key in keys.items():
        field = fields[name.removeprefix("method.")]
        assert (key.help, key.default) == (field.description, field.default)
    assert METHODS[method].about() in keys_of(method)["method.name"].help
