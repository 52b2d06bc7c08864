"""Values of a parametrized test of which a few are quick to prove and the rest are `slow`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def rest_slow(values: Sequence[Any], quick: int = 1) -> list[Any]:
    """The values in their order; those after the first `quick` are marked slow."""
    return [*values[:quick], *(pytest.param(value, marks=pytest.mark.slow) for value in values[quick:])]
