"""The command line: verbs and printing. Data goes to stdout, talk to stderr; heavy imports are inside the verbs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simclr_plus import bench_verbs, evaluate_verbs, run_verbs, watch_verbs
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.printing import print_json as _print_json
from simclr_plus.printing import print_table as _print_table
from simclr_plus.printing import say as _say
from simclr_plus.verbs import RUNS, AsJson, Overrides, RecipeName, RunsFolder

if TYPE_CHECKING:
    from simclr_plus.doctor import Look
    from simclr_plus.recipe import Recipe

app = typer.Typer(
    help="SimCLR as its authors ran it: pretrain, evaluate, export.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
evaluate_app = typer.Typer(help="Evaluate a frozen encoder on labelled images.", no_args_is_help=True)
recipes_app = typer.Typer(help="List, show, copy and check recipes.", no_args_is_help=True)
app.add_typer(run_verbs.app)
app.add_typer(watch_verbs.app)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(recipes_app, name="recipes")
app.add_typer(bench_verbs.app, name="bench")
evaluate_app.command()(evaluate_verbs.transfer)
evaluate_app.command("few-labels")(evaluate_verbs.few_labels)
evaluate_app.command()(evaluate_verbs.finetune)
evaluate_app.command()(evaluate_verbs.compare)

Target = Annotated[str, typer.Argument(help="A run, a checkpoint, or an encoder file.")]
EvaluationData = Annotated[str, typer.Option(help="Data set name or labelled folder; the recipe's if left out.")]
TestFolder = Annotated[str, typer.Option(help="Labelled folder to test on, when --data is a folder.")]
LabelCount = Annotated[int, typer.Option(min=0, help="Training images to use: the first n, of a folder any n; 0: all.")]
WithBaselines = Annotated[bool, typer.Option("--baselines", help="Raw pixels and a random encoder too.")]


@evaluate_app.command()
def knn(
    target: Target,
    k: Annotated[int, typer.Option(min=1, help="Neighbours.")] = 20,
    data: EvaluationData = "",
    test: TestFolder = "",
    labels: LabelCount = 0,
    baselines: WithBaselines = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """k nearest neighbours on frozen features."""
    from simclr_plus.evaluators.knn import evaluate_knn

    _evaluate(target, "knn", evaluate_knn, {"k": k}, data, test, labels, baselines, runs, as_json)


@evaluate_app.command()
def linear(
    target: Target,
    fast: Annotated[bool, typer.Option("--fast", help="Train on cached features, without augmentation.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training images.")] = 90,
    batch_size: Annotated[int, typer.Option(min=2, help="Images a step; the paper takes 4096.")] = 256,
    learning_rate: Annotated[
        float,
        typer.Option(
            min=0,
            help="Base rate, times batch/256; 0: the paper's 0.1 (LARS: 0.3), with --fast chosen on held-out images.",
        ),
    ] = 0.0,
    optimizer: Annotated[str, typer.Option(help='"nesterov", or "lars" as in pretraining.')] = "nesterov",
    nproc: Annotated[str, typer.Option("--nproc", help='Processes that share each batch: a number, or "gpu".')] = "1",
    data: EvaluationData = "",
    test: TestFolder = "",
    labels: LabelCount = 0,
    baselines: WithBaselines = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Linear evaluation: the paper's protocol, or --fast on cached features."""
    if fast and (optimizer != "nesterov" or nproc != "1"):
        raise RecipeError("--fast trains on cached features in one process by Nesterov SGD; leave it out")
    evaluate_verbs.in_processes(nproc)
    from simclr_plus.evaluators.linear import evaluate_linear, evaluate_linear_fast

    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size}
    settings["learning_rate"] = learning_rate or (0.0 if fast else 0.3 if optimizer == "lars" else 0.1)
    if not fast:
        settings["optimizer"] = optimizer
    evaluator = evaluate_linear_fast if fast else evaluate_linear
    name = "linear_fast" if fast else "linear"
    _evaluate(target, name, evaluator, settings, data, test, labels, baselines, runs, as_json)


