"""Curves as dots, ticks, short numbers, durations, keys in a footer, sparklines."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from simclr_plus.tui.charts.raster import Window, characters, level, points, raster, spans
from simclr_plus.tui.charts.ticks import decades, labels, percent, short, spark, ticks
from simclr_plus.tui.widgets.key_bar import fitting

from simclr_plus.machine.words import duration


def test_a_curve_passes_through_the_dots_that_a_plain_loop_finds() -> None:
    generator = np.random.default_rng(0)
    x = np.sort(generator.uniform(0, 10, 300))
    y = generator.normal(size=300).cumsum()
    W, H, window = 40, 24, Window(0.0, 10.0, -8.0, 12.0)
    expected = np.zeros((H, W), dtype=bool)
    fine = np.unique(np.concatenate([np.linspace(x[0], x[-1], 40_001), x]))
    for at, value in zip(fine, np.interp(fine, x, y), strict=True):
        if window.y0 <= value <= window.y1:
            row = round((window.y1 - value) / (window.y1 - window.y0) * (H - 1))
            expected[row, min(W - 1, int(at / 10 * W))] = True
    found = raster(x, y, window, W, H)
    assert (expected & ~found).sum() == 0  # everything that the fine walk touches
    assert (found & ~expected).sum() <= 2  # and hardly a dot more: edges between columns


def test_missing_values_are_gaps_and_are_not_bridged() -> None:
    x, y = np.arange(10.0), np.array([1, 1, 1, np.nan, np.nan, np.nan, 1, 1, np.inf, 1])
    low, high = spans(x, y, 0.0, 9.0, 9)
    assert np.isnan(low[3:6]).all() and np.isfinite(low[[0, 1, 6]]).all()
    assert np.array_equal(np.isnan(low), np.isnan(high))


def test_a_single_spike_among_a_hundred_thousand_points_is_drawn() -> None:
    y = np.zeros(100_000)
    y[54_321] = 1.0
    dots = raster(np.arange(100_000.0), y, Window(0, 99_999, 0, 1), 100, 20)
    assert dots[0].nonzero()[0].tolist() == [54]


def test_braille_has_the_dots_of_the_unicode_block() -> None:
    dots = np.zeros((4, 4), dtype=bool)
    dots[0, 0] = dots[3, 1] = dots[1, 2] = True
    assert "".join(characters(dots)[0]) == chr(0x2800 + 0x01 + 0x80) + chr(0x2800 + 0x02)
    assert "".join(characters(np.zeros((4, 2), dtype=bool))[0]) == " "
    assert "".join(characters(np.array([[True, False, True], [False, True, True]]), "ascii")[0]) == "'.|"


def test_a_level_outside_the_window_is_not_drawn() -> None:
    assert level(5.0, Window(0, 1, 0, 4), 10, 8).sum() == 0
    assert level(4.0, Window(0, 1, 0, 4), 8, 8)[0].sum() == 4


def test_four_series_of_a_hundred_thousand_points_cost_little_more_than_of_a_thousand() -> None:
    """By the ratio to a sort of the same points, which is fair on a busy machine."""
    generator = np.random.default_rng(0)
    x = np.arange(100_000.0)
    series = [generator.normal(size=100_000).cumsum() for _ in range(4)]

    def best(what: Any) -> float:
        times = []
        for _ in range(5):
            begin = time.process_time()
            what()
            times.append(time.process_time() - begin)
        return min(times)

    drawing = best(lambda: [characters(raster(x, y, Window(0, 1e5, -500, 500), 300, 160)) for y in series])
    sorting = best(lambda: [np.sort(y) for y in series for _ in range(10)])
    assert drawing < 3 * sorting


@pytest.mark.parametrize(("low", "high", "most"), [(0, 1, 5), (-3.2, 17.9, 4), (1e-9, 3e-9, 6), (1e6, 2.5e7, 3)])
def test_ticks_are_round_within_the_range_and_not_too_many(low: float, high: float, most: int) -> None:
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most + 1 and all(low - 1e-12 <= value <= high * (1 + 1e-9) for value in found)
    if len(found) > 1:
        step = found[1] - found[0]
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5, 10)


def test_ticks_of_nothing_are_none() -> None:
    assert ticks(1, 1, 5) == ticks(math.nan, 1, 5) == ticks(0, math.inf, 5) == []


def test_decades_are_powers_of_ten_where_there_are_two() -> None:
    assert decades(-3, 2, 10) == [-3, -2, -1, 0, 1, 2]
    assert [round(10**value) for value in decades(math.log10(2), math.log10(9), 4)] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.3121, "4.31"),
        (0, "0"),
        (12500, "12.5k"),
        (1_300_000, "1.3M"),
        (3e-5, "3e-05"),
        (3.25e-5, "3.2e-05"),
        (100, "100"),
        (9999, "9999"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("values", "form", "texts"),
    [
        ([0, 0.5, 1, 1.5], short, ["0", "0.5", "1", "1.5"]),
        ([2.412, 2.414], short, ["2.412", "2.414"]),
        ([12_340, 12_350], short, ["12.34k", "12.35k"]),
        ([0.1 + 0.2, 0.4], percent, ["30%", "40%"]),
        ([0.005, 0.01], percent, ["0.5%", "1.0%"]),
        ([], short, []),
    ],
)
def test_the_values_of_an_axis_are_told_apart_in_few_digits(values: list[float], form: Any, texts: list[str]) -> None:
    assert labels(values, form) == texts


def test_points_lie_on_the_line_that_joins_them() -> None:
    x, y, window = np.array([0.0, 1, 2, 9]), np.array([0.0, 4, np.nan, 2]), Window(0, 4, 0, 4)
    rows, columns = points(x, y, window, 40, 20)
    assert rows.tolist() == [19, 0] and columns.tolist() == [0, 10]
    assert raster(x, y, window, 40, 20)[rows, columns].all()


@pytest.mark.parametrize("room", range(60))
def test_of_the_keys_some_always_stay_and_the_others_from_the_left(room: int) -> None:
    widths, always = [9, 3, 14, 5, 8, 7], [False, False, False, False, True, True]
    fit = fitting(widths, always, room)
    taken = sum(width for width, fits in zip(widths, fit, strict=True) if fits)
    assert fit[4:] == [True, True] and fit[:4] == sorted(fit[:4], reverse=True) and taken <= max(room, 15)
    first = fit.index(False) if False in fit else None
    assert first is None or taken + widths[first] > room  # no key is left out that there was room for


def test_what_is_not_there_is_a_dash() -> None:
    assert short(None) == short(math.nan) == duration(None) == "-"


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (187, "3:07 min"), (7500, "2:05 h"), (90000, "1 d 1 h")])
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_sparkline_has_its_extremes_and_gaps() -> None:
    assert spark([0, 7, math.nan, 3.5], 4) == "▁█ ▅"
    assert spark([], 5) == spark([math.nan], 5) == ""
    assert len(spark(list(range(1000)), 12)) == 12
