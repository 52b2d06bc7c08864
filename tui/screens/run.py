"""A run, live: charts, state, machines, alarms that name a cause, log; stop, resume, evaluate."""

from __future__ import annotations

import os
import sys
import time
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widgets import Input, RichLog, Static

from simclr_plus.machine.words import duration
from simclr_plus.runs.folder import Run
from simclr_plus.runs.overview import title_of

from ..charts.line_chart import Curve, LineChart, View
from ..charts.ticks import short
from ..looks.state_colors import COLORS
from ..reading.feed import AXIS_NAMES, Feed, processes_on
from ..reading.logs import LogTail, log_files
from ..reading.machines import Machines
from ..widgets.key_bar import KeyBar
from .chart_screen import ChartScreen, average_in_words, place_in_words
from .plots import (
    BEFORE_OWN,
    FEW,
    PLOTS,
    SMOOTHINGS,
    Plot,
    alarms_of,
    by_digit,
    captions_of,
    curves_of,
    discarded_curves,
    end_of,
    future_rate,
    levels_of,
    plots_of,
)

REST = 10  # times what drawing took must pass before the next
SECONDS_FOR_OTHERS = 0.02  # between two bits of a long file
MOST_ALARMS = 3
IN_TROUBLE = ("failed", "lost", "stale", "gone", "unreadable")


