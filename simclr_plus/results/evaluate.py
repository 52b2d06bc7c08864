"""From what a user names to what an evaluator takes: weights, labelled images, a result file. Prints nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr_plus.datasets.identity import listing_digest
from simclr_plus.datasets.images import (
    TEST,
    TRAIN,
    Images,
    data_named,
    open_folder,
    open_images,
    require_same_classes,
    require_several_classes,
)
from simclr_plus.distributed import from_main, rank, require_agreement, start, world_size
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.evaluators.classifier import State
from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
from simclr_plus.evaluators.linear import evaluate_linear, evaluate_linear_fast
from simclr_plus.evaluators.pace import telling
from simclr_plus.evaluators.subjects import PIXELS_SIDE, Subject, projected, subjects
from simclr_plus.features.cache import decoded_digest
from simclr_plus.features.extraction import left_out, listed
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe.keys import Data
from simclr_plus.recipe.recipe import whole_path
from simclr_plus.runs.folder import Run, find_run
from simclr_plus.runs.result_folders import (
    find_results,
    folder_of,
    key_of,
    name_for,
    noted,
    read_result,
    run_of,
    write_note,
)
from simclr_plus.runs.result_names import changed_settings, plain, result_name
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.export import recipe_of
from simclr_plus.weights.head_files import beside, load_head, save_head
from simclr_plus.weights.tensor_files import read_header

Evaluator = Callable[..., dict[str, Any]]
LINEAR = (evaluate_linear, evaluate_linear_fast)  # they train a classifier, which is kept
SELECTORS = {"h": "0", "z": "-1"}  # as verify and heads.py count what a classifier stands on


def weights_of(target: str, runs: Path) -> tuple[Path, Run | None]:
    """The file that a run, a checkpoint, an encoder file or a folder of results stands for, and the run it is of."""
    if Path(target).is_file():
        return Path(target), run_of(Path(target))
    try:
        run = find_run(target, runs)
    except NotFoundError as error:
        with suppress(NotFoundError):
            named = Path(str(noted(find_results(target, runs).path).get("weights", "")))
            if named.is_file():
                return named, run_of(named)
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
    pixels_side: int = PIXELS_SIDE,
    skip_bad: bool = False,
    runs: Path = Path("runs"),
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], Path]:
    """Evaluate and write the result into the folder of the encoder's run, or of the file; returns result and file.

    on: "h", the encoder's features, or "z", those of the projection head. pixels_side: raw pixels are averaged to so
    many at most. A subject whose outcome an earlier command left, before it was cut off, is not computed again.
    """
    if on not in ("h", "z"):
        raise RecipeError(f'--on {on!r} is unknown; use "h" (the encoder) or "z" (the projection head on it)')
    if on == "z" and baselines:
        raise RecipeError("--baselines have no projection head: with --on z leave it out")
    device = best_device()
    weights = from_main(weights_of(target, runs)[0])  # of a run one checkpoint for all processes
    recipe, header = recipe_of(weights), read_header(weights)
    if "recipe" not in header and not data:
        raise RecipeError(f"{weights} does not say what it was trained on: name a data set or folder with --data")
    train, held_out = labelled_images(recipe.data, data, test, skip_bad=skip_bad)
    train = train.first(labels)
    require_several_classes(train)
    encoder = load_encoder(weights)
    native_size = 0 if train.pixels is None else train.pixels.shape[1]
    evaluated = subjects(encoder, recipe.law, baselines=baselines, native_size=native_size, pixels_side=pixels_side)
    digest = evaluated[0].digest
    require_one_evaluation(digest, train, held_out)
    if on == "z":
        evaluated = [projected(evaluated[0], projection_head_of(weights))]
    asked = {"on": on, "labels": labels, "test": test} | ({"raw_pixels": pixels_side} if baselines else {})
    changed = _changed(evaluator, settings, asked)
    other = "" if _is_of(recipe.data, data) else data
    folder = folder_of(str(weights), weights, digest, runs)
    digests = from_main([decoded_digest(part) for part in (train, held_out)] if rank() == 0 else [])
    evaluation = _Evaluation(name, evaluator, settings, train, held_out, device, digests, say)
    key = evaluation.key_for(evaluated[0])
    base = result_name(name, weights.stem, other, changed=changed)
    file_name = from_main(name_for(folder, base, key))
    classifier = folder.results / f"{file_name}.safetensors" if evaluator in LINEAR else None
    kept, found = KeptOutcomes(), {}
    for subject in evaluated:
        say(f"{name}: {subject.name}")
        state = State(folder.results / f".{file_name}_{plain(subject.name)}.safetensors", evaluation.key_for(subject))
        moved = replace(subject, encoder=subject.encoder.to(device))
        whole = not (train.skip_bad or held_out.skip_bad)  # which are left out is known when they have been read
        options: dict[str, Any] = {}
        if evaluator is evaluate_linear:  # hours on large sets: it goes on where it was cut off
            options["state"] = state
        if classifier and subject is evaluated[0]:
            options["keep"] = _keeper(classifier, name, on, weights, train, key)
            whole = whole and classifier.is_file() and read_header(classifier).get("key") == key
        compute, part = partial(evaluation.numbers, moved, options), f"{file_name}_{subject.name}"
        found[subject.name] = kept.numbers(folder.results, part, state.key, compute, whole=whole)
        if rank() == 0:
            state.file.unlink(missing_ok=True)
    result = {
        "schema": 1,
        "evaluator": name,
        "weights": str(weights),
        "digest": digest,
        "key": key,
        "encoder": recipe.architecture.title,
        "step": int(header["step"]) if "step" in header else None,
        "data": train.name,
        "test_digest": digests[1],
        "train_images": len(train),
        "test_images": len(held_out),
        "on": on,
        "settings": settings,
        "changed": changed,
        "results": found,
        "classifier": classifier and classifier.name,
        "left_out": told_left_out((train, held_out), device, say),
    }
    path = folder.results / f"{file_name}.json"
    if rank() == 0:
        write_note(folder, str(weights), digest, recipe.architecture.title)
        folder.write_result(file_name, with_earlier(path, result))
    kept.forget()
    return result, path


@dataclass(frozen=True)
class _Evaluation:
    """What all subjects of one evaluation share; digests: of the training and the test images as they are decoded."""

    name: str
    evaluator: Evaluator
    settings: dict[str, Any]
    train: Images
    held_out: Images
    device: torch.device
    digests: list[str]
    say: Callable[[str], None]

    def key_for(self, subject: Subject) -> str:
        """Two of one key have one outcome."""
        return key_of(self.name, subject.digest, repr(subject.law), self.digests, self.settings)

    def numbers(self, subject: Subject, options: dict[str, Any]) -> dict[str, Any]:
        """Evaluate; where the evaluator does not tell itself how far it is, the images shown are told."""
        telling_itself = {"say": self.say} if self.evaluator in LINEAR else {}
        given = {"device": self.device, **self.settings, **options, **telling_itself}
        if self.evaluator is evaluate_linear:
            return self.evaluator(subject, self.train, self.held_out, **given)
        with telling(subject.encoder, subject.name, len(self.train) + len(self.held_out), self.say):
            return self.evaluator(subject, self.train, self.held_out, **given)


def _changed(evaluator: Evaluator, settings: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """What differs from the evaluator's own values and from evaluating h on all labels of the recipe's data."""
    usual = {key: parameter.default for key, parameter in inspect.signature(evaluator).parameters.items()}
    usual |= {"on": "h", "labels": 0, "test": "", "raw_pixels": PIXELS_SIDE}
    return changed_settings(asked | settings, usual)


def require_one_evaluation(digest: str, *images: Images) -> None:
    """All processes evaluate the same encoder on the same images; else SimclrPlusError on all of them."""
    if world_size() > 1:
        shown = [f"{len(part)}, digest {listing_digest(part)[:8]}" for part in images]
        facts: dict[str, object] = {"encoder": digest, "images by part": "; ".join(shown)}
        require_agreement(facts, "Give every process the same weights and a folder of the same images")


def with_earlier(file: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result with the subjects that an earlier evaluation of the same key found and this one was not asked for."""
    earlier = read_result(file) or {}
    if earlier.get("key") != result["key"]:
        return result
    others = {who: found for who, found in earlier["results"].items() if who not in result["results"]}
    return result | {"results": result["results"] | others}