def _evaluate(
    target: str,
    name: str,
    evaluator: Any,
    settings: dict[str, Any],
    data: str,
    test: str,
    labels: int,
    baselines: bool,
    runs: Path,
    as_json: bool,
) -> None:
    from simclr_plus.evaluation import evaluate_target

    result, path = evaluate_target(
        target, name, evaluator, settings, data=data, test=test, labels=labels, baselines=baselines, runs=runs, say=_say
    )
    if as_json:
        _print_json(result)
    else:
        _show_result(name, result)
        if path:
            _say(f"written to {path}")


def _show_result(name: str, result: dict[str, Any]) -> None:
    rows = [
        [who, *(f"{found[m]:.1%}" if m in found else "" for m in ("top1", "top5", "mean_per_class"))]
        for who, found in result["results"].items()
    ]
    title = (
        f"{name}: {result['train_images']:,} labelled images, {result['test_images']:,} test images of {result['data']}"
    )
    _print_table(["", "top-1", "top-5", "mean per class"], rows, title)


@app.command()
def export(
    target: Target,
    output: Annotated[Path, typer.Option("--output", "-o", help="File (encoder) or folder (timm) to write.")],
    format: Annotated[
        str, typer.Option(help='"encoder": a safetensors file; "timm": a folder timm opens.')
    ] = "encoder",
    runs: RunsFolder = RUNS,
) -> None:
    """Write an encoder for other projects."""
    from simclr_plus.evaluation import weights_of
    from simclr_plus.export import export_encoder, export_timm

    if format not in ("encoder", "timm"):
        raise RecipeError(f'--format {format!r} is unknown; use "encoder" or "timm"')
    source, _ = weights_of(target, runs)
    if format == "timm":
        export_timm(source, output)
        _say(f'open it with: timm.create_model("local-dir:{output}", pretrained=True, num_classes=0)')
    else:
        encoder = export_encoder(source, output)
        _say(f"{output}: {encoder.feature_dim} features; open it with: simclr_plus.load_encoder({str(output)!r})")
    print(output)


