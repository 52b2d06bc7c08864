"""The centred average of a curve: a line fitted around each point with Gaussian weights. Pure numpy.

Its width is in x, so that it does not depend on how many points there are or how far the curve has come. It lies within
what was measured: nowhere is it above or below all values of its neighbourhood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .raster import Floats

STEPS = 10  # places of the grid in a standard deviation of the weights
REACH = 2.5  # standard deviations beyond which a value weighs nothing
NEIGHBOURHOOD = 2.0  # standard deviations: the average stays within the values that are no further away
CROWDED = 4  # points a place of the grid, beyond which the average has a point for each place only
MOST_WIDTHS = 1e5  # of a curve; a narrower average would be of single values
FLAT = 1e-6  # spread of x in places, below which no slope can be told


def centred(x: Floats, y: Floats, width: float) -> tuple[Floats, Floats]:
    """Average of rising `x` and `y` with weights exp(-(distance / width)^2 / 2), and the x where it stands.

    Missing values stay missing and weigh nothing. What the fit leaves over is averaged once more and added, so that a
    bend is not cut.
    """
    finite = np.isfinite(y)
    if finite.sum() < 3 or not 0 < x[-1] - x[0] < MOST_WIDTHS * width:
        return x, y
    points = _points(x[finite], y[finite], width / STEPS)
    grid = _Grid(points.x, points.count, width)
    scale = float(np.abs(y[finite]).max()) or 1.0  # sums of huge numbers must not run over
    values = points.y / scale
    line = grid.fit(values)
    line += grid.fit(values - grid.at(line, grid.x))
    low, high = grid.extremes(points.low, points.high)
    at = x if len(points.x) == finite.sum() else points.x
    bins = grid.bin_of(at)
    average = np.clip(grid.at(line, at) * scale, low[bins], high[bins])
    if len(at) == len(x):
        average[~finite] = np.nan
    return at, average


@dataclass(frozen=True)
class _Points:
    """Points, or where they are crowded their means, with how many they are and the least and greatest of them."""

    x: Floats
    y: Floats
    count: Floats
    low: Floats
    high: Floats


def _points(x: Floats, y: Floats, step: float) -> _Points:
    first, last = np.floor(x[0] / step), np.floor(x[-1] / step)
    if len(x) <= CROWDED * (last - first + 1):
        return _Points(x, y, np.ones(len(x)), y, y)
    edges = np.arange(first, last + 1) * step
    starts = np.unique(np.searchsorted(x, edges))
    starts = starts[starts < len(x)]
    count = np.diff(np.append(starts, len(x))).astype(np.float64)
    mean_x, mean_y = (np.add.reduceat(values / len(x), starts) * (len(x) / count) for values in (x, y))
    return _Points(mean_x, mean_y, count, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts))


class _Grid:
    """Places `width / STEPS` apart, counted from x = 0: a longer curve has the same ones, and some more."""

    def __init__(self, x: Floats, count: Floats, width: float) -> None:
        self.x, self.count, self.step = x, count, width / STEPS
        self.first = float(np.floor(x[0] / self.step))
        self.bins = np.maximum(np.floor(x / self.step) - self.first, 0).astype(np.int64)
        self.part = np.clip(x / self.step - self.first - self.bins, 0.0, 1.0)
        self.size = int(self.bins[-1]) + 2
        reach = round(REACH * STEPS)
        self.offset = np.arange(-reach, reach + 1.0)
        self.weight = np.exp(-((self.offset / STEPS) ** 2) / 2)
        self.moments = [self._sums(np.ones(len(x)), power) for power in (0, 1, 2)]

    def bin_of(self, x: Floats) -> NDArray[np.int64]:
        """The place at or before each x."""
        return np.clip(np.floor(x / self.step) - self.first, 0, self.size - 1).astype(np.int64)

    def at(self, line: Floats, x: Floats) -> Floats:
        """What stands on the places, between them."""
        values: Floats = np.interp(x / self.step - self.first, np.arange(self.size), line)
        return values

    def fit(self, y: Floats) -> Floats:
        """The value at each place of the line that is fitted around it."""
        total, lever = self._sums(y, 0), self._sums(y, 1)
        count, first, second = self.moments
        with np.errstate(invalid="ignore", divide="ignore"):
            mean, middle = total / count, first / count
            spread = second / count - middle**2
            slope = np.where(spread > FLAT, (lever / count - middle * mean) / spread, 0.0)
            line = mean - slope * middle
        observed = count > 0
        values: Floats = np.interp(np.arange(self.size), np.flatnonzero(observed), line[observed])
        return values

    def extremes(self, least: Floats, greatest: Floats) -> tuple[Floats, Floats]:
        """Least and greatest value in the neighbourhood of each place."""
        reach = round(NEIGHBOURHOOD * STEPS) - 1
        low, high = np.full(self.size + 2 * reach, np.inf), np.full(self.size + 2 * reach, -np.inf)
        starts = np.flatnonzero(np.diff(self.bins, prepend=-1))
        low[self.bins[starts] + reach] = np.minimum.reduceat(least, starts)
        high[self.bins[starts] + reach] = np.maximum.reduceat(greatest, starts)
        windows = np.lib.stride_tricks.sliding_window_view
        return windows(low, 2 * reach + 1).min(axis=1), windows(high, 2 * reach + 1).max(axis=1)

    def _sums(self, y: Floats, power: int) -> Floats:
        """Weighted sums of y (x_j - x)^power around each place; a point is shared by the two places beside it."""
        weighted = y * self.count
        on_places = np.bincount(self.bins, weighted * (1 - self.part), self.size)
        on_places += np.bincount(self.bins + 1, weighted * self.part, self.size)
        kernel = self.weight * (-self.offset) ** power
        reach = len(kernel) // 2
        sums: Floats = np.convolve(on_places, kernel)[reach : reach + self.size]
        return sums
