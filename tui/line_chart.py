"""A chart of curves: axes, gaps, reference lines, a crosshair, zoom. What is drawn is worked out in raster.py.

Our own, because the kept chart packages for Textual need 8 to 350 times the time for long curves and have neither
logarithmic axes nor gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.color import Color, ColorParseError
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from .raster import DOTS, Floats, Mask, Window, characters, level, points, raster
from .ticks import decades, labels, short, ticks

GUTTER = 8
ROWS_A_TICK, COLUMNS_A_TICK = 2, 6
COLUMNS_A_MARK = 8  # where marks stand closer, they are drawn on the axis alone
PALETTE = ("#4c9be8", "#e8843c", "#3fb27f", "#d65db1", "#c9a227", "#8d7bea", "#d9534f", "#3bb5c4")
ANSI_PALETTE = tuple(
    f"ansi_{name}"
    for name in ("bright_blue", "yellow", "green", "magenta", "cyan", "bright_magenta", "red", "bright_cyan")
)
ENOUGH = 20_000  # points that are looked at to choose the range of y


@dataclass(frozen=True)
class Curve:
    """A line: x rises; NaN in y is a gap. `faint` ones are drawn dim and behind, and do not name their value.

    Each value of a `dotted` one has a dot of its own.
    """

    label: str
    x: Floats
    y: Floats
    color: int | str = 0  # place in the palette, or a colour of the theme
    faint: bool = False
    dotted: bool = False


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line."""

    label: str
    y: float


