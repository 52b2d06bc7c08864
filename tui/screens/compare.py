"""Runs laid over each other on one chart, and a table of what differs in recipe and result."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
from rich.cells import cell_len
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from simclr_plus.errors import SimclrPlusError
from simclr_plus.runs.folder import Run
from simclr_plus.runs.overview import differences

from ..charts.line_chart import PALETTE, Curve, Level, LineChart, View
from ..charts.ticks import short
from ..reading.feed import AXIS_NAMES, Feed
from ..widgets.key_bar import KeyBar
from ..widgets.rows import Rows
from .chart_screen import ChartScreen, average_in_words, place_in_words
from .plots import PLOTS, SMOOTHINGS, Plot, by_digit, captions_of, curves_of, end_of, figure_name, levels_of, plots_of


class CompareScreen(ChartScreen):
    """Runs over each other: each keeps its colour. Digits or brackets choose what is drawn.

    The lines are centred averages of one width for all; figures are values as they were logged. A click holds the
    crosshair.
    """

    AUTO_FOCUS = "#compare-table"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", id="compare.back"),
        Binding("right_square_bracket", "plot(1)", "Next chart", id="compare.next"),
        Binding("left_square_bracket", "plot(-1)", "Chart before", show=False, id="compare.before"),
        Binding("x", "axis", "X axis", id="compare.axis", tooltip="x in steps, epochs, images or hours"),
        Binding("y", "log", "Log y", id="compare.log", tooltip="logarithmic or linear y"),
        Binding("m", "smooth", "Average", id="compare.smooth", tooltip="centred average: light, strong or none"),
        Binding("w", "done", "Done", id="compare.done", tooltip="x to what is done, or to the planned end"),
        Binding(
            "a", "tight", "Y range", id="compare.tight", tooltip="y as narrow as its values, or as far as they mean"
        ),
        Binding("z", "whole", "Whole", show=False, id="compare.whole", tooltip="no zoom, no crosshair"),
        *(
            Binding(
                str(i + 1),
                f"choose({i})",
                plot.title.capitalize(),
                show=False,
                id=f"compare.plot{i + 1}",
                tooltip=", ".join(plot.title for plot in PLOTS),
            )
            for i, plot in enumerate(PLOTS)
        ),
        Binding("9", "choose(8)", "Own", show=False, id="compare.plot9", tooltip="the methods' own numbers, in turn"),
    ]

    def __init__(self, runs: list[Run]) -> None:
        super().__init__()
        self.feeds = [Feed(run) for run in runs]
        self.hues = dict(zip((run.name for run in runs), colors_of([run.name for run in runs]), strict=True))
        self.plot = PLOTS[0].key
        self._view: dict[str, Any] = {}
        self._shown_view: dict[str, Any] = self._view
        self._trouble = ""
        self._versions: list[int] = []

    def compose(self) -> ComposeResult:
        """A chart above, a table below."""
        yield Static(id="head")
        yield LineChart(id="compare-chart")
        yield Rows(id="compare-table")
        yield KeyBar()

    def on_mount(self) -> None:
        """Read the runs, again and again."""
        if not self.is_whole:  # it was left while it was being made
            return
        self.query_one(LineChart).marks = self.app.marks
        self.app.theme_changed_signal.subscribe(self, self._redraw)

    def _redraw(self, _: object) -> None:
        """The colours are others."""
        for chart in self.query(LineChart):
            chart.redraw()

    def read(self) -> None:
        """Read the runs; what differs is worked out anew when one of them grew."""
        for feed in self.feeds:
            while feed.look() and self.is_attached:
                pass
        versions = [feed.version for feed in self.feeds]
        if versions != self._versions:
            self._versions = versions
            try:
                self._view, self._trouble = differences([feed.run for feed in self.feeds]), ""
            except (SimclrPlusError, OSError, TypeError, ValueError, AttributeError, LookupError) as error:
                self._trouble = str(error)

    def show(self) -> None:
        """Show what was read."""
        if not self.is_whole:
            return
        if self._view is not self._shown_view:
            self._shown_view = self._view
            self._show_table()
        self.draw()
        if self._trouble:
            self.query_one("#head", Static).update(Text(self._trouble, style="red"))

    def draw(self) -> None:
        """Draw the chart."""
        if not self.is_whole:
            return
        plot = next((plot for plot in plots_of(self.feeds) if plot.key == self.plot), PLOTS[0])
        curves: list[Curve] = []
        levels: dict[tuple[str, float], Level] = {}
        span = self._range()
        width = SMOOTHINGS[self.average] * (span[1] - span[0])
        for feed in self.feeds:
            name = feed.run.name
            curves += curves_of(plot, feed, self.axis, width, span=span, color=self.hues[name], prefix=name)
            of_run = levels_of(plot, feed.facts.recipe, feed)
            levels |= {(mark.label, mark.y): mark for mark in of_run if not mark.own}
        chart = self.query_one(LineChart)
        chart.title, chart.form, chart.x_name = plot.title, plot.form, AXIS_NAMES[self.axis]
        chart.whole_x = self.axis in ("step", "images")
        chart.captions = list(dict.fromkeys(words for feed in self.feeds for words in captions_of(plot, feed)))
        chart.captions += self._kinds_of_loss(plot)
        chart.tail = average_in_words(self.average) if plot.smoothed else ("",)
        chart.show(
            curves,
            list(levels.values()),
            View(
                span=span,
                crosshair=self.crosshair,
                log_y=self.log_y and plot.logarithmic,
                low=plot.low,
                high=plot.high,
                tight=self.tight,
                tag="" if self.crosshair is None else place_in_words(self.axis, self.crosshair),
            ),
        )
        names = Text().append(f"{len(self.feeds)} runs  ", style="bold")
        for feed in self.feeds:
            state = feed.facts.glance.get("state", "")
            names.append(f"{'##' if self.app.marks == 'ascii' else '━━'} ", style=chart.color(self.hues[feed.run.name]))
            names.append(f"{feed.run.name} ")
            names.append(f"{state}   ", style="dim")
        self.query_one("#head", Static).update(names)

    def _kinds_of_loss(self, plot: Plot) -> list[Sequence[str]]:
        """A word of warning where what runs minimise is not one thing."""
        recipes = [feed.facts.recipe for feed in self.feeds if feed.facts.recipe is not None]
        kinds = {(recipe.method.name, recipe.method.loss_title(recipe)) for recipe in recipes}
        if plot.key != "loss" or len(kinds) < 2:
            return []
        return [("losses of different kinds: their heights cannot be compared", "losses of different kinds")]

    def _show_table(self) -> None:
        """Fill the table; its columns are as wide as they need to be from the beginning, not when the app is idle."""
        table = self.query_one(Rows)
        place = table.cursor_coordinate
        rows = self._table_rows()
        table.clear(columns=True)
        for column, head in enumerate(["", *self._view.get("runs", [])]):
            cells = [row[column] for row in rows if column < len(row)]
            width = max([cell_len(head), *(cell.cell_len for cell in cells)])
            table.add_column(Text(head), width=width)
        for row in rows:
            table.add_row(*row)
        table.move_cursor(row=place.row, animate=False)

    def _table_rows(self) -> list[list[Text]]:
        """States, keys that differ, figures at the last common step and at the last one."""
        view = self._view

        def row(head: str, values: Iterable[Any], style: str = "bold") -> list[Text]:
            return [Text(head, style=style), *(Text(str(value)) for value in values)]

        def figures(part: str) -> list[list[Text]]:
            named = ((figure_name(key, self.feeds), values) for key, values in view.get(part, {}).items())
            return [row(f"  {name}", (short(value, 4) for value in values), "") for name, values in named]

        rows = [row("state", view.get("states", []))]
        rows += [row(key, map(json.dumps, values)) for key, values in view.get("recipe", {}).items()]
        step = view.get("common_step")
        if step is not None:
            rows += [row(f"at step {step}", [""] * len(self.feeds)), *figures("at_common_step")]
        return [*rows, row("last step", view.get("last_step", [])), *figures("last")]

    def action_plot(self, by: int) -> None:
        """Another chart."""
        keys = [plot.key for plot in plots_of(self.feeds)]
        self.plot = keys[(keys.index(self.plot) + by) % len(keys)]
        self.draw()

    def action_choose(self, which: int) -> None:
        """That chart."""
        self.plot = by_digit(plots_of(self.feeds), which + 1, self.plot) or self.plot
        self.draw()

    def on_line_chart_pointed(self, message: LineChart.Pointed) -> None:
        """The crosshair follows the mouse, from line to line of the runs; a click holds it or lets it go."""
        if message.clicked:
            self.pinned = not self.pinned
        elif self.pinned:
            return
        axes = [x for x in (feed.axis(self.axis) for feed in self.feeds) if len(x)]
        places = [float(x[np.abs(x - message.x).argmin()]) for x in axes]
        place = min(places, key=lambda place: abs(place - message.x), default=None)
        if place != self.crosshair:
            self.crosshair = place
            self.draw()

    def on_line_chart_left(self) -> None:
        """The mouse points at nothing."""
        if not self.pinned and self.crosshair is not None:
            self.crosshair = None
            self.draw()

    def on_line_chart_zoomed(self, message: LineChart.Zoomed) -> None:
        """The wheel zooms."""
        (x0, x1), (w0, w1) = self._range(), self._whole_range()
        x0 = max(w0, message.x - (message.x - x0) * message.factor)
        x1 = min(w1, message.x + (x1 - message.x) * message.factor)
        self.span = None if (x0, x1) == (w0, w1) or x1 <= x0 else (x0, x1)
        self.draw()

    def _range(self) -> tuple[float, float]:
        return self.span or self._whole_range()

    def _whole_range(self) -> tuple[float, float]:
        """From 0 to the planned end of the longest run, or to what is done."""
        axes = [x for x in (feed.axis(self.axis) for feed in self.feeds) if len(x)]
        begin = min((0.0, *(float(x[0]) for x in axes)))
        done = max((begin, *(float(x[-1]) for x in axes)))
        return begin, done if self.done_only and done > begin else max(end_of(self.feeds, self.axis), begin + 1e-9)


def colors_of(names: list[str]) -> list[int]:
    """A place in the palette for each name: its own by its letters, the next free one where that is taken."""
    taken: list[int] = []
    for name in names:
        place = crc32(name.encode()) % len(PALETTE)
        while place in taken and len(taken) < len(PALETTE):
            place = (place + 1) % len(PALETTE)
        taken.append(place)
    return taken