def _keeper(file: Path, name: str, on: str, weights: Path, train: Images, key: str) -> Callable[[nn.Linear], None]:
    """What writes a trained classifier beside its result, with all that `verify` must know of it."""

    def keep(linear: nn.Linear) -> None:
        about = {
            "trained_by": f"simclr-plus evaluate {name}",
            "weights": str(weights),
            "selector": SELECTORS[on],
            "key": key,
        }
        about |= {"data": train.name, "train_images": str(len(train)), "classes": json.dumps(train.classes)}
        if rank() == 0:
            save_head(linear, file, about)

    return keep


def told_left_out(parts: Sequence[Images], device: torch.device, say: Callable[[str], None]) -> list[str]:
    """Files that could not be read and were left out, of all processes, which ask together; said to people too."""
    files = left_out(parts, device)
    if files:
        say(f"{len(files)} images could not be read and were left out: {listed(files)}")
    return files


def _is_of(trained_on: Data, data: str) -> bool:
    """Whether --data, however it is written, names what the encoder was trained on."""
    named = data_named(data, trained_on) if data else trained_on
    if named.name != trained_on.name:
        return False
    return named.name != "folder" or whole_path(named.root, "--data") == whole_path(trained_on.root, "data.root")


def labelled_images(data: Data, other: str, test: str, *, skip_bad: bool = False) -> tuple[Images, Images]:
    """Training and test images: the recipe's, a data set by name, one folder split in two, or two folders."""
    if test:
        train, held_out = open_folder(Path(other or data.root), data), open_folder(Path(test), data)
    else:
        if other:
            data = data_named(other, data)
        train, held_out = open_images(data, TRAIN), open_images(data, TEST)
    require_same_classes(train, held_out)
    if skip_bad:
        train, held_out = replace(train, skip_bad=True), replace(held_out, skip_bad=True)
    return train, held_out
