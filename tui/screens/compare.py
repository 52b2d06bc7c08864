"""Runs laid over each other on one chart, and a table of what differs in recipe and result."""

from __future__ import annotations

import json
from typing import Any, ClassVar
from zlib import crc32

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from simclr_plus.errors import SimclrPlusError
from simclr_plus.overview import differences
from simclr_plus.runs import Run

from ..feed import AXES, AXIS_NAMES, Feed
from ..line_chart import PALETTE, Curve, Level, LineChart
from ..plots import PLOTS, SMOOTHINGS, curves_of, levels_of
from ..ticks import short
from .key_bar import KeyBar
from .live import LiveScreen
from .rows import Rows


class CompareScreen(LiveScreen):
    """Runs over each other: each keeps its colour. Digits or brackets choose what is drawn."""

    AUTO_FOCUS = "#compare-table"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", id="compare.back"),
        Binding("right_square_bracket", "plot(1)", "Next chart", id="compare.next"),
        Binding("left_square_bracket", "plot(-1)", "Chart before", show=False, id="compare.before"),
        Binding("x", "axis", "X axis", id="compare.axis", tooltip="x in steps, epochs, images or hours"),
        Binding("y", "log", "Log y", id="compare.log", tooltip="logarithmic or linear y"),
        Binding("m", "smooth", "Smooth", id="compare.smooth", tooltip="moving average over 20, 100, 1 or 5 lines"),
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
    ]

    def __init__(self, runs: list[Run]) -> None:
        super().__init__()
        self.feeds = [Feed(run) for run in runs]
        self.hues = dict(zip((run.name for run in runs), colors_of([run.name for run in runs]), strict=True))
        self.plot, self.axis, self.log_y, self.lines = 0, "step", False, SMOOTHINGS[0]
        self.span: tuple[float, float] | None = None
        self.crosshair: float | None = None
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
        chart = self.query_one(LineChart)
        chart.marks = self.app.marks
        self.app.theme_changed_signal.subscribe(self, lambda _: self.query_one(LineChart).redraw())

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
        if self._view is not self._shown_view:
            self._shown_view = self._view
            self._show_table()
        self.draw()
        if self._trouble:
            self.query_one("#head", Static).update(Text(self._trouble, style="red"))

    def draw(self) -> None:
        """Draw the chart."""
        plot = PLOTS[self.plot]
        curves: list[Curve] = []
        levels: dict[tuple[str, float], Level] = {}
        for feed in self.feeds:
            name = feed.run.name
            curves += curves_of(plot, feed, self.axis, self.lines, color=self.hues[name], prefix=name)
            levels |= {(mark.label, mark.y): mark for mark in levels_of(plot, feed.facts.recipe)}
        chart = self.query_one(LineChart)
        chart.title, chart.form, chart.x_name = plot.title, plot.form, AXIS_NAMES[self.axis]
        log = self.log_y and plot.key not in ("contrastive", "accuracy", "wait")
        chart.show(curves, list(levels.values()), span=self.span, crosshair=self.crosshair, log_y=log)
        names = Text().append(f"{len(self.feeds)} runs  ", style="bold")
        for feed in self.feeds:
            state = feed.facts.glance.get("state", "")
            names.append(f"{'##' if self.app.marks == 'ascii' else '━━'} ", style=chart.color(self.hues[feed.run.name]))
            names.append(f"{feed.run.name} ")
            names.append(f"{state}   ", style="dim")
        self.query_one("#head", Static).update(names)

    def _show_table(self) -> None:
        table = self.query_one(Rows)
        place = table.cursor_coordinate
        table.clear(columns=True)
        table.add_columns("", *self._view.get("runs", []))
        table.add_row(Text("state", style="bold"), *self._view.get("states", []))
        for key, values in self._view.get("recipe", {}).items():
            table.add_row(Text(key, style="bold"), *(json.dumps(value) for value in values))
        step = self._view.get("common_step")
        if step is not None:
            table.add_row(Text(f"at step {step}", style="bold"), *[""] * len(self.feeds))
            for key, values in self._view["at_common_step"].items():
                table.add_row(f"  {key}", *(short(value, 4) for value in values))
        table.add_row(Text("last step", style="bold"), *(str(step) for step in self._view.get("last_step", [])))
        for key, values in self._view.get("last", {}).items():
            table.add_row(f"  {key}", *(short(value, 4) for value in values))
        table.move_cursor(row=place.row, animate=False)

    def action_plot(self, by: int) -> None:
        """Another chart."""
        self.plot = (self.plot + by) % len(PLOTS)
        self.draw()

    def action_choose(self, which: int) -> None:
        """That chart."""
        self.plot = which
        self.draw()

    def action_axis(self) -> None:
        """The next kind of x."""
        self.axis = AXES[(AXES.index(self.axis) + 1) % len(AXES)]
        self.action_whole()

    def action_log(self) -> None:
        """Linear or logarithmic y."""
        self.log_y = not self.log_y
        self.draw()

    def action_smooth(self) -> None:
        """The next length of the moving average."""
        self.lines = SMOOTHINGS[(SMOOTHINGS.index(self.lines) + 1) % len(SMOOTHINGS)]
        self.draw()

    def action_whole(self) -> None:
        """Everything."""
        self.span = self.crosshair = None
        self.draw()

    def on_line_chart_pointed(self, message: LineChart.Pointed) -> None:
        """The crosshair follows the mouse."""
        self.crosshair = message.x
        self.draw()

    def on_line_chart_zoomed(self, message: LineChart.Zoomed) -> None:
        """The wheel zooms."""
        chart = self.query_one(LineChart)
        x0, x1 = self.span or (chart.x_at(0), chart.x_at(10**6))
        x0, x1 = message.x - (message.x - x0) * message.factor, message.x + (x1 - message.x) * message.factor
        whole = max((float(x[-1]) for x in (feed.axis(self.axis) for feed in self.feeds) if len(x)), default=1.0)
        self.span = None if x1 - x0 >= whole or x1 <= x0 else (max(0.0, x0), min(whole, x1))
        self.draw()


def colors_of(names: list[str]) -> list[int]:
    """A place in the palette for each name: its own by its letters, the next free one where that is taken."""
    taken: list[int] = []
    for name in names:
        place = crc32(name.encode()) % len(PALETTE)
        while place in taken and len(taken) < len(PALETTE):
            place = (place + 1) % len(PALETTE)
        taken.append(place)
    return taken
