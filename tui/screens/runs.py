"""All runs of a folder, live: sorted, filtered, marked for an overlay; and what to do where there are none yet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input

from simclr_plus.machine.printing import visible
from simclr_plus.machine.words import duration
from simclr_plus.recipe.reading import find_recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.overview import recipe_title

from ..charts.ticks import percent, short, spark
from ..looks.state_colors import COLORS
from ..looks.words import Words, plain
from ..reading.feed import processes_on
from ..reading.run_list import Line, RunList
from ..widgets.key_bar import KeyBar
from ..widgets.rows import Rows
from .live import LiveScreen

WELCOME = """[b]Welcome to SimCLR+[/b]

There is no run in the folder {folder} yet.

[b]d[/b]  the demo: it learns from photographs that are part of the
   package, in minutes on two CPU cores; you watch
[b]n[/b]  a recipe: change its keys, see what it comes to, start it

Runs train by themselves: leave with [b]q[/b] whenever you like,
they go on. [b]?[/b] explains each screen and its keys."""


def welcome(folder: Path) -> Text:
    """What stands where there are no runs; only our own words are markup."""
    before, after = WELCOME.split("{folder}")
    return Text.from_markup(before).append(plain(folder)).append(Text.from_markup(after))


def _value(key: str) -> Callable[[Line], Any]:
    return lambda line: line.glance.get(key)


KNN = "kNN (monitor)"  # on the images that the run holds out; `evaluate knn` is another protocol
SORTS: dict[str, Callable[[Line], Any]] = {
    "newest": lambda line: None,
    "name": lambda line: line.run.name,
    "state": lambda line: line.state,
    "loss": _value("loss"),
    KNN: lambda line: _minus(line.last.get("knn")),
    "probe": lambda line: _minus(line.last.get("probe")),
}


class RunRows(Rows):
    """The runs."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Open", id="runs.open", tooltip="the charts of the chosen run")
    ]


