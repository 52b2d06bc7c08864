"""kNN and linear evaluation of what a user names: labelled images, subjects, a result file. Prints nothing."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr_plus.datasets.images import Images, require_several_classes
from simclr_plus.distributed import from_main, rank
from simclr_plus.errors import RecipeError
from simclr_plus.evaluators.classifier import State
from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
from simclr_plus.evaluators.pace import telling
from simclr_plus.evaluators.subjects import PIXELS_SIDE, Subject, projected
from simclr_plus.features.cache import decoded_digest
from simclr_plus.results.targets import Target, best_device, require_one_evaluation, told_left_out, trained_on_these
from simclr_plus.runs.result_folders import key_of, name_for, read_result, write_note
from simclr_plus.runs.result_names import changed_settings, plain, result_name
from simclr_plus.weights.head_files import save_head
from simclr_plus.weights.tensor_files import read_header

Evaluator = Callable[..., dict[str, Any]]
SELECTORS = {"h": "0", "z": "-1"}  # as verify and heads.py count what a classifier stands on


def evaluate_target(
    target: Target,
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
    say: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Any], Path]:  # twelve parameters: the options of the commands, each with its default
    """Evaluate and write the result into the target's folder; returns result and file.

    on: "h", the encoder's features, or "z", those of the projection head. pixels_side: raw pixels are averaged to so
    many at most. A subject whose outcome an earlier command left, before it was cut off, is not computed again.
    """
    _check_features(on, baselines=baselines)
    device = best_device()
    train, held_out = target.labelled_images(data, test, skip_bad=skip_bad)
    train = train.first(labels)
    require_several_classes(train)
    sides = {"native_size": 0 if train.pixels is None else train.pixels.shape[1], "pixels_side": pixels_side}
    evaluated = target.subjects(baselines=baselines, **sides)
    require_one_evaluation(target.digest, train, held_out)
    if on == "z":
        evaluated = [projected(target.subject, target.projection_head())]
    options = {"on": on, "labels": labels, "test": test} | ({"raw_pixels": pixels_side} if baselines else {})
    changed = _changed(evaluator, settings, options) | target.asked
    digests = from_main([decoded_digest(part) for part in (train, held_out)] if rank() == 0 else [])
    evaluation = _Evaluation(name, evaluator, settings, train, held_out, device, digests, say)
    other = data if target.data is None or not trained_on_these(target.data, data) else ""
    stem = result_name(name, target.stem, other, changed=changed)
    named = from_main(name_for(target.run, stem, evaluation.key_for(evaluated[0])))
    place = _Place(target.run.results, named, target.weights, on)
    kept = KeptOutcomes()
    numbers = {
        subject.name: evaluation.kept_numbers(subject, place, kept, keeps_classifier=i == 0)
        for i, subject in enumerate(evaluated)
    }
    about = {
        "digest": target.digest,
        "key": evaluation.key_for(evaluated[0]),
        "encoder": target.title,
        "step": target.step,
        "image_size": target.subject.law.size,
        "choices": list(target.choices),
    }
    result = _result(evaluation, place, about, changed, numbers)
    path = target.run.results / f"{place.name}.json"
    if rank() == 0:
        write_note(target.run, target.weights, target.digest, target.title)
        target.run.write_result(place.name, with_earlier(path, result))
    kept.forget()
    return result, path


def _result(
    evaluation: _Evaluation, place: _Place, encoder: dict[str, Any], changed: dict[str, Any], numbers: dict[str, Any]
) -> dict[str, Any]:
    """What is written and returned."""
    parts = (evaluation.train, evaluation.held_out)
    return {
        "schema": 1,
        "evaluator": evaluation.name,
        "weights": place.weights,
        **encoder,
        **evaluation.as_dict(),
        "on": place.on,
        "settings": evaluation.settings,
        "changed": changed,
        "results": numbers,
        "classifier": place.classifier.name if evaluation.takes("keep") else None,
        "left_out": told_left_out(parts, evaluation.device, evaluation.say),
    }


def _check_features(on: str, *, baselines: bool) -> None:
    if on not in ("h", "z"):
        raise RecipeError(f'--on {on!r} is unknown; use "h" (the encoder) or "z" (the projection head on it)')
    if on == "z" and baselines:
        raise RecipeError("--baselines have no projection head: with --on z leave it out")


@dataclass(frozen=True)
class _Place:
    """Where a result lies: folder and name of its files, and of which weights and features it is."""

    folder: Path
    name: str
    weights: str
    on: str

    @property
    def classifier(self) -> Path:
        """Of an evaluator that trains one."""
        return self.folder / f"{self.name}.safetensors"


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

    def as_dict(self) -> dict[str, Any]:
        """What a result says of the images."""
        return {
            "data": self.train.name,
            "test_digest": self.digests[1],
            "train_images": len(self.train),
            "test_images": len(self.held_out),
        }

    def takes(self, parameter: str) -> bool:
        """What an evaluator can is seen in its signature: a `state` to go on from, `keep` its classifier, `say`."""
        return parameter in inspect.signature(self.evaluator).parameters

    def key_for(self, subject: Subject) -> str:
        """Two of one key have one outcome."""
        return key_of(self.name, subject.digest, repr(subject.law), self.digests, self.settings)

    def kept_numbers(
        self, subject: Subject, place: _Place, kept: KeptOutcomes, *, keeps_classifier: bool
    ) -> dict[str, Any]:
        """Those that an earlier command left, or new ones, for which an evaluation of hours goes on where it was."""
        self.say(f"{self.name}: {subject.name}")
        key = self.key_for(subject)
        state = State(place.folder / f".{place.name}_{plain(subject.name)}.safetensors", key)
        on_device = replace(subject, encoder=subject.encoder.to(self.device))
        whole = not (self.train.skip_bad or self.held_out.skip_bad)  # which are left out is known when they were read
        options: dict[str, Any] = {}
        if self.takes("state"):  # hours on large sets: it goes on where it was cut off
            options["state"] = state
        if keeps_classifier and self.takes("keep"):
            options["keep"] = _keeper(place, self.name, self.train, key)
            whole = whole and place.classifier.is_file() and read_header(place.classifier).get("key") == key
        compute = partial(self.numbers, on_device, options)
        numbers = kept.numbers(place.folder, f"{place.name}_{subject.name}", state.key, compute, whole=whole)
        if rank() == 0:
            state.file.unlink(missing_ok=True)
        return numbers

    def numbers(self, subject: Subject, options: dict[str, Any]) -> dict[str, Any]:
        """Evaluate; where the evaluator does not tell itself how far it is, the images shown are told."""
        telling_itself = {"say": self.say} if self.takes("say") else {}
        arguments = {"device": self.device, **self.settings, **options, **telling_itself}
        if self.takes("state"):  # it shows all images every epoch and tells its steps
            return self.evaluator(subject, self.train, self.held_out, **arguments)
        with telling(subject.encoder, subject.name, len(self.train) + len(self.held_out), self.say):
            return self.evaluator(subject, self.train, self.held_out, **arguments)


def _changed(evaluator: Evaluator, settings: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """What differs from the evaluator's own values and from evaluating h on all labels of the recipe's data."""
    defaults = {key: parameter.default for key, parameter in inspect.signature(evaluator).parameters.items()}
    defaults |= {"on": "h", "labels": 0, "test": "", "raw_pixels": PIXELS_SIDE}
    return changed_settings(options | settings, defaults)


def with_earlier(file: Path, result: dict[str, Any]) -> dict[str, Any]:
    """The result with the subjects that an earlier evaluation of the same key found and this one was not asked for."""
    earlier = read_result(file) or {}
    if earlier.get("key") != result["key"]:
        return result
    others = {who: numbers for who, numbers in earlier["results"].items() if who not in result["results"]}
    return result | {"results": result["results"] | others}


def _keeper(place: _Place, name: str, train: Images, key: str) -> Callable[[nn.Linear], None]:
    """What writes a trained classifier beside its result, with all that `verify` must know of it."""

    def keep(linear: nn.Linear) -> None:
        about = {
            "trained_by": f"simclr-plus evaluate {name}",
            "weights": place.weights,
            "selector": SELECTORS[place.on],
            "key": key,
        }
        about |= {"data": train.name, "train_images": str(len(train)), "classes": json.dumps(train.classes)}
        if rank() == 0:
            save_head(linear, place.classifier, about)

    return keep
