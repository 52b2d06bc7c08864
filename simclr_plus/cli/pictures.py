"""The verbs that draw: preview, the views of an image; report, the table of results and the curves of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from simclr_plus.cli.options import RUNS, AsJson, Overrides, RunsFolder
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.machine.printing import print_table, say

app = typer.Typer()


@app.command()
def preview(
    image: Annotated[Path, typer.Argument(help="Any image file.")],
    overrides: Overrides = None,
    recipe: Annotated[str, typer.Option(help="Recipe whose views are shown.")] = "r50_1x",
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG to write.")] = Path("preview.png"),
    pairs: Annotated[int, typer.Option(min=1, max=64, help="Pairs of views.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draws.")] = 0,
) -> None:
    """Draw augmented views of an image: the middle of it, then columns of two views."""
    from simclr_plus.datasets.decoding import reading_of
    from simclr_plus.datasets.images import Images
    from simclr_plus.recipe.reading import load_recipe
    from simclr_plus.results.curves import preview_grid, save_png

    if not image.is_file():
        raise NotFoundError(f"no image {image}; give the path of an image file")
    drawn = load_recipe(recipe, overrides or [])
    pixels = Images(str(image), paths=(image,), reading=reading_of(drawn.data)).read(0)
    save_png(preview_grid(pixels, drawn.law, pairs=pairs, seed=seed), output)
    print(output)


@app.command()
def report(
    named: Annotated[list[str], typer.Argument(metavar="RUN...", help="Runs, or folders that hold results.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=".md, .csv, .json, .html: the table; .png, .svg, .pdf: learning curves."),
    ] = None,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """One table of all evaluations beside the paper's figures; with -o curves.png the learning curves of a run."""
    from simclr_plus.machine.whole_files import write_text_whole
    from simclr_plus.results.curves import draw_curves
    from simclr_plus.results.report import FORMATS, as_text, make_report, results_folder, table
    from simclr_plus.runs.folder import find_run

    if output and output.suffix in (".png", ".svg", ".pdf"):
        if len(named) > 1:
            raise RecipeError(f"--output {output}: learning curves are drawn of one run; for several write .html")
        draw_curves(find_run(named[0], runs), output)
        print(output)
        return
    if output and output.suffix not in FORMATS:
        raise RecipeError(f"--output {output}: name a {', '.join(FORMATS)}, .png, .svg or .pdf file")
    results = make_report([results_folder(name, runs) for name in named])
    if output:
        write_text_whole(output, as_text(results, FORMATS[output.suffix]))
        print(output)
    elif as_json:
        print(as_text(results, "json"))
    else:
        print_table(*table(results), grouped=4)
        for text in (*results.warnings, *results.choices):
            say(f"note: {text}")
