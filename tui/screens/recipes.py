"""The recipes, one's own and the shipped ones: searched, described, chosen."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input

from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine.printing import visible
from simclr_plus.recipe.reading import recipe_text

from ..looks.words import Words
from ..starting.recipe_form import Form, found_recipes
from ..widgets.key_bar import KeyBar
from ..widgets.rows import Rows
from .measuring import MeasuringScreen


class RecipeRows(Rows):
    """The recipes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            "enter",
            "select_cursor",
            "Open",
            id="recipes.open",
            tooltip="the keys of the chosen recipe, to change and to start",
        )
    ]


class RecipesScreen(MeasuringScreen):
    """The recipes: those in this folder are yours, the others ship with SimCLR+. Enter changes and starts one."""

    PARTS: ClassVar[tuple[str, ...]] = ("#recipes", "#text", "#filter")
    AUTO_FOCUS = "#recipes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="recipes.back"),
        Binding("slash", "filter", "Search", id="recipes.search", tooltip="words in name, text or expected score"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.recipes: dict[str, Path] = {}
        self.forms: dict[str, Form | str] = {}

    def compose(self) -> ComposeResult:
        """A list at the left, the chosen one at the right."""
        yield Words("Choose a recipe", id="head")
        with Horizontal():
            yield RecipeRows(id="recipes", show_header=False)
            with VerticalScroll(id="recipe-text"):
                yield Words(id="text")
        yield Input(placeholder="words that a recipe holds", id="filter")
        yield KeyBar()

    def on_mount(self) -> None:
        """Read them."""
        if not self.is_whole:  # it was left while it was being made
            return
        self.query_one(Rows).add_column("recipe")
        self.on_screen_resume()

    def on_screen_resume(self) -> None:
        """One may have been saved meanwhile."""
        if not self.is_whole:
            return
        self.recipes = dict(found_recipes())
        self.forms = {}
        self.app.answers.refusals.clear()
        self.show("")

    def show(self, wanted: str) -> None:
        """Those that hold the words."""
        table = self.query_one(Rows)
        table.clear()
        for name in self.recipes:
            form = self._form(name)
            about = form.base.about if isinstance(form, Form) else None
            text = f"{name} {' '.join(about.model_dump().values()) if about else form}".lower()
            if all(word in text for word in wanted.lower().split()):
                is_own_file = name.endswith(".toml")
                table.add_row(Text(visible(name), style="bold yellow" if is_own_file else "bold"), key=name)
        self._show_chosen()

    def _form(self, name: str) -> Form | str:
        """The recipe, or why it cannot be read."""
        if name not in self.forms:
            try:
                self.forms[name] = Form(
                    name, recipe_text(self.recipes[name]), self.app.folder, answers=self.app.answers
                )
            except (SimclrPlusError, OSError) as error:
                self.forms[name] = str(error)
            except (ValueError, RecursionError) as error:  # no text, or nested too deeply
                self.forms[name] = f"{self.recipes[name]} cannot be read: {error}"
        return self.forms[name]

    def chosen(self) -> str | None:
        """The name under the cursor."""
        return self.query_one(Rows).chosen_key

    def _show_chosen(self) -> None:
        name = self.chosen()
        box = self.query_one("#text", Words)
        if name is None:
            box.update("no recipe holds these words")
            return
        form = self._form(name)
        if isinstance(form, str):
            box.update(Text(form, style="red"))
            return
        self.measure(form)
        about = form.base.about
        text = Text()
        text.append(f"{about.summary or name}\n\n", style="bold")
        shown = {"source": about.source, "expected": about.expected, "hardware": about.hardware}
        for label, value in shown.items():
            if value:
                text.append(f"{label}\n", style="dim")
                text.append(f"{value}\n\n")
        text.append("what it comes to\n", style="dim")
        for label, value in form.comes_to():
            text.append(f"{label:<14}", style="bold")
            text.append(f"{value}\n")
        text.append("\n")
        is_own_file = name.endswith(".toml")
        text.append(f"your own, {self.recipes[name]}" if is_own_file else "ships with SimCLR+", style="dim")
        box.update(text)

    def show_measured(self) -> None:
        """What the chosen one's network comes to."""
        self._show_chosen()

    def on_data_table_row_highlighted(self) -> None:
        """Another one."""
        if self.is_whole:
            self._show_chosen()

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click on the chosen one."""
        self.action_open()

    def action_open(self) -> None:
        """Its form."""
        name = self.chosen()
        if name is not None:
            self.app.open_recipe(name, self.recipes[name])

    def action_filter(self) -> None:
        """Write words to look for."""
        self.query_one("#filter").add_class("open")
        self.query_one("#filter", Input).focus()

    def action_back(self) -> None:
        """No search any more, or no list."""
        box = self.query_one("#filter", Input)
        if box.has_class("open"):
            box.value = ""
            box.remove_class("open")
            self.query_one(Rows).focus()
        else:
            self.app.pop_screen()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Search while typing."""
        self.show(event.value)

    def on_input_submitted(self) -> None:
        """To the list."""
        self.query_one(Rows).focus()
