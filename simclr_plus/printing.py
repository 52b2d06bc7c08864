"""What verbs print: data to stdout, talk to stderr, and of several processes only the first one speaks."""

from __future__ import annotations

import json
import sys
from typing import Any

from simclr_plus import torchrun


def say(text: str) -> None:
    """A line for people, to stderr."""
    if _first_process():
        print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON document."""
    if _first_process():
        print(json.dumps(value, indent=2))


def print_table(columns: list[str], rows: list[list[str]], title: str = "", *, grouped: int = 0) -> None:
    """A table as wide as the terminal; **bold** cells are bold. grouped: so many leading columns tell which group a row
    belongs to; what they repeat is left blank, and a line parts the groups of the first.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not _first_process():
        return
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    before: list[str] = []
    for row in rows:
        same = next((i for i in range(grouped) if row[: i + 1] != before[: i + 1]), grouped)
        if grouped and before and not same:
            table.add_section()
        shown = [*[""] * same, *row[same:]]
        table.add_row(*(Text(cell[2:-2], "bold") if cell[:2] == "**" == cell[-2:] else Text(cell) for cell in shown))
        before = row
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if title:  # above the table, not within its width
        console.print(Text(title, "italic"))
    console.print(table)


def _first_process() -> bool:
    return torchrun.is_first()
