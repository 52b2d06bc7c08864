"""The terminal UI: a live table of the runs in a folder and the curve of the one chosen. It reads run folders only."""

from __future__ import annotations

import math
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.widgets import DataTable, Footer, Header, Sparkline, Static

from simclr_plus.errors import SimclrPlusError
from simclr_plus.progress import figures
from simclr_plus.runs import Run, list_runs
from simclr_plus.states import state_of

SECONDS_BETWEEN_LOOKS = 2.0
COLUMNS = ("run", "state", "step", "loss", "contrastive", "probe", "kNN", "images/s")


class WatchApp(App[None]):
    """Watch runs: newest first; arrows choose, r looks again, s asks the chosen run to save and stop."""

    TITLE = "SimCLR+"
    CSS = """
    DataTable { height: 1fr; }
    #detail { height: auto; padding: 1 2; border-top: solid $primary; }
    Sparkline { height: 4; margin-top: 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("r", "look", "Look again"),
        ("s", "stop", "Save and stop"),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.runs: dict[str, Run] = {}

    def compose(self) -> ComposeResult:
        """A table above, the chosen run below."""
        yield Header()
        yield DataTable(cursor_type="row", zebra_stripes=True)
        with Vertical(id="detail"):
            yield Static(id="figures")
            yield Sparkline([], summary_function=min)
        yield Footer()

    def on_mount(self) -> None:
        """Fill the table and keep it fresh."""
        table = self.query_one(DataTable)
        for column in COLUMNS:
            table.add_column(column, key=column)
        self.action_look()
        self.set_interval(SECONDS_BETWEEN_LOOKS, self.action_look)

    def action_look(self) -> None:
        """Read the run folders again."""
        table = self.query_one(DataTable)
        self.runs = {run.name: run for run in reversed(list_runs(self.folder))}
        for gone in [key.value for key in list(table.rows) if key.value not in self.runs]:
            table.remove_row(str(gone))
        for name, run in self.runs.items():
            cells = _row(run)
            if name in {key.value for key in table.rows}:
                for column, cell in zip(COLUMNS, cells, strict=True):
                    table.update_cell(name, column, cell)
            else:
                table.add_row(*cells, key=name)
        self._show_chosen()

    def action_stop(self) -> None:
        """Ask the chosen run to save a checkpoint and stop."""
        run = self._chosen()
        if run is not None and state_of(run).is_alive:
            run.ask_to_stop()
            self.notify(f"{run.name} is asked to save and stop")

    def on_data_table_row_highlighted(self) -> None:
        """Another run was chosen."""
        self._show_chosen()

    def _chosen(self) -> Run | None:
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
        return self.runs.get(str(key))

    def _show_chosen(self) -> None:
        run = self._chosen()
        if run is None:
            self.query_one("#figures", Static).update(f"no runs in {self.folder} yet: simclr-plus run demo")
            return
        try:
            batch_size = run.recipe().training.batch_size
        except SimclrPlusError as error:
            self.query_one("#figures", Static).update(Text(str(error)))
            return
        lines = run.metrics()
        losses = [line["loss"] for line in lines if line.get("loss") is not None]
        chance = math.log(2 * batch_size - 1)
        text = f"{figures(lines[-1])}   (chance loss {chance:.2f})" if losses else "no metrics yet"
        self.query_one("#figures", Static).update(Text(f"{run.name}: {text}"))
        self.query_one(Sparkline).data = [chance - loss for loss in losses]


def _row(run: Run) -> list[str]:
    try:
        run.recipe()
    except SimclrPlusError:
        return [run.name, "unreadable", *[""] * (len(COLUMNS) - 2)]
    lines = run.metrics()
    last = lines[-1] if lines else {}
    shares = (
        f"{last[key]:.1%}" if last.get(key) is not None else "" for key in ("contrastive_accuracy", "probe_accuracy")
    )
    knn = next((f"{x['knn_accuracy']:.1%}" for x in reversed(lines) if x.get("knn_accuracy") is not None), "")
    loss = f"{last['loss']:.3f}" if last.get("loss") is not None else ""
    speed = f"{last['images_per_second']:.0f}" if last else ""
    return [run.name, state_of(run).name, str(last.get("step", "")), loss, *shares, knn, speed]
