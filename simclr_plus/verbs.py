"""Arguments that verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, as many as you like.")]
Target = Annotated[str, typer.Argument(help="A run, a checkpoint, or an encoder file.")]
RunName = Annotated[str, typer.Argument(help="A run: name, unique prefix, path, or latest.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it comes to; start nothing.")]
RUNS = Path("runs")
