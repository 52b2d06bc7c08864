"""What the verbs of the command line share: arguments and printing. Data goes to stdout, talk to stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

RecipeName = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, as many as you like.")]
RunName = Annotated[str, typer.Argument(help="A run: name, unique prefix, path, or latest.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it comes to; start nothing.")]
RUNS = Path("runs")


def say(text: str) -> None:
    """Print a line of talk."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print data as JSON."""
    print(json.dumps(value, indent=2))


def print_table(columns: list[str], rows: list[list[str]], title: str = "") -> None:
    """Print data as a table; 160 columns wide where there is no terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title or None, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console() if sys.stdout.isatty() else Console(width=160)
    console.print(table)
