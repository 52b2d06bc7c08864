"""The verbs under `simclr-plus evaluate`: knn, linear, few-labels, transfer, finetune; compare, of what they found.

Each writes its result into the folder of the encoder's run, or of a file elsewhere into runs/NAME-DIGEST. With --json
stdout is one JSON document alone. Of knn and linear it is the result: `results` (figures by subject), `file` (where it
was written), `weights`, `step`, `data` and so on. The others may evaluate several sets or seeds: `results` lists such
documents, each with its own `file`.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simclr_plus.cli.options import (
    RUNS,
    AnyTarget,
    AsJson,
    ImageSize,
    Normalize,
    RunsFolder,
    SkipBad,
    offering_skip_bad,
)
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.machine.printing import print_json, print_table, say

if TYPE_CHECKING:
    from simclr_plus.results.targets import Target

app = typer.Typer(help="Evaluate a frozen encoder on labelled images.", no_args_is_help=True)

DataName = Annotated[
    str, typer.Option(help='One of the twelve, "all" of them, torchvision:CLASS, a known set, or a labelled folder.')
]
Root = Annotated[Path, typer.Option(help="Folder that holds the data sets' own folders.")]
TestFolder = Annotated[str, typer.Option(help="Labelled folder to test on, when --data is a folder.")]
Seed = Annotated[int, typer.Option(min=0, help="Of held-out images, labels, order and crops.")]
Baselines = Annotated[bool, typer.Option("--baselines", help="The same network with random weights too.")]
Nproc = Annotated[str, typer.Option("--nproc", help='Processes that share the work: a number, or "gpu".')]
EvaluationData = Annotated[str, typer.Option(help="Data set name or labelled folder; the recipe's if left out.")]
LabelCount = Annotated[int, typer.Option(min=0, help="Training images to use: the first n, of a folder any n; 0: all.")]
On = Annotated[str, typer.Option(help='"h": the features of the encoder; "z": those of the projection head on it.')]
WithBaselines = Annotated[bool, typer.Option("--baselines", help="Raw pixels and a random encoder too.")]
PixelsSide = Annotated[
    int, typer.Option("--raw-pixels", min=0, help="Side to which the baseline's pixels are averaged; 0: as they are.")
]
WeightDecay = Annotated[
    float | None, typer.Option(min=0, help="Weight decay; default: the protocol's. With AdamW 0.05 is usual.")
]
LayerDecay = Annotated[
    float, typer.Option(help="Factor of the rate from layer to layer, down from the classifier, e.g. 0.75; 1: none.")
]
DATA = Path("data")


@app.command()
def knn(
    target: AnyTarget,
    k: Annotated[int, typer.Option(min=1, help="Neighbours.")] = 20,
    on: On = "h",
    data: EvaluationData = "",
    test: TestFolder = "",
    labels: LabelCount = 0,
    baselines: WithBaselines = False,
    pixels: PixelsSide = 32,
    image_size: ImageSize = 0,
    normalize: Normalize = "",
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """k nearest neighbours on frozen features."""
    from simclr_plus.evaluators.knn import evaluate_knn

    options: dict[str, Any] = {"on": on, "data": data, "test": test, "labels": labels, "skip_bad": skip_bad}
    options |= {"baselines": baselines, "pixels_side": pixels}
    opened = _opened(target, runs, image_size, normalize)
    _evaluate(opened, "knn", evaluate_knn, {"k": k}, options, as_json)


@app.command()
def linear(
    target: AnyTarget,
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
    on: On = "h",
    data: EvaluationData = "",
    test: TestFolder = "",
    labels: LabelCount = 0,
    baselines: WithBaselines = False,
    pixels: PixelsSide = 32,
    image_size: ImageSize = 0,
    normalize: Normalize = "",
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Linear evaluation: the paper's protocol, or --fast on cached features."""
    if fast and (optimizer != "nesterov" or nproc != "1"):
        raise RecipeError("--fast trains on cached features in one process by Nesterov SGD; leave it out")
    in_processes(nproc)
    from simclr_plus.evaluators.linear import evaluate_linear, evaluate_linear_fast

    settings: dict[str, Any] = {"epochs": epochs, "batch_size": batch_size}
    settings["learning_rate"] = learning_rate or (0.0 if fast else 0.3 if optimizer == "lars" else 0.1)
    if not fast:
        settings["optimizer"] = optimizer
    evaluator = evaluate_linear_fast if fast else evaluate_linear
    name = "linear_fast" if fast else "linear"
    options: dict[str, Any] = {"on": on, "data": data, "test": test, "labels": labels, "skip_bad": skip_bad}
    options |= {"baselines": baselines, "pixels_side": pixels}
    opened = _opened(target, runs, image_size, normalize)
    _evaluate(opened, name, evaluator, settings, options, as_json)


