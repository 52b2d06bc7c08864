"""The command `simclr-plus`: its groups of verbs, each from a file of its own, and how a mistake is told.

Data goes to stdout, talk to stderr; heavy imports are inside the verbs.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise

import typer

from simclr_plus.cli import (
    bench,
    clean,
    evaluate,
    first_look,
    first_steps,
    pictures,
    recipes,
    run,
    study,
    watch,
    weights,
)
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.machine.printing import take_any_name, visible

app = typer.Typer(
    cls=first_look.GroupedCommands,
    callback=first_look.begin,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verbs in (weights, pictures, first_steps, run, watch, study, clean):
    app.add_typer(verbs.app)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(recipes.app, name="recipes")
app.add_typer(bench.app, name="bench")


def _require_words(arguments: list[str]) -> None:
    """An empty word is a variable of the shell that is not set: as a path it would be the working directory."""
    for before, argument in pairwise(arguments):
        if argument == "" or (argument.startswith("--") and argument.endswith("=")):
            what = f"{argument.removesuffix('=')} is empty" if argument else f"the word after {before!r} is empty"
            raise RecipeError(f"{what}: was it a variable that is not set? Give a value, or leave it out")


def main() -> None:
    """The `simclr-plus` command: a mistake is one plain message and an exit code; --debug shows the traceback."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # threads that spin while they wait starve those that make views
    take_any_name()
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        _require_words(sys.argv)
        app()
    except SimclrPlusError as error:
        if debug:
            raise
        print(visible(f"error: {error}", lines=True), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        print(visible(f"error: {error}", lines=True), file=sys.stderr)
        sys.exit(EnvironmentNotAbleError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
