"""The checkpoints of a run, read by their headers alone, and what evaluators found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import DataTable

from simclr_plus.errors import CheckpointError
from simclr_plus.machine.printing import visible
from simclr_plus.runs.folder import Run
from simclr_plus.weights.file_header import read_file_header

from ..charts.ticks import ago, percent, short, size
from ..looks.words import Words
from ..reading.scores import with_interval
from ..starting.commands import EXPORTED, export_words
from ..widgets.dialogs import Ask
from ..widgets.key_bar import KeyBar
from ..widgets.rows import Rows
from .live import AppScreen

SECONDS_BETWEEN_LOOKS = 2.0


class CheckpointsScreen(AppScreen):
    """Checkpoints: what their headers say, which tensors they hold, and the results of evaluations."""

    PARTS: ClassVar[tuple[str, ...]] = ("#files", "#metadata", "#tensors", "#results", "#no-results")
    AUTO_FOCUS = "#files"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "app.pop_screen", "Back", id="files.back"),
        Binding("x", "export", "Export", id="files.export", tooltip="write the encoder for other projects"),
        Binding("e", "evaluate", "Evaluate", id="files.evaluate", tooltip="kNN or linear, on this file"),
        Binding("f", "path", "Copy path", id="files.path", tooltip="the file's path into the clipboard"),
    ]

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run_folder = run
        self._files: list[tuple[str, int]] = []
        self._results: list[tuple[str, int]] = []
        self._shown: Path | None = None

    def compose(self) -> ComposeResult:
        """Files, the header of the chosen one, results."""
        yield Words(Text(f"{visible(self.run_folder.name)}: checkpoints and results", style="bold"), id="head")
        with Horizontal(id="files-and-tensors"):
            yield Rows(id="files")
            with Vertical(id="file-side"):
                yield Words(id="metadata")
                yield Rows(id="tensors")
        yield Rows(id="results")
        yield Words("no results yet: e evaluates the chosen file", id="no-results")
        yield KeyBar()

    def on_mount(self) -> None:
        """Look, again and again."""
        if not self.is_whole:  # it was left while it was being made
            return
        self.query_one("#files", Rows).add_columns("file", "step", "size", "saved")
        self.query_one("#tensors", Rows).add_columns("tensor", "type", "shape", "elements")
        self.query_one("#results", Rows).add_columns("result", "of", "step", "top-1", "top-5", "per class", "data")
        self.look()
        self.set_interval(SECONDS_BETWEEN_LOOKS, self.look)

    def look(self) -> None:
        """Show files and results if there are others than before."""
        if not self.is_whole:
            return
        files = [(path, *status) for path in self._paths() if (status := _status(path))]
        mark = [(path.name, stamp) for path, _, stamp in files]
        if mark != self._files:
            self._files = [(name, int(stamp)) for name, stamp in mark]
            table = self.query_one("#files", Rows)
            row = table.cursor_row
            table.clear()
            for path, length, stamp in files:
                step = path.stem.removeprefix("step_").lstrip("0") or "0"
                name = "encoder" if path.stem == "encoder" else "checkpoint"
                table.add_row(name, "" if name == "encoder" else step, size(length), ago(stamp), key=str(path))
            table.move_cursor(row=row, animate=False)
        paths = sorted(self.run_folder.results.glob("*.json"))
        files_seen = [(path.name, int(status[1])) for path in paths if (status := _status(path))]
        table = self.query_one("#results", Rows)
        if files_seen != self._results:
            self._results = files_seen
            table.clear()
            for path in paths:
                for row_cells in result_rows(path):
                    table.add_row(*row_cells)
        table.set_class(not files_seen, "empty")
        self.query_one("#no-results").set_class(bool(files_seen), "full")
        self._show_chosen()

    def _paths(self) -> list[Path]:
        encoder = self.run_folder.path / "encoder.safetensors"
        return [*([encoder] if encoder.exists() else []), *reversed(self.run_folder.checkpoint_files())]

    def chosen(self) -> Path | None:
        """The file under the cursor."""
        key = self.query_one("#files", Rows).chosen_key
        return None if key is None else Path(key)

    def _show_chosen(self) -> None:
        path = self.chosen()
        if path is None:
            self.query_one("#metadata", Words).update("no checkpoint yet: checkpoints.every_epochs says when")
            return
        if path == self._shown:
            return
        self._shown = path
        table, box = self.query_one("#tensors", Rows), self.query_one("#metadata", Words)
        table.clear()
        try:
            header = read_file_header(path)
        except CheckpointError as error:
            box.add_class("problem")
            box.update(str(error))
            return
        box.remove_class("problem")
        total = sum(tensor.count for tensor in header.tensors)
        text = Text().append(f"{path.name}  ", style="bold")
        text.append(f"{len(header.tensors)} tensors, {short(total)} numbers\n")
        for key, value in sorted(header.metadata.items(), key=lambda pair: pair[0] == "classes"):  # long, so last
            line = value if "\n" not in value else f"{len(value.splitlines())} lines of TOML"
            text.append(f"{key} ", style="dim")
            text.append(f"{line}\n")
        text.rstrip()
        box.update(text)
        for tensor in sorted(header.tensors, key=lambda tensor: tensor.name):
            shape = " x ".join(map(str, tensor.shape)) or "scalar"
            table.add_row(tensor.name, tensor.dtype, shape, f"{tensor.count:,}")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another file."""
        if event.data_table.id == "files" and self.is_whole:
            self._show_chosen()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing is written when only reading."""
        return not (self.app.readonly and action in ("export", "evaluate"))

    def action_export(self) -> None:
        """Write the encoder of the chosen file."""
        path = self.chosen()
        if path is None or not self.app.may_change():
            return

        def answered(name: str | None) -> None:
            if name is not None:
                self.app.start(f"export {name}", export_words(path, Path(name)), self.run_folder.logs)

        proposed = f"{self.run_folder.name}_{path.stem}.safetensors"
        title = "Write the encoder to (.safetensors, .onnx or .pt2; without an ending, a folder for timm)"
        self.app.push_screen(Ask(title, proposed, _problem), answered)

    def action_evaluate(self) -> None:
        """Evaluate the chosen file."""
        path = self.chosen()
        if path is not None:
            self.app.ask_to_evaluate(path, self.run_folder)

    def action_path(self) -> None:
        """Into the clipboard."""
        path = self.chosen()
        if path is not None:
            self.app.copy_to_clipboard(str(path.resolve()))
            self.notify(str(path.resolve()), title="copied")


def result_rows(path: Path) -> Iterator[list[str]]:
    """The lines of a result file for the table; a damaged file is one line that says so."""
    try:
        if not path.is_file():
            raise ValueError("it is no file")
        result = json.loads(path.read_bytes())
        for who, scores in result["results"].items():
            figures = [percent(scores.get(key)) if key in scores else "" for key in ("top5", "mean_per_class")]
            top1 = with_interval(scores.get("top1"), result.get("test_images"))
            yield [path.stem, str(who), _text(result.get("step")), top1, *figures, _text(result.get("data"))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        yield [path.stem, "unreadable", "", "", "", "", str(error)]


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _status(path: Path) -> tuple[int, float] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime


def _problem(name: str) -> str:
    if not Path(name).name or Path(name).suffix not in EXPORTED:
        return "the name ends in .safetensors, .onnx or .pt2; that of a folder for timm has no ending"
    return f"{name} exists" if Path(name).exists() else ""
