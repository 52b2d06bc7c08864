"""The verbs under `bench`: our parts beside Lightly's, here and now. Heavy imports are inside the verbs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simclr_plus.cli.options import AsJson, Overrides, RecipeName
from simclr_plus.machine.printing import print_json, print_table, say

if TYPE_CHECKING:
    from simclr_plus.bench.rounds import Report

app = typer.Typer(help="Measure the parts here, beside Lightly's; say what holds a run up.", no_args_is_help=True)

Rounds = Annotated[int, typer.Option(min=1, help="Turns that each contender takes.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that PyTorch may use.")]
Device = Annotated[str, typer.Option(help='"auto", "cpu" or "cuda".')]


@app.command("data")
def bench_the_data(
    folder: Annotated[Path | None, typer.Argument(help="Your images; photographs of this machine if left out.")] = None,
    size: Annotated[int, typer.Option(min=8, help="Side of a view in pixels.")] = 224,
    files: Annotated[int, typer.Option(min=2, help="Images a turn.")] = 48,
    rounds: Rounds = 11,
    threads: Annotated[int, typer.Option(min=0, help="Threads to compare with one; 0: one a core.")] = 0,
    needed: Annotated[float, typer.Option(min=0, help="Images/s that your GPU takes; 0: not known.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Making views: beside Lightly's, beside decoding alone, in threads and in worker processes."""
    from simclr_plus.bench.data import bench_data

    say("preparing: compiling the view-making loops (the first time takes about half a minute)")
    _show_bench(bench_data(folder, size=size, files=files, rounds=rounds, threads=threads, needed=needed), as_json)


@app.command("loss")
def bench_the_loss(
    images: Annotated[int, typer.Option("--images", "-n", min=2, help="N, the images of a batch.")] = 2048,
    dimensions: Annotated[int, typer.Option(min=1, help="D, the dimensions of z.")] = 128,
    temperature: Annotated[float, typer.Option(help="Temperature.")] = 0.1,
    rounds: Rounds = 11,
    threads: Threads = 1,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """NT-Xent forward and backward: time and peak memory."""
    from simclr_plus.bench.loss import bench_loss
    from simclr_plus.distributed import start

    place = start(device)
    _show_bench(
        bench_loss(
            images=images,
            dimensions=dimensions,
            temperature=temperature,
            rounds=rounds,
            threads=threads,
            device=place,
        ),
        as_json,
    )


@app.command("optimizer")
def bench_the_optimizer(
    depth: Annotated[int, typer.Option(help="Depth of the ResNet whose parameters are updated.")] = 50,
    rounds: Rounds = 15,
    threads: Threads = 1,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """A step of LARS."""
    from simclr_plus.bench.optimizer import bench_optimizer
    from simclr_plus.distributed import start

    _show_bench(bench_optimizer(depth=depth, rounds=rounds, threads=threads, device=start(device)), as_json)


@app.command("step")
def bench_the_step(
    recipe: RecipeName = "cifar10_r18",
    overrides: Overrides = None,
    rounds: Rounds = 5,
    threads: Threads = 1,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """A training step beside Lightly's example, and whether the data path keeps up with it."""
    from simclr_plus.bench.step import bench_step
    from simclr_plus.distributed import start
    from simclr_plus.recipe.reading import load_recipe

    loaded, place = load_recipe(recipe, overrides or []), start(device)
    say("preparing: compiling the view-making loops (the first time takes about half a minute)")
    _show_bench(bench_step(loaded, rounds=rounds, threads=threads, device=place), as_json)


@app.command("checkpoint")
def bench_the_checkpoint(
    recipe: RecipeName = "r50_1x",
    overrides: Overrides = None,
    folder: Annotated[Path, typer.Option(help="A folder on the disk that checkpoints would go to.")] = Path(),
    rounds: Rounds = 7,
    threads: Threads = 1,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """How long the loop stops for a checkpoint with momenta."""
    from simclr_plus.bench.checkpoint import bench_checkpoint
    from simclr_plus.distributed import start
    from simclr_plus.recipe.reading import load_recipe

    loaded, place = load_recipe(recipe, overrides or []), start(device)
    _show_bench(bench_checkpoint(loaded, folder, rounds=rounds, threads=threads, device=place), as_json)


@app.command("logistic")
def bench_the_logistic_regression(
    images: Annotated[int, typer.Option("--images", "-n", min=100, max=10_000, help="Images to fit on.")] = 10_000,
    tolerance: Annotated[float, typer.Option(min=0, help="Share of an objective that ours may leave to gain.")] = 1e-8,
    down_to: Annotated[float, typer.Option(min=0, max=1e5, help="Leave out penalties below.")] = 0.0,
    as_json: AsJson = False,
) -> None:
    """The 45 penalties of transfer beside scikit-learn: half an hour, most of it scikit-learn's."""
    from simclr_plus.bench.logistic import bench_logistic

    _show_bench(bench_logistic(images=images, tolerance=tolerance, down_to=down_to, say=say), as_json)


def _show_bench(report: Report, as_json: bool) -> None:
    if as_json:
        print_json(report.as_dict())
        return
    for table in report.comparisons:
        rows = [
            [
                row.name,
                f"{row.seconds * 1e3:.4g}",
                f"{row.low * 1e3:.4g} to {row.high * 1e3:.4g}",
                f"{row.per_second:,.4g}",
                "1" if row.name == table.base else f"{row.times_base:.3g}",
                "" if row.peak_memory is None else f"{row.peak_memory / 2**20:,.0f} MiB",
            ]
            for row in table.rows
        ]
        columns = ["", "median ms", "middle half", table.items, f"times {table.base}", "peak memory"]
        columns_shown = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
        print_table(columns[:columns_shown], [row[:columns_shown] for row in rows], table.title)
    for verdict in report.verdicts:
        print(verdict)
    say(
        "measured on "
        + ", ".join(f"{value}" if k == "processor" else f"{k} {value}" for k, value in report.machine.items())
    )
