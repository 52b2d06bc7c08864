"""From what a user names to what an evaluator takes: weights, labelled images, a result file. Prints nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr_plus.checkpoints import beside, load_encoder, load_head, read_header, save_head
from simclr_plus.datasets import TEST, TRAIN, Images, open_folder, open_images, require_labels
from simclr_plus.distributed import rank, start
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.evaluators.linear import evaluate_linear, evaluate_linear_fast
from simclr_plus.evaluators.subjects import Subject, projected, subjects
from simclr_plus.evaluators.supervised import State
from simclr_plus.export import recipe_of
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.image_identity import images_digest
from simclr_plus.recipe_keys import Data
from simclr_plus.result_names import changed_settings, result_name
from simclr_plus.runs import Run, find_run

Evaluator = Callable[..., dict[str, Any]]
SELECTORS = {"h": "0", "z": "-1"}  # as verify and heads.py count what a classifier stands on
NAMES = ("embedded", "mnist", "fashion_mnist", "cifar10", "cifar100", "stl10")


def weights_of(target: str, runs: Path) -> tuple[Path, Run | None]:
    """The file that a run, a checkpoint or an encoder file stands for, and the run if it is one."""
    if Path(target).is_file():
        return Path(target), None
    try:
        run = find_run(target, runs)
    except NotFoundError as error:
        raise NotFoundError(f"{error}. {target!r} is no file either") from None
    return run.latest_checkpoint(), run


def projection_head_of(file: Path) -> SimCLRProjectionHead:
    """The projection head in a checkpoint or a head file, or in the file beside an encoder; else CheckpointError."""
    own = beside(file, "projection")
    try:
        head = load_head(own if own.is_file() else file, "projection")
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; this needs the projection head: name a run or one of its checkpoints (few-labels takes --head)"
        ) from None
    assert isinstance(head, SimCLRProjectionHead)
    return head


def best_device() -> torch.device:
    """CUDA where there is one; under torchrun this process joins the others and takes its own."""
    return start("auto")


def evaluate_target(
    target: str,
    name: str,
    evaluator: Evaluator,
    settings: dict[str, Any],
    *,
    on: str = "h",
    data: str = "",
    test: str = "",
    labels: int = 0,
    baselines: bool = False,
    runs: Path = Path("runs"),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], Path | None]:
    """Evaluate, and for a run write the result into its folder; returns the result and the file.

    on: "h", the encoder's features, or "z", those of the projection head.
    """
    if on not in ("h", "z"):
        raise RecipeError(f'--on {on!r} is unknown; use "h" (the encoder) or "z" (the projection head on it)')
    if on == "z" and baselines:
        raise RecipeError("--baselines have no projection head: with --on z leave it out")
    weights, run = weights_of(target, runs)
    recipe, header = recipe_of(weights), read_header(weights)
    if "recipe" not in header and not data:
        raise RecipeError(f"{weights} does not say what it was trained on: name a data set or folder with --data")
    train, held_out = labelled_images(recipe.data, data, test)
    train = train.first(labels)
    device = best_device()
    found: dict[str, Any] = {}
    classifier = None
    usual = {key: parameter.default for key, parameter in inspect.signature(evaluator).parameters.items()}
    usual |= {"on": "h", "labels": 0, "test": ""}
    changed = changed_settings({"on": on, "labels": labels, "test": test} | settings, usual)
    own = recipe.data.root if recipe.data.name == "folder" else recipe.data.name
    file_name = result_name(name, weights.stem, "" if data == own else data, changed=changed)
    native_size = 0 if train.pixels is None else train.pixels.shape[1]
    evaluated = subjects(load_encoder(weights), recipe.law, baselines=baselines, native_size=native_size)
    if on == "z":
        evaluated = [projected(evaluated[0], projection_head_of(weights))]
    for subject in evaluated:
        say(f"{name}: {subject.name}")
        moved = Subject(subject.name, subject.encoder.to(device), subject.law)
        kept: dict[str, Any] = {}
        if run and evaluator is evaluate_linear:  # hours on large sets: it goes on where it was cut off
            key = json.dumps([str(weights.stat().st_mtime_ns), str(moved.law), images_digest(train), settings])
            kept["state"] = State(run.results / f".{file_name}_{subject.name.replace(' ', '-')}.safetensors", key)
        if run and evaluator in (evaluate_linear, evaluate_linear_fast) and subject is evaluated[0]:
            classifier = run.results / f"{file_name}.safetensors"
            kept["keep"] = _keeper(classifier, name, on, weights, train)
        found[subject.name] = evaluator(moved, train, held_out, device=device, **settings, **kept)
        if "state" in kept and rank() == 0:
            kept["state"].file.unlink(missing_ok=True)
    result = {
        "schema": 1,
        "evaluator": name,
        "weights": str(weights),
        "encoder": recipe.architecture.title,
        "step": int(header["step"]) if "step" in header else None,
        "data": train.name,
        "train_images": len(train),
        "test_images": len(held_out),
        "on": on,
        "settings": settings,
        "changed": changed,
        "results": found,
        "classifier": classifier and classifier.name,
    }
    path = run.write_result(file_name, result) if run and rank() == 0 else None
    return result, path


def _keeper(file: Path, name: str, on: str, weights: Path, train: Images) -> Callable[[nn.Linear], None]:
    """What writes a trained classifier beside its result, with all that `verify` must know of it."""

    def keep(linear: nn.Linear) -> None:
        about = {"trained_by": f"simclr-plus evaluate {name}", "weights": str(weights), "selector": SELECTORS[on]}
        about |= {"data": train.name, "train_images": str(len(train)), "classes": json.dumps(train.classes)}
        if rank() == 0:
            save_head(linear, file, about)

    return keep


def labelled_images(data: Data, other: str, test: str) -> tuple[Images, Images]:
    """Training and test images: the recipe's, a data set by name, one folder split in two, or two folders."""
    if test:
        train, held_out = open_folder(Path(other or data.root)), open_folder(Path(test))
    else:
        if other:
            root = "data" if data.name == "folder" else data.root
            data = Data.model_validate(
                {"name": other, "root": root} if other in NAMES else {"name": "folder", "root": other}
            )
        train, held_out = open_images(data, TRAIN), open_images(data, TEST)
    require_labels(train), require_labels(held_out)
    if train.classes != held_out.classes:
        differ = sorted(set(train.classes) ^ set(held_out.classes))
        raise SimclrPlusError(
            f"{train.name} and {held_out.name} have different classes ({', '.join(differ[:5])}); "
            "both need one folder for each class, of the same names"
        )
    return train, held_out