class LineChart(Widget):
    """Curves on common axes; `show` gives it something to draw."""

    DEFAULT_CSS = "LineChart { height: 1fr; width: 1fr; }"

    class Pointed(Message):
        """The mouse points at an x."""

        def __init__(self, x: float) -> None:
            super().__init__()
            self.x = x

    class Zoomed(Message):
        """The wheel was turned at an x."""

        def __init__(self, x: float, factor: float) -> None:
            super().__init__()
            self.x, self.factor = x, factor

    def __init__(self, title: str = "", *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.title = title
        self.curves: Sequence[Curve] = ()
        self.levels: Sequence[Level] = ()
        self.marks_at: Sequence[float] = ()  # x of dotted vertical lines
        self.form: Callable[..., str] = short  # of a value, and how many digits if need be
        self.note = "no data yet"
        self.x_name = ""
        self.span: tuple[float, float] | None = None  # of x; None: all
        self.crosshair: float | None = None
        self.log_y = False
        self.marks = "braille"
        self._strips: list[Strip] = []
        self._plot = (0.0, 1.0)
        self.drawings = 0

    def show(
        self,
        curves: Sequence[Curve],
        levels: Sequence[Level] = (),
        *,
        span: tuple[float, float] | None = None,
        crosshair: float | None = None,
        log_y: bool = False,
        marks_at: Sequence[float] = (),
    ) -> None:
        """Draw these from now on."""
        self.curves, self.levels, self.marks_at = curves, levels, marks_at
        self.span, self.crosshair, self.log_y = span, crosshair, log_y
        self.redraw()

    def redraw(self) -> None:
        """Draw again, with other colours or another size."""
        self._strips = []
        self.refresh()

    def on_resize(self) -> None:
        """Another size is another drawing."""
        self.redraw()

    def render_line(self, y: int) -> Strip:
        """A row of the drawing, which is made when the first row is asked for."""
        if not self._strips:
            self._strips = self._draw(self.size.width, self.size.height)
            self.drawings += 1
        return self._strips[y] if y < len(self._strips) else Strip.blank(self.size.width, self.rich_style)

    def x_at(self, column: int) -> float:
        """The x shown in a column of the widget."""
        x0, x1 = self._plot
        part = (column - GUTTER + 0.5) / max(1, self.size.width - GUTTER)
        return x0 + min(1.0, max(0.0, part)) * (x1 - x0)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Follow the mouse with the crosshair."""
        if event.x >= GUTTER and self.curves:
            self.post_message(self.Pointed(self.x_at(event.x)))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Look closer."""
        event.stop()
        self.post_message(self.Zoomed(self.x_at(event.x), 0.8))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Look from further away."""
        event.stop()
        self.post_message(self.Zoomed(self.x_at(event.x), 1.25))

    def color(self, which: int | str) -> Style:
        """A colour of the palette or of the theme."""
        names = self.app.theme_variables
        if isinstance(which, int):
            palette = ANSI_PALETTE if is_ansi(names) else PALETTE
            which = palette[which % len(palette)]
        try:
            return Style(color=Color.parse(names.get(which, which)).rich_color)
        except ColorParseError:
            return Style()

    def _draw(self, width: int, height: int) -> list[Strip]:
        muted, base = Style(dim=True), self.rich_style
        plot_wide, plot_high = width - GUTTER, height - 2
        window = self._window()
        if plot_wide < 4 or plot_high < 2 or window is None:
            lines = [self._title(width, None), Strip([Segment(f"  {self.note}"[:width], muted)], None)]
            return [line.adjust_cell_length(width).apply_style(base) for line in lines[:height]]
        self._plot = (window.x0, window.x1)
        text, styles = self._cells(window, plot_wide, plot_high)
        gutter = self._gutter(window, plot_high)
        rows = [self._title(width, window)]
        for row in range(plot_high):
            rows.append(Strip([Segment(gutter[row], muted), *runs_of(text[row], styles[row], self._styles)]))
        rows.append(Strip([Segment(self._foot(window, width), muted)]))
        return [row.adjust_cell_length(width).apply_style(base) for row in rows]

    def _scaled(self, y: Floats) -> Floats:
        if not self.log_y:
            return y
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(y > 0, np.log10(y), np.nan)

    def _window(self) -> Window | None:
        """The range that holds the curves in `span`, but for a hundredth of the outliers of faint ones."""
        full = [curve for curve in self.curves if len(curve.x)]
        if not full:
            return None
        x0, x1 = self.span or (min(float(c.x[0]) for c in full), max(float(c.x[-1]) for c in full))
        if x1 <= x0:
            x0, x1 = x0 - 0.5, x0 + 0.5
        lows, highs = [], []
        for curve in full:
            first, last = np.searchsorted(curve.x, x0), np.searchsorted(curve.x, x1, "right")
            y = curve.y[max(0, first - 1) : last + 1]
            y = self._scaled(y[:: -(-len(y) // ENOUGH) or 1])
            y = y[np.isfinite(y)]
            if len(y):
                cut = (1, 99) if curve.faint and len(y) > 50 else (0, 100)
                low, high = np.percentile(y, cut)
                lows.append(float(low))
                highs.append(float(high))
        if not lows:
            return None
        for mark in self.levels:
            at = float(self._scaled(np.array([mark.y]))[0])
            if math.isfinite(at):
                lows.append(at)
                highs.append(at)
        low, high = min(lows), max(highs)
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # constant, but for rounding
            low = high = (low + high) / 2
        if low == high == 0:
            high = 1.0
        room = 0.04 * (high - low) or abs(high) * 0.1
        return Window(x0, x1, low - room, high + room)

    def _cells(self, window: Window, wide: int, high: int) -> tuple[list[list[str]], list[list[int]]]:
        """Characters and places in self._styles, painted from the back: levels, faint curves, curves, crosshair."""
        dots_high, dots_wide = DOTS[self.marks]
        H, W = high * dots_high, wide * dots_wide
        self._styles = [Style()]
        text = np.full((high, wide), " ")
        style = np.zeros((high, wide), dtype=np.int64)

        def paint(dots: Mask, how: Style) -> None:
            found = characters(dots, self.marks)
            self._styles.append(how)
            text[found != " "] = found[found != " "]
            style[found != " "] = len(self._styles) - 1

        dim = Style(dim=True)
        self._styles.append(dim)
        columns = [self._column(x, window, wide) for x in self.marks_at if window.x0 < x < window.x1]
        for column in columns:
            first = 0 if len(columns) <= wide // COLUMNS_A_MARK else high - 1
            text[first:, column] = "┊" if self.marks == "braille" else ":"
            style[first:, column] = 1
        for mark in self.levels:
            y = float(self._scaled(np.array([mark.y]))[0])
            paint(level(y, window, W, H), self.color("foreground") + dim)
        for curve in sorted(self.curves, key=lambda curve: not curve.faint):
            how = self.color(curve.color) + (dim if curve.faint else Style(bold=False))
            y_of = self._scaled(curve.y)
            paint(raster(curve.x, y_of, window, W, H), how)
            if curve.dotted:
                rows, cells = points(curve.x, y_of, window, W, H)
                text[rows // dots_high, cells // dots_wide] = "•" if self.marks == "braille" else "o"
                style[rows // dots_high, cells // dots_wide] = len(self._styles) - 1
        if self.crosshair is not None and window.x0 <= self.crosshair <= window.x1:
            column = self._column(self.crosshair, window, wide)
            self._styles.append(self.color("foreground"))
            free = text[:, column] == " "
            text[free, column] = "│" if self.marks == "braille" else "|"
            style[free, column] = len(self._styles) - 1
        self._name_levels(window, text, style)
        return text.tolist(), style.tolist()

    @staticmethod
    def _column(x: float, window: Window, wide: int) -> int:
        return min(wide - 1, int((x - window.x0) / (window.x1 - window.x0) * wide))

    def _name_levels(self, window: Window, text: NDArray[np.str_], style: NDArray[np.int64]) -> None:
        """Write what a dashed line is on the line itself, at its right or left end, where no curve is in the way."""
        high, wide = text.shape
        self._styles.append(Style(dim=True))
        for mark in self.levels:
            y = float(self._scaled(np.array([mark.y]))[0])
            if not window.y0 <= y <= window.y1:
                continue
            dots = DOTS[self.marks][0]
            row = round((window.y1 - y) / (window.y1 - window.y0) * (high * dots - 1)) // dots
            words = f" {mark.label} {self.form(mark.y)} "
            for begin in (wide - len(words), 0):
                place = slice(begin, begin + len(words))
                if begin >= 0 and (style[row, place] <= 1 + len(self.levels)).all():  # blanks, marks and dashes only
                    text[row, place] = list(words)
                    style[row, place] = len(self._styles) - 1
                    break

    def _gutter(self, window: Window, high: int) -> list[str]:
        """Values at the left, each in the row where it stands."""
        bar = "│" if self.marks == "braille" else "|"
        rows = [" " * (GUTTER - 1) + bar] * high
        dots = DOTS[self.marks][0]
        values = (decades if self.log_y else ticks)(window.y0, window.y1, max(2, round(high / ROWS_A_TICK)))
        written = labels([10**value for value in values] if self.log_y else values, self.form)
        for value, label in zip(values, written, strict=True):
            row = round((window.y1 - value) / (window.y1 - window.y0) * (high * dots - 1)) // dots
            rows[row] = f"{label[: GUTTER - 1]:>{GUTTER - 1}}{'┤' if self.marks == 'braille' else '+'}"
        return rows

    def _foot(self, window: Window, width: int) -> str:
        """Values of x below."""
        line = list(f"{self.x_name[: GUTTER - 1]:<{width}}")
        values = ticks(window.x0, window.x1, max(2, (width - GUTTER) // COLUMNS_A_TICK))
        for value, label in zip(values, labels(values, short), strict=True):
            at = GUTTER + int((value - window.x0) / (window.x1 - window.x0) * (width - GUTTER))
            begin = min(max(at - len(label) // 2, GUTTER), width - len(label))
            if begin >= 0 and all(c == " " for c in line[max(0, begin - 1) : begin + len(label)]):
                line[begin : begin + len(label)] = label
        return "".join(line)

    def _title(self, width: int, window: Window | None) -> Strip:
        """The name, and the newest values or those under the crosshair."""
        parts = [Segment(f" {self.title}", Style(bold=True))]
        at = self.crosshair if window and self.crosshair is not None else None
        if at is not None and window and window.x0 <= at <= window.x1:
            parts.append(Segment(f" @{short(at)}", Style(dim=True)))
        else:
            at = None
        for curve in self.curves:
            if not curve.faint and len(curve.x):
                name = f"  {curve.label}" if curve.label else " "
                parts.append(Segment(f"{name} {self.form(value_at(curve, at))}", self.color(curve.color)))
        return Strip(parts)


def value_at(curve: Curve, x: float | None) -> float | None:
    """The value of a curve nearest to an x, or its newest one."""
    finite = np.flatnonzero(np.isfinite(curve.y))
    if not len(finite):
        return None
    if x is None:
        return float(curve.y[finite[-1]])
    return float(curve.y[finite[np.abs(curve.x[finite] - x).argmin()]])


def runs_of(text: list[str], styles: list[int], known: Sequence[Style]) -> list[Segment]:
    """A row as few segments: neighbours of one style are one."""
    found: list[Segment] = []
    begin = 0
    for i in range(1, len(text) + 1):
        if i == len(text) or styles[i] != styles[begin]:
            found.append(Segment("".join(text[begin:i]), known[styles[begin]]))
            begin = i
    return found


def is_ansi(variables: dict[str, str]) -> bool:
    """Whether a theme keeps to the 16 colours of the terminal."""
    return variables.get("background", "").startswith("ansi")
