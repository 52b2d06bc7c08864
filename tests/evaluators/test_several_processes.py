"""Evaluations by several processes: one that differs from the others is heard by all, whatever it differs in.

torchrun starts this file itself as a program (gloo, CPU); its processes write what they found into a folder.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import in_processes

from simclr_plus import distributed
from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import Images
from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.encoders import ResNet
from simclr_plus.errors import SimclrPlusError
from simclr_plus.evaluators import classifier
from simclr_plus.evaluators.classifier import Classifier, State, Steps, build_optimizer, train_classifier
from simclr_plus.evaluators.fine_tuning import Protocol, evaluate_few_labels, evaluate_grid
from simclr_plus.evaluators.linear import evaluate_linear
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.cache import cached_features
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.model import build_model
from simclr_plus.weights.checkpoints import save_checkpoint

CPU = torch.device("cpu")
LAW = simclr_law(12, blur_prob=0.0)
STEPS = Steps(6, 4, 0.05)


# what both sides know


def images(count: int = 36) -> Images:
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    pixels = np.clip(rng.normal(90 + 30 * labels[:, None, None, None], 30, (count, 12, 12, 3)), 0, 255)
    return Images("drawn", pixels.astype(np.uint8), labels=labels, classes=("a", "b", "c"))


def subject() -> Subject:
    torch.manual_seed(0)
    return Subject("encoder", ResNet(18, 0.0625, stem="cifar").eval(), LAW)


def trained(state: State | None = None, shown: Images | None = None, steps: Steps = STEPS) -> Classifier:
    model = Classifier(subject().encoder, 3, size=12, frozen=True)
    train_classifier(model, build_optimizer(model, "nesterov"), shown or images(), LAW, steps, device=CPU, state=state)
    return model


def half_done(file: Path, key: str = "key") -> State:
    """A state after two of the four steps."""
    state, real = State(file, key), classifier.save_state
    classifier.SAVE_SECONDS = 0.0

    def save(state: State, model: Any, optimizer: Any, step: int) -> None:
        if step == 2:
            real(state, model, optimizer, step)

    classifier.save_state = save
    trained(state)
    classifier.save_state, classifier.SAVE_SECONDS = real, 120.0
    return state


# what each process does


def rates(folder: Path) -> dict[str, Any]:
    """The first of two rates diverges on the last process alone."""
    real, last = classifier._loss, distributed.world_size() - 1

    def loss(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        value = real(scores, labels)
        spoilt = supervised_rate[0] == 0.5 and distributed.rank() == last
        return value * float("nan") if spoilt else value

    supervised_rate = [0.0]
    real_train = classifier.train_classifier

    def train(*arguments: Any, **named: Any) -> None:
        supervised_rate[0] = arguments[4].peak
        real_train(*arguments, **named)

    classifier._loss = loss
    from simclr_plus.evaluators import fine_tuning

    fine_tuning.train_classifier = train
    protocol = Protocol("nesterov", scaling="none", batch_size=6, steps=2)
    found = evaluate_few_labels(subject(), images(), images(12), protocol, device=CPU, rates=(0.5, 0.01))
    data = LabelledSet("drawn", images(), images(12), images(18))
    cells = [replace(protocol, rate=rate) for rate in (0.5, 0.01)]
    chosen = evaluate_grid(subject(), data, cells, folder / "cells", device=CPU)
    classifier._loss, fine_tuning.train_classifier = real, real_train
    assert chosen is not None
    return {"tried": found.numbers["held_out_loss"], "rate": found.numbers["rate"], "cell": chosen.numbers["rate"]}


def resumed(folder: Path) -> dict[str, Any]:
    """A state that process 0 alone can see, as on a network file system a moment after it was written."""
    file = folder / "state.safetensors" if distributed.rank() == 0 else folder / "not-there-yet.safetensors"
    model = trained(State(file, "key"))
    return {"weight": model.linear.weight.tolist(), "bias": model.linear.bias.tolist()}


def differing(_: Path) -> dict[str, Any]:
    """What is told when the processes hold other images, or another rate."""
    mine = distributed.rank() == distributed.world_size() - 1
    fewer, renamed = images(30), replace(images(), labels=(np.arange(36) + 1) % 3)
    told = {}
    asked: dict[str, dict[str, Any]] = {
        "count": {"shown": fewer if mine else images()},
        "labels": {"shown": renamed if mine else images()},
        "rate": {"steps": replace(STEPS, peak=0.1) if mine else STEPS},
    }
    for name, differs in asked.items():
        try:
            trained(**differs)
        except SimclrPlusError as error:
            told[name] = str(error)
    return told


def features(folder: Path) -> dict[str, Any]:
    """Kept features that process 0 alone can see, then those that the last one cannot read."""
    real, found = Path.is_file, {}
    first, _ = cached_features(subject().encoder, images(), LAW, folder / "cache", device=CPU)
    if distributed.rank():
        Path.is_file = lambda self: False  # type: ignore[method-assign]
    again, _ = cached_features(subject().encoder, images(), LAW, folder / "cache", device=CPU)
    Path.is_file = real  # type: ignore[method-assign]
    found["listed late"] = torch.equal(first, again)
    mine = folder / "cache" if distributed.rank() == 0 else folder / "empty"
    late, _ = cached_features(subject().encoder, images(), LAW, mine, device=CPU)
    return found | {"read late": torch.equal(first, late), "features": first.tolist()}


def chosen(folder: Path) -> dict[str, Any]:
    """A run whose newest checkpoint the last process does not see yet; and a folder of other images there."""
    from simclr_plus.results import targets
    from simclr_plus.results.evaluate import evaluate_target

    real, last = Run.checkpoint_files, distributed.rank() == distributed.world_size() - 1
    Run.checkpoint_files = lambda self: real(self)[: 1 if last else None]  # type: ignore[method-assign]
    targets.labelled_images = lambda *_, **__: (images(), images(12))
    settings = {"epochs": 1, "batch_size": 6}
    target = targets.open_target("r", folder)
    result, _ = evaluate_target(target, "linear", evaluate_linear, settings, data="drawn")
    targets.labelled_images = lambda *_, **__: (images(), images(9 if last else 12))
    try:
        evaluate_target(targets.open_target("r", folder), "linear", evaluate_linear, settings, data="drawn")
    except SimclrPlusError as error:
        return {"step": result["step"], "results": result["results"], "refused": str(error)}
    return {}


PARTS = {"chosen": chosen, "rates": rates, "resumed": resumed, "differing": differing, "features": features}


def main(folder: Path) -> None:
    distributed.start("cpu")
    for name, part in PARTS.items():
        found = part(folder)
        (folder / f"{name}_{distributed.rank()}.json").write_text(json.dumps(found))
    distributed.stop()


# what the tests ask


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.slow)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    folder = tmp_path_factory.mktemp(f"processes{request.param}")
    half_done(folder / "state.safetensors")
    run = create_run(load_recipe("demo", ["encoder.width=0.0625", "augmentation.image_size=12"]), folder, "r")
    for step in (1, 2):
        model = build_model(run.recipe(), 3)
        file = run.checkpoint_file(step)
        save_checkpoint(file, model, torch.optim.SGD(model.parameters()), step=step, recipe=run.recipe())
    in_processes(__file__, folder, processes=request.param)
    return {
        name: [json.loads((folder / f"{name}_{rank}.json").read_text()) for rank in range(request.param)]
        for name in PARTS
    }


def test_a_rate_that_diverges_on_one_process_is_left_by_all_and_the_next_is_not_spoilt(
    found: dict[str, list[Any]],
) -> None:
    protocol = Protocol("nesterov", scaling="none", batch_size=6, steps=2)
    alone = evaluate_few_labels(subject(), images(), images(12), protocol, device=CPU, rates=(0.01,))
    for told in found["rates"]:
        assert told["tried"]["0.5"] is None and told["rate"] == told["cell"] == 0.01
        assert told["tried"]["0.01"] == pytest.approx(alone.numbers["held_out_loss"]["0.01"], rel=1e-4)


def test_a_state_that_one_process_sees_is_taken_by_all(found: dict[str, list[Any]]) -> None:
    unbroken = trained()
    for told in found["resumed"]:
        assert told == found["resumed"][0]
        np.testing.assert_allclose(told["weight"], unbroken.linear.weight.tolist(), rtol=1e-4, atol=1e-6)


def test_processes_with_other_images_labels_or_rates_start_nothing(found: dict[str, list[Any]]) -> None:
    for told in found["differing"]:
        assert told.keys() == {"count", "labels", "rate"} and told == found["differing"][0]
        assert "36" in told["count"] and "30" in told["count"] and "0.1" in told["rate"]


def test_kept_features_are_those_of_one_process_whoever_sees_the_file(found: dict[str, list[Any]]) -> None:
    alone, _ = cached_features(subject().encoder, images(), LAW, None, device=CPU)
    for told in found["features"]:
        assert told["listed late"] and told["read late"]
        np.testing.assert_allclose(told["features"], alone.tolist(), rtol=1e-4, atol=1e-6)


def test_of_a_run_all_evaluate_the_checkpoint_that_the_first_process_sees(found: dict[str, list[Any]]) -> None:
    for told in found["chosen"]:
        assert told["step"] == 2 and told == found["chosen"][0]
        assert "12" in told["refused"] and "9" in told["refused"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
