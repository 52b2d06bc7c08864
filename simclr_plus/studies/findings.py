"""What the cells of a study found: figures by place and seed, their mean and spread, and differences between places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

# Student's t, 95 % two-sided, by degrees of freedom from 1 on
T_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
ON_TEST_IMAGES = ("top1", "from_", "chance")  # figures that are shares of the test images


@dataclass(frozen=True)
class Found:
    """The figures of one cell."""

    place: Mapping[str, Any]
    seed: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over n seeds (0 with one)."""

    mean: float
    deviation: float
    n: int

    @property
    def bar(self) -> float:
        """The deviation in percent for an error bar; with one seed none (not a number)."""
        return 100 * self.deviation if self.n > 1 else math.nan

    def percent(self) -> str:
        """ "81.3 ± 0.4", or "81.3" of one seed."""
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.deviation:.1f}" if self.n > 1 else "")

    def plain(self, digits: int = 2) -> str:
        """The same without the factor 100."""
        return f"{self.mean:.{digits}f}" + (f" ± {self.deviation:.{digits}f}" if self.n > 1 else "")


@dataclass(frozen=True)
class Difference:
    """A difference of figures with half of its 95 % interval: over n seeds by Student's t, with one seed, and at the
    least, by the number of test images (as if each place had its own; infinite for figures that are no share of them).
    """

    value: float
    half: float
    n: int

    @property
    def is_above(self) -> bool:
        """Whether the interval lies above 0."""
        return self.value > self.half

    @property
    def is_below(self) -> bool:
        """Whether the interval lies below 0."""
        return self.value < -self.half

    def text(self) -> str:
        """In percentage points."""
        if math.isinf(self.half):
            return f"{100 * self.value:+.1f} points (n = 1: how sure that is cannot be told)"
        how = f"n = {self.n}" if self.n > 1 else "n = 1, by the test images"
        return f"{100 * self.value:+.1f} ± {100 * self.half:.1f} points (95 %, {how})"


Term = tuple[int, Mapping[str, Any], str]  # a sign, a place, a figure


@dataclass(frozen=True)
class Findings:
    """All cells that were measured; test_images tells how coarse an accuracy is. runs: where the user's runs lie."""

    rows: Sequence[Found]
    scale: str
    test_images: int
    runs: Path | None = None

    def axis(self, name: str) -> list[Any]:
        """The values of an axis, in the order of the plan."""
        return list(dict.fromkeys(row.place[name] for row in self.rows if name in row.place))

    def of_seeds(self, figure: str, **place: Any) -> dict[int, float]:
        """The figure at a place, by seed; a seed that several cells share (an axis left open) is their mean."""
        of_seed: dict[int, list[float]] = {}
        for row in self._at(place, figure):
            of_seed.setdefault(row.seed, []).append(row.numbers[figure])
        return {seed: mean(values) for seed, values in of_seed.items()}

    def spread(self, figure: str, **place: Any) -> Spread | None:
        """Mean and deviation over seeds at a place; None where nothing was measured."""
        values = list(self.of_seeds(figure, **place).values())
        return Spread(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values)) if values else None

    def value(self, figure: str, **place: Any) -> float:
        """The mean at a place; NaN where nothing was measured."""
        spread = self.spread(figure, **place)
        return spread.mean if spread else math.nan

    def text(self, figure: str, *, percent: bool = True, **place: Any) -> str:
        """Mean and spread for a table; a dash where nothing was measured."""
        spread = self.spread(figure, **place)
        if spread is None:
            return "–"
        return spread.percent() if percent else spread.plain()

    def difference(
        self, a: Mapping[str, Any], b: Mapping[str, Any], figure: str = "top1", other: str = ""
    ) -> Difference | None:
        """The figure at a minus the figure (or another one) at b; None where nothing can be paired."""
        return self.sum_of([(1, a, figure), (-1, b, other or figure)])

    def sum_of(self, terms: Sequence[Term]) -> Difference | None:
        """A signed sum of figures, each axis that no term names matched cell by cell, then averaged within a seed.

        None where nothing can be matched, or where the terms cancel: a place compared with itself tells nothing.
        """
        if all(terms.count(term) == terms.count((-term[0], *term[1:])) for term in terms):
            return None
        named = {axis for _, place, _ in terms for axis in place}
        by_term: list[dict[tuple[Any, ...], float]] = []
        for sign, place, figure in terms:
            cells = self._at(place, figure)
            by_term.append({self._key(row, named): sign * row.numbers[figure] for row in cells})
        shared = set(by_term[0]).intersection(*by_term[1:])
        if not shared:
            return None
        of_seeds: dict[int, list[float]] = {}
        for key in sorted(shared, key=str):
            of_seeds.setdefault(key[0], []).append(sum(values[key] for values in by_term))
        values, n = [mean(figures) for figures in of_seeds.values()], len(of_seeds)
        if not all(figure.startswith(ON_TEST_IMAGES) for _, _, figure in terms):
            of_images = math.inf if n == 1 else 0.0
        else:
            shares = [abs(values[key]) for values in by_term for key in shared]
            variance = sum(p * (1 - p) for p in shares) / max(1, self.test_images) / (len(shared) / n) ** 2
            of_images = math.sqrt(variance) / n
        if n == 1:
            return Difference(values[0], 2 * of_images, 1)
        by_seeds = T_95[min(n - 1, len(T_95)) - 1] * stdev(values) / math.sqrt(n)
        return Difference(mean(values), max(by_seeds, 2 * of_images), n)

    def _at(self, place: Mapping[str, Any], figure: str) -> list[Found]:
        return [
            row
            for row in self.rows
            if all(row.place.get(axis) == value for axis, value in place.items())
            and figure in row.numbers
            and math.isfinite(row.numbers[figure])
        ]

    def _key(self, row: Found, named: set[str]) -> tuple[Any, ...]:
        return row.seed, *((axis, value) for axis, value in row.place.items() if axis not in named)