class RunsScreen(LiveScreen):
    """The runs of the folder. Arrows choose, enter opens one, space marks those to lay over each other."""

    PARTS: ClassVar[tuple[str, ...]] = ("#head", "#runs", "#welcome-text", "#about", "#filter")
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "recipes", "New", id="runs.new", tooltip="choose a recipe and start a run"),
        Binding("d", "demo", "Demo", id="runs.demo", tooltip="open the recipe of the demo, ready to start"),
        Binding("space", "mark", "Mark", id="runs.mark", tooltip="mark a run for the overlay"),
        Binding("c", "compare", "Compare", id="runs.compare", tooltip="lay the marked runs over each other"),
        Binding("s", "stop", "Stop", id="runs.stop", tooltip="ask the run to save and stop, or for more"),
        Binding("r", "resume", "Resume", id="runs.resume", tooltip="go on from the newest checkpoint"),
        Binding("e", "evaluate", "Evaluate", id="runs.evaluate", tooltip="kNN or linear, on the newest checkpoint"),
        Binding("k", "checkpoints", "Files", id="runs.checkpoints", tooltip="checkpoints and results"),
        Binding("slash", "filter", "Filter", id="runs.filter", tooltip="words that name or state of a run hold"),
        Binding("o", "sort", "Sort", id="runs.sort", tooltip="by age, name, state, loss, kNN, probe"),
        Binding("escape", "no_filter", "All", show=False, id="runs.all", tooltip="no filter"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.list = RunList(folder)
        self.welcome = welcome(folder)
        self.lines: list[Line] = []
        self._read_lines: list[Line] = []
        self.marked: list[str] = []
        self.sort = "newest"
        self.wanted = ""
        self._looked = False
        self._drawn: dict[str, list[Text | str]] = {}
        self._columns: list[str] = []
        self._titles: dict[str, str] = {}

    def compose(self) -> ComposeResult:
        """A table, the chosen run in words, or a welcome."""
        yield Words(id="head")
        yield RunRows(id="runs")
        with Vertical(id="welcome"):
            yield Words(self.welcome, id="welcome-text")
        yield Input(placeholder="words that the name or the state holds", id="filter")
        yield Words(id="about")
        yield KeyBar()

    def on_mount(self) -> None:
        """Say that there is something to wait for."""
        if self.is_whole:  # else it was left while it was being made
            self.query_one("#head", Words).update("reading the runs ...")

    def read(self) -> None:
        """Read the folder."""
        self._read_lines = self.list.look()

    def show(self) -> None:
        """Show what was read: a table, or a welcome."""
        if not self.is_whole:
            return
        first, was_empty = not self._looked, not self.lines
        self.lines, self._looked = self._read_lines, True
        names = {line.run.name for line in self.lines}
        self.marked = [name for name in self.marked if name in names]
        empty = not self.lines
        self.query_one("#welcome").display = empty
        self.query_one("#welcome-text", Words).update(plain(self.list.trouble) if self.list.trouble else self.welcome)
        self.query_one("#runs").display = not empty
        self.query_one("#about").display = not empty
        if first or empty != was_empty:
            self.refresh_bindings()
        self.fill()

    def on_resize(self) -> None:
        """Another width has other columns."""
        if self._looked and self.is_whole:
            self.fill()

    def fill(self) -> None:
        """Fill the table; only cells that changed are written."""
        table = self.query_one(Rows)
        columns = self._fitting()
        shown = self._sorted([line for line in self.lines if self._is_wanted(line)])
        rows = {line.run.name: [self._cell(column, line) for column in columns] for line in shown}
        if columns != self._columns or list(rows) != list(self._drawn):
            chosen = self.chosen()
            table.clear(columns=True)
            for column in columns:
                table.add_column(self._head_of(column), key=column)
            for name, cells in rows.items():
                table.add_row(*cells, key=name)
            if chosen and chosen.run.name in rows:
                table.move_cursor(row=list(rows).index(chosen.run.name), animate=False)
        else:
            for name, cells in rows.items():
                for column, cell, before in zip(columns, cells, self._drawn[name], strict=True):
                    if cell != before:
                        table.update_cell(name, column, cell, update_width=True)
        self._columns, self._drawn = columns, rows
        alive = sum(line.state in ("running", "starting", "stopping") for line in self.lines)
        count = f"{len(self.lines)} run{'' if len(self.lines) == 1 else 's'}, {alive} at work"
        nothing = "runs unknown" if self.list.trouble else "no runs yet"
        text = Text().append(count if self.lines else nothing, style="bold")
        text.append(f"   {visible(str(self.list.folder))}{f'   by {self.sort}' if self.lines else ''}", style="dim")
        text.append(f"   only: {self.wanted} ({len(shown)})" if self.wanted else "", style="yellow")
        text.append(f"   {visible(self.list.trouble)}", style="red")
        self.query_one("#head", Words).update(text)
        self._show_chosen()

    def chosen(self) -> Line | None:
        """The run under the cursor."""
        key = self.query_one(Rows).chosen_key
        return next((line for line in self.lines if line.run.name == key), None)

    def _fitting(self) -> list[str]:
        """The columns for the width at hand."""
        columns = ["", "run", "state", "progress", "loss", KNN, "loss so far"]
        if self.size.width < 60:
            columns = ["", "run", "state", "loss"]
        if self.size.width >= 110:
            columns = ["", "run", "state", "progress", "left", "loss", "task", "probe", KNN, "images/s"]
            columns.append("loss so far")
        if self.size.width >= 150:
            columns += ["trains"]
        return columns

    def _head_of(self, column: str) -> str:
        """What an accuracy is measured on, where there is room to say it."""
        return "probe (training)" if column == "probe" and self.size.width >= 150 else column

    def _cell(self, column: str, line: Line) -> Text | str:
        g, last = line.glance, line.last
        if column == "":
            mark = "*" if self.app.marks == "ascii" else "●"
            return Text(mark if line.run.name in self.marked else " ", style="bold yellow")
        if column == "run":
            longest = 16 if self.size.width < 60 else 24 if self.size.width < 110 else 40
            name = visible(line.run.name)
            return name if len(name) <= longest else f"{name[: longest - 2]}.."
        if column == "state":
            return Text(line.state, style=COLORS.get(line.state, ""))
        if column == "progress":
            done, all_steps = g.get("step"), g.get("steps")
            if not isinstance(done, int) or not isinstance(all_steps, int) or all_steps < 1:
                return ""
            return f"{done / all_steps:.0%} of {short(all_steps)}"
        if column == "left":
            return duration(g.get("seconds_left")) if line.state == "running" else ""
        if column == "loss":
            return f"{g['loss']:.3f}" if g.get("loss") is not None else "-" if last else ""
        if column == "images/s":
            return short(g.get("images_per_second")) if g.get("images_per_second") else ""
        if column == "loss so far":
            return spark(line.losses, 12 if self.size.width < 110 else 25, ascii_only=self.app.marks == "ascii")
        if column == "trains":
            return self._title(line.run)
        value = last.get("knn" if column == KNN else column)
        return percent(value) if value is not None else ""

    def _title(self, run: Run) -> str:
        """What it trains, read once."""
        if run.name not in self._titles:
            self._titles[run.name] = recipe_title(run)
        return self._titles[run.name]

    def _is_wanted(self, line: Line) -> bool:
        text = f"{line.run.name} {line.state}".lower()
        return all(word in text for word in self.wanted.lower().split())

    def _sorted(self, lines: list[Line]) -> list[Line]:
        if self.sort == "newest":
            return lines
        key = SORTS[self.sort]
        with_value = [line for line in lines if key(line) is not None]
        return sorted(with_value, key=key) + [line for line in lines if key(line) is None]

    def _show_chosen(self) -> None:
        line = self.chosen()
        if line is None:
            if self.wanted:
                self.query_one("#about", Words).update("no run holds these words; escape shows all")
            return
        text = Text().append(visible(line.run.name), style="bold")
        text.append(f"  {line.state}", style=COLORS.get(line.state, ""))
        why = str(line.glance.get("why") or line.trouble or "")
        if why:
            text.append(f": {visible(why.strip().partition(chr(10))[0])}")
        g = line.glance
        if g.get("host"):
            text.append(f"\n{processes_on(g)}", style="dim")
            text.append(f", SLURM job {g['job_id']}" if g.get("job_id") else "", style="dim")
            text.append(f", epoch {short(g['epoch'])}" if g.get("epoch") is not None else "", style="dim")
        if line.trouble and line.trouble not in why:
            text.append(f"\n{line.trouble}", style="red")
        self.query_one("#about", Words).update(text)

    def on_data_table_row_highlighted(self) -> None:
        """Another run was chosen."""
        if self.is_whole:
            self._show_chosen()

    def on_data_table_row_selected(self) -> None:
        """Enter, or a click on the chosen run."""
        self.action_open()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean nothing now are not shown; those that change something not when only reading."""
        if self.app.readonly and action in ("stop", "resume", "evaluate", "recipes", "demo"):
            return False
        if action == "demo":
            return not self.lines
        if action in ("open", "mark", "compare", "stop", "resume", "evaluate", "checkpoints", "filter", "sort"):
            return bool(self.lines)
        return True

    def action_open(self) -> None:
        """Open the chosen run."""
        line = self.chosen()
        if line is not None:
            self.app.open_run(line.run)

    def action_recipes(self) -> None:
        """Choose a recipe."""
        self.app.open_recipes()

    def action_demo(self) -> None:
        """The recipe of the demo, ready to start."""
        self.app.open_recipe("places", find_recipe("places"))

    def action_mark(self) -> None:
        """Mark the chosen run, or take its mark away; then go down."""
        line = self.chosen()
        if line is None:
            return
        name = line.run.name
        self.marked = [m for m in self.marked if m != name] if name in self.marked else [*self.marked, name]
        self.fill()
        self.query_one(Rows).action_cursor_down()

    def action_compare(self) -> None:
        """The marked runs, with the chosen one, on the same charts."""
        line = self.chosen()
        names = self.marked if line is None or len(self.marked) > 1 else [*self.marked, line.run.name]
        by_name = {line.run.name: line.run for line in self.lines}
        chosen = [by_name[name] for name in dict.fromkeys(names)]
        if len(chosen) < 2:
            self.notify("mark two runs or more with space, then press c", severity="warning")
            return
        self.app.open_comparison(chosen)

    def action_stop(self) -> None:
        """Ask the chosen run to stop."""
        line = self.chosen()
        if line is not None and line.state in ("running", "starting", "stopping", "stale", "queued"):
            self.app.ask_to_stop(line.run)
        elif line is not None:
            self.notify(f"{line.run.name} is not at work: {line.state}", severity="warning")

    def action_resume(self) -> None:
        """Go on with the chosen run."""
        line = self.chosen()
        if line is not None and line.state in ("running", "starting", "stopping"):
            self.notify(f"{line.run.name} is at work: {line.state}", severity="warning")
        elif line is not None:
            self.app.resume(line.run)

    def action_evaluate(self) -> None:
        """Evaluate the newest checkpoint of the chosen run."""
        line = self.chosen()
        if line is not None:
            self.app.ask_to_evaluate(line.run.path, line.run)

    def action_checkpoints(self) -> None:
        """Checkpoints and results of the chosen run."""
        line = self.chosen()
        if line is not None:
            self.app.open_checkpoints(line.run)

    def action_filter(self) -> None:
        """Write words to look for."""
        self.query_one("#filter").add_class("open")
        self.query_one("#filter", Input).focus()

    def action_no_filter(self) -> None:
        """Show all runs."""
        self.query_one("#filter", Input).value = ""
        self._close_filter()

    def action_sort(self) -> None:
        """The next order."""
        names = list(SORTS)
        self.sort = names[(names.index(self.sort) + 1) % len(names)]
        self.fill()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while typing."""
        self.wanted = event.value
        self.fill()

    def on_input_submitted(self) -> None:
        """Keep the filter, go back to the table."""
        self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter").remove_class("open")
        self.query_one(Rows).focus()


def _minus(value: Any) -> Any:
    """Best first."""
    return None if value is None else -value
