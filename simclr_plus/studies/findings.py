"""What the cells of a study found: figures by place and seed, their mean and spread, and differences between places."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any


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

    def percent(self) -> str:
        """ "81.3 ± 0.4", or "81.3" of one seed."""
        return f"{100 * self.mean:.1f}" + (f" ± {100 * self.deviation:.1f}" if self.n > 1 else "")

    def plain(self, digits: int = 2) -> str:
        """The same without the factor 100."""
        return f"{self.mean:.{digits}f}" + (f" ± {self.deviation:.{digits}f}" if self.n > 1 else "")


@dataclass(frozen=True)
class Difference:
    """a - b of a figure, its standard error, and seeds; with one seed the error is that of the test images alone."""

    value: float
    error: float
    n: int

    @property
    def is_above(self) -> bool:
        """By more than two standard errors."""
        return self.value > 2 * self.error

    @property
    def is_below(self) -> bool:
        """By more than two standard errors."""
        return self.value < -2 * self.error

    def text(self) -> str:
        """In percentage points."""
        of = f"n = {self.n}" if self.n > 1 else "n = 1, error of the test images"
        return f"{100 * self.value:+.1f} ± {100 * self.error:.1f} points ({of})"


@dataclass(frozen=True)
class Findings:
    """All cells that were measured; test_images tells how coarse an accuracy is."""

    rows: Sequence[Found]
    scale: str
    test_images: int

    def axis(self, name: str) -> list[Any]:
        """The values of an axis, in the order of the plan."""
        return list(dict.fromkeys(row.place[name] for row in self.rows if name in row.place))

    def of_seeds(self, figure: str, **place: Any) -> dict[int, float]:
        """The figure at a place, by seed; a seed that several cells share (an axis left open) is their mean."""
        found: dict[int, list[float]] = {}
        for row in self.rows:
            here = all(row.place.get(axis) == value for axis, value in place.items())
            value = row.numbers.get(figure)
            if here and value is not None and math.isfinite(value):
                found.setdefault(row.seed, []).append(value)
        return {seed: mean(values) for seed, values in found.items()}

    def spread(self, figure: str, **place: Any) -> Spread | None:
        """Mean and deviation over seeds at a place; None where nothing was measured."""
        values = list(self.of_seeds(figure, **place).values())
        return Spread(mean(values), stdev(values) if len(values) > 1 else 0.0, len(values)) if values else None

    def value(self, figure: str, **place: Any) -> float:
        """The mean at a place; NaN where nothing was measured."""
        found = self.spread(figure, **place)
        return found.mean if found else math.nan

    def text(self, figure: str, *, percent: bool = True, **place: Any) -> str:
        """Mean and spread for a table; a dash where nothing was measured."""
        found = self.spread(figure, **place)
        if found is None:
            return "–"
        return found.percent() if percent else found.plain()

    def difference(
        self, a: Mapping[str, Any], b: Mapping[str, Any], figure: str = "top1", other: str = ""
    ) -> Difference | None:
        """The figure at a minus the figure (or another one) at b, paired by seed; None where either is missing."""
        left, right = self.of_seeds(figure, **a), self.of_seeds(other or figure, **b)
        pairs = [(left[seed], right[seed]) for seed in left if seed in right]
        if not pairs:
            return None
        differences = [x - y for x, y in pairs]
        if len(pairs) > 1:
            return Difference(mean(differences), stdev(differences) / math.sqrt(len(pairs)), len(pairs))
        variance = sum(p * (1 - p) for p in pairs[0] if 0 <= p <= 1) / max(1, self.test_images)
        return Difference(differences[0], math.sqrt(variance), 1)
