"""The verb `study`: plan, run or submit one of the paper's studies, and write its report."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from simclr_plus.cli.options import (
    RUNS,
    Account,
    AsJson,
    DryRun,
    Memory,
    Overrides,
    Partition,
    RunsFolder,
    Sbatch,
    TimeLimit,
    allocation_of,
)
from simclr_plus.errors import RecipeError
from simclr_plus.machine.printing import print_json, print_table, say
from simclr_plus.machine.words import rough_duration

if TYPE_CHECKING:
    from pathlib import Path

    from simclr_plus.datasets.images import Images
    from simclr_plus.launch.batch_scripts import Allocation
    from simclr_plus.recipe.recipe import Recipe
    from simclr_plus.studies.running.cells import PlannedStudy
    from simclr_plus.studies.study import Study

Where = Annotated[
    list[str] | None, typer.Option(metavar="AXIS=VALUE,VALUE", help="Run a part of the grid; may be given again.")
]
Nproc = Annotated[
    str, typer.Option("--nproc", help='Processes (GPUs) of each cell, a number or "gpu"; with --slurm --gpus N: N.')
]
UNLABELLED = ("contrastive", "keeps_")  # measures that need no labels
app = typer.Typer()


@app.command()
def study(
    study_name: Annotated[str, typer.Argument(metavar="[NAME]", help="A study; none: list them.")] = "",
    recipe: Annotated[str, typer.Argument(help="Recipe to start from; left out: that of the scale.")] = "",
    overrides: Overrides = None,
    scale: Annotated[str, typer.Option(help='"small" (minutes a run) or "paper".')] = "small",
    seeds: Annotated[int, typer.Option(min=0, help="Runs of each cell; 0: as many as the study says.")] = 0,
    where: Where = None,
    budget: Annotated[
        str, typer.Option(help='comparison: equal "pixels" through f (as it is), or equal "epochs".')
    ] = "",
    at_once: Annotated[int, typer.Option(min=0, help="Cells side by side; 0: as many as GPUs or cores allow.")] = 0,
    nproc: Nproc = "",
    name: Annotated[str, typer.Option(help="Name of the study's folder; study-NAME if left out.")] = "",
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit the missing cells to SLURM as an array.")] = False,
    gpus: Annotated[int, typer.Option(min=0, help="SLURM: GPUs of a cell.")] = 0,
    cpus: Annotated[int, typer.Option(min=0, help="SLURM: cores of a cell.")] = 0,
    time_limit: TimeLimit = "",
    partition: Partition = "",
    account: Account = "",
    memory: Memory = "",
    sbatch: Sbatch = None,
    report_only: Annotated[bool, typer.Option("--report", help="Run nothing; report what is there.")] = False,
    runs: RunsFolder = RUNS,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """One of the paper's studies on your data: runs its cells, goes on where it stopped, writes the report."""
    from simclr_plus.launch.start import process_count
    from simclr_plus.runs.folder import check_run_name
    from simclr_plus.studies.catalogue import find_study
    from simclr_plus.studies.running.cells import plan_study

    if not study_name:
        _list_studies(as_json)
        return
    definition = find_study(_with_budget(study_name, budget))
    name = name or f"study-{definition.name}"
    check_run_name(name)
    if report_only:
        _report(_recorded(runs / name, definition), as_json)
        return
    processes = process_count(nproc, gpus if slurm else None)
    allocation = allocation_of(
        slurm,
        processes=processes,
        gpus=gpus,
        cpus=cpus,
        time_limit=time_limit,
        partition=partition,
        account=account,
        memory=memory,
        sbatch=sbatch,
    )
    base, count = _base(definition, scale, recipe, overrides or []), seeds or definition.seeds[scale]
    planned = plan_study(runs / name, definition, scale, count, base, where or ())
    _start(planned, count, allocation, at_once, processes, dry_run, as_json)


def _with_budget(study_name: str, budget: str) -> str:
    """The comparison by its budget."""
    from simclr_plus.studies.comparison.plan import BUDGETS

    if not budget:
        return study_name
    if study_name != "comparison" or budget not in BUDGETS:
        raise RecipeError(
            f"--budget {budget}: the study comparison has the budgets {' and '.join(BUDGETS)}, no other has"
        )
    return study_name if budget == BUDGETS[0] else f"{study_name}-{budget}"


