"""The verbs that start, continue and stop runs: here, on several nodes, or by SLURM."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from simclr_plus.cli.options import (
    RUNS,
    Account,
    AsJson,
    DryRun,
    Memory,
    Overrides,
    Partition,
    RunName,
    RunsFolder,
    Sbatch,
    TimeLimit,
    allocation_of,
)
from simclr_plus.cli.recipes import list_recipes
from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.machine.printing import print_json, print_table, say

if TYPE_CHECKING:
    from simclr_plus.launch.batch_scripts import Allocation
    from simclr_plus.launch.order import Order
    from simclr_plus.recipe.plan import Plan
    from simclr_plus.recipe.recipe import Recipe
    from simclr_plus.runs.folder import Run

app = typer.Typer()

Nproc = Annotated[str, typer.Option("--nproc", help='Processes on each machine: a number, or "gpu" for one a GPU.')]
RecipeOrNone = Annotated[
    str, typer.Argument(help="A TOML file, or the name of a shipped recipe; left out: list these.")
]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="Start it, print its name and leave it to itself.")]
Nodes = Annotated[str, typer.Option(help="Machines, a number or MIN:MAX; type the same command on each.")]
Rdzv = Annotated[str, typer.Option(metavar="HOST:PORT", help="Where they meet: a free port of one of them.")]
MaxRestarts = Annotated[
    int, typer.Option(min=0, help="Times to start again, from the newest checkpoint, after a crash.")
]
Slurm = Annotated[bool, typer.Option("--slurm", help="Submit it to SLURM; it resumes by itself after a time limit.")]
Gpus = Annotated[int, typer.Option(min=0, help="SLURM: GPUs of each node; also the processes, if --nproc is left out.")]
Cpus = Annotated[int, typer.Option(min=0, help="SLURM: cores of each node.")]


@app.command()
def run(
    recipe: RecipeOrNone = "",
    overrides: Overrides = None,
    detach: Detach = False,
    nproc: Nproc = "",
    nodes: Nodes = "1",
    rdzv: Rdzv = "",
    max_restarts: MaxRestarts = 0,
    name: Annotated[str, typer.Option(help="Name of the run; made from recipe and time if left out.")] = "",
    slurm: Slurm = False,
    gpus: Gpus = 0,
    cpus: Cpus = 0,
    time_limit: TimeLimit = "",
    partition: Partition = "",
    account: Account = "",
    memory: Memory = "",
    sbatch: Sbatch = None,
    runs: RunsFolder = RUNS,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Pretrain by a recipe: in the foreground, detached, on several machines, or by SLURM."""
    if not recipe:
        _list_recipes_and_exit(as_json)
    from simclr_plus.importers import about_normalisation, with_normalisation
    from simclr_plus.recipe.reading import load_recipe, typed_keys
    from simclr_plus.runs.folder import Run, check_run_name, create_numbered_run, create_run, default_name, join_run

    loaded = load_recipe(recipe, overrides or []).with_whole_paths()
    order = _order(nproc, nodes, rdzv, max_restarts, slurm=slurm, gpus=gpus)
    if order.rdzv and not name:
        raise RecipeError("several machines train one run: give it a --name, the same on each")
    create = join_run if order.rdzv else create_run if name else create_numbered_run
    check_run_name(name := name or default_name(recipe))
    allocation = allocation_of(
        slurm,
        processes=order.processes,
        nodes=nodes,
        gpus=gpus,
        cpus=cpus,
        time_limit=time_limit,
        partition=partition,
        account=account,
        memory=memory,
        sbatch=sbatch,
    )
    doubts = loaded.doubts(typed_keys(overrides or []))
    if dry_run:
        loaded, notes = _to_plan(loaded)
        plan = _plan(loaded, _world(order))
        _show_plan(loaded, plan, Run(runs / name), order, allocation, as_json, [*doubts, *notes])
        return
    loaded, notes = with_normalisation(loaded), about_normalisation(loaded)
    if allocation is None:
        plan = _plan_to_train(loaded, _world(order))
    else:
        plan = _plan_to_submit(loaded, Run(runs / name), order, allocation)
    new = create(loaded, runs, name)
    _say_created(new, plan, [*doubts, *notes])
    _start(new, order, allocation, detached=detach, as_json=as_json)


