"""What a study is: places on its axes, each a few changes of a recipe; measures; and a page about what was found.

A study plans and draws, it never launches: running/cells.py executes its cells and knows nothing of what they mean.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from simclr_plus.errors import RecipeError
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Page

SMALL, PAPER = "small", "paper"
SCALES = (SMALL, PAPER)
SUPERVISED_EPOCHS = 90.0  # of the paper's supervised networks (a note of section 3.2, Figure 7)
# where a study starts by scale: a shipped recipe and changes; the paper's studies train for 100 epochs unless they say
BASES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    SMALL: ("study", ()),
    PAPER: ("r50_1x", ("training.epochs=100",)),
}

Place = Mapping[str, Any]  # the value of each axis, e.g. {"loss": "margin", "mining": "semi-hard"}
Changes = Mapping[str, Any]  # recipe keys and their values


@dataclass(frozen=True)
class Point:
    """A place of a study, the changes of the recipe that make it, and what is measured there.

    changes: a function where they must be worked out from a recipe that may not fit. needs_color: gray images cannot be
    measured.
    """

    place: Place
    changes: Changes | Callable[[], Changes]
    measures: tuple[str, ...]
    needs_color: bool = False


@dataclass(frozen=True)
class Cell:
    """One run of a study: a point with a seed, and the recipe that the study starts from."""

    point: Point
    seed: int
    base: Recipe

    @property
    def place(self) -> Place:
        """The value of each axis."""
        return self.point.place

    @property
    def measures(self) -> tuple[str, ...]:
        """What is measured after training."""
        return self.point.measures

    @property
    def needs_color(self) -> bool:
        """Whether gray images cannot be measured."""
        return self.point.needs_color

    @cached_property
    def recipe(self) -> Recipe:
        """What it trains; raises RecipeError where the point does not fit the study's recipe."""
        changes = self.point.changes() if callable(self.point.changes) else self.point.changes
        recipe = changed(self.base, {**changes, "training.seed": self.seed})
        for key, value in changes.items():
            if key.startswith("encoder.") and not recipe.reads(key):
                raise RecipeError(
                    f'{key} = {value} means nothing to encoder.name = "{recipe.encoder.name}", and this study compares '
                    'its values; use encoder.name = "resnet"'
                )
        return recipe

    @property
    def name(self) -> str:
        """Of its run folder."""
        values = "_".join(_plain(value) for value in self.place.values())
        return f"{values}_seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """points(recipe, scale) are its places in order; page(findings) the report. seeds: of a point, by scale.

    asks_for_color: its question is about colour, so that gray images answer little.
    tuned: an axis whose value the first seed chooses by `validation_top1`; the other seeds are run at that value alone.
    bases: the shipped recipe it starts from and changes of it, by scale. choices: what no source fixes and we chose.
    """

    name: str
    title: str
    source: str
    question: str
    points: Callable[[Recipe, str], Iterator[Point]]
    page: Callable[[Findings], Page]
    seeds: Mapping[str, int]
    choices: tuple[str, ...] = ()
    asks_for_color: bool = False
    tuned: str = ""
    bases: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=lambda: BASES)

    def cells(self, recipe: Recipe, scale: str, seeds: int) -> list[Cell]:
        """Every run, the first seed of all points first."""
        points = list(self.points(recipe, scale))
        return [Cell(point, seed, recipe) for seed in range(seeds) for point in points]


def linear(scale: str) -> str:
    """Linear evaluation: on cached features at small scale, by the paper's protocol (B.6) at the paper's."""
    return "linear" if scale == PAPER else "linear_fast"


def widths_of(recipe: Recipe, scale: str, papers: tuple[float, ...]) -> Iterator[tuple[float, Changes]]:
    """Widths of the encoder with their changes: the paper's at its scale; at small scale that of the recipe.

    A network by name is as wide as it is: 1.
    """
    if scale == PAPER:
        yield from ((width, {"encoder.width": width}) for width in papers)
    else:
        yield recipe.encoder.width if recipe.encoder.is_resnet else 1.0, {}


def training_changes(method: str, scale: str) -> Changes:
    """ "SimCLR", or "supervised": cross entropy on the same encoder and views.

    At the paper's scale with its supervised models' SGD (rate 0.1 B/256, weight decay 1e-4; authors, issue 10), at
    small scale with the recipe's own optimiser.
    """
    if method == "SimCLR":
        return {}
    if scale == SMALL:
        return {"method.name": "supervised"}
    return {
        "method.name": "supervised",
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.1,
        "optimizer.learning_rate_scaling": "linear",
        "optimizer.weight_decay": 1e-4,
    }


def changed(recipe: Recipe, changes: Changes) -> Recipe:
    """The recipe with other values, checked again."""
    text = recipe.model_copy(update={"variant": "none"}).to_toml()  # resolved already
    return parse_recipe(text, [f"{key}={json.dumps(value)}" for key, value in changes.items()], origin="the study")


def _plain(value: Any) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "-" for c in str(value)).strip("-") or "none"