def _recorded(path: Path, definition: Study) -> PlannedStudy:
    """The study in a folder, which must be this one."""
    from simclr_plus.studies.running.cells import open_study

    recorded = open_study(path)
    if recorded.study is not definition:
        raise RecipeError(f"{path} holds the study {recorded.study.name}, not {definition.name}")
    return recorded


def _start(
    planned: PlannedStudy,
    seeds: int,
    allocation: Allocation | None,
    at_once: int,
    processes: int,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Show the plan, or submit the cells that are missing, or train them here."""
    from simclr_plus.studies.running.cells import record

    ids = [] if allocation else _gpu_ids()
    needed = max(1, at_once) * processes
    if ids and needed > len(ids):
        raise RecipeError(
            f"--at-once {max(1, at_once)} --nproc {processes} asks for {needed} GPUs; here are {len(ids)}"
        )
    if dry_run:
        _show_plan(planned, at_once or _room(ids, processes), processes, as_json)
        return
    _look_at_data(planned)
    _look_at_weights(planned)
    record(planned, seeds)
    if allocation:
        _submit(planned, allocation, at_once, as_json)
    else:
        _run(planned, at_once or _room(ids, processes), processes, ids, as_json)


def _submit(planned: PlannedStudy, allocation: Allocation, at_once: int, as_json: bool) -> None:
    from simclr_plus.studies.running.cells import submit_cells

    count, path = len(planned.missing()), planned.path
    job = submit_cells(planned, allocation, at_once)
    say(f"{count} cells are submitted as job {job}; when they are done, for the report:")
    if count < planned.total - len(planned.results()):
        say("(the same command again first: it submits the other seeds, at the values that these choose)")
    where = ["--name", path.name, "--runs", str(path.parent)]
    say(f"  simclr-plus study {planned.study.name} {shlex.join(where)} --report")
    if as_json:
        print_json({"schema": 1, "study": str(path), "job": job, "cells": count})


def _run(planned: PlannedStudy, at_once: int, processes: int, gpus: list[str], as_json: bool) -> None:
    from simclr_plus.studies.running.cells import open_study, require_all, run_cells

    failures: list[str] = []
    while not failures and (count := len(planned.missing())):  # the first seed may choose where the others are run
        say(f"{planned.path}: {count} of {planned.total} cells to run, {min(at_once, count)} at a time")
        failures = run_cells(planned, at_once=at_once, processes=processes, gpus=gpus, say=say)
    _report(open_study(planned.path), as_json)
    require_all(failures, planned)


def _look_at_weights(planned: PlannedStudy) -> None:
    """Those that every cell starts from must be there; they are fetched once, where the recipe says so."""
    if planned.recipe.encoder.pretrained:
        from simclr_plus.importers.pretrained import weights_file

        weights_file(planned.recipe)


def _look_at_data(planned: PlannedStudy) -> None:
    """Refuse, before anything is trained, cells that these images cannot answer; say so where they answer little."""
    from simclr_plus.datasets.images import TEST, TRAIN, open_images, open_training_images, require_labels

    images, test = open_images(planned.recipe.data, TRAIN), open_images(planned.recipe.data, TEST)
    if any(not measure.startswith(UNLABELLED) for cell in planned.cells for measure in cell.measures):
        require_labels(images), require_labels(test)
        if images.classes != test.classes:
            raise RecipeError(
                f"{images.name} and {test.name} hold other classes ({len(images.classes)} and {len(test.classes)}); "
                "give both the same folders"
            )
    for supervised in (False, True):
        batches = [cell for cell in planned.cells if cell.recipe.method.learns_labels is supervised]
        if batches:
            open_training_images(max((cell.recipe for cell in batches), key=lambda recipe: recipe.training.batch_size))
    _look_at_colors(planned, images)


def _look_at_colors(planned: PlannedStudy, images: Images) -> None:
    """Of 64 images from all over the set."""
    from simclr_plus.errors import UnreadableImageError

    spread, count = 0, min(64, len(images))
    for number in range(count):
        try:
            pixels = images.read(number * len(images) // count)
        except UnreadableImageError:
            if not images.skip_bad:
                raise
            continue
        spread = max(spread, int((pixels.max(axis=2) - pixels.min(axis=2)).max()))
    if spread:
        return
    asking = [cell for cell in planned.cells if cell.needs_color]
    if asking:
        axis = next(iter(asking[0].place))
        others = dict.fromkeys(f"{cell.place[axis]}" for cell in planned.cells if not cell.needs_color)
        raise RecipeError(
            f"{images.name} holds gray images, which cannot teach {asking[0].place[axis]}: name a set in colour "
            f"(data.name=folder data.root=FOLDER), or leave it out: --where {axis}={','.join(others)}"
        )
    if planned.study.asks_for_color:
        say(f"note: {images.name} holds gray images; this study asks for colour, so that they answer little")


def _base(definition: Study, scale: str, recipe: str, overrides: list[str]) -> Recipe:
    from simclr_plus.recipe.reading import load_recipe
    from simclr_plus.studies.study import SCALES

    if scale not in SCALES:
        raise RecipeError(f"--scale {scale!r} is unknown; use {' or '.join(SCALES)}")
    if "=" in recipe:
        recipe, overrides = "", [recipe, *overrides]
    shipped, changes = definition.bases[scale]
    return load_recipe(recipe, overrides) if recipe else load_recipe(shipped, [*changes, *overrides])


def _gpu_ids() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import os

    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (visible.split(",") if visible else [str(i) for i in range(count)])[:count]


def _room(gpus: list[str], processes: int) -> int:
    """Cells side by side: as many as GPUs, or cores, allow."""
    from simclr_plus.machine.cores import cpu_count

    return max(1, (len(gpus) or cpu_count()) // processes)


def _list_studies(as_json: bool) -> None:
    from simclr_plus.studies.catalogue import STUDIES

    if as_json:
        studies = [{"name": s.name, "source": s.source, "question": s.question} for s in STUDIES.values()]
        print_json({"schema": 1, "studies": studies})
    else:
        print_table(["study", "question", "source"], [[s.name, s.question, s.source] for s in STUDIES.values()])


def _show_plan(planned: PlannedStudy, at_once: int, processes: int, as_json: bool) -> None:
    from simclr_plus.studies.running.cost import cost_of, plans_of

    plans, cost = plans_of(planned, processes), cost_of(planned, at_once=at_once, processes=processes, say=say)
    listed: list[dict[str, Any]] = [
        {
            "cell": cell.name,
            **cell.place,
            "seed": cell.seed,
            "images": plan.total_steps * plan.global_batch,
            "steps": plan.total_steps,
            "batch": plan.global_batch,
            "epochs": cell.recipe.training.epochs,
            "learning_rate": plan.peak_learning_rate,
            "measures": list(cell.measures),
            "done": planned.is_done(cell),
        }
        for cell, plan in zip(planned.cells, plans, strict=True)
    ]
    if as_json:
        figures = {"cells": cost.cells, "done": cost.done, "images": cost.images, "seconds": cost.seconds}
        print_json(
            {"schema": 1, "study": planned.study.name, "data": planned.recipe.data.name, **figures, "plan": listed}
        )
        return
    keys = ["cell", "steps", "batch", "epochs", "learning_rate", "measures"]
    rows = [[_cell(entry[key]) for key in keys] + ["done" if entry["done"] else ""] for entry in listed]
    print_table([*keys[:4], "peak rate", "measures", ""], rows, title=f"{planned.study.title} ({planned.study.source})")
    say(
        f"{cost.cells} runs on {planned.recipe.data.name}, {cost.images:,} images in all; {cost.done} are done. "
        f"Training the rest takes about {rough_duration(cost.seconds)} on this machine, {at_once} at a time; "
        "evaluating comes on top"
    )


def _cell(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else f"{value:.4g}" if isinstance(value, float) else str(value)


def _report(planned: PlannedStudy, as_json: bool) -> None:
    from simclr_plus.studies.report import write_report
    from simclr_plus.studies.running.setting import setting_of

    findings = planned.findings()
    files = write_report(planned.path, planned.study, findings, setting_of(planned))
    if as_json:
        print_json(json.loads((planned.path / "results.json").read_text(encoding="utf-8")))
        return
    page = planned.study.page(findings)
    for table in page.tables:
        print_table(list(table.columns), [list(row) for row in table.rows], title=table.title)
    if page.claims:
        rows = [[claim.sentence, f"**{claim.verdict}**", claim.evidence] for claim in page.claims]
        print_table(["what the paper claims", "here", "figures"], rows)
    say(f"the report: {files[0]}")
