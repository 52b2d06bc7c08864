"""Evaluators that take a labelled set: from what a user names to results and predictions on disk. Prints nothing.

results/transfer_STEM_cars.json                    numbers, choices, warnings of each subject
results/predictions/transfer_STEM_cars.safetensors  labels and predictions of each subject, for later comparison
results/splits/...                                  which images a seeded choice took
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simclr_plus.datasets.decoding import reading_of
from simclr_plus.datasets.few_labels import as_list, listed_indices, share_indices
from simclr_plus.datasets.identity import images_digest
from simclr_plus.datasets.images import Images, require_several_classes
from simclr_plus.datasets.transfer_sets import LabelledSet, open_labelled_set
from simclr_plus.datasets.twins import told_twins
from simclr_plus.distributed import from_main, rank, start
from simclr_plus.encoders.digest import encoder_digest
from simclr_plus.errors import RecipeError
from simclr_plus.evaluators.classifier import State
from simclr_plus.evaluators.fine_tuning import (
    ADAMW_RATE,
    Protocol,
    evaluate_few_labels,
    evaluate_grid,
    few_labels_protocol,
    grid,
)
from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
from simclr_plus.evaluators.outcomes import Outcome
from simclr_plus.evaluators.pace import telling
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.evaluators.transfer import RELATIVE_TO, evaluate_transfer
from simclr_plus.features.cache import decoded_digest
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.results.evaluate import with_earlier
from simclr_plus.results.predictions import earlier_predictions, write_predictions
from simclr_plus.results.targets import (
    Target,
    require_one_evaluation,
    told_left_out,
)
from simclr_plus.runs.result_folders import key_of, name_for, write_note
from simclr_plus.runs.result_names import plain, result_name

Say = Callable[[str], None]
NONE: Mapping[str, Any] = {}


def transfer(
    target: Target,
    data: str,
    root: str,
    *,
    test: str,
    relative_to: str,
    seed: int,
    baselines: bool,
    say: Say,
    skip_bad: bool = False,
    kept: KeptOutcomes | None = None,
) -> dict[str, Any]:  # the options of the command, by their names
    """Logistic regression on frozen features; returns the result as written, and the file as `file`."""
    if relative_to not in RELATIVE_TO:
        raise RecipeError(f'--relative-to {relative_to!r} is unknown; use "sum" or "mean"')
    opened, device = _opened(target, data, root, test, seed, skip_bad, say), start("auto")
    settings = {"relative_to": relative_to, "seed": seed}
    changed = _changed(target, test=test, seed=seed)
    mean = "_mean" if relative_to == "mean" else ""
    evaluation = _evaluation_of(target, f"transfer{mean}", opened, settings, changed)
    cache = target.run.path.parent / ".features"
    outcomes, keeping = {}, kept or KeptOutcomes()
    for subject in target.networks(baselines=baselines):
        say(f"transfer to {opened.name}: {subject.name}")
        compute = partial(_transferred, subject, opened, device, cache, relative_to, say)
        part, key = f"{evaluation.name}_{subject.name}", evaluation.key_for(subject)
        outcomes[subject.name] = keeping.outcome(target.run.results, part, key, compute, whole=_all_read(opened))
    result = _written(target, evaluation, opened, outcomes, image_choices=opened.choices, say=say)
    if kept is None:
        keeping.forget()
    return result


def _transferred(
    subject: Subject, data: LabelledSet, device: torch.device, cache: Path, relative_to: str, say: Say
) -> Outcome:
    images = len(data.train) + len(data.validation) + len(data.test)
    with telling(subject.encoder, subject.name, images, say):
        return evaluate_transfer(
            _on(subject, device), data, device=device, cache=cache, relative_to=relative_to, say=say
        )


def fine_tune(
    target: Target,
    data: str,
    root: str,
    *,
    test: str,
    cells: str,
    part: tuple[int, int],
    steps: int,
    batch_size: int,
    seed: int,
    random_start: bool,
    say: Say,
    changes: Mapping[str, Any] = NONE,
    skip_bad: bool = False,
    kept: KeptOutcomes | None = None,
) -> dict[str, Any] | None:  # the options of the command, by their names
    """The grid of rates and decays; None while other parts are still missing."""
    opened, device = _opened(target, data, root, test, seed, skip_bad, say), start("auto")
    subject = target.networks(baselines=True)[1] if random_start else target.subject
    listed = grid(cells, random_start=random_start, adamw=changes.get("optimizer") == "adamw")
    own: dict[str, Any] = {
        "seed": seed,
        "steps": steps or listed[0].steps,
        "batch_size": batch_size or listed[0].batch_size,
    }
    protocols = list(dict.fromkeys(replace(cell, **own, **changes) for cell in listed))  # one decay leaves one a rate
    folder = target.run.results / "cells" / result_name(target.stem, opened.name, changed={})
    settings = {"grid": cells, **own, **changes}
    other_grid = "" if cells == "paper" else cells
    changed = _changed(target, test=test, grid=other_grid, steps=steps, batch_size=batch_size, seed=seed) | {**changes}
    evaluation = _evaluation_of(
        target, "fine_tuned_random" if random_start else "fine_tuned", opened, settings, changed
    )
    keeping = kept or KeptOutcomes()
    outcome = keeping.perhaps(
        target.run.results,
        f"{evaluation.name}_{subject.name}",
        evaluation.key_for(subject),
        lambda: evaluate_grid(_on(subject, device), opened, protocols, folder, device=device, part=part, say=say),
        whole=_all_read(opened),
    )
    if outcome is None:
        return None
    choices = (*opened.choices, *FINE_TUNING_CHOICES)
    result = _written(target, evaluation, opened, {subject.name: outcome}, image_choices=choices, say=say)
    if kept is None:
        keeping.forget()
    return result


FINE_TUNING_CHOICES = (
    "cosine decay of the learning rate, no warm-up (the paper does not say)",
    "linear layer starts from zero (the paper does not say)",
)


def few_labels(
    target: Target,
    *,
    data: str,
    test: str,
    share: float,
    list_file: str,
    protocol_name: str,
    changes: dict[str, Any],
    rates: Sequence[float],
    seed: int,
    head_file: str,
    baselines: bool,
    say: Say,
    skip_bad: bool = False,
    kept: KeptOutcomes | None = None,
) -> dict[str, Any]:  # the options of the command, by their names
    """Fine-tuning on a share of the labels; the images that keep theirs are listed in results/splits."""
    train, held_out = target.labelled_images(data, test, skip_bad=skip_bad)
    device = start("auto")
    require_one_evaluation(target.digest, train, held_out)
    indices = listed_indices(train, Path(list_file)) if list_file else share_indices(train, share, seed)
    share = len(indices) / len(train) if list_file else share
    labelled = train.subset(indices)
    require_several_classes(labelled)
    protocol = replace(few_labels_protocol(protocol_name, share), seed=seed, **changes)
    if protocol.optimizer == "adamw" and "optimizer" in changes:
        protocol = replace(protocol, rate=ADAMW_RATE)
    head = target.projection_head(head_file) if protocol.from_layer else None
    kind = f"few_labels_{protocol_name}_{share * 100:.3g}pct_seed{seed}"
    changed = _changed(target, test=test, list=list_file, rates=list(rates), head=head_file, **changes) | changes
    settings = {"share": share, "list": list_file, "protocol": protocol_name, "seed": seed, "rates": list(rates)}
    labelled_set = LabelledSet(train.name, labelled, labelled, held_out)
    facts = [_named(protocol), "" if head is None else encoder_digest(head)]
    evaluation = _evaluation_of(target, kind, labelled_set, settings, changed, *facts)
    if rank() == 0:
        write_text_whole(target.run.results / "splits" / f"{evaluation.name}.txt", as_list(train, indices))
    evaluate = partial(
        evaluate_few_labels, labelled=labelled, test=held_out, protocol=protocol, device=device, rates=rates, say=say
    )
    outcomes, keeping = {}, kept or KeptOutcomes()
    for subject in target.networks(baselines=baselines and protocol.from_layer == 0):
        say(f"{len(labelled):,} labels of {train.name}, {protocol_name}: {subject.name}")
        part, key = f"{evaluation.name}_{subject.name}", evaluation.key_for(subject)
        state = State(target.run.results / f".{plain(part, keep='_.')}.safetensors", key)
        its_head = head.to(device) if head is not None and subject.name == "encoder" else None
        compute = partial(evaluate, _on(subject, device), head=its_head, state=state)
        outcomes[subject.name] = keeping.outcome(target.run.results, part, key, compute, whole=_all_read(labelled_set))
        if rank() == 0:
            state.file.unlink(missing_ok=True)
    choices = _few_labels_choices(list_file, protocol_name, share)
    result = _written(target, evaluation, labelled_set, outcomes, image_choices=choices, say=say)
    if kept is None:
        keeping.forget()
    return result


def _named(protocol: Protocol) -> str:
    """As Protocol's repr was before layers had rates of their own, so that what was measured keeps its key."""
    return f"Protocol({', '.join(f'{key}={value!r}' for key, value in protocol.facts().items())})"