def _say_created(run: Run, plan: Plan, notes: Sequence[str]) -> None:
    say(f"run {run.path}: {plan.total_steps} steps of {plan.global_batch} images")
    for note in notes:
        say(f"note: {note}")


def _list_recipes_and_exit(as_json: bool) -> NoReturn:
    list_recipes(as_json)
    say("say which: simclr-plus run RECIPE, or `simclr-plus run folder data.root=PHOTOS` for images of your own")
    raise typer.Exit(RecipeError.exit_code)


@app.command()
def resume(
    run: RunName,
    overrides: Overrides = None,
    detach: Detach = False,
    nproc: Nproc = "",
    nodes: Nodes = "1",
    rdzv: Rdzv = "",
    max_restarts: MaxRestarts = 0,
    name: Annotated[str, typer.Option(help="Name of the new run, where keys are changed.")] = "",
    slurm: Annotated[bool, typer.Option("--slurm", help="Submit its batch script to SLURM again.")] = False,
    runs: RunsFolder = RUNS,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Go on with a run from its newest checkpoint, bit for bit; with keys changed, as a new run."""
    from simclr_plus.launch.start import resubmit
    from simclr_plus.recipe.reading import typed_keys
    from simclr_plus.runs.folder import Run, branch_name, branch_run, find_run

    resumed = find_run(run, runs)
    if not overrides and name:
        raise RecipeError(f"--name {name}: a run that is resumed unchanged keeps its name")
    if overrides and slurm:
        raise RecipeError(
            "--slurm submits the batch script of a run again, and a run with keys changed is a new one without a "
            "script; leave --slurm out (within a job of your own), or start a run with --slurm and training.init_from"
        )
    order = _order(nproc or str(_processes_of(resumed)), nodes, rdzv, max_restarts)
    if overrides:
        recipe, plan = _branched(resumed, overrides, _world(order))
    else:
        recipe = resumed.recipe()
        plan = _plan(recipe, _world(order))
    if dry_run:
        to_be = Run(resumed.path.parent / (name or branch_name(resumed))) if overrides else resumed
        _show_plan(recipe, plan, to_be, order, None, as_json, recipe.doubts(typed_keys(overrides or [])))
        return
    if overrides:
        resumed = branch_run(resumed, recipe, name, overrides)
        say(f"new run {resumed.path}: it goes on from a checkpoint of {run}")
    done = resumed.checkpoint_files()
    at = int(done[-1].stem.removeprefix("step_")) if done else 0
    if at >= plan.total_steps and (resumed.path / "encoder.safetensors").exists():
        longer = f"simclr-plus resume {shlex.quote(run)} training.epochs=N"
        say(f"run {resumed.path} is finished ({at} steps); to train longer: {longer}")
        if as_json:
            print_json(_outcome(resumed))
        return
    say(f"run {resumed.path}: goes on at step {at} of {plan.total_steps}")
    if slurm:
        _say_submitted(resumed, resubmit(resumed), as_json)
        return
    _start(resumed, order, None, detached=detach, as_json=as_json)


@app.command()
def stop(
    run: RunName,
    now: Annotated[bool, typer.Option("--now", help="End it within 35 seconds, saved if that is enough.")] = False,
    kill: Annotated[bool, typer.Option("--kill", help="End it at once; what was not saved is lost.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the end; 0: do not wait.")] = 600.0,
    runs: RunsFolder = RUNS,
    as_json: AsJson = False,
) -> None:
    """Ask a run, wherever it trains, to save a checkpoint and stop."""
    from simclr_plus.launch.start import stop as ask_to_stop
    from simclr_plus.runs.folder import find_run
    from simclr_plus.runs.states import ENDED, LOST, STALE, state_of

    training = find_run(run, runs)
    at_work = ask_to_stop(training, "kill" if kill else "now" if now else "")
    if not at_work:
        say(f"run {training.path} is not at work: {state_of(training).name}")
    end = time.monotonic() + wait
    if at_work and wait:
        say(f"run {training.path} is asked to {'end' if now or kill else 'save and stop'}")
    state = state_of(training)
    while at_work and state.name not in (*ENDED, LOST, STALE) and time.monotonic() < end:
        time.sleep(0.2)
        state = state_of(training)
    if as_json:
        print_json({"schema": 1, "run": str(training.path), "state": state.name, "why": state.why})
    elif at_work and state.name in ENDED:
        say(f"{state.name}; go on with: simclr-plus resume {shlex.quote(str(training.path))}")
    if at_work and state.name == STALE:
        raise SimclrPlusError(f"run {training.path} was asked by its STOP file, but {state.why}")
    if at_work and wait and state.name not in (*ENDED, LOST):
        raise SimclrPlusError(
            f"run {training.path} is still {state.name} after {wait:g} s; --now or --kill ask for more"
        )


def _order(nproc: str, nodes: str, rdzv: str, max_restarts: int, *, slurm: bool = False, gpus: int = 0) -> Order:
    from simclr_plus.launch.order import Order
    from simclr_plus.launch.start import process_count

    low, _, high = nodes.partition(":")
    if not low.isdigit() or int(low) < 1 or (high and (not high.isdigit() or int(high) < int(low))):
        raise RecipeError(f"--nodes {nodes}: give a number of machines, or MIN:MAX")
    if slurm and (high or rdzv):
        raise RecipeError("--slurm takes a number of --nodes and finds out itself where they meet")
    if not slurm and nodes != "1" and not rdzv:
        raise RecipeError(f"--nodes {nodes} needs --rdzv HOST:PORT, a free port of one of the machines")
    if rdzv and not rdzv.rpartition(":")[2].isdigit():
        raise RecipeError(f"--rdzv {rdzv}: write it as HOST:PORT, e.g. node1:29500")
    return Order(process_count(nproc, gpus if slurm else None), nodes, rdzv, max_restarts)


def _world(order: Order) -> int:
    """Processes on all machines, the most there may be."""
    return order.processes * int(order.nodes.rpartition(":")[2])


def _processes_of(run: Run) -> int:
    """Processes on each machine as it was started last; where it never was, those of the run that it comes from."""
    from simclr_plus.runs.folder import Run
    from simclr_plus.runs.states import read_status

    events = run.events()
    for processes in (read_status(run).get("processes"), *(event.get("processes") for event in reversed(events))):
        if isinstance(processes, int) and processes > 0:
            return processes
    parents = [str(event["parent"]) for event in events if event.get("event") == "branch" and event.get("parent")]
    return _processes_of(Run(run.path.with_name(parents[0]))) if parents and parents[0] != run.name else 1


def _branched(parent: Run, overrides: list[str], processes: int) -> tuple[Recipe, Plan]:
    """The recipe of a run with keys changed and what it comes to; nothing is written before both are sound."""
    from simclr_plus.datasets.images import open_training_images
    from simclr_plus.recipe.plan import make_plan
    from simclr_plus.recipe.reading import parse_recipe, recipe_text
    from simclr_plus.training.continuation import require_branch
    from simclr_plus.weights.checkpoints import load_checkpoint

    text = recipe_text(parent.recipe_file)
    recipe = parse_recipe(text, overrides, origin=str(parent.recipe_file))
    checkpoint = load_checkpoint(parent.latest_checkpoint(), tensors=False)
    images = open_training_images(recipe)
    plan = make_plan(recipe, len(images), processes)
    require_branch(checkpoint, recipe, images, plan)
    return recipe, plan


def _start(run: Run, order: Order, allocation: Allocation | None, *, detached: bool, as_json: bool) -> NoReturn:
    from simclr_plus.launch.start import detach, launch, submit_run
    from simclr_plus.machine import torchrun

    if note := torchrun.disregarded():
        say(f"note: {note}")
    if allocation is not None:
        _say_submitted(run, submit_run(run, allocation, max_restarts=order.max_restarts), as_json)
        raise typer.Exit
    if detached:
        status = detach(run, order)
        if as_json:
            print_json({"schema": 1, **status, "run": str(run.path)})
        else:
            name = shlex.quote(run.name)
            say(f"it trains by itself; simclr-plus logs -f {name}, simclr-plus stop {name}")
            print(run.path)
        raise typer.Exit
    say("preparing: loading PyTorch and compiling the view-making loops (the first time takes about half a minute)")
    code = launch(run, order, quiet=as_json)
    outcome = _outcome(run)
    if outcome["last"].get("images_skipped"):
        say(f"{outcome['last']['images_skipped']} images could not be read and were skipped: {run.logs}/skipped.*.txt")
    if as_json:
        print_json(outcome)
    elif outcome["state"] == "finished":
        say(f"finished: {outcome['encoder']}\nnext: simclr-plus evaluate knn {shlex.quote(str(run.path))}")
    else:
        say(f"stopped with a checkpoint; go on with: simclr-plus resume {shlex.quote(str(run.path))}")
    raise typer.Exit(code)


def _say_submitted(run: Run, job: str, as_json: bool) -> None:
    if as_json:
        print_json({"schema": 1, "run": str(run.path), "state": "queued", "slurm": {"job_id": job}})
    else:
        say(f"SLURM job {job}; watch it with: simclr-plus ps")
        print(run.path)


def _outcome(run: Run) -> dict[str, Any]:
    from simclr_plus.machine.json_lines import last_objects
    from simclr_plus.runs.states import state_of

    encoder = run.path / "encoder.safetensors"
    return {
        "run": str(run.path),
        "state": state_of(run).name,
        "encoder": str(encoder) if encoder.exists() else None,
        "last": next(last_objects(run.metrics_file), {}),
    }


def _memory(recipe: Recipe, plan: Plan) -> str:
    alone = f"{_in_bytes(plan.memory)} (estimate)"
    if recipe.training.device == "cpu":
        return alone
    return f"{alone}; on a GPU {_in_bytes(plan.memory_on_gpu)}, and up to 10 % more"


def _in_bytes(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"


def _beside(plan: Plan) -> list[list[str]]:
    """What of the memory a method keeps beside parameters, where that is anything."""
    if not plan.memory_beside:
        return []
    return [["of it banks and queues", f"{_in_bytes(plan.memory_beside)}, in every process and in every checkpoint"]]


def _plan(recipe: Recipe, processes: int) -> Plan:
    """What a recipe comes to; where images are not there yet their known number will do."""
    from simclr_plus.datasets.images import open_training_images
    from simclr_plus.recipe.plan import known_size, make_plan

    expected = known_size(recipe)
    if not expected or (recipe.data.name == "folder" and Path(recipe.data.root).is_dir()):
        expected = len(open_training_images(recipe))
    return make_plan(recipe, expected, processes)


def _plan_to_train(recipe: Recipe, processes: int) -> Plan:
    """The plan of what starts here: its images, the monitor's and the file to start from must be there."""
    from simclr_plus.datasets.images import open_monitor_images, open_training_images
    from simclr_plus.recipe.plan import make_plan

    plan = make_plan(recipe, len(open_training_images(recipe)), processes)
    if recipe.monitor.knn_every_epochs:
        open_monitor_images(recipe)
    if recipe.training.init_from:
        from simclr_plus.weights.encoder_files import encoder_to_start_from

        encoder_to_start_from(recipe)
    if recipe.encoder.pretrained:
        from simclr_plus.encoders.build import build
        from simclr_plus.importers import load_pretrained

        load_pretrained(build(recipe.network), recipe)
    return plan


def _to_plan(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """A recipe with the normalisation of the weights that f starts from, where it is known, and notes."""
    from simclr_plus.importers import with_normalisation

    if not recipe.encoder.pretrained:
        return recipe, []
    from simclr_plus.importers.pretrained import about_start

    notes = about_start(recipe)
    with suppress(NotFoundError):  # as a note tells
        recipe = with_normalisation(recipe)
    return recipe, notes


def _plan_to_submit(recipe: Recipe, run: Run, order: Order, allocation: Allocation) -> Plan:
    """The plan of a job. What SLURM cannot take is said before a folder is made; weights are fetched here, since the
    job's machine may have no way to the internet.
    """
    from simclr_plus.importers.pretrained import weights_file
    from simclr_plus.launch.batch_scripts import batch_script

    batch_script(run, allocation)
    plan = _plan(recipe, _world(order))
    if recipe.encoder.download and recipe.encoder.pretrained:
        weights_file(recipe)
    return plan


def _show_plan(
    recipe: Recipe,
    plan: Plan,
    run: Run,
    order: Order,
    allocation: Allocation | None,
    as_json: bool,
    notes: Sequence[str],
) -> None:
    from simclr_plus.launch.batch_scripts import batch_script
    from simclr_plus.launch.order import torchrun_options
    from simclr_plus.launch.start import supervisor_command

    script = None if allocation is None else batch_script(run, allocation, max_restarts=order.max_restarts)
    command = supervisor_command(run, order)
    torchrun = ["(one process, without it)"] if order.is_alone else ["torchrun", *torchrun_options(run, order)]
    if as_json:
        starts = {"run": str(run.path), "command": command, "torchrun": torchrun, "batch_script": script}
        about = {"notes": notes, "recipe": recipe.model_dump()}
        print_json({"schema": 1, **plan.as_dict(), **starts, **about})
        return
    rows = [*_plan_rows(recipe, plan), ["run folder", str(run.path)], ["torchrun", shlex.join(torchrun)]]
    print_table(["", "value"], rows)
    for note in notes:
        say(f"note: {note}")
    if order.rdzv:
        say(f"type this same command, without --dry-run, on each of the {order.nodes} machines; {run.path} must be")
        say(
            "a folder that all of them see. Where a machine's name does not lead to its network, set GLOO_SOCKET_IFNAME"
        )
        say("or NCCL_SOCKET_IFNAME to the interface, e.g. eth0")
    if script:
        print(script, end="")


def _plan_rows(recipe: Recipe, plan: Plan) -> list[list[str]]:
    """The plan in words."""
    layers = (
        f"{recipe.head.num_layers} layers to {recipe.head.output_dim}" if recipe.head.num_layers else "none: z is h"
    )
    head = ["head parameters", f"{plan.head_parameters:,} ({layers})"]
    what_for = f"{'' if plan.head_parameters else 'none: '}{recipe.method.loss_title(recipe)}"
    beside = ["parameters beside it", f"{plan.head_parameters:,} ({what_for})"]
    return [
        ["encoder", recipe.encoder_title],
        ["encoder parameters", f"{plan.encoder_parameters:,} ({_in_units(plan.encoder_parameters)})"],
        ["features", f"{plan.feature_dim:,}"],
        ["multiply-adds a view", f"{plan.multiply_adds:,} ({_in_units(plan.multiply_adds)})"],
        head if "head" in recipe.method.reads else beside,
        ["images", f"{plan.images:,} ({recipe.data.name}: {recipe.data.root})"],
        ["global batch", f"{plan.global_batch:,}"],
        ["batch per process", f"{plan.batch_per_process:,} x {plan.processes}"],
        ["steps", f"{plan.total_steps:,} ({recipe.training.epochs:g} epochs)"],
        ["warm-up steps", f"{plan.warmup_steps:,}"],
        ["peak learning rate", f"{plan.peak_learning_rate:g} ({recipe.optimizer.name})"],
        ["memory per process", _memory(recipe, plan)],
        *_beside(plan),
        *_saved(recipe, plan),
    ]


def _in_units(number: int) -> str:
    """In thousands, millions or milliards, as the field writes it: 4.1 G."""
    size, unit = next(((s, u) for s, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= s), (1.0, ""))
    return f"{number / size:.{0 if number >= 100 * size or not unit else 1}f} {unit}".rstrip()


def _saved(recipe: Recipe, plan: Plan) -> list[list[str]]:
    """What activation checkpointing spares, where it is on."""
    if not recipe.training.activation_checkpointing:
        return []
    without = _in_bytes(plan.memory + plan.memory_saved)
    return [["activation checkpointing", f"spares {_in_bytes(plan.memory_saved)} of {without}, for a pass more"]]