class RunScreen(ChartScreen):
    """A run as it learns. The mouse or the arrows move the crosshair, a click holds it, the wheel or + and - zoom.

    The line is a centred average, the ground behind it the values that it averages; figures in a title are values as
    they were logged, in reverse those under the crosshair. Faint is the learning rate to come. Where a run was resumed
    stands a dotted line; what it had logged of steps that it then went through again is gray.
    """

    AUTO_FOCUS = ""
    SECONDS_BETWEEN_LOOKS = 1.0
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="run.back", tooltip="back to the runs"),
        Binding("s", "stop", "Stop", id="run.stop", tooltip="ask the run to save and stop, or for more"),
        Binding("r", "resume", "Resume", id="run.resume", tooltip="go on from the newest checkpoint"),
        Binding("e", "evaluate", "Evaluate", id="run.evaluate", tooltip="kNN or linear, on the newest checkpoint"),
        Binding("k", "checkpoints", "Files", id="run.checkpoints", tooltip="checkpoints and results"),
        Binding("x", "axis", "X axis", id="run.axis", tooltip="x in steps, epochs, images or hours"),
        Binding("y", "log", "Log y", id="run.log", tooltip="logarithmic or linear y"),
        Binding("m", "smooth", "Average", id="run.smooth", tooltip="centred average: light, strong or none"),
        Binding("w", "done", "Done", id="run.done", tooltip="x to what is done, or to the planned end"),
        Binding("a", "tight", "Y range", id="run.tight", tooltip="y as narrow as its values, or as far as they mean"),
        Binding("right_square_bracket", "page(1)", "More", id="run.more", tooltip="the next charts"),
        Binding(
            "left_square_bracket", "page(-1)", "Charts before", show=False, id="run.before", tooltip="the charts before"
        ),
        Binding("space", "pause", "Pause", id="run.pause", tooltip="hold the display still; the run goes on"),
        Binding("left", "point(-1)", "Crosshair left", show=False, id="run.left", tooltip="move the crosshair"),
        Binding("right", "point(1)", "Crosshair right", show=False, id="run.right", tooltip="move the crosshair"),
        Binding("plus,equals_sign", "zoom(0.5)", "Zoom in", show=False, id="run.in", tooltip="look closer"),
        Binding("minus", "zoom(2.0)", "Zoom out", show=False, id="run.out", tooltip="look from further away"),
        Binding("z", "whole", "Whole", show=False, id="run.whole", tooltip="no zoom, no crosshair"),
        Binding("l", "next_log", "Log", id="run.log_next", tooltip="the next log: ranks, launcher, evaluations"),
        Binding("slash", "filter", "Filter log", show=False, id="run.filter", tooltip="only lines with these words"),
        Binding("f", "folder", "Folder", show=False, id="run.folder", tooltip="copy the folder's path, and open it"),
        *(
            Binding(
                str(i + 1),
                f"only({i})",
                f"Only {plot.title}",
                show=False,
                id=f"run.only{i + 1}",
                tooltip="one chart alone, or all again",
            )
            for i, plot in enumerate(PLOTS)
        ),
        Binding(
            "9", "only(8)", "Only own", show=False, id="run.only9", tooltip="the method's own charts alone, in turn"
        ),
    ]

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run_folder = run
        self.feed = Feed(run)
        self.paused = False
        self.first_chart, self.only = 0, ""  # "": all charts
        self.plots: tuple[Plot, ...] = PLOTS
        self.log_tail: LogTail | None = None
        self.log_words = ""
        self._log_was_chosen = False
        self._shown_log: LogTail | None = None
        self._shown_version = -1
        self._next_drawing = 0.0
        self._curves: dict[str, tuple[tuple[object, ...], list[Curve]]] = {}
        self._machines = Machines()
        self._with_figures: list[str] = []  # keys of charts
        self._logs = 0

    def compose(self) -> ComposeResult:
        """From above: who and how far, machines, alarms, charts, log."""
        yield Static(id="head")
        yield Static(id="where")
        yield Static(id="alarms")
        yield Static(id="instead")
        with Container(id="charts"):
            for plot in self.plots:
                yield LineChart(plot.title, id=f"chart-{plot.key}")
        yield Static(id="logtitle")
        yield RichLog(id="log", max_lines=2000, markup=False, highlight=False, wrap=True, min_width=0)
        yield Input(placeholder="words that a line of the log holds", id="filter")
        yield KeyBar()

    def on_mount(self) -> None:
        """Read the run, again and again."""
        if not self.is_whole:  # it was left while it was being made
            return
        self.app.theme_changed_signal.subscribe(self, self._redraw)
        self._arrange()

    def read(self) -> None:
        """Read the run; a long file bit by bit, shown as it comes."""
        shown = time.monotonic()
        while self.feed.look() and self.is_attached:
            if time.monotonic() - shown > self.SECONDS_BETWEEN_LOOKS:
                shown = time.monotonic()
                self.post_message(self.HasRead())
            time.sleep(SECONDS_FOR_OTHERS)
        files = log_files(self.run_folder.logs)
        self._logs = len(files)
        if files and not self._log_was_chosen and (self.log_tail is None or self.log_tail.path != files[0]):
            self.log_tail = LogTail(files[0])  # the launcher's is there before the ranks'

    def on_resize(self) -> None:
        """As many charts as there is room for, and as long lines of the log."""
        if self.is_whole:
            self._arrange()
            self.call_after_refresh(lambda: self._show_log(anew=True))

    def show(self) -> None:
        """Write the header; draw the charts if there is something new; nothing while the display is held still."""
        if self.paused or not self.is_whole:
            return
        self._show_head()
        self._show_instead()
        self._show_alarms()
        self._show_log()
        if self._shown_version != self.feed.version and time.monotonic() >= self._next_drawing:
            begin = time.monotonic()
            self._shown_version = self.feed.version
            self._take_plots()
            if self._plots_with_figures() != self._with_figures:
                self._arrange()
            else:
                self.draw()
            self._next_drawing = time.monotonic() + REST * (time.monotonic() - begin)

    def _take_plots(self) -> None:
        """The charts that the run's method has, as soon as it is known: those of its own numbers are made then."""
        self.plots = plots_of([self.feed])
        after = f"#chart-{PLOTS[BEFORE_OWN - 1].key}"
        for plot in self.plots:
            if plot.key.startswith("own-"):
                if not self.query(f"#chart-{plot.key}"):
                    self.query_one("#charts").mount(LineChart(plot.title, id=f"chart-{plot.key}"), after=after)
                    self.call_after_refresh(self._arrange)
                after = f"#chart-{plot.key}"

    def draw(self) -> None:
        """Draw the charts that are on the screen."""
        if not self.is_whole:
            return
        recipe = self.feed.facts.recipe
        resumes = self.feed.resumes(self.axis)
        for plot, chart in self._charts():
            if not chart.display:
                continue
            curves = self._curves_of(plot)
            chart.title, chart.form, chart.marks = plot.title, plot.form, self.app.marks
            chart.note, chart.x_name = self._note(plot), AXIS_NAMES[self.axis]
            chart.whole_x = self.axis in ("step", "images")
            chart.captions = captions_of(plot, self.feed)
            chart.tail = average_in_words(self.average) if plot.smoothed and self.feed.lines >= FEW else ("",)
            chart.show(curves, levels_of(plot, recipe, self.feed), self._view_of(plot), resumes)

    def _view_of(self, plot: Plot) -> View:
        tag = "" if self.crosshair is None else place_in_words(self.axis, self.crosshair)
        return View(
            span=self._range(),
            crosshair=self.crosshair,
            log_y=self.log_y and plot.logarithmic,
            low=plot.low,
            high=plot.high,
            tight=self.tight,
            edge=self._edge(),
            tag=tag,
        )

    def _edge(self) -> tuple[float, str] | None:
        """Where the run has come to, and what it does there; None where it is through."""
        x, state = self.feed.axis(self.axis), str(self.feed.facts.glance.get("state", ""))
        if not len(x) or x[-1] >= end_of([self.feed], self.axis):
            return None
        return float(x[-1]), "now" if state in ("running", "starting", "stopping") else state

    def _curves_of(self, plot: Plot) -> list[Curve]:
        """The curves of a chart, made anew only when there are new values or other wishes."""
        facts, span = self.feed.facts, self._range()
        width = SMOOTHINGS[self.average] * (span[1] - span[0])
        knn = tuple(facts.knn_results)
        mark = (self.feed.version, tuple(plot.columns), self.axis, width, span, facts.recipe is None, knn)
        if plot.key not in self._curves or self._curves[plot.key][0] != mark:
            curves = discarded_curves(plot, self.feed, self.axis)
            curves += curves_of(plot, self.feed, self.axis, width, span=span)
            if plot.key == "rate" and curves:
                ahead = future_rate(self.feed, self.axis)
                curves += [ahead] if ahead is not None else []
            self._curves[plot.key] = (mark, curves)
        return self._curves[plot.key][1]

    def _note(self, plot: Plot) -> str:
        if not self.feed.lines:
            return "waiting for the first figures"
        recipe = self.feed.facts.recipe
        if plot.key == "task" and recipe is not None and recipe.method.learns_labels:
            return "none: the run learns labels"
        if plot.key == "accuracy" and recipe is not None and not recipe.training.probe:
            return "no probe: training.probe is false, monitor.knn_every_epochs is 0"
        return "the run writes no finite value of this"

    def _charts(self) -> list[tuple[Plot, LineChart]]:
        """The charts that are there: none while the screen is being taken apart."""
        charts = {chart.id: chart for chart in self.query(LineChart)}
        return [(plot, charts[f"chart-{plot.key}"]) for plot in self.plots if f"chart-{plot.key}" in charts]

    def _redraw(self, _: object) -> None:
        """The colours are others."""
        for _, chart in self._charts():
            chart.redraw()

    def _arrange(self) -> None:
        """Show a grid of charts that fits, or one."""
        if not self.is_whole:
            return
        wide, high = self.size.width, self.size.height
        columns = 1 if self.only else 1 if wide < 60 else 2 if wide < 110 else 3 if wide < 180 else 4
        rows = 1 if self.only else 1 if high < 16 else 2 if high < 70 else 3
        self._with_figures = shown = self._plots_with_figures()
        room = columns * rows
        self.room = min(room, len(shown))
        grid = self.query_one("#charts")
        grid.styles.grid_size_columns, grid.styles.grid_size_rows = columns, rows
        first = self.first_chart if room < len(shown) else 0
        places = {which: (i - first) % len(shown) for i, which in enumerate(shown)}
        for plot, chart in self._charts():
            chart.display = plot.key == self.only if self.only else places.get(plot.key, room) < room
        self.draw()

    def _plots_with_figures(self) -> list[str]:
        """The charts that there is something for; the accuracies' says what is missing."""
        return [
            plot.key
            for plot in self.plots
            if not self.feed.lines or plot.key == "accuracy" or self.feed.has(*plot.columns)
        ]

    def _show_head(self) -> None:
        g = self.feed.facts.glance
        recipe = self.feed.facts.recipe
        state = str(g.get("state", ""))
        text = Text().append(f"{self.run_folder.name} ", style="bold")
        text.append(state, style=f"bold {COLORS.get(state, '')}")
        if recipe is not None and g.get("epoch") is not None:
            text.append(f"  epoch {g['epoch']:.1f}/{recipe.training.epochs:g}")
        if g.get("steps"):
            text.append(f"  step {g.get('step')}/{g['steps']}")
        if state == "running" and g.get("seconds_left") is not None:
            text.append(f"  {duration(g['seconds_left'])} left", style="bold")
        if g.get("images_per_second"):
            text.append(f"  {short(g['images_per_second'])} images/s", style="dim")
        text.append(f"  reading: {short(self.feed.lines)} lines so far" if self.feed.is_behind else "", style="yellow")
        text.append("  display paused" if self.paused else "", style="bold yellow")
        text.append(f"  {self._view_in_words()}", style="dim")
        if self.is_whole:
            self.query_one("#head", Static).update(text)
            self.query_one("#where", Static).update(Text(self._where()))

    def _show_instead(self) -> None:
        """Before there are figures: what the run does, or why it will have none; the log then gets the charts' room."""
        text = "" if self.feed.lines or self.feed.is_behind else self._without_figures()
        box = self.query_one("#instead", Static)
        box.display = bool(text)
        box.update(Text(text))
        self.query_one("#charts").display = not text
        for name in ("#log", "#alarms"):
            self.query_one(name).set_class(bool(text), "alone")

    def _without_figures(self) -> str:
        """In words, instead of empty charts."""
        facts, state = self.feed.facts, str(self.feed.facts.glance.get("state", ""))
        if not state:
            return "the run is read ..."
        if state in IN_TROUBLE:
            return f"{state} before the first figures; what its processes said last:"
        if state not in ("running", "starting", "stopping"):
            return f"{state}: no figures yet"
        every = facts.recipe.monitor.log_every_steps if facts.recipe is not None else 0
        doing, step, since = facts.doing or ("", 0, 0.0)
        after = f", after each {every} steps" if every else ""
        phases = [
            "processes start, PyTorch is loaded",
            "images are listed, the network is built",
            "the first step",
            f"the first figures{after}{f'; at step {step} now' if step else ''}",
        ]
        now = 0 if not doing else 1 if doing == "preparing" else 3 if step else 2
        lasts = f"   {duration(time.time() - since)}" if since and now < 3 else ""
        words = ["done"] * now + ["now"] + ["next"] * (len(phases) - now - 1)
        return "\n".join(
            f"{word:<5} {phase}{lasts if word == 'now' else ''}" for word, phase in zip(words, phases, strict=True)
        )

    def _view_in_words(self) -> str:
        x = AXIS_NAMES[self.axis]
        wishes = (
            (self.axis != "step", f"x in {x}"),
            (self.done_only, "what is done"),
            (self.log_y, "log y"),
            (self.tight, "y as narrow as its values"),
        )
        return ", ".join(words for wished, words in wishes if wished)

    def _where(self) -> str:
        """What changes first, for a narrow screen cuts off the end."""
        g, is_ascii = self.feed.facts.glance, self.app.marks == "ascii"
        recipe = self.feed.facts.recipe
        parts = self._machines.in_words(self.feed.facts.machines, ascii_only=is_ascii)
        if recipe is not None:
            parts.append(title_of(recipe))
        if g.get("host"):
            parts.append(processes_on(g))
        return ("  -  " if is_ascii else "  ·  ").join(parts)

    def _show_alarms(self) -> None:
        facts = self.feed.facts
        silent = None if facts.last_line_at is None else time.time() - facts.last_line_at
        sentences = alarms_of(self.feed, silent)
        why, state = str(facts.glance.get("why") or ""), facts.glance.get("state")
        if sentences and state in IN_TROUBLE and why and not self.feed.lines:
            sentences[0] = f"{state}: {why}"  # there is room for all of it
        if facts.trouble and not any(facts.trouble in sentence for sentence in sentences):
            sentences.append(facts.trouble)
        box = self.query_one("#alarms", Static)
        box.display = bool(sentences)
        box.update(Text("\n".join(f"! {sentence}" for sentence in sentences[:MOST_ALARMS])))

    def _show_log(self, *, anew: bool = False) -> None:
        if not self.is_whole:
            return
        view = self.query_one("#log", RichLog)
        view.set_class(self.log_tail is None, "empty")
        if self.log_tail is None:
            return
        changed = self.log_tail.look()
        anew = anew or self._shown_log is not self.log_tail
        self._shown_log = self.log_tail
        only = f"   only: {self.log_words}" if self.log_words else ""
        others = f"   l: the next of {self._logs} logs" if self._logs > 1 else ""
        nothing = "" if self.log_tail.lines else "   nothing yet"
        self.query_one("#logtitle", Static).update(
            Text(f"{self.log_tail.path.name}{nothing}{only}{others}   /: filter")
        )
        if not changed and not anew:
            return
        width = view.scrollable_content_region.width
        if width < 1:  # it has no place yet: lines broken to no width would stay empty
            self._shown_log = None
            return
        if anew:
            view.clear()
        lines = self.log_tail.lines if anew else self.log_tail.lines[-self.log_tail.added :]
        wanted = self.log_words.lower().split()
        for line in lines if anew or self.log_tail.added else []:
            if all(word in line.lower() for word in wanted):
                view.write(Text(line), width=width)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """What changes something is not there when only reading."""
        return not (self.app.readonly and action in ("stop", "resume", "evaluate"))

    def action_stop(self) -> None:
        """Ask the run to stop."""
        self.app.ask_to_stop(self.run_folder)

    def action_resume(self) -> None:
        """Go on with it."""
        state = self.feed.facts.glance.get("state")
        if state in ("running", "starting", "stopping"):
            self.notify(f"it is at work: {state}", severity="warning")
        else:
            self.app.resume(self.run_folder)

    def action_evaluate(self) -> None:
        """Evaluate its newest checkpoint."""
        self.app.ask_to_evaluate(self.run_folder.path, self.run_folder)

    def action_checkpoints(self) -> None:
        """Its files and results."""
        self.app.open_checkpoints(self.run_folder)

    def action_page(self, by: int) -> None:
        """Other charts."""
        self.first_chart = (self.first_chart + by * self.room) % len(self._with_figures)
        if self.only:
            keys = [plot.key for plot in self.plots]
            self.only = keys[(keys.index(self.only) + by) % len(keys)]
        self._arrange()

    def action_only(self, which: int) -> None:
        """One chart alone, or all again."""
        key = by_digit(self.plots, which + 1, self.only)
        self.only = "" if self.only == key else key
        self._arrange()

    def action_pause(self) -> None:
        """Hold the display still."""
        self.paused = not self.paused
        self._show_head()
        if not self.paused:
            self.show()

    def action_point(self, by: int) -> None:
        """Move the crosshair over some lines, and leave it there."""
        x = self.feed.axis(self.axis)
        first, last = np.searchsorted(x, self._range()[0]), np.searchsorted(x, self._range()[1], "right") - 1
        if last < first:
            return
        now = last if self.crosshair is None else int(np.abs(x - self.crosshair).argmin())
        lines = max(1, round((last - first) / 50))
        self.crosshair, self.pinned = float(x[min(last, max(first, now + by * lines))]), True
        self.draw()

    def action_zoom(self, factor: float) -> None:
        """Look closer, or from further away, around the crosshair or the newest values."""
        x, (x0, x1) = self.feed.axis(self.axis), self._range()
        newest = min(x1, max(x0, float(x[-1]))) if len(x) else x1
        self._zoom(newest if self.crosshair is None else self.crosshair, factor)

    def action_next_log(self) -> None:
        """Another file of the logs folder."""
        files = log_files(self.run_folder.logs)
        if not files:
            self.notify("the run has no logs yet", severity="warning")
            return
        now = self.log_tail.path if self.log_tail is not None else None
        self._log_was_chosen = True
        self.log_tail = LogTail(files[(files.index(now) + 1) % len(files) if now in files else 0])
        self._show_log(anew=True)

    def action_filter(self) -> None:
        """Only some lines of the log."""
        self.query_one("#filter").add_class("open")
        self.query_one("#filter", Input).focus()

    def action_folder(self) -> None:
        """Where it lies."""
        path = self.run_folder.path.resolve()
        self.app.copy_to_clipboard(str(path))
        if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            self.app.open_url(path.as_uri())  # elsewhere a browser of the terminal would open in our place
        self.notify(str(path), title="its folder; the path is in the clipboard")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Filter the log."""
        self._close_filter(event.value)

    def action_back(self) -> None:
        """Leave the filter, or the run."""
        if self.query_one("#filter").has_class("open"):
            self._close_filter("")
        else:
            self.app.pop_screen()

    def _close_filter(self, words: str) -> None:
        self.log_words = words
        self.query_one("#filter", Input).value = words
        self.query_one("#filter").remove_class("open")
        self.set_focus(None)
        self._show_log(anew=True)

    def on_line_chart_pointed(self, message: LineChart.Pointed) -> None:
        """The crosshair follows the mouse on all charts, from line to line; a click holds it or lets it go."""
        if message.clicked:
            self.pinned = not self.pinned
        elif self.pinned:
            return
        x = self.feed.axis(self.axis)
        place = float(x[np.abs(x - message.x).argmin()]) if len(x) else None
        if place != self.crosshair:
            self.crosshair = place
            self.draw()

    def on_line_chart_left(self) -> None:
        """The mouse points at nothing."""
        if not self.pinned and self.crosshair is not None:
            self.crosshair = None
            self.draw()

    def on_line_chart_zoomed(self, message: LineChart.Zoomed) -> None:
        """The wheel zooms all charts."""
        self._zoom(message.x, message.factor)

    def _zoom(self, x: float, factor: float) -> None:
        x0, x1 = self._range()
        w0, w1 = self._whole_range()
        x0, x1 = max(w0, x - (x - x0) * factor), min(w1, x + (x1 - x) * factor)
        self.span = None if (x0, x1) == (w0, w1) or x1 <= x0 else (x0, x1)
        self.draw()

    def _range(self) -> tuple[float, float]:
        return self.span or self._whole_range()

    def _whole_range(self) -> tuple[float, float]:
        """From 0 to the planned end, or to what is done; the same for all charts."""
        x = self.feed.axis(self.axis)
        begin, done = (min(0.0, float(x[0])), float(x[-1])) if len(x) else (0.0, 0.0)
        return begin, done if self.done_only and done > begin else max(end_of([self.feed], self.axis), begin + 1e-9)

    def choice_changed(self) -> None:
        """The head names the choices."""
        self._show_head()
        self.draw()