def _few_labels_choices(list_file: str, protocol_name: str, share: float) -> list[str]:
    """What was decided here, because the paper does not say it."""
    choices = ["linear layer starts from zero, cosine decay to 0 (the paper does not say)"]
    if not list_file:
        choices.append("labels: an equal share of each class, drawn by the seed")
    if protocol_name == "simclr_v2" and share > 0.05:
        choices.append("30 epochs and the head's first layer for 10 % (the authors' README leaves both to the paper)")
    return choices


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: the name of its result, and all that its outcome depends on beside the subject."""

    kind: str
    name: str
    settings: dict[str, Any]
    changed: dict[str, Any]
    images: list[str]
    facts: tuple[Any, ...]

    def key_for(self, subject: Subject) -> str:
        """Two of one key have one outcome."""
        return key_of(self.kind, subject.digest, repr(subject.law), self.images, self.settings, self.facts)


def _evaluation_of(
    target: Target, kind: str, data: LabelledSet, settings: dict[str, Any], changed: dict[str, Any], *facts: Any
) -> Evaluation:
    parts = (data.train, data.validation, data.test)
    images = from_main([decoded_digest(part) for part in parts] if rank() == 0 else [])
    name = result_name(kind, target.stem, data.name, changed=changed)
    evaluation = Evaluation(kind, name, settings, changed, images, (data.metric, *facts))
    return replace(evaluation, name=from_main(name_for(target.run, name, evaluation.key_for(target.subject))))


def _changed(target: Target, **settings: Any) -> dict[str, Any]:
    """What was asked for beyond the protocol: options that are not empty."""
    return target.asked | {key: value for key, value in settings.items() if value}


def _opened(target: Target, data: str, root: str, test: str, seed: int, skip_bad: bool, say: Say) -> LabelledSet:
    opened = open_labelled_set(data, root, test=test, seed=seed)
    opened = opened.without_bad_images() if skip_bad else opened
    opened = opened.read_as(reading_of(target.data)) if target.data else opened  # as its encoder's images were
    say(f"found {opened.found()}")
    require_one_evaluation(target.digest, opened.train, opened.validation, opened.test)
    note = told_twins(opened.train_and_validation, opened.test) if rank() == 0 else ""
    if note:
        say(f"note: {note}")
        opened = replace(opened, notes=(*opened.notes, note))
    return opened


def _written(
    target: Target,
    evaluation: Evaluation,
    data: LabelledSet,
    outcomes: dict[str, Outcome],
    *,
    image_choices: Sequence[str],
    say: Say,
) -> dict[str, Any]:
    """The result, written with its predictions; `file` is where, and is not in the file itself."""
    file = target.run.results / f"{evaluation.name}.json"
    unread = told_left_out((data.train, data.validation, data.test), start("auto"), say)
    result = {
        "schema": 1,
        "evaluator": evaluation.kind,
        "weights": target.weights,
        "digest": target.digest,
        "key": evaluation.key_for(target.subject),
        "encoder": target.title,
        "step": target.step,
        "data": data.name,
        "test_digest": evaluation.images[2],
        "found": data.found(),
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "test_images": len(data.test),
        "image_size": target.subject.law.size,
        "settings": evaluation.settings,
        "changed": evaluation.changed,
        "choices": [*target.choices, *image_choices],
        "notes": list(data.notes),
        "results": {subject: outcome.numbers for subject, outcome in outcomes.items()},
        "predictions": f"predictions/{evaluation.name}.safetensors",
        "left_out": unread,
    }
    if rank() == 0:
        predictions = target.run.results / str(result["predictions"])
        first = next(iter(outcomes.values()))
        said = {subject: outcome.predictions for subject, outcome in outcomes.items()}
        whole = with_earlier(file, result)
        others = earlier_predictions(predictions, str(result["key"]), whole["results"].keys() - said.keys())
        write_predictions(
            predictions,
            _read_ones(data.test, set(unread)),
            first.numbers["metric"],
            first.labels,
            said | others,
            about={"key": str(result["key"]), "encoder": target.digest, "digests": _digests(target, said | others)},
        )
        if data.choices:
            _write_split(target.run.results / "splits" / f"{evaluation.name}.json", data)
        write_note(target.run, target.weights, target.digest, target.title)
        target.run.write_result(evaluation.name, whole)
    return result | {"file": str(file)}


def _all_read(data: LabelledSet) -> bool:
    """Whether all images must be readable; else which ones were left out is known when they have been read."""
    return not (data.train.skip_bad or data.validation.skip_bad or data.test.skip_bad)


def _digests(target: Target, subjects: Iterable[str]) -> str:
    """Which network each subject is, as JSON."""
    all_subjects = [target.subject] if set(subjects) == {"encoder"} else target.networks(baselines=True)
    return json.dumps({subject.name: subject.digest for subject in all_subjects})


def _read_ones(images: Images, left_out: set[str]) -> Images:
    """The images that predictions stand for, so that those of other images are not paired with them."""
    if not left_out:
        return images
    return images.subset(np.array([i for i, path in enumerate(images.paths) if str(path) not in left_out]))


def _write_split(file: Path, data: LabelledSet) -> None:
    """Which images are in which part, by path, or for images in memory by a digest of each part."""
    parts = {"train": data.train, "validation": data.validation, "test": data.test}
    listed = {
        name: [str(path) for path in images.paths] if images.pixels is None else images_digest(images)
        for name, images in parts.items()
    }
    write_text_whole(file, json.dumps({"choices": data.choices, **listed}, indent=0) + "\n")


def _on(subject: Subject, device: torch.device) -> Subject:
    return replace(subject, encoder=subject.encoder.to(device))
