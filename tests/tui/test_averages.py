"""The average that a chart draws: where it lies, what gaps and ends do to it, and what it costs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from made_up_curves import LIGHT, STEPS, STRONG, decay
from simclr_plus.tui.charts.average import NEIGHBOURHOOD, REACH, centred


def noisy(lines: int, *, seed: int = 0) -> tuple[Any, Any]:
    """A curve that falls as a loss does, of so many lines over the whole axis."""
    x = np.round(np.linspace(10, STEPS, lines))
    return x, decay(x) + 0.1 * np.random.default_rng(seed).normal(size=lines)


@pytest.mark.parametrize("width", [LIGHT, STRONG])
@pytest.mark.parametrize("lines", [172, 600, 5000, 40_000])
def test_as_many_values_lie_above_the_average_as_below_in_every_third(lines: int, width: float) -> None:
    x, y = noisy(lines)
    at, average = centred(x, y, width)
    above = y > np.interp(x, at, average)
    for third in np.array_split(above, 3):
        assert 0.4 <= third.mean() <= 0.6


@pytest.mark.parametrize("width", [LIGHT, STRONG])
@pytest.mark.parametrize("lines", [2, 3, 5, 30, 172, 5000, 40_000])
def test_the_average_lies_within_the_values_around_it(lines: int, width: float) -> None:
    x, y = noisy(lines)
    for at, value in zip(*centred(x, y, width), strict=True):
        near = y[np.abs(x - at) <= NEIGHBOURHOOD * width]
        assert near.min() <= value <= near.max()


@pytest.mark.parametrize("lines", [30, 172, 5000])
def test_the_average_of_a_run_does_not_change_where_it_grows_on(lines: int) -> None:
    x, y = noisy(lines)
    for part in (lines // 3, lines // 2):
        whole = np.interp(x, *centred(x, y, LIGHT))
        at, average = centred(x[:part], y[:part], LIGHT)
        settled = at < x[part - 1] - 2 * REACH * LIGHT
        assert settled.any()
        np.testing.assert_allclose(average[settled], np.interp(at, x, whole)[settled], atol=2e-3)


def test_the_average_of_a_straight_line_is_that_line_to_its_ends() -> None:
    x = np.arange(10.0, 1720.0, 10)
    at, average = centred(x, 3 - 0.001 * x, LIGHT)
    np.testing.assert_allclose(average, 3 - 0.001 * at, atol=1e-4)


def test_the_average_is_near_the_fit_that_a_plain_loop_makes() -> None:
    x, y = noisy(400)

    def fit(values: Any) -> Any:
        found = []
        for here_ in x:
            w = np.exp(-(((x - here_) / LIGHT) ** 2) / 2) * (np.abs(x - here_) <= REACH * LIGHT)
            root = np.sqrt(w)
            line_ = np.linalg.lstsq(np.stack([root, root * (x - here_)], 1), root * values, rcond=None)[0]
            found.append(line_[0])
        return np.array(found)

    first = fit(y)
    _, average = centred(x, y, LIGHT)
    assert np.abs(average - (first + fit(y - first))).max() < 0.02


def test_missing_values_are_gaps_in_the_average_and_weigh_nothing() -> None:
    x, y = noisy(172)
    holes = y.copy()
    holes[[5, 80, 81, 171]] = np.nan, np.inf, -np.inf, np.nan
    at, average = centred(x, holes, LIGHT)
    assert np.array_equal(np.isnan(average), ~np.isfinite(holes)) and np.array_equal(at, x)
    assert np.nanmax(np.abs(average - decay(x))) < 0.4
    nothing = np.full(172, np.nan)
    assert np.isnan(centred(x, nothing, LIGHT)[1]).all()


@pytest.mark.parametrize("y", [[1e300, -1e300, 1e300, 1e300], [0.0] * 4, [-1e-310, 1e-310, 0, 1]])
def test_numbers_of_any_size_are_averaged_without_a_warning(y: list[float]) -> None:
    x = np.array([0.0, 0.0, 1.0, 1e9])
    for width in (0.0, 1e-9, 1.0, 1e12):
        _, average = centred(x, np.array(y), width)
        assert np.isfinite(average).all() and min(y) <= average.min() and average.max() <= max(y)


def test_a_million_values_are_averaged_as_quickly_as_they_are_sorted_thrice() -> None:
    x, y = noisy(1_000_000)

    def best(what: Any) -> float:
        times = []
        for _ in range(4):
            begin = time.process_time()
            what()
            times.append(time.process_time() - begin)
        return min(times)

    assert best(lambda: centred(x, y, LIGHT)) < 3 * best(lambda: np.sort(y))
