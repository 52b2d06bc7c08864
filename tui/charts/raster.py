"""A line as dots: which dots of a grid a curve passes through or spans, and the characters that show them. Pure numpy.

Letters: H, W are rows and columns of dots. A braille character holds 4 rows of 2 dots, an ASCII one 2 rows of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# the bit of each dot in a braille character (Unicode block 2800), by row and column
BRAILLE_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], dtype=np.uint8)
DOTS = {"braille": (4, 2), "ascii": (2, 1)}  # rows and columns of dots in a character
ASCII_CELLS = " '.|"  # none, upper, lower, both


@dataclass(frozen=True)
class Window:
    """What is shown: a range of x and one of y."""

    x0: float
    x1: float
    y0: float
    y1: float


def spans(x: Floats, y: Floats, x0: float, x1: float, W: int) -> tuple[Floats, Floats]:
    """Lowest and highest value of a curve within each of W columns; NaN where it does not pass.

    `x` rises. Points are joined by straight lines, so that neighbouring columns meet; a NaN in `y` leaves a gap.
    """
    low, high = np.full(W, np.inf), np.full(W, -np.inf)
    if not len(x) or x1 <= x0:
        return np.full(W, np.nan), np.full(W, np.nan)
    first = max(0, int(np.searchsorted(x, x0, "left")) - 1)
    last = int(np.searchsorted(x, x1, "right")) + 1
    x, y = x[first:last], y[first:last]
    finite = np.isfinite(y)
    _take_points(x, y, finite, x0, x1, low, high)
    edges = np.linspace(x0, x1, W + 1)
    after = np.searchsorted(x, edges, "left")
    inside = (after > 0) & (after < len(x))
    after = np.clip(after, 1, max(1, len(x) - 1))
    if len(x) > 1:
        joined = inside & finite[after - 1] & finite[after]
        width = x[after] - x[after - 1]
        width = np.where(width > 0, width, 1.0)
        part = (edges - x[after - 1]) / width
        with np.errstate(invalid="ignore"):
            value = y[after - 1] + part * (y[after] - y[after - 1])
        for columns, value_at, take in ((slice(0, W), value[:-1], joined[:-1]), (slice(0, W), value[1:], joined[1:])):
            low[columns] = np.where(take, np.minimum(low[columns], value_at), low[columns])
            high[columns] = np.where(take, np.maximum(high[columns], value_at), high[columns])
    empty = low > high
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def _take_points(x: Floats, y: Floats, finite: Mask, x0: float, x1: float, low: Floats, high: Floats) -> None:
    """The points themselves, by column."""
    W = len(low)
    shown = finite & (x >= x0) & (x <= x1)
    if not shown.any():
        return
    values = y[shown]
    column = np.minimum(((x[shown] - x0) / (x1 - x0) * W).astype(np.int64), W - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    low[column[starts]] = np.minimum.reduceat(values, starts)
    high[column[starts]] = np.maximum.reduceat(values, starts)


def raster(x: Floats, y: Floats, window: Window, W: int, H: int) -> Mask:
    """The dots [H, W] of a curve in a window; row 0 is the top. What lies outside the window is cut off."""
    low, high = spans(x, y, window.x0, window.x1, W)
    height = window.y1 - window.y0
    with np.errstate(invalid="ignore"):
        visible = (high >= window.y0) & (low <= window.y1) & (height > 0)
        to_row = (H - 1) / height if height > 0 else 0.0
        top = np.rint((window.y1 - np.minimum(high, window.y1)) * to_row)
        bottom = np.rint((window.y1 - np.maximum(low, window.y0)) * to_row)
        rows = np.arange(H)[:, None]
        dots: Mask = (rows >= top) & (rows <= bottom) & visible
    return dots


def bars(x: Floats, low: Floats, high: Floats, window: Window, W: int, H: int) -> Mask:
    """The dots [H, W] of a vertical line from low to high at each x."""
    dots = np.zeros((H, W), dtype=bool)
    top, columns = points(x, np.minimum(high, window.y1), window, W, H)
    bottom, columns_below = points(x, np.maximum(low, window.y0), window, W, H)
    if len(columns) == len(columns_below):
        for column, first, last in zip(columns, top, bottom, strict=True):
            dots[first : last + 1, column] = True
    return dots


def halves(x: Floats, y: Floats, window: Window, wide: int, high: int) -> tuple[Mask, Mask]:
    """The half characters [2 high, wide] that a curve's values in each column span; and those that it only touches.

    A half is spanned when its middle is. Where the values lie closer together than that, it is touched.
    """
    low, top = spans(x, y, window.x0, window.x1, wide)
    height = window.y1 - window.y0
    if height <= 0:
        return np.zeros((2 * high, wide), dtype=bool), np.zeros((2 * high, wide), dtype=bool)
    with np.errstate(invalid="ignore"):
        visible = (top >= window.y0) & (low <= window.y1)
        first, last = (
            ((window.y1 - np.clip(values, window.y0, window.y1)) / height * (4 * high - 1) + 0.5) / 2
            for values in (top, low)
        )
        middle = np.arange(2 * high)[:, None] + 0.5
        spanned: Mask = (middle >= first) & (middle <= last) & visible
        touched: Mask = (np.floor((first + last) / 2) == middle - 0.5) & visible & ~spanned.any(axis=0)
    return spanned, touched


def level(y: float, window: Window, W: int, H: int) -> Mask:
    """A dashed horizontal line at a value; nothing where it is not in the window."""
    dots = np.zeros((H, W), dtype=bool)
    if window.y0 <= y <= window.y1 and window.y1 > window.y0:
        dots[round((window.y1 - y) / (window.y1 - window.y0) * (H - 1)), np.arange(W) % 4 < 2] = True
    return dots


def points(x: Floats, y: Floats, window: Window, W: int, H: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns, of H and W, of the points in a window."""
    shown = (x >= window.x0) & (x <= window.x1) & (y >= window.y0) & (y <= window.y1)
    part = (x[shown] - window.x0) / (window.x1 - window.x0)
    rows = np.rint((window.y1 - y[shown]) / (window.y1 - window.y0) * (H - 1)).astype(np.int64)
    return rows, np.minimum((part * W).astype(np.int64), W - 1)


def characters(dots: Mask, marks: str = "braille") -> NDArray[np.str_]:
    """The characters [H / 4, W / 2] (braille) or [H / 2, W] (ascii) that show dots; a blank where there is none."""
    high, wide = DOTS[marks]
    H, W = dots.shape
    cells = dots.reshape(H // high, high, W // wide, wide).transpose(0, 2, 1, 3)
    if marks == "ascii":
        index = cells[..., 0, 0] + 2 * cells[..., 1, 0]
        return np.array(list(ASCII_CELLS))[index]
    codes = (cells * BRAILLE_BITS).sum(axis=(2, 3)).astype(np.uint32)
    text: NDArray[np.str_] = np.where(codes > 0, codes + 0x2800, 0x20).astype(np.uint32).view("<U1")
    return text