@app.command("import")
def import_weights(
    source: Annotated[Path, typer.Argument(help="TensorFlow checkpoint or SavedModel; .pth, .ckpt, .safetensors.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Encoder file to write; heads go beside it.")],
    normalize: Annotated[
        str,
        typer.Option(help='PyTorch files: how images were normalised: "imagenet", "none", or six numbers (mean, std).'),
    ] = "imagenet",
    prefix: Annotated[str, typer.Option(help="PyTorch files with several encoders: the prefix of its names.")] = "",
    stem: Annotated[
        str, typer.Option(help="PyTorch files with a 3x3 stem: cifar, cifar_pad2 (solo-learn), cifar_no_relu.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Bring in weights: the authors' checkpoints, or a file of another trainer."""
    from simclr_plus.importers import import_pytorch, import_tensorflow, is_tensorflow

    if is_tensorflow(source):
        imported = import_tensorflow(source, output)
    else:
        mean, std = _mean_and_std(normalize)
        imported = import_pytorch(source, output, mean=mean, std=std, prefix=prefix, stem=stem)
    if as_json:
        _print_json(imported.as_dict())
        return
    a = imported.architecture
    _say(f"{a.title}, flavor {a.flavor}: {a.feature_dim} features")
    if a.normalizes:
        _say(f"the encoder takes images in [0, 1], subtracts {a.mean} and divides by {a.std} itself (--normalize)")
    for note in imported.notes:
        _say(f"note: {note}")
    if imported.left_out:
        shown = ", ".join(imported.left_out[:8]) + (", ..." if len(imported.left_out) > 8 else "")
        _say(f"{len(imported.left_out)} tensors have no place in it: {shown}")
    for kind, path in imported.heads.items():
        _say(f"{kind} head: {path}")
    print(imported.encoder)


def _mean_and_std(text: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    from simclr_plus.importers.trainers import IMAGENET_MEAN, IMAGENET_STD, NO_MEAN, NO_STD

    if text in ("imagenet", "none"):
        return (IMAGENET_MEAN, IMAGENET_STD) if text == "imagenet" else (NO_MEAN, NO_STD)
    try:
        a, b, c, d, e, f = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(
            f'--normalize {text!r}: use "imagenet", "none", or six numbers such as 0.5,0.5,0.5,0.25,0.25,0.25'
        ) from None
    if min(d, e, f) <= 0:
        raise RecipeError(f"--normalize {text!r}: the last three numbers, the standard deviations, must be above 0")
    return (a, b, c), (d, e, f)


@app.command()
def verify(
    target: Target,
    data: Annotated[str, typer.Argument(help="Labelled folder, or a data set's name for its test images.")],
    head: Annotated[Path | None, typer.Option(help="Linear head; default: the probe, or what import wrote.")] = None,
    stated: Annotated[
        float | None, typer.Option(min=0, max=100, help="Top-1 in percent that the publishers state.")
    ] = None,
    published: Annotated[
        str,
        typer.Option(help="The authors' figure: v1-linear, v2-linear, v2-1pct, v2-10pct, v2-100pct, v2-supervised."),
    ] = "",
    classes: Annotated[Path | None, typer.Option(help="Class names in the head's order, one a line.")] = None,
    selector: Annotated[
        int, typer.Option(min=-1, help="Layer of the projection head that the linear head stands on; 0: none.")
    ] = 0,
    projection: Annotated[Path | None, typer.Option(help="Projection head; default: what import wrote.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="JSON file to write the result to.")] = None,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Evaluate weights with a given linear head, beside the figure their publishers state."""
    from simclr_plus.evaluation import best_device, weights_of
    from simclr_plus.export import recipe_of
    from simclr_plus.verify import images_to_verify
    from simclr_plus.verify import verify as verify_weights
    from simclr_plus.whole_files import write_text_whole

    if stated is not None and published:
        raise RecipeError("--stated and --published both name a figure; give one of them")
    weights, _ = weights_of(target, runs)
    result = verify_weights(
        weights,
        images_to_verify(data),
        recipe_of(weights).law,
        device=best_device(),
        head=head,
        projection=projection,
        selector=selector,
        classes=tuple(classes.read_text("utf-8").splitlines()) if classes else (),
        stated=stated,
        published=published,
    )
    if output:
        write_text_whole(output, json.dumps(result, indent=2) + "\n")
    if as_json:
        _print_json(result)
        return
    found, expected = result["results"], result.get("stated")
    measured = [f"{found[m]:.2%}" if m in found else "" for m in ("top1", "top5", "mean_per_class")]
    rows = [["measured", *measured]]
    if expected:
        rows.append([f"stated ({expected['source']})", f"{expected['top1']:.2%}", "", ""])
        rows.append(["difference", f"{100 * result['difference']:+.2f} points", "", ""])
    title = f"{result['test_images']:,} images of {result['data']}; standard error {result['standard_error']:.2%}"
    _print_table(["", "top-1", "top-5", "mean per class"], rows, title)
    for part, file in result["files"].items():
        _say(f"{part}: {file['path']} sha256 {file['sha256']}")


@app.command()
def embed(
    target: Target,
    folder: Annotated[Path, typer.Argument(help="Images, labelled or not.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write.")] = Path(
        "features.safetensors"
    ),
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable images out.")] = False,
    runs: RunsFolder = RUNS,
) -> None:
    """Write features and file names of any folder of images."""
    from dataclasses import replace

    from simclr_plus.datasets import open_folder
    from simclr_plus.evaluation import best_device, weights_of
    from simclr_plus.export import embed as embed_images
    from simclr_plus.export import recipe_of

    source, _ = weights_of(target, runs)
    images = open_folder(folder)
    images = replace(images, skip_bad=skip_bad)
    features = embed_images(source, images, folder, output, law=recipe_of(source).law, device=best_device())
    if len(features) < len(images):
        _say(f"{len(images) - len(features)} images could not be read and were left out")
    _say(f"{len(features):,} images, {features.shape[1]} features each")
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
    from simclr_plus.datasets import Images
    from simclr_plus.errors import NotFoundError
    from simclr_plus.pictures import preview_grid, save_png
    from simclr_plus.recipe import load_recipe

    if not image.is_file():
        raise NotFoundError(f"no image {image}; give the path of an image file")
    law = load_recipe(recipe, overrides or []).law
    pixels = Images(str(image), paths=(image,)).read(0)
    save_png(preview_grid(pixels, law, pairs=pairs, seed=seed), output)
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
    from simclr_plus.pictures import draw_curves
    from simclr_plus.report import COLUMNS, FORMATS, as_text, cells, make_report, results_folder
    from simclr_plus.runs import find_run
    from simclr_plus.whole_files import write_text_whole

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
        _print_table(list(COLUMNS), [cells(row) for row in found.rows])
        for text in (*found.warnings, *found.choices):
            _say(f"note: {text}")


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of weights, order and views.")] = 0,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Watch SimCLR learn from real images on two CPU cores, and what its features are worth."""
    from simclr_plus.demo import run_demo

    found, code = run_demo(seed, runs, quiet=as_json, say=_say)
    if found is None:
        raise typer.Exit(code)
    if as_json:
        _print_json(found)
        return
    for name in ("knn", "linear_fast"):
        _show_result(name, found[name])
    _say(
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

    from simclr_plus.doctor import look_around, prove_processes
    from simclr_plus.launch import process_count

    processes = process_count(nproc)
    looks, proof = look_around(runs), []
    if not as_json:
        _show_looks(looks)
    if processes > 1:
        proof = prove_processes(processes, _say)
    failed = any(look.remedy for look in proof)
    if as_json:
        proved = None if processes == 1 else not failed
        _print_json({"schema": 1, "proved": proved, "looks": [asdict(look) for look in (*looks, *proof)]})
    elif proof:
        _show_looks(proof)
        _say(f"{processes} processes {'do NOT train' if failed else 'train'} what one does")
    raise typer.Exit(1 if failed else 0)


def _show_looks(looks: list[Look]) -> None:
    """Each group's name once; the last column only where something should be done."""
    new = [i == 0 or look.group != looks[i - 1].group for i, look in enumerate(looks)]
    rows = [[look.group if first else "", look.name, look.found] for first, look in zip(new, looks, strict=True)]
    if any(look.remedy for look in looks):
        rows = [[*row, look.remedy] for row, look in zip(rows, looks, strict=True)]
    _print_table(["", "", "found", "to do"][: len(rows[0])], rows)


@app.command()
def tui(
    runs: Annotated[Path, typer.Argument(help="Folder of the runs.")] = RUNS,
    readonly: Annotated[bool, typer.Option("--readonly", help="Only look: start, stop and write nothing.")] = False,
    theme: Annotated[str, typer.Option(help='"dark", "light", or "16" colours of the terminal.')] = "",
    ascii_only: Annotated[bool, typer.Option("--ascii", help="Charts without braille characters.")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Show it in a browser of this machine.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of 127.0.0.1, with --serve.")] = 8000,
) -> None:
    """Choose a recipe, start runs, watch them learn, compare them: in the terminal."""
    if theme not in ("", "dark", "light", "16"):
        raise RecipeError(f'--theme {theme!r} is unknown; use "dark", "light" or "16"')
    if serve:
        from simclr_plus.tui.served import serve_in_browser

        given = ["--readonly"] if readonly else []
        given += [*(["--theme", theme] if theme else []), *(["--ascii"] if ascii_only else [])]
        serve_in_browser(["tui", str(runs), *given], port, _say)
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


@recipes_app.command("ls")
def list_recipes(as_json: AsJson = False) -> None:
    """The shipped recipes."""
    from simclr_plus.recipe import load_recipe, shipped_recipes

    about = {path.stem: load_recipe(path).about for path in shipped_recipes()}
    if as_json:
        _print_json({name: text.model_dump() for name, text in about.items()})
    else:
        _print_table(["recipe", "trains", "expected"], [[n, a.summary, a.expected] for n, a in about.items()])


@recipes_app.command("show")
def show_recipe(
    recipe: RecipeName,
    overrides: Overrides = None,
    against: Annotated[
        str, typer.Option(help='"paper", "authors" or "lightly": a table of every choice, those that differ marked.')
    ] = "",
    as_json: AsJson = False,
) -> None:
    """A recipe with every key, overrides applied; or its choices beside those of paper, authors and Lightly."""
    from simclr_plus.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    if against:
        _show_choices(loaded, against, as_json)
    elif as_json:
        _print_json(loaded.model_dump())
    else:
        print(loaded.to_toml(), end="")


def _show_choices(recipe: Recipe, against: str, as_json: bool) -> None:
    from dataclasses import asdict

    from simclr_plus.deviations import SOURCES, choices

    if against not in SOURCES:
        raise RecipeError(f"--against {against!r} is no source of choices; use {', '.join(SOURCES)}")
    found = choices(recipe)
    other = [choice for choice in found if choice.differs_from(against)]
    if as_json:
        rows = [{**asdict(c), "differs": {s: c.differs_from(s) for s in SOURCES}} for c in found]
        _print_json({"schema": 1, "against": against, "differ": len(other), "choices": rows})
        return
    table = [[c.name, "≠" if c in other else "", c.ours, c.paper, c.authors, c.lightly, c.key] for c in found]
    _print_table(["choice", "", "this recipe", "paper", "authors' code", "Lightly", "key"], table)
    names = {"paper": "the paper", "authors": "the authors' code", "lightly": "Lightly"}
    _say(f"{len(other)} of {len(found)} choices differ from {names[against]}")


@recipes_app.command("cp")
def copy_recipe(
    recipe: RecipeName, target: Annotated[Path, typer.Argument(help="File to write; must not exist.")]
) -> None:
    """Copy a recipe, to make it yours."""
    from simclr_plus.recipe import find_recipe

    source = find_recipe(recipe)
    target = target / source.name if target.is_dir() else target
    if target.exists():
        raise RecipeError(f"{target} exists; choose another name")
    target.write_bytes(source.read_bytes())
    print(target)


@recipes_app.command("validate")
def validate_recipe(recipe: RecipeName, overrides: Overrides = None) -> None:
    """Check a recipe; unknown keys, wrong types and impossible values are errors."""
    from simclr_plus.recipe import load_recipe

    for doubt in load_recipe(recipe, overrides or []).doubts():
        _say(f"note: {doubt}")
    print(f"{recipe} is a valid recipe")


@recipes_app.command("keys")
def list_keys(as_json: AsJson = False) -> None:
    """Every key with its type, default and meaning."""
    from simclr_plus.recipe import documented_keys

    keys = list(documented_keys())
    if as_json:
        _print_json([dict(zip(("key", "type", "default", "help"), key, strict=True)) for key in keys])
    else:
        _print_table(["key", "type", "default", "meaning"], [[k, t, json.dumps(d), h] for k, t, d, h in keys])


def main() -> None:
    """The `simclr-plus` command: a mistake is one plain message and an exit code; --debug shows the traceback."""
    os.environ.setdefault(
        "OMP_WAIT_POLICY", "passive"
    )  # threads that spin while they wait starve those that make views
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        app()
    except SimclrPlusError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EnvironmentNotAbleError.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
