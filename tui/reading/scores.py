"""What an evaluation found, in a few characters: a share with the 95 % interval that its test images leave. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..charts.ticks import percent
from .feed import is_number

METRICS = {"top1": "top-1", "mean_per_class": "mean per class", "map11": "11-point mAP"}  # the first that is there
NORMAL_95 = 1.96  # standard errors on each side


def with_interval(share: object, test_images: object) -> str:
    """A share of right answers, with its interval where the number of test images is known.

    >>> with_interval(0.83, 2000)
    '83.0% ±1.6'
    """
    if not is_number(share):
        return "" if share is None else "no number"
    if not (is_number(test_images) and test_images >= 1 and 0 <= share <= 1):
        return percent(share)
    return f"{percent(share)} ±{100 * NORMAL_95 * math.sqrt(share * (1 - share) / test_images):.1f}"


def score(numbers: Mapping[str, Any], test_images: object) -> str:
    """The main figure of a subject, by its name."""
    key = next((key for key in METRICS if key in numbers), None)
    if key is None:
        return "no figure"
    return f"{METRICS[key]} {with_interval(numbers[key], test_images if key == 'top1' else None)}"
