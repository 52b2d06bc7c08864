"""A table of rows to choose from; whoever does something with enter says so in a binding of its own."""

from __future__ import annotations

from typing import Any

from textual.widgets import DataTable


class Rows(DataTable[Any]):
    """A DataTable with a row cursor."""

    def __init__(self, *, id: str, show_header: bool = True) -> None:
        super().__init__(id=id, cursor_type="row", show_header=show_header)

    @property
    def chosen_key(self) -> str | None:
        """The key of the row under the cursor; None in an empty table."""
        if not self.row_count:
            return None
        return str(self.coordinate_to_cell_key(self.cursor_coordinate).row_key.value)
