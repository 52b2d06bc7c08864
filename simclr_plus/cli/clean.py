"""The verb `simclr-plus clean`: what a folder of runs holds that can be made again, and its removal."""

from __future__ import annotations

from typing import Annotated

import typer

from simclr_plus.cli.options import RUNS, AsJson, RunsFolder
from simclr_plus.errors import NotFoundError
from simclr_plus.machine.printing import print_json, print_table, say

app = typer.Typer()


@app.command()
def clean(
    days: Annotated[
        float, typer.Option(min=0, help="States of evaluations that were cut off go when untouched for so many days.")
    ] = 7.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go; remove nothing.")] = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Remove kept features and what killed processes left; results, checkpoints and encoders stay."""
    from simclr_plus.runs.leftovers import FEATURES, STATES, UNFINISHED, leftovers, remove

    if not runs.is_dir():
        raise NotFoundError(f"no folder {runs}; name the folder of the runs with --runs")
    files_to_remove = leftovers(runs, days=days)
    if not dry_run:
        remove(files_to_remove)
    if as_json:
        files = [
            {"path": str(leftover.path), "kind": leftover.kind, "bytes": leftover.bytes} for leftover in files_to_remove
        ]
        total = sum(leftover.bytes for leftover in files_to_remove)
        print_json({"schema": 1, "removed": not dry_run, "bytes": total, "files": files})
        return
    rows = []
    for kind in (FEATURES, UNFINISHED, STATES):
        sizes = [leftover.bytes for leftover in files_to_remove if leftover.kind == kind]
        rows.append([kind, f"{len(sizes):,}", f"{sum(sizes):,}"])
    print_table(["", "files", "bytes"], rows)
    say("nothing was removed (--dry-run)" if dry_run else f"{len(files_to_remove):,} files removed from {runs}")
