"""The command line: verbs that stand alone, and groups of verbs from files of their own.

Data goes to stdout, talk to stderr; heavy imports are inside the verbs.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simclr_plus.cli import bench, clean, evaluate, recipes, run, study, watch
from simclr_plus.cli.options import RUNS, AsJson, Overrides, RunsFolder, SkipBad, Target, offering_skip_bad
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.machine.printing import print_json, print_table, say, take_any_name, visible

if TYPE_CHECKING:
    from simclr_plus.checks.doctor import Look

app = typer.Typer(
    help="SimCLR as its authors ran it: pretrain, evaluate, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(run.app)
app.add_typer(watch.app)
app.add_typer(study.app)
app.add_typer(clean.app)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(recipes.app, name="recipes")
app.add_typer(bench.app, name="bench")


@app.command()
def export(
    target: Target,
    output: Annotated[Path, typer.Option("--output", "-o", help="File (encoder) or folder (timm) to write.")],
    format: Annotated[
        str, typer.Option(help='"encoder": a safetensors file; "timm": a folder timm opens.')
    ] = "encoder",
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Leave folders of this machine out of the recorded recipe.")
    ] = False,
    runs: RunsFolder = RUNS,
) -> None:
    """Write an encoder for other projects; its header holds the whole recipe."""
    from simclr_plus.results.targets import weights_of
    from simclr_plus.weights.export import export_encoder, export_timm

    if format not in ("encoder", "timm"):
        raise RecipeError(f'--format {format!r} is unknown; use "encoder" or "timm"')
    source, _ = weights_of(target, runs)
    if format == "timm":
        export_timm(source, output, anonymous=anonymous)
        say(f'open it with: timm.create_model("local-dir:{output}", pretrained=True, num_classes=0)')
    else:
        encoder = export_encoder(source, output, anonymous=anonymous)
        say(f"{output}: {encoder.feature_dim} features; open it with: simclr_plus.load_encoder({str(output)!r})")
    print(output)


@app.command("import")
def import_weights(
    source: Annotated[Path, typer.Argument(help="TensorFlow checkpoint or SavedModel; .pth, .ckpt, .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Encoder file to write; heads go beside it.")],
    normalize: Annotated[
        str,
        typer.Option(
            help='PyTorch files: how images were normalised: "imagenet" (taken and said if left out), "none", or six '
            "numbers (mean, std)."
        ),
    ] = "",
    prefix: Annotated[str, typer.Option(help="PyTorch files with several encoders: the prefix of its names.")] = "",
    stem: Annotated[
        str, typer.Option(help="PyTorch files with a 3x3 stem: cifar, cifar_pad2 (solo-learn), cifar_no_relu.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Bring in weights: the authors' checkpoints, or a file of another trainer."""
    from simclr_plus.importers import import_pytorch, import_tensorflow, is_tensorflow, mean_and_std
    from simclr_plus.weights.encoder_files import ENCODER_FORMAT
    from simclr_plus.weights.outputs import require_output

    require_output(output, ENCODER_FORMAT, inputs=[source])
    if is_tensorflow(source):
        imported = import_tensorflow(source, output)
    else:
        mean, std = mean_and_std(normalize) if normalize else (None, None)
        imported = import_pytorch(source, output, mean=mean, std=std, prefix=prefix, stem=stem)
    if as_json:
        print_json(imported.as_dict())
        return
    a = imported.architecture
    say(f"{a.title}, flavor {a.flavor}: {a.feature_dim} features")
    if a.normalizes:
        say(f"the encoder takes images in [0, 1], subtracts {a.mean} and divides by {a.std} itself (--normalize)")
    for note in imported.notes:
        say(f"note: {note}")
    if imported.left_out:
        shown = ", ".join(imported.left_out[:8]) + (", ..." if len(imported.left_out) > 8 else "")
        say(f"{len(imported.left_out)} tensors have no place in it: {shown}")
    for kind, path in imported.heads.items():
        say(f"{kind} head: {path}")
    print(imported.encoder)