@app.command("few-labels")
def few_labels(
    target: AnyTarget,
    share: Annotated[float, typer.Option(help="Share of the labels, equal in each class: 0.01, 0.1, 1.")] = 0.01,
    labels: Annotated[str, typer.Option("--list", help="File of image names, one a line: the authors' lists.")] = "",
    protocol: Annotated[str, typer.Option(help='"paper" (Nesterov) or "simclr_v2" (LARS, within the head).')] = "paper",
    seeds: Annotated[int, typer.Option(min=1, help="Repeat with so many seeds: other labels, order and crops.")] = 1,
    rates: Annotated[str, typer.Option(help="Base rates to choose from on a fifth of the labels, e.g. 0.02,0.1.")] = "",
    epochs: Annotated[float, typer.Option(min=0, help="Passes over the labelled images; 0: the protocol's.")] = 0.0,
    batch_size: Annotated[int, typer.Option(min=0, help="Images a step; 0: the protocol's.")] = 0,
    optimizer: Annotated[
        str, typer.Option(help='"nesterov", "lars" or "adamw" (rate 5e-4 at 256 images); default: the protocol\'s.')
    ] = "",
    weight_decay: WeightDecay = None,
    layer_decay: LayerDecay = 1.0,
    head: Annotated[str, typer.Option(help="File of the projection head, where the target holds none.")] = "",
    data: EvaluationData = "",
    test: TestFolder = "",
    image_size: ImageSize = 0,
    normalize: Normalize = "",
    seed: Seed = 0,
    baselines: Baselines = False,
    nproc: Nproc = "1",
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on 1 % or 10 % of the labels (the paper's or SimCLR v2's protocol)."""
    in_processes(nproc)
    from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
    from simclr_plus.results.evaluate_on_sets import few_labels as evaluate

    opened, kept = _opened(target, runs, image_size, normalize), KeptOutcomes()
    changes = {key: value for key, value in {"epochs": epochs, "batch_size": batch_size}.items() if value}
    changes |= _update_rule(optimizer, weight_decay, layer_decay)

    def one(number: int) -> dict[str, Any]:
        return evaluate(
            opened,
            data=data,
            test=test,
            share=share,
            list_file=labels,
            protocol_name=protocol,
            changes=changes,
            rates=_numbers(rates),
            seed=number,
            head_file=head,
            baselines=baselines,
            skip_bad=skip_bad,
            say=say,
            kept=kept,
        )

    with offering_skip_bad(skip_bad):
        results = [one(seed + i) for i in range(seeds)]
    kept.forget()
    _show(results, as_json)


@app.command()
def transfer(
    target: AnyTarget,
    data: DataName,
    root: Root = DATA,
    test: TestFolder = "",
    relative_to: Annotated[
        str, typer.Option(help='The penalty is added to the "sum" of losses or the "mean".')
    ] = "sum",
    image_size: ImageSize = 0,
    normalize: Normalize = "",
    seed: Seed = 0,
    baselines: Baselines = False,
    nproc: Nproc = "1",
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Logistic regression on frozen features: 45 penalties, chosen on validation images."""
    in_processes(nproc)
    from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
    from simclr_plus.results.evaluate_on_sets import transfer as evaluate

    opened, kept = _opened(target, runs, image_size, normalize), KeptOutcomes()
    settings: dict[str, Any] = {"test": test, "relative_to": relative_to, "seed": seed, "baselines": baselines}
    settings["skip_bad"] = skip_bad

    def one(name: str) -> dict[str, Any]:
        return evaluate(opened, name, str(root), **settings, say=say, kept=kept)

    with offering_skip_bad(skip_bad):
        results = _of_each(data, one)
    kept.forget()
    _show(results, as_json)


@app.command()
def finetune(
    target: AnyTarget,
    data: DataName,
    root: Root = DATA,
    test: TestFolder = "",
    grid: Annotated[str, typer.Option(help='"paper": 7 rates x 8 decays; "small": 3 x 2.')] = "paper",
    part: Annotated[str, typer.Option(help="i/n: every n-th cell from the i-th (0 .. n-1), for job arrays.")] = "0/1",
    steps: Annotated[int, typer.Option(min=0, help="Steps of a cell; 0: 20,000, from random weights 40,000.")] = 0,
    batch_size: Annotated[int, typer.Option(min=0, help="Images a step; 0: 256.")] = 0,
    optimizer: Annotated[
        str, typer.Option(help='"nesterov", "lars" or "adamw" (rates 1e-5 to 1e-3); default: the paper\'s Nesterov.')
    ] = "",
    weight_decay: Annotated[
        float | None, typer.Option(min=0, help="The only weight decay; default: the grid's, with AdamW 0 and 0.05.")
    ] = None,
    layer_decay: LayerDecay = 1.0,
    random_start: Annotated[bool, typer.Option("--random", help="The baseline: random weights.")] = False,
    image_size: ImageSize = 0,
    normalize: Normalize = "",
    seed: Seed = 0,
    nproc: Nproc = "1",
    skip_bad: SkipBad = False,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the whole network over a grid of rates and decays; goes on cell by cell."""
    in_processes(nproc)
    from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
    from simclr_plus.results.evaluate_on_sets import fine_tune

    opened, number, kept = _opened(target, runs, image_size, normalize), _part(part), KeptOutcomes()
    changes = _update_rule(optimizer, weight_decay, layer_decay)

    def one(name: str) -> dict[str, Any] | None:
        return fine_tune(
            opened,
            name,
            str(root),
            test=test,
            cells=grid,
            part=number,
            steps=steps,
            batch_size=batch_size,
            seed=seed,
            random_start=random_start,
            changes=changes,
            skip_bad=skip_bad,
            say=say,
            kept=kept,
        )

    with offering_skip_bad(skip_bad):
        results = _of_each(data, one)
    kept.forget()
    _show(results, as_json)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A run, checkpoint or encoder file, or a file in results/predictions.")],
    b: Annotated[str, typer.Argument(help="Another encoder that was evaluated on the same test images.")],
    subject_a: Annotated[str, typer.Option(help="Whose predictions of the first.")] = "encoder",
    subject_b: Annotated[str, typer.Option(help="Whose predictions of the second.")] = "encoder",
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Is one encoder better? Permutation test on paired predictions, exact McNemar, 95 % interval."""
    from dataclasses import asdict

    from simclr_plus.results.comparisons import compare_named

    pairs = compare_named(a, b, subject_a, subject_b, runs)
    if as_json:
        each = [
            {**asdict(p.found), "significant": p.found.significant, "files": [str(p.a.file), str(p.b.file)]}
            for p in pairs
        ]
        print_json({"schema": 1, **(each[0] if len(each) == 1 else {}), "comparisons": each})
        return
    rows = []
    for pair in pairs:
        comparison = pair.found
        mcnemar = "" if comparison.p_mcnemar is None else f"{comparison.p_mcnemar:.4g}"
        row = [pair.a.title, f"{comparison.a:.2%}", f"{comparison.b:.2%}", f"{100 * comparison.difference:+.2f}"]
        row += [f"{100 * comparison.low:+.2f} to {100 * comparison.high:+.2f}", f"{comparison.p:.4g}", mcnemar]
        rows.append([*row, "significant" if comparison.significant else "not significant"])
    columns = ["", "a", "b", "a - b (points)", "95 % interval", "p (permutations)", "p (McNemar)", "at 0.05"]
    print_table(columns, rows)


def in_processes(nproc: str) -> None:
    """With --nproc above 1 run this command under torchrun in its place, and exit with its code."""
    from simclr_plus.launch.start import process_count
    from simclr_plus.machine import torchrun
    from simclr_plus.machine.cores import cpu_count

    processes = process_count(nproc)
    if torchrun.started_this_process():
        from simclr_plus.distributed import stop

        atexit.register(stop)
        return
    if note := torchrun.disregarded():
        say(f"note: {note}")
    if processes == 1:
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    threads = {"OMP_NUM_THREADS": str(max(1, cpu_count() // processes))}
    command += ["-m", "--", "simclr_plus.cli", *sys.argv[1:]]  # after -- torchrun takes no option for its own
    environment = {**threads, **torchrun.without_torchrun(os.environ)}
    raise typer.Exit(subprocess.run(command, env=environment, check=False).returncode)


def _opened(target: str, runs: Path, image_size: int, normalize: str) -> Target:
    """What a user names; together with the other processes, which join before a checkpoint is chosen."""
    from simclr_plus.results.targets import best_device, open_target

    best_device()
    return open_target(target, runs, image_size, normalize)


def _evaluate(
    opened: Target,
    name: str,
    evaluator: Any,
    settings: dict[str, Any],
    options: dict[str, Any],
    as_json: bool,
) -> None:
    from simclr_plus.results.evaluate import evaluate_target

    with offering_skip_bad(options["skip_bad"]):
        result, path = evaluate_target(opened, name, evaluator, settings, say=say, **options)
    if as_json:
        print_json(result | {"file": str(path)})
    else:
        show_result(name, result)
        _say_choices(result["choices"])
        say(f"written to {path}")


def show_result(name: str, result: dict[str, Any]) -> None:
    """Print a result of `evaluate_target`, a line a subject."""
    rows = [
        [who, *(f"{scores[m]:.1%}" if m in scores else "" for m in ("top1", "top5", "mean_per_class"))]
        for who, scores in result["results"].items()
    ]
    title = (
        f"{name}: {result['train_images']:,} labelled images, {result['test_images']:,} test images of {result['data']}"
    )
    print_table(["", "top-1", "top-5", "mean per class"], rows, title)


def _of_each(data: str, evaluate: Callable[[str], dict[str, Any] | None]) -> list[dict[str, Any]]:
    """What evaluating finds on a set, or on "all" of the twelve; of these, sets that are not there are passed over."""
    from simclr_plus.datasets.transfer_sets import TWELVE

    results, absent = [], []
    for name in TWELVE if data == "all" else (data,):
        try:
            results.append(evaluate(name))
        except NotFoundError as error:
            if data != "all":
                raise
            say(f"{name} is passed over: {error}")
            absent.append(name)
    if len(absent) == len(TWELVE):
        raise NotFoundError("none of the twelve data sets is there; name the folder that holds theirs with --root")
    return [result for result in results if result is not None]


def _update_rule(optimizer: str, weight_decay: float | None, layer_decay: float) -> dict[str, Any]:
    """What was asked for in place of a protocol's own."""
    from simclr_plus.evaluators.classifier import OPTIMIZERS
    from simclr_plus.evaluators.layer_decay import require_layer_decay

    if optimizer and optimizer not in OPTIMIZERS:
        raise RecipeError(f"--optimizer {optimizer} is unknown here; use one of {', '.join(OPTIMIZERS)}")
    require_layer_decay(layer_decay)
    asked = {"optimizer": optimizer or None, "weight_decay": weight_decay, "layer_decay": layer_decay}
    return {key: value for key, value in asked.items() if value is not None and (key, value) != ("layer_decay", 1)}


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part]
    except ValueError:
        raise RecipeError(f"--rates {text}: give numbers with commas between, e.g. 0.02,0.1") from None


def _part(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise RecipeError(f"--part {text}: give i/n with 0 <= i < n, e.g. 3/56")
    return int(number), int(of)


def _say_choices(choices: Iterable[str]) -> None:
    """What no file or paper says and was taken, each once."""
    for choice in dict.fromkeys(choices):
        say(f"our choice: {choice}")


def _show(results: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        print_json({"schema": 1, "results": results})
        return
    names = {"top1": "top-1", "top5": "top-5", "mean_per_class": "mean per class", "map11": "11-point mAP"}
    rows = [
        [r["data"], r["evaluator"], subject, *(f"{scores[m]:.2%}" if m in scores else "" for m in names)]
        for r in results
        for subject, scores in r["results"].items()
    ]
    filled = [i for i in range(3 + len(names)) if any(row[i] for row in rows)]
    columns = ["data", "evaluator", "", *names.values()]
    if rows:
        print_table([columns[i] for i in filled], [[row[i] for i in filled] for row in rows])
    _say_choices(c for r in results for c in r["choices"])
