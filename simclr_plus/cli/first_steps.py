"""The verbs to begin with: demo, doctor and tui."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simclr_plus.cli.options import RUNS, AsJson, RunsFolder
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError
from simclr_plus.machine.printing import print_json, print_table, say

if TYPE_CHECKING:
    from simclr_plus.checks.doctor import Look

app = typer.Typer()


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and views.")] = 0,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Watch SimCLR learn from photographs on two CPU cores, and what its features are worth."""
    from simclr_plus.checks.demo import run_demo

    result, code = run_demo(seed, runs, quiet=as_json, say=say)
    if result is None:
        raise typer.Exit(code)
    if as_json:
        print_json(result)
        return
    _show_demo(result["evaluations"])
    say(
        f"curves:      {result['curves']}\n"
        f"neighbours:  {result['neighbours']} (test pieces, and the nearest by h and by raw pixels)\n"
        f"report:      {result['report']}\n"
        f"encoder:     {result['encoder']}\n"
        "next, on your own images:\n"
        "  simclr-plus run folder data.root=PHOTOS                    with a GPU\n"
        "  simclr-plus run places data.name=folder data.root=PHOTOS   on a CPU\n"
        "in Python:\n"
        f"  encoder = simclr_plus.load_encoder({result['encoder']!r})"
    )


def _show_demo(evaluations: list[dict[str, Any]]) -> None:
    """A row a subject, a column an evaluation."""
    tests = evaluations[0]["test_images"]
    columns = [f"{'kNN' if e['evaluator'] == 'knn' else 'linear'}, {e['train_images']:,} labels" for e in evaluations]
    rows = [[who, *(f"{e['results'][who]['top1']:.1%}" for e in evaluations)] for who in evaluations[0]["results"]]
    print_table(["features", *columns], rows, f"top-1 on {tests:,} test pieces of 66 places")


@app.command()
def doctor(
    nproc: Annotated[
        str, typer.Option("--nproc", help='Prove that so many processes train what one does; "gpu": one a GPU.')
    ] = "1",
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Say what this machine can do; with --nproc, prove that several processes equal one on it."""
    from dataclasses import asdict

    from simclr_plus.checks.doctor import look_around, prove_processes
    from simclr_plus.launch.start import process_count

    processes = process_count(nproc)
    looks, proof = look_around(runs), []
    if not as_json:
        _show_looks(looks)
    if processes > 1:
        proof = prove_processes(processes, say)
    failed = any(look.remedy for look in proof)
    if as_json:
        proved = None if processes == 1 else not failed
        print_json({"schema": 1, "proved": proved, "looks": [asdict(look) for look in (*looks, *proof)]})
    elif proof:
        _show_looks(proof)
        say(f"{processes} processes {'do NOT train' if failed else 'train'} what one does")
    raise typer.Exit(1 if failed else 0)


def _show_looks(looks: list[Look]) -> None:
    """Each group's name once; the last column only where something should be done."""
    new = [i == 0 or look.group != looks[i - 1].group for i, look in enumerate(looks)]
    rows = [[look.group if first else "", look.name, look.found] for first, look in zip(new, looks, strict=True)]
    if any(look.remedy for look in looks):
        rows = [[*row, look.remedy] for row, look in zip(rows, looks, strict=True)]
    print_table(["", "", "found", "to do"][: len(rows[0])], rows)


@app.command()
def tui(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs.")] = RUNS,
    readonly: Annotated[bool, typer.Option("--readonly", help="Only look: start, stop and write nothing.")] = False,
    theme: Annotated[str, typer.Option(help='"dark", "light", or "16" colours of the terminal.')] = "",
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Charts without braille characters.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Show it in a browser of this machine, only to look.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port, with --serve.")] = 8000,
    write: Annotated[bool, typer.Option("--write", help="With --serve: also start, stop and write.")] = False,
    host: Annotated[str, typer.Option(help="Address to listen on, with --serve.")] = "127.0.0.1",
) -> None:
    """Choose a recipe, start runs, watch them learn, compare them: in the terminal."""
    if theme not in ("", "dark", "light", "16"):
        raise RecipeError(f'--theme {theme!r} is unknown; use "dark", "light" or "16"')
    if write and (readonly or not serve):
        raise RecipeError("--write lets --serve start and stop runs: give it with --serve and without --readonly")
    if serve:
        from simclr_plus.tui.served import serve_in_browser

        options = [] if write else ["--readonly"]
        options += [*(["--theme", theme] if theme else []), *(["--ascii"] if ascii_only else [])]
        serve_in_browser(["tui", *options, "--", str(runs)], port, say, host=host)
        return
    from simclr_plus.tui.app import SimclrPlusApp

    if not sys.stdout.isatty() and "TEXTUAL_DRIVER" not in os.environ:
        raise EnvironmentNotAbleError(
            "the terminal UI needs a terminal; `simclr-plus ps --json` prints the same figures"
        )
    app = SimclrPlusApp(runs, readonly=readonly, theme=theme, ascii_only=ascii_only or None)
    app.run()
    if app.return_code:
        raise typer.Exit(app.return_code)