@app.command()
def verify(
    target: Target,
    data: Annotated[str, typer.Argument(help="Labelled folder, or a data set's name for its test images.")],
    head: Annotated[
        Path | None,
        typer.Option(
            help="Linear head, as `evaluate linear` keeps it in results; default: the probe, or what import wrote."
        ),
    ] = None,
    stated: Annotated[
        float | None, typer.Option(min=0, max=100, help="Top-1 in percent that the publishers state.")
    ] = None,
    published: Annotated[
        str,
        typer.Option(help="The authors' figure: v1-linear, v2-linear, v2-1pct, v2-10pct, v2-100pct, v2-supervised."),
    ] = "",
    classes: Annotated[Path | None, typer.Option(help="Class names in the head's order, one a line.")] = None,
    root: Annotated[
        str, typer.Option(help='Folder of a data set that is named; default: that of the recipe, or "data".')
    ] = "",
    selector: Annotated[
        int | None,
        typer.Option(
            min=-1, help="Layer of the projection head that the linear head stands on; 0: none, -1: the last."
        ),
    ] = None,
    projection: Annotated[
        Path | None, typer.Option(help="Projection head; default: the checkpoint's, or what import wrote.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the result to.")] = None,
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Evaluate weights with a given linear head, beside the figure their publishers state."""
    from dataclasses import replace

    from simclr_plus.machine.whole_files import write_text_whole
    from simclr_plus.results.targets import best_device, told_left_out, weights_of
    from simclr_plus.results.verify import classes_in, images_to_verify
    from simclr_plus.results.verify import verify as verify_weights
    from simclr_plus.weights.export import recipe_of
    from simclr_plus.weights.outputs import require_no_input

    if stated is not None and published:
        raise RecipeError("--stated and --published both name a figure; give one of them")
    weights, _ = weights_of(target, runs)
    if output:
        require_no_input(output, [path for path in (weights, head, projection, classes) if path])
    recipe, device = recipe_of(weights), best_device()
    images = images_to_verify(data, recipe.data, root)
    images = replace(images, skip_bad=skip_bad)
    with offering_skip_bad(skip_bad):
        result = verify_weights(
            weights,
            images,
            recipe.law,
            device=device,
            head=head,
            projection=projection,
            selector=selector,
            classes=classes_in(classes) if classes else (),
            stated=stated,
            published=published,
        )
    result["left_out"] = told_left_out([images], device, say)
    if output:
        write_text_whole(output, json.dumps(result, indent=2) + "\n")
    if as_json:
        print_json(result)
        return
    found, expected = result["results"], result.get("stated")
    measured = [f"{found[m]:.2%}" if m in found else "" for m in ("top1", "top5", "mean_per_class")]
    rows = [["measured", *measured]]
    if expected:
        rows.append([f"stated ({expected['source']})", f"{expected['top1']:.2%}", "", ""])
        rows.append(["difference", f"{100 * result['difference']:+.2f} points", "", ""])
    title = f"{result['test_images']:,} images of {result['data']}; standard error {result['standard_error']:.2%}"
    print_table(["", "top-1", "top-5", "mean per class"], rows, title)
    if not result["classes_by_name"]:
        say("note: the head does not name its classes: the images' are taken in the order of their names (--classes)")
    for part, file in result["files"].items():
        say(f"{part}: {file['path']} sha256 {file['sha256']}")


@app.command()
def embed(
    target: Target,
    folder: Annotated[Path, typer.Argument(help="Images, labelled or not.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write.")] = Path(
        "features.safetensors"
    ),
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
) -> None:
    """Write features and file names of any folder of images."""
    from dataclasses import replace

    from simclr_plus.datasets.images import open_folder
    from simclr_plus.features.embed import embed as embed_images
    from simclr_plus.results.targets import best_device, told_left_out, weights_of
    from simclr_plus.weights.export import recipe_of

    source, _ = weights_of(target, runs)
    images = replace(open_folder(folder, recipe_of(source).data), skip_bad=skip_bad)
    device = best_device()
    with offering_skip_bad(skip_bad):
        features = embed_images(source, images, folder, output, law=recipe_of(source).law, device=device)
    told_left_out([images], device, say)
    say(f"{len(features):,} images, {features.shape[1]} features each")
    print(output)


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
    from simclr_plus.errors import NotFoundError
    from simclr_plus.recipe.recipe import load_recipe
    from simclr_plus.results.curves import preview_grid, save_png

    if not image.is_file():
        raise NotFoundError(f"no image {image}; give the path of an image file")
    shown = load_recipe(recipe, overrides or [])
    pixels = Images(str(image), paths=(image,), reading=reading_of(shown.data)).read(0)
    save_png(preview_grid(pixels, shown.law, pairs=pairs, seed=seed), output)
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
    found = make_report([results_folder(name, runs) for name in named])
    if output:
        write_text_whole(output, as_text(found, FORMATS[output.suffix]))
        print(output)
    elif as_json:
        print(as_text(found, "json"))
    else:
        print_table(*table(found), grouped=4)
        for text in (*found.warnings, *found.choices):
            say(f"note: {text}")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and views.")] = 0,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Watch SimCLR learn from real images on two CPU cores, and what its features are worth."""
    from simclr_plus.checks.demo import run_demo

    found, code = run_demo(seed, runs, quiet=as_json, say=say)
    if found is None:
        raise typer.Exit(code)
    if as_json:
        print_json(found)
        return
    for name in ("knn", "linear_fast"):
        evaluate.show_result(name, found[name])
    say(
        f"the encoder: {found['encoder']}\n"
        f"its curves:  {found['curves']}\n"
        "next, on your own images:\n"
        "  simclr-plus run folder data.root=PHOTOS\n"
        "in Python:\n"
        f"  encoder = simclr_plus.load_encoder({found['encoder']!r})"
    )


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

        given = [] if write else ["--readonly"]
        given += [*(["--theme", theme] if theme else []), *(["--ascii"] if ascii_only else [])]
        serve_in_browser(["tui", *given, "--", str(runs)], port, say, host=host)
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
