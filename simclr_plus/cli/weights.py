"""The verbs that take weights in and out: export, import, verify; embed, of what they make of a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from simclr_plus.cli.options import (
    RUNS,
    AnyTarget,
    AsJson,
    ImageSize,
    Normalize,
    RunsFolder,
    SkipBad,
    Target,
    offering_skip_bad,
)
from simclr_plus.errors import RecipeError
from simclr_plus.machine.printing import print_json, print_table, say

app = typer.Typer()

LinearHead = Annotated[
    Path | None,
    typer.Option(
        help="Linear head, as `evaluate linear` keeps it in results; default: the probe, or what import wrote."
    ),
]
ProjectionHead = Annotated[
    Path | None, typer.Option(help="Projection head; default: the checkpoint's, or what import wrote.")
]
Selector = Annotated[
    int | None,
    typer.Option(min=-1, help="Layer of the projection head that the linear head stands on; 0: none, -1: the last."),
]
Published = Annotated[
    str,
    typer.Option(help="The authors' figure: v1-linear, v2-linear, v2-1pct, v2-10pct, v2-100pct, v2-supervised."),
]


@app.command()
def export(
    target: Target,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; a folder for timm.")],
    format: Annotated[
        str,
        typer.Option(
            help='"encoder": a safetensors file; "timm": a folder timm opens; "onnx", "torch_export" (.pt2): a graph '
            "for programs without SimCLR+."
        ),
    ] = "encoder",
    anonymous: Annotated[
        bool, typer.Option("--anonymous", help="Leave folders of this machine out of the recorded recipe.")
    ] = False,
    runs: RunsFolder = RUNS,
) -> None:
    """Write an encoder for other projects; its header holds the whole recipe."""
    from simclr_plus.results.targets import weights_of

    _require_format(format, output)
    source, _ = weights_of(target, runs)
    for line in _exported(source, output, format, anonymous):
        say(line)
    print(output)


ENDINGS = {"encoder": ".safetensors", "timm": "", "onnx": ".onnx", "torch_export": ".pt2"}  # usual ones, by format


def _require_format(format: str, output: Path) -> None:
    """RecipeError for a format that there is not, or a name that another format's files have."""
    if format not in ENDINGS:
        raise RecipeError(f"--format {format!r} is unknown; use one of {', '.join(ENDINGS)}")
    named = next((other for other, ending in ENDINGS.items() if ending and output.suffix == ending), format)
    if named != format:
        raise RecipeError(f"--output {output} is named as a file of --format {named}; say so, or name it otherwise")


def _exported(source: Path, output: Path, format: str, anonymous: bool) -> list[str]:
    """Write it; what to say of it: how it is opened, and what was compared."""
    from simclr_plus.weights.exchange_formats import BATCHES, export_onnx, export_torch_export
    from simclr_plus.weights.export import export_encoder, export_timm

    if format == "timm":
        export_timm(source, output, anonymous=anonymous)
        return [f'open it with: timm.create_model("local-dir:{output}", pretrained=True, num_classes=0)']
    if format == "encoder":
        encoder = export_encoder(source, output, anonymous=anonymous)
        opening = f"simclr_plus.load_encoder({str(output)!r})"
        return [f"{output}: {encoder.feature_dim} features; open it with: {opening}"]
    if format == "onnx":
        graph = export_onnx(source, output, anonymous=anonymous)
        reader, opening = "onnxruntime", f"session = onnxruntime.InferenceSession({str(output)!r})"
        call = '(features,) = session.run(None, {"images": images})  # images: a float32 array of NumPy'
    else:
        graph = export_torch_export(source, output, anonymous=anonymous)
        reader, opening = "torch.export.load", f"encoder = torch.export.load({str(output)!r}).module()"
        call = "features = encoder(images)  # images: a float32 tensor"
    shape = f"[B, 3, {graph.image_size}, {graph.image_size}]"
    said = f"{output}: {graph.encoder.feature_dim} features of RGB images {shape} in [0, 1], for any B; open it with:"
    if graph.difference is None:
        compared = f"not compared with the encoder: {reader} is not installed"
    else:
        compared = (
            f"compared with the encoder on {sum(BATCHES)} random images by {reader}: features differ by "
            f"{graph.difference:.1e} of the largest at most"
        )
    return [said, f"  {opening}", f"  {call}", compared]


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
        names = ", ".join(imported.left_out[:8]) + (", ..." if len(imported.left_out) > 8 else "")
        say(f"{len(imported.left_out)} tensors have no place in it: {names}")
    for kind, path in imported.heads.items():
        say(f"{kind} head: {path}")
    print(imported.encoder)


@app.command()
def verify(
    target: Target,
    data: Annotated[str, typer.Argument(help="Labelled folder, or a data set's name for its test images.")],
    head: LinearHead = None,
    stated: Annotated[
        float | None, typer.Option(min=0, max=100, help="Top-1 in percent that the publishers state.")
    ] = None,
    published: Published = "",
    classes: Annotated[Path | None, typer.Option(help="Class names in the head's order, one a line.")] = None,
    root: Annotated[
        str, typer.Option(help='Folder of a data set that is named; default: that of the recipe, or "data".')
    ] = "",
    selector: Selector = None,
    projection: ProjectionHead = None,
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
    images = replace(images_to_verify(data, recipe.data, root), skip_bad=skip_bad)
    names = classes_in(classes) if classes else ()
    heads: dict[str, Any] = {"head": head, "projection": projection, "selector": selector, "classes": names}
    with offering_skip_bad(skip_bad):
        result = verify_weights(weights, images, recipe.law, device=device, **heads, stated=stated, published=published)
    result["left_out"] = told_left_out([images], device, say)
    if output:
        write_text_whole(output, json.dumps(result, indent=2) + "\n")
    if as_json:
        print_json(result)
    else:
        _show_verified(result)


def _show_verified(result: dict[str, Any]) -> None:
    """What was measured, and below it what is stated; then which files they are."""
    scores, expected = result["results"], result.get("stated")
    measured = [f"{scores[m]:.2%}" if m in scores else "" for m in ("top1", "top5", "mean_per_class")]
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
    target: AnyTarget,
    folder: Annotated[Path, typer.Argument(help="Images, labelled or not.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="safetensors file to write.")] = Path(
        "features.safetensors"
    ),
    image_size: ImageSize = 0,
    normalize: Normalize = "",
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
) -> None:
    """Write features and file names of any folder of images."""
    from dataclasses import replace

    from simclr_plus.datasets.images import open_folder
    from simclr_plus.features.embed import embed as embed_images
    from simclr_plus.recipe.keys import Data
    from simclr_plus.results.targets import best_device, open_target, told_left_out

    device = best_device()
    opened = open_target(target, runs, image_size, normalize)
    images = replace(open_folder(folder, opened.data or Data()), skip_bad=skip_bad)
    with offering_skip_bad(skip_bad):
        features = embed_images(
            opened.subject.encoder,
            images,
            folder,
            output,
            weights=opened.weights,
            law=opened.subject.law,
            device=device,
        )
    told_left_out([images], device, say)
    for choice in opened.choices:
        say(f"our choice: {choice}")
    say(f"{len(features):,} images, {features.shape[1]} features each")
    print(output)
