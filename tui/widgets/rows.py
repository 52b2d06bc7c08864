"""A table of rows to choose from; whoever does something with enter says so in a binding of its own."""

from __future__ import annotations

from typing import Any

from textual.widgets import DataTable
from textual.widgets.data_table import ColumnKey, RowKey

from ..looks.words import plain


class Rows(DataTable[Any]):
    """A DataTable with a row cursor. Cells and headers are text as it is, never markup."""

    def __init__(self, *, id: str, show_header: bool = True) -> None:
        super().__init__(id=id, cursor_type="row", show_header=show_header)

    def add_column(self, label: Any, **given: Any) -> ColumnKey:
        """Add a column."""
        return super().add_column(plain(label), **given)

    def add_row(self, *cells: Any, **given: Any) -> RowKey:
        """Add a row."""
        return super().add_row(*map(plain, cells), **given)

    def update_cell(self, row_key: RowKey | str, column_key: ColumnKey | str, value: Any, **given: Any) -> None:
        """Write another value into a cell."""
        super().update_cell(row_key, column_key, plain(value), **given)

    @property
    def chosen_key(self) -> str | None:
        """The key of the row under the cursor; None in an empty table."""
        if not self.row_count:
            return None
        return str(self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value)
