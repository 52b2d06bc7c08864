"""Arguments that verbs of the command line share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from simclr_plus.errors import UnreadableImageError

RecipeName = Annotated[str, typer.Argument(help="A TOML file, or the name of a shipped recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value, as many as you like.")]
Target = Annotated[str, typer.Argument(help="A run, a checkpoint, or an encoder file.")]
RunName = Annotated[str, typer.Argument(help="A run: name, unique prefix, path, or latest.")]
RunsFolder = Annotated[Path, typer.Option("--runs", help="Folder of the runs.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out, and say which.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it comes to; start nothing.")]
RUNS = Path("runs")


@contextmanager
def offering_skip_bad(skip_bad: bool) -> Iterator[None]:
    """For a verb with --skip-bad: an image that cannot be read ends it with that remedy."""
    try:
        yield
    except UnreadableImageError as error:
        remedy = "" if skip_bad else "; leave such images out with --skip-bad"
        raise UnreadableImageError(f"{error}{remedy}") from None
