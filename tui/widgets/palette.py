"""The command palette's runs and recipes. Names come from outside: they are Text, a string would be read as markup."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text
from textual.command import DiscoveryHit, Hit, Hits, Provider

from simclr_plus.machine.printing import visible
from simclr_plus.runs.folder import list_runs

from ..starting.recipe_form import found_recipes

if TYPE_CHECKING:
    from ..base_app import BaseApp

MOST_RUNS = 100
Command = tuple[str, str, Callable[[], None]]  # name, what it does, the call


class RunsAndRecipes(Provider):
    """Every run and every recipe, to open."""

    async def discover(self) -> Hits:
        """All of them."""
        for name, about, call in self._commands():
            yield DiscoveryHit(Text(name), call, text=name, help=about)

    async def search(self, query: str) -> Hits:
        """Those that hold the letters."""
        matcher = self.matcher(query)
        for name, about, call in self._commands():
            score, places = matcher.fuzzy_search.match(query, name)
            if score > 0:
                shown = Text(name)
                for place in places:
                    shown.stylize("bold underline", place, place + 1)
                yield Hit(score, shown, call, text=name, help=about)

    def _commands(self) -> Iterator[Command]:
        app: BaseApp = self.app  # type: ignore[assignment]
        try:
            runs = list_runs(app.folder)
        except OSError:
            runs = []
        for run in reversed(runs[-MOST_RUNS:]):
            yield f"Run {visible(run.name)}", "open its charts", partial(app.open_run, run)
        for name, path in found_recipes():
            yield f"Recipe {visible(name)}", "change and start it", partial(app.open_recipe, name, path)
