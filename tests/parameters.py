"""Values of parametrized tests: a few that are quick to prove, and the rest, which are `slow`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import pytest


def rest_slow(values: Sequence[Any], quick: int = 1) -> list[Any]:
    """The values in their order; those after the first `quick` are marked slow."""
    return [*values[:quick], *(pytest.param(value, marks=pytest.mark.slow) for value in values[quick:])]


def slow_or_soak(values: Sequence[Any], longest: Sequence[Any]) -> list[Any]:
    """The values, all marked slow but the longest, which `make soak` proves."""
    return [pytest.param(v, marks=pytest.mark.soak if v in longest else pytest.mark.slow) for v in values]


def pairs_quick(*values: Sequence[Any]) -> list[Any]:
    """All combinations; those that a covering of every pair of values does not need are marked slow."""
    left = {pair for combination in product(*map(_numbers, values)) for pair in combinations(enumerate(combination), 2)}
    every, quick = list(product(*map(_numbers, values))), set()
    while left:
        best = max(every, key=lambda combination: len(left & set(combinations(enumerate(combination), 2))))
        quick.add(best)
        left -= set(combinations(enumerate(best), 2))
    return [
        pytest.param(
            *(of_one[number] for of_one, number in zip(values, numbers, strict=True)),
            marks=() if numbers in quick else pytest.mark.slow,
        )
        for numbers in every
    ]


def _numbers(values: Sequence[Any]) -> range:
    return range(len(values))
