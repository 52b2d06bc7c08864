"""The verbs under `simclr-plus recipes`: list, show, copy and check recipes, explain their keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simclr_plus.cli.options import AsJson, Overrides, RecipeName
from simclr_plus.errors import RecipeError
from simclr_plus.machine.printing import print_json, print_table, say

if TYPE_CHECKING:
    from simclr_plus.recipe.recipe import Recipe

app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)


@app.command("ls")
def list_recipes(as_json: AsJson = False) -> None:
    """The shipped recipes."""
    from simclr_plus.recipe.reading import load_recipe, shipped_recipes

    about = {path.stem: load_recipe(path).about for path in shipped_recipes()}
    if as_json:
        print_json({name: text.model_dump() for name, text in about.items()})
    else:
        print_table(["recipe", "trains", "expected"], [[n, a.summary, a.expected] for n, a in about.items()])


@app.command("show")
def show_recipe(
    recipe: RecipeName,
    overrides: Overrides = None,
    against: Annotated[
        str, typer.Option(help='"paper", "authors" or "lightly": a table of every choice, those that differ marked.')
    ] = "",
    as_json: AsJson = False,
) -> None:
    """A recipe with every key, overrides applied; or its choices beside those of paper, authors and Lightly."""
    from simclr_plus.recipe.reading import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if against:
        _show_choices(loaded, against, as_json)
    elif as_json:
        print_json(loaded.model_dump())
    else:
        print(loaded.to_toml(), end="")


def _show_choices(recipe: Recipe, against: str, as_json: bool) -> None:
    from dataclasses import asdict

    from simclr_plus.recipe.deviations import SOURCES, choices

    if against not in SOURCES:
        raise RecipeError(f"--against {against!r} is no source of choices; use {', '.join(SOURCES)}")
    every_choice = choices(recipe)
    other = [choice for choice in every_choice if choice.differs_from(against)]
    if as_json:
        rows = [{**asdict(c), "differs": {s: c.differs_from(s) for s in SOURCES}} for c in every_choice]
        print_json({"schema": 1, "against": against, "differ": len(other), "choices": rows})
        return
    table = [[c.name, "≠" if c in other else "", c.ours, c.paper, c.authors, c.lightly, c.key] for c in every_choice]
    print_table(["choice", "", "this recipe", "paper", "authors' code", "Lightly", "key"], table)
    names = {"paper": "the paper", "authors": "the authors' code", "lightly": "Lightly"}
    say(f"{len(other)} of {len(every_choice)} choices differ from {names[against]}")


@app.command("cp")
def copy_recipe(
    recipe: RecipeName, target: Annotated[Path, typer.Argument(help="File to write; must not exist.")]
) -> None:
    """Copy a recipe, to make it yours."""
    from simclr_plus.recipe.reading import find_recipe

    source = find_recipe(recipe)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} exists; choose another name")
    target.write_bytes(source.read_bytes())
    print(target)


@app.command("validate")
def validate_recipe(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe; unknown keys, wrong types and impossible values are errors."""
    from simclr_plus.recipe.reading import load_recipe, typed_keys

    loaded = load_recipe(recipe, overrides or [])
    loaded.with_whole_paths()  # whether they could be recorded
    for doubt in loaded.doubts(typed_keys(overrides or [])):
        say(f"note: {doubt}")
    print(f"{recipe} is a valid recipe")


@app.command("keys")
def list_keys(as_json: AsJson = False) -> None:
    """Every key with its type, default and meaning."""
    from simclr_plus.recipe.recipe import documented_keys

    keys = list(documented_keys())
    if as_json:
        print_json([dict(zip(("key", "type", "default", "help"), key, strict=True)) for key in keys])
    else:
        print_table(["key", "type", "default", "meaning"], [[k, t, json.dumps(d), h] for k, t, d, h in keys])
