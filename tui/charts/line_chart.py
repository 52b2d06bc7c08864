"""A chart of curves: axes, gaps, reference lines, a crosshair, zoom. What is drawn is worked out in raster.py.

Our own, because the kept chart packages for Textual need 8 to 350 times the time for long curves and have neither
logarithmic axes nor gaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.color import Color, ColorParseError
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from .raster import DOTS, Floats, Mask, Window, bars, characters, halves, level, points, raster
from .ticks import LEAST_WITHOUT_POWER, axis_labels, decades, labels, powers, rounded, short, ticks

GUTTER = 8
ROWS_A_TICK, COLUMNS_A_TICK = 2, 6
COLUMNS_A_MARK = 8  # where marks stand closer, they are drawn on the axis alone
PALETTE = ("#4c9be8", "#e8843c", "#3fb27f", "#d65db1", "#c9a227", "#8d7bea", "#d9534f", "#3bb5c4")
ANSI_PALETTE = tuple(
    f"ansi_{name}"
    for name in ("bright_blue", "yellow", "green", "magenta", "cyan", "bright_magenta", "red", "bright_cyan")
)
ENOUGH = 20_000  # points that are looked at to choose the range of y
BAND = 0.28  # share of a curve's colour in the background where its raw values lie
ROWS_OF_WORDS = 6  # at the foot of a chart, where it says what its figures stand on
DIM = Style(dim=True)


@dataclass(frozen=True)
class Curve:
    """A line: x rises; NaN in y is a gap. `faint` ones are drawn dim and behind, and do not name their value.

    `band`: values as a background, over which their average is drawn; `of`: the values that this one is the average of,
    which are the ones that are named. Each value of a `dotted` one has a dot of its own, with a bar from low to high.
    """

    label: str
    x: Floats
    y: Floats
    color: int | str = 0  # place in the palette, or a colour of the theme
    faint: bool = False
    dotted: bool = False
    band: bool = False
    of: Curve | None = None
    marker: str = "•"
    joined: bool = True
    low: Floats | None = None
    high: Floats | None = None
    beside: str = ""  # written after the newest value

    @property
    def values(self) -> Curve:
        """What was measured."""
        return self.of if self.of is not None else self


@dataclass(frozen=True)
class Level:
    """A dashed horizontal line; `valued`: the label tells the value already; `own`: it is of one run alone."""

    label: str
    y: float
    valued: bool = False
    own: bool = False


@dataclass(frozen=True)
class View:
    """What of the curves is shown, and how."""

    span: tuple[float, float] | None = None  # of x; None: all
    crosshair: float | None = None
    log_y: bool = False
    low: float | None = None  # where y begins; None: near the least value
    high: float | None = None  # where y reaches at the least
    tight: bool = False  # y as narrow as its values
    edge: tuple[float, str] | None = None  # where the values end for now, and a word for it
    tag: str = ""  # what the x under the crosshair is


class LineChart(Widget):
    """Curves on common axes; `show` gives it something to draw."""

    DEFAULT_CSS = "LineChart { height: 1fr; width: 1fr; }"

    class Pointed(Message):
        """The mouse points at an x; with a click it is to stay there."""

        def __init__(self, x: float, *, clicked: bool = False) -> None:
            super().__init__()
            self.x, self.clicked = x, clicked

    class Left(Message):
        """The mouse points at no chart any more."""

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
        self.captions: Sequence[Sequence[str]] = ()  # lines of words in the chart, each in several lengths
        self.tail: Sequence[str] = ("",)  # words at the end of the title, in several lengths
        self.form: Callable[..., str] = short  # of a value, and how many digits if need be
        self.note = "no data yet"
        self.x_name = ""
        self.whole_x = False  # x comes in ones
        self.view = View()
        self.window: Window | None = None  # what was drawn last
        self.marks = "braille"
        self._strips: list[Strip] = []
        self._plot = (0.0, 1.0)
        self.drawings = 0

    @property
    def span(self) -> tuple[float, float] | None:
        """The x that is shown; None: all."""
        return self.view.span

    @property
    def crosshair(self) -> float | None:
        """The x that is pointed at."""
        return self.view.crosshair

    @property
    def log_y(self) -> bool:
        """Whether y is logarithmic."""
        return self.view.log_y

    def show(
        self, curves: Sequence[Curve], levels: Sequence[Level] = (), view: View = View(), marks_at: Sequence[float] = ()
    ) -> None:
        """Draw these from now on."""
        self.curves, self.levels, self.view, self.marks_at = curves, levels, view, marks_at
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

    def on_click(self, event: events.Click) -> None:
        """Leave the crosshair where it is, or let it go."""
        if event.x >= GUTTER and self.curves:
            self.post_message(self.Pointed(self.x_at(event.x), clicked=True))

    def on_leave(self, event: events.Leave) -> None:
        """The mouse is elsewhere."""
        self.post_message(self.Left())

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
        base = self.rich_style
        plot_wide, plot_high = width - GUTTER, height - 2
        self.window = window = self._window()
        if plot_wide < 4 or plot_high < 2 or window is None:
            lines = [self._title(width, None), Strip([Segment(f"  {self.note}"[:width], DIM)], None)]
            return [line.adjust_cell_length(width).apply_style(base) for line in lines[:height]]
        self._plot = (window.x0, window.x1)
        cells = self._cells(window, plot_wide, plot_high)
        gutter = self._gutter(window, plot_high)
        rows = [self._title(width, window)]
        rows += [Strip([Segment(gutter[row], DIM), *cells.row(row)]) for row in range(plot_high)]
        rows.append(self._foot(window, width))
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
        view = self.view
        x0, x1 = view.span or (min(float(c.x[0]) for c in full), max(float(c.x[-1]) for c in full))
        if x1 <= x0:
            x0, x1 = x0 - 0.5, x0 + 0.5
        lows, highs = [], []
        for curve in full:
            first, last = np.searchsorted(curve.x, x0), np.searchsorted(curve.x, x1, "right")
            shown = slice(max(0, first - 1), last + 1)
            shown = shown if np.isfinite(curve.y[shown]).any() else slice(None)  # zoomed to where there is nothing
            y = np.concatenate([ys[shown] for ys in (curve.y, curve.low, curve.high) if ys is not None])
            y = self._scaled(y[:: -(-len(y) // ENOUGH) or 1])
            y = y[np.isfinite(y)]
            if len(y):
                cut = (1, 99) if curve.faint and len(y) > 50 else (0, 100)
                low, high = np.percentile(y, cut)
                lows.append(float(low))
                highs.append(float(high))
        if not lows:
            return None
        for value in (*(mark.y for mark in self.levels), *(v for v in (view.low, view.high) if v is not None)):
            at = float(self._scaled(np.array([value]))[0])
            if math.isfinite(at) and not view.tight:
                lows.append(at)
                highs.append(at)
        low, high = min(lows), max(highs)
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # constant, but for rounding
            low = high = (low + high) / 2
        if low == high == 0:
            high = 1.0
        room = 0.04 * (high - low) or abs(high) * 0.1
        begins = view.low is not None and low == view.low and not (view.tight or view.log_y)
        return Window(x0, x1, low if begins else low - room, high + room)

    def _cells(self, window: Window, wide: int, high: int) -> Cells:
        """Characters, painted from the back: levels, marks, bands, faint curves, curves, crosshair, words."""
        dots_high, dots_wide = DOTS[self.marks]
        H, W = high * dots_high, wide * dots_wide
        is_braille = self.marks == "braille"
        cells = Cells(high, wide)
        inside = [x for x in self.marks_at if window.x0 < x < window.x1]
        for x in inside:
            first = 0 if len(inside) <= wide // COLUMNS_A_MARK else high - 1
            cells.put(slice(first, None), self._column(x, window, wide), "┊" if is_braille else ":", DIM)
        if self.view.edge is not None and window.x0 < self.view.edge[0] < window.x1:
            column = self._column(self.view.edge[0], window, wide)
            cells.put_free(column, "╎" if is_braille else ":", DIM)
        for mark in self.levels:
            y = float(self._scaled(np.array([mark.y]))[0])
            cells.paint(characters(level(y, window, W, H), self.marks), self.color("foreground") + DIM)
        cells.only_levels()
        bright = [curve for curve in self.curves if not curve.faint]
        dots = [self._dots(curve, window, W, H) for curve in bright]
        self._paint_bands(cells, dots, window)
        for curve in self.curves:
            if curve.faint and not curve.band:
                thin = characters(raster(curve.x, self._scaled(curve.y), window, W, H), self.marks)
                cells.paint(thin, self.color(curve.color) + DIM)
        if bright:
            owner = shared([characters(each, self.marks) != " " for each in dots])
            together = characters(np.logical_or.reduce(dots), self.marks)
            for i, curve in enumerate(bright):
                cells.paint(np.where(owner == i, together, " "), self.color(curve.color) + Style(bold=False))
        for curve in bright:
            if curve.dotted:
                rows, columns = points(curve.x, self._scaled(curve.y), window, W, H)
                marker = curve.marker if is_braille else "#" if curve.marker == "◆" else "o"
                cells.put(rows // dots_high, columns // dots_wide, marker, self.color(curve.color))
        self._name_levels(window, cells)
        self._write_captions(cells)
        self._name_edge(window, cells)
        if self.view.crosshair is not None and window.x0 <= self.view.crosshair <= window.x1:
            column = self._column(self.view.crosshair, window, wide)
            cells.put_free(column, "│" if is_braille else "|", self.color("foreground"))
        return cells

    def _dots(self, curve: Curve, window: Window, W: int, H: int) -> Mask:
        """The dots of a curve and of its bars."""
        y = self._scaled(curve.y)
        dots = raster(curve.x, y, window, W, H) if curve.joined else np.zeros((H, W), dtype=bool)
        if curve.low is not None and curve.high is not None:
            dots |= bars(curve.x, self._scaled(curve.low), self._scaled(curve.high), window, W, H)
        return dots

    def _paint_bands(self, cells: Cells, lines: Sequence[Mask], window: Window) -> None:
        """Where the raw values lie: in the background of whole characters, as half ones where no line passes."""
        bands = [curve for curve in self.curves if curve.band]
        if not bands:
            return
        high, wide = cells.text.shape
        is_line = np.zeros((high, wide), dtype=bool)
        for each in lines:
            is_line |= characters(each, self.marks) != " "
        drawn = [halves(curve.x, self._scaled(curve.y), window, wide, high) for curve in bands]
        parts = [spanned | (touched & ~is_line.repeat(2, axis=0)) for spanned, touched in drawn]
        upper, lower = [part[::2] for part in parts], [part[1::2] for part in parts]
        if self.marks == "ascii":
            owner = shared([a | b for a, b in zip(upper, lower, strict=True)])
            for i, curve in enumerate(bands):
                cells.paint(np.where(owner == i, "~", " "), self.color(curve.color) + DIM)
            return
        owner = shared([a | b for a, b in zip(upper, lower, strict=True)])
        for i, curve in enumerate(bands):
            whole = (owner == i) & upper[i] & lower[i]
            color = self._band_color(curve.color)
            half = (owner == i) & ~whole & ~is_line
            cells.paint(np.where(half & upper[i], "▀", np.where(half & lower[i], "▄", " ")), Style(color=color))
            cells.lay(whole, color)

    def _band_color(self, which: int | str) -> RichColor | None:
        """A curve's colour, mixed into the background; gray where there are only 16."""
        if is_ansi(self.app.theme_variables):
            return Color.parse("ansi_bright_black").rich_color
        front, back = self.color(which).color, self.rich_style.bgcolor
        if front is None or back is None:
            return front
        return Color.from_rich_color(back).blend(Color.from_rich_color(front), BAND).rich_color

    @staticmethod
    def _column(x: float, window: Window, wide: int) -> int:
        return min(wide - 1, int((x - window.x0) / (window.x1 - window.x0) * wide))

    def _name_levels(self, window: Window, cells: Cells) -> None:
        """Write what a dashed line is on the line itself, at its right or left end, where no curve is in the way."""
        high, wide = cells.text.shape
        for mark in self.levels:
            y = float(self._scaled(np.array([mark.y]))[0])
            if not window.y0 <= y <= window.y1:
                continue
            dots = DOTS[self.marks][0]
            row = round((window.y1 - y) / (window.y1 - window.y0) * (high * dots - 1)) // dots
            words = f" {mark.label} " if mark.valued else f" {mark.label} {self.form(mark.y)} "
            away = range(high if mark.valued else 3)  # words that tell the value may stand further from it
            for beside in (row + side * rows for rows in away for side in (-1, 1)):
                if cells.write(beside, (wide - len(words), 0), words, DIM):
                    break

    def _write_captions(self, cells: Cells) -> None:
        """Say below in the chart what its figures stand on, each in the longest words that there is room for."""
        high, wide = cells.text.shape
        row = high - 1
        for lengths in self.captions:
            for words in (words for words in lengths if len(words) + 2 <= wide):
                words = words if self.marks == "braille" else words.replace("◆", "#")
                free = (r for r in range(row, max(0, high - ROWS_OF_WORDS), -1))
                place = next((r for r in free if cells.write(r, (wide - len(words) - 1,), f" {words}", DIM)), None)
                if place is not None:
                    row = place - 1
                    break

    def _name_edge(self, window: Window, cells: Cells) -> None:
        """A word beside the edge of what is done."""
        if self.view.edge is not None and window.x0 < self.view.edge[0] < window.x1:
            column = self._column(self.view.edge[0], window, cells.text.shape[1])
            for row in (0, 1, 2):
                if cells.write(row, (column + 1,), f" {self.view.edge[1]}", DIM):
                    break

    def _gutter(self, window: Window, high: int) -> list[str]:
        """Values at the left, each in the row where it stands; on top the power of ten that they are taken by."""
        bar = "│" if self.marks == "braille" else "|"
        rows = [" " * (GUTTER - 1) + bar] * high
        dots = DOTS[self.marks][0]
        values = (decades if self.log_y else ticks)(window.y0, window.y1, max(2, round(high / ROWS_A_TICK)))
        power = 0
        if self.log_y:
            written = powers([10**value for value in values], self.form)
        else:
            written, power = axis_labels(values, self.form)
        for value, label in zip(values, written, strict=True):
            row = round((window.y1 - value) / (window.y1 - window.y0) * (high * dots - 1)) // dots
            rows[row] = f"{label[: GUTTER - 1]:>{GUTTER - 1}}{'┤' if self.marks == 'braille' else '+'}"
        if power:
            factor = f"{'×' if self.marks == 'braille' else 'x'}10^{power}"
            top = next((row for row in range(high) if not rows[row][:-1].strip()), 0)
            rows[top] = f"{factor:>{GUTTER - 1}}{rows[top][-1]}"
        return rows

    def _foot(self, window: Window, width: int) -> Strip:
        """Values of x below, and in reverse the one under the crosshair."""
        line = list(f"{self.x_name[: GUTTER - 1]:<{width}}")
        tag, begin = "", width
        if self.view.tag and self.view.crosshair is not None and window.x0 <= self.view.crosshair <= window.x1:
            tag = f" {self.view.tag} "[:width]
            at = GUTTER + self._column(self.view.crosshair, window, width - GUTTER)
            begin = max(0, min(at - len(tag) // 2, width - len(tag)))
            line[begin : begin + len(tag)] = "#" * len(tag)
        values = ticks(window.x0, window.x1, max(2, (width - GUTTER) // COLUMNS_A_TICK), whole=self.whole_x)
        for value, label in zip(values, labels(values, short), strict=True):
            at = GUTTER + int((value - window.x0) / (window.x1 - window.x0) * (width - GUTTER))
            first = min(max(at - len(label) // 2, GUTTER), width - len(label))
            if first >= 0 and all(c == " " for c in line[max(0, first - 1) : first + len(label)]):
                line[first : first + len(label)] = label
        text = "".join(line)
        parts = [Segment(text[:begin], DIM), Segment(tag, Style(reverse=True)), Segment(text[begin + len(tag) :], DIM)]
        return Strip([part for part in parts if part.text])

    def _title(self, width: int, window: Window | None) -> Strip:
        """The name and the newest values; in reverse those under the crosshair. What does not fit is left out."""
        at = self.view.crosshair if window and self.view.crosshair is not None else None
        if at is not None and window and not window.x0 <= at <= window.x1:
            at = None
        top = max(abs(window.y0), abs(window.y1)) if window and not self.log_y else 0.0
        part = 1e-9 if self.whole_x else 1 / max(1, width - GUTTER)  # runs share steps, not moments
        room = part * (window.x1 - window.x0) if window else 0.0
        values: list[Segment] = []
        short_values: list[Segment] = []
        for curve in self.curves:
            if curve.faint or not len(curve.x):
                continue
            color = self.color(curve.color)
            label = curve.label if self.marks == "braille" else curve.label.replace("◆", "#")
            name = f"  {label} " if label else "  "
            value = self._written(newest(curve.values), top)
            values.append(Segment(f"{name}{value}{f' {curve.beside}' if curve.beside else ''}", color))
            short_values.append(Segment(f"{name}{value}", color))
            if at is not None and (pointed := value_at(curve.values, at, room)) is not None:
                under = [Segment(" "), Segment(f" {self._written(pointed, top)} ", color + Style(reverse=True))]
                values += under
                short_values += under
        head = [Segment(f" {self.title}", Style(bold=True))] if self.title else []
        tails = [Segment(words, DIM) for words in self.tail if words and self.curves]
        named = all(curve.label for curve in self.curves if not curve.faint)
        fronts = [head, []] if named and values else [head]  # values with names of their own can do without the title
        choices: list[tuple[list[Segment], list[Segment], Segment | None]]
        choices = [(front, values, tail) for front in fronts for tail in tails]
        choices += [(front, short_values, tail) for front in fronts for tail in tails]
        choices += [(front, middle, None) for middle in (values, short_values) for front in fronts]
        for front, middle, tail in choices:
            parts = [*front, *middle]
            used = sum(part.cell_length for part in parts)
            if used + (1 + tail.cell_length if tail else 0) <= width:
                return Strip([*parts, *([Segment(" " * (width - used - tail.cell_length)), tail] if tail else [])])
        whole: list[Segment] = []
        for segment in (*choices[-1][0], *short_values):  # a figure is there whole or not at all
            width -= segment.cell_length
            whole += [segment] if width >= 0 else []
        return Strip(whole)

    def _written(self, value: float, top: float) -> str:
        """As on an axis that goes up to `top`: what is a thousandth of it is 0, and no other power of ten than its."""
        value = rounded(value, top) if math.isfinite(value) else value
        if self.form is short and 0 < abs(value) < LEAST_WITHOUT_POWER <= top:
            return f"{value:.{1 - math.floor(math.log10(abs(value)))}f}"
        return self.form(value)


class Cells:
    """The characters of a drawing, each with its style and its ground."""

    def __init__(self, high: int, wide: int) -> None:
        self.text = np.full((high, wide), " ")
        self.taken = np.zeros((high, wide), dtype=bool)  # by more than a dashed line
        self._style = np.zeros((high, wide), dtype=np.int64)
        self._ground = np.zeros((high, wide), dtype=np.int64)
        self._styles: list[Style] = [Style()]
        self._grounds: list[Style] = [Style()]

    def paint(self, characters: NDArray[np.str_], how: Style) -> None:
        """Lay characters over what is there; blanks are transparent."""
        self._styles.append(how)
        marked = characters != " "
        self.text[marked] = characters[marked]
        self._style[marked] = len(self._styles) - 1
        self.taken |= marked

    def put(self, rows: Any, columns: Any, character: str, how: Style) -> None:
        """A character at some places."""
        self._styles.append(how)
        self.text[rows, columns] = character
        self._style[rows, columns] = len(self._styles) - 1
        self.taken[rows, columns] = True

    def put_free(self, column: int, character: str, how: Style) -> None:
        """A character at the free places of a column."""
        self.put(np.flatnonzero(self.text[:, column] == " "), column, character, how)

    def only_levels(self) -> None:
        """What was painted so far may be written over."""
        self.taken[:] = False

    def lay(self, where: Mask, color: RichColor | None) -> None:
        """Give some places a ground."""
        self._grounds.append(Style(bgcolor=color))
        self._ground[where] = len(self._grounds) - 1
        self.taken |= where

    def write(self, row: int, begins: Sequence[int], words: str, how: Style) -> bool:
        """Write words at the first of some columns where there is room for them; whether there was."""
        high, wide = self.text.shape
        for begin in begins:
            place = slice(begin, begin + len(words))
            if 0 <= row < high and 0 <= begin <= wide - len(words) and not self.taken[row, place].any():
                self._styles.append(how)
                self.text[row, place] = list(words)
                self._style[row, place] = len(self._styles) - 1
                self.taken[row, place] = True
                return True
        return False

    def row(self, row: int) -> list[Segment]:
        """A row as few segments: neighbours of one style are one."""
        segments: list[Segment] = []
        marks = list(zip(self._style[row].tolist(), self._ground[row].tolist(), strict=True))
        begin = 0
        for i in range(1, len(marks) + 1):
            if i == len(marks) or marks[i] != marks[begin]:
                style, ground = marks[begin]
                segments.append(Segment("".join(self.text[row, begin:i]), self._styles[style] + self._grounds[ground]))
                begin = i
        return segments


def shared(masks: Sequence[Mask]) -> NDArray[np.int64]:
    """Whose a place is, -1 for nobody's; where several claim it, they take turns by column."""
    stack = np.array(masks)
    count = stack.sum(axis=0)
    turn = np.arange(stack.shape[2]) % np.maximum(count, 1)
    owner: NDArray[np.int64] = np.where(count > 0, (stack & (stack.cumsum(axis=0) - 1 == turn)).argmax(axis=0), -1)
    return owner


def newest(curve: Curve) -> float:
    """The newest value; NaN where the newest line of a curve without gaps has none."""
    return float(curve.y[-1])


def value_at(curve: Curve, x: float, room: float) -> float | None:
    """The value at an x, or at the nearest one that is no more than `room` away; None where there is none."""
    nearest = int(np.abs(curve.x - x).argmin())
    value = float(curve.y[nearest])
    return value if abs(float(curve.x[nearest]) - x) <= room and math.isfinite(value) else None


def is_ansi(variables: dict[str, str]) -> bool:
    """Whether a theme keeps to the 16 colours of the terminal."""
    return variables.get("background", "").startswith("ansi")
