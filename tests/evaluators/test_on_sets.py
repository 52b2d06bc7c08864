"""Transfer and fine-tuning on real images: against scikit-learn, against a plain loop, blind to the test images."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import TEST, TRAIN, Images, open_images
from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.encoders import ResNet
from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.evaluators import classifier
from simclr_plus.evaluators import transfer as transfer_module
from simclr_plus.evaluators.classifier import Classifier, State, Steps, build_optimizer, train_classifier
from simclr_plus.evaluators.fine_tuning import (
    TRANSFER,
    Protocol,
    evaluate_few_labels,
    evaluate_grid,
    few_labels_protocol,
    fine_tuned,
    grid,
)
from simclr_plus.evaluators.subjects import RawPixels, Subject
from simclr_plus.evaluators.transfer import PENALTIES, chosen_penalty, evaluate_transfer
from simclr_plus.features.cache import cached_features
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe.keys import Data
from simclr_plus.results.evaluate_on_sets import few_labels, fine_tune, transfer
from simclr_plus.results.predictions import compare_predictions
from simclr_plus.results.targets import open_target
from simclr_plus.weights.encoder_files import save_encoder

CPU = torch.device("cpu")
LAW = simclr_law(16, blur_prob=0.0)
PIXELS = Subject("raw pixels", RawPixels(), LAW)


@pytest.fixture(scope="module")
def fashion() -> LabelledSet:
    train, test = open_images(Data(), TRAIN), open_images(Data(), TEST).first(200)
    return LabelledSet("fashion", train.first(300), train.subset(np.arange(300, 500)), test)


def small_encoder(seed: int = 0) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(18, 0.125, stem="cifar").eval()


def with_test(data: LabelledSet, labels: Any) -> LabelledSet:
    return replace(data, test=replace(data.test, labels=labels))


def test_transfer_is_scikit_learns_choice_refit_and_test(fashion: LabelledSet, monkeypatch: pytest.MonkeyPatch) -> None:
    penalties = (1.0, 1e2, 1e4)
    monkeypatch.setattr(transfer_module, "PENALTIES", penalties)
    found = evaluate_transfer(PIXELS, fashion, device=CPU).numbers
    law = replace(LAW, evaluation_crop=1.0)
    (h, validation, test) = (
        cached_features(PIXELS.encoder, i, law, None, device=CPU)[0].double().numpy()
        for i in (fashion.train, fashion.validation, fashion.test)
    )

    def fit(l2: float, x: Any, y: Any) -> LogisticRegression:
        return LogisticRegression(C=1 / l2, tol=1e-8, max_iter=20_000).fit(x, y)

    labels, labels_validation = fashion.train.labels, fashion.validation.labels
    scores = [fit(l2, h, labels).score(validation, labels_validation) for l2 in penalties]
    assert list(found["validation"].values()) == pytest.approx(scores, abs=1e-6)
    best = max(i for i, score in enumerate(scores) if score == max(scores))
    assert found["l2"] == penalties[best] and found["converged"]
    again = fit(penalties[best], np.concatenate([h, validation]), np.concatenate([labels, labels_validation]))
    assert found["top1"] == pytest.approx(again.score(test, fashion.test.labels), abs=0.0051)  # one image of 200


def test_the_penalties_are_the_papers_and_ties_go_to_the_strongest() -> None:
    assert len(PENALTIES) == 45 and PENALTIES[0] == 1e-6 and PENALTIES[-1] == 1e5
    assert np.allclose(np.diff(np.log10(PENALTIES)), 0.25)
    assert chosen_penalty([0.1, 0.5, 0.5, 0.2]) == 2


def test_nothing_is_chosen_on_the_test_images(
    fashion: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test labels that would favour another choice change the test's score and nothing else."""
    monkeypatch.setattr(transfer_module, "PENALTIES", PENALTIES[::4])
    assert fashion.test.labels is not None
    liar = with_test(fashion, (fashion.test.labels + 1) % 10)
    honest, lied = (evaluate_transfer(PIXELS, data, device=CPU).numbers for data in (fashion, liar))
    assert honest["top1"] > 0.6 > 0.3 > lied["top1"]
    assert honest["l2"] == lied["l2"] and honest["validation"] == lied["validation"]
    subject = Subject("encoder", small_encoder(), LAW)
    cells = [Protocol("nesterov", rate, "none", 50, steps=12) for rate in (0.0001, 0.1)]
    tuned = [
        evaluate_grid(subject, data, cells, tmp_path / name, device=CPU)
        for name, data in (("honest", fashion), ("liar", liar))
    ]
    assert tuned[0] is not None and tuned[1] is not None
    assert tuned[0].numbers["rate"] == tuned[1].numbers["rate"] == 0.1
    assert tuned[0].numbers["validation"] == tuned[1].numbers["validation"]
    assert tuned[0].predictions.tolist() == tuned[1].predictions.tolist()
    few_epochs = Protocol(epochs=3, batch_size=50)
    few = [
        evaluate_few_labels(subject, data.train, data.test, few_epochs, device=CPU, rates=(0.001, 0.3))
        for data in (fashion, liar)
    ]
    assert few[0].numbers["rate"] == few[1].numbers["rate"]
    assert few[0].predictions.tolist() == few[1].predictions.tolist()


def test_an_edge_of_the_range_and_fits_cut_short_are_warned_of(
    fashion: LabelledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer_module, "PENALTIES", (1e4, 1e5, 1e6))
    said: list[str] = []
    found = evaluate_transfer(PIXELS, fashion, device=CPU, say=said.append).numbers
    assert found["l2"] == 1e4 and any("edge of the range" in text for text in said)
    real = transfer_module.fit_path
    monkeypatch.setattr(transfer_module, "fit_path", lambda *a, **k: real(*a, **k, max_iterations=1))
    found = evaluate_transfer(PIXELS, fashion, device=CPU).numbers
    assert not found["converged"] and any("did not converge" in text for text in found["warnings"])


def test_several_labels_an_image_are_scored_by_mean_average_precision(fashion: LabelledSet) -> None:
    def with_two(images: Images) -> Images:
        assert images.labels is not None
        labels = np.stack([images.labels % 2, (images.labels < 5).astype(np.int64)], axis=1)
        labels[::7, 0] = -1
        return replace(images, labels=labels, classes=("odd", "low"))

    both = LabelledSet("two", *map(with_two, (fashion.train, fashion.validation, fashion.test)), metric="map11")  # type: ignore[arg-type]
    found = evaluate_transfer(PIXELS, both, device=CPU)
    assert 0.7 < found.numbers["map11"] <= 1 and found.predictions.shape == (200, 2)
    tuned = fine_tuned(Subject("e", small_encoder(), LAW), both.train, Protocol(steps=3, batch_size=50), device=CPU)
    assert tuned.linear.weight.shape[0] == 2 and tuned.linear.weight.abs().max() > 0


def test_features_are_extracted_once_and_again_for_other_weights_or_images(
    fashion: LabelledSet, tmp_path: Path
) -> None:
    encoder, images = small_encoder(), fashion.test
    first, _ = cached_features(encoder, images, LAW, tmp_path, device=CPU)
    encoder.forward = None  # type: ignore[assignment]  # cannot be asked again
    again, _ = cached_features(encoder, images, LAW, tmp_path, device=CPU)
    assert torch.equal(first, again)
    other, _ = cached_features(small_encoder(1), images, LAW, tmp_path, device=CPU)
    assert not torch.equal(first, other)
    fewer, _ = cached_features(small_encoder(), images.first(50), LAW, tmp_path, device=CPU)
    assert torch.allclose(fewer, first[:50], atol=1e-5)
    cached_features(small_encoder(), images, replace(LAW, evaluation_crop=1.0), tmp_path, device=CPU)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


def test_a_photo_that_changes_on_disk_is_looked_at_again(photos: Path, tmp_path: Path) -> None:
    import shutil

    from simclr_plus.datasets import open_folder

    shutil.copytree(photos, tmp_path / "photos")
    images = open_folder(tmp_path / "photos")
    before, _ = cached_features(PIXELS.encoder, images, LAW, tmp_path / "cache", device=CPU)
    shutil.copy(images.paths[-1], images.paths[0])
    after, _ = cached_features(PIXELS.encoder, images, LAW, tmp_path / "cache", device=CPU)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[1:], after[1:])


def test_a_frozen_classifier_learns_what_a_plain_loop_learns(fashion: LabelledSet) -> None:
    from simclr_plus.datasets.batches import ViewBatches

    encoder, images = small_encoder(), fashion.train.first(100)
    model = Classifier(encoder, 10, size=16, frozen=True)
    train_classifier(model, build_optimizer(model, "nesterov"), images, LAW, Steps(50, 6, 0.5), device=CPU)
    linear = nn.Linear(encoder.feature_dim, 10)
    nn.init.zeros_(linear.weight), nn.init.zeros_(linear.bias)
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0, momentum=0.9, nesterov=True)
    views = ViewBatches(images, LAW.crop_and_flip_only(), batch_size=50, seed=0, views=1)
    for step in range(6):
        x, y = views.batch(step)
        optimizer.param_groups[0]["lr"] = 0.25 * (1 + np.cos(np.pi * step / 6))
        optimizer.zero_grad()
        with torch.no_grad():
            h = encoder(x)
        nn.functional.cross_entropy(linear(h), y).backward()
        optimizer.step()
    assert torch.allclose(model.linear.weight, linear.weight, atol=1e-6)


class CutError(Exception):
    """What ends a training in its middle."""


@pytest.mark.parametrize("name", ["nesterov", "lars", "adamw"])
def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    fashion: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(classifier, "SAVE_SECONDS", 0.0)
    real_save, state = classifier.save_state, State(tmp_path / "state.safetensors", "key")

    def save_then_cut(state: State, model: nn.Module, optimizer: Any, step: int) -> None:
        real_save(state, model, optimizer, step)
        if step == 3:
            raise CutError

    def trained(state: State | None) -> Classifier:
        model = Classifier(small_encoder(), 10, size=16)
        model.encoder = nn.Sequential(model.encoder, nn.Dropout(0.5))
        optimizer = build_optimizer(model, name)
        train_classifier(model, optimizer, fashion.train, LAW, Steps(30, 6, 0.1), device=CPU, state=state)
        return model

    whole = trained(None)
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "save_state", save_then_cut)
        with pytest.raises(CutError):
            trained(state)
    torch.rand(5)  # of no account
    rest = trained(state)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), rest.state_dict().values(), strict=True))
    other = trained(replace(state, key="another training"))  # its state is not taken
    assert torch.equal(other.linear.weight, whole.linear.weight)


def test_rates_that_were_tried_before_a_kill_are_not_tried_again(
    fashion: LabelledSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, images = Subject("encoder", small_encoder(), LAW), fashion.train.first(60)
    protocol, state = (
        Protocol("nesterov", scaling="none", batch_size=20, steps=2),
        State(tmp_path / "s.safetensors", "k"),
    )
    real, trained = classifier.train_classifier, list[float]()

    def evaluated(state: State | None, last: float = 0.0) -> dict[str, Any]:
        def train(*arguments: Any, **named: Any) -> None:
            if arguments[4].peak == last:
                raise CutError
            trained.append(arguments[4].peak)
            real(*arguments, **named)

        monkeypatch.setattr("simclr_plus.evaluators.fine_tuning.train_classifier", train)
        return evaluate_few_labels(
            subject, images, fashion.test, protocol, device=CPU, rates=(0.01, 0.05, 0.1), state=state
        ).numbers

    whole = evaluated(None)
    trained.clear()
    with pytest.raises(CutError):
        evaluated(state, last=0.1)
    assert trained == [0.01, 0.05]
    trained.clear()
    assert evaluated(state) == whole and trained == [0.1, whole["rate"]] and not list(tmp_path.glob("*"))


def test_protocols_are_the_papers() -> None:
    paper, v2 = few_labels_protocol("paper", 0.01), few_labels_protocol("simclr_v2", 0.01)
    assert (paper.optimizer, paper.rate, paper.batch_size, paper.epochs) == ("nesterov", 0.05, 4096, 60)
    assert few_labels_protocol("paper", 0.1).epochs == 30
    assert (v2.optimizer, v2.rate, v2.scaling, v2.batch_size, v2.from_layer) == ("lars", 0.005, "sqrt", 1024, 1)
    assert v2.weight_decay == 0 and few_labels_protocol("simclr_v2", 1.0).from_layer == 0
    cells = grid("paper")
    assert len(cells) == 56 and len({(c.rate, c.weight_decay) for c in cells}) == 56
    assert {c.steps for c in cells} == {20_000} and {c.batch_size for c in cells} == {256}
    assert min(c.rate for c in cells) == pytest.approx(1e-4) and max(c.rate for c in cells) == pytest.approx(0.1)
    decays = sorted({c.weight_decay for c in cells})
    assert decays[0] == 0 and decays[1] == pytest.approx(1e-6) and decays[-1] == pytest.approx(1e-3)
    random = grid("paper", random_start=True)
    assert {c.steps for c in random} == {40_000} and max(c.weight_decay for c in random) == pytest.approx(10**-1.5)
    assert len(grid("small")) == 6


def test_batch_norm_forgets_by_the_papers_rule(fashion: LabelledSet) -> None:
    subject = Subject("e", small_encoder(), LAW)
    for count, size, expected in ((300, 10, 0.1), (300, 2, 10 / 150)):
        protocol = replace(TRANSFER, steps=1, batch_size=size, rate=0.01)
        model = fine_tuned(subject, fashion.train.first(count), protocol, device=CPU)
        momenta = {m.momentum for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        assert list(momenta) == [pytest.approx(expected)]  # PyTorch's is the share of the new: 1 - max(1 - 10/s, 0.9)


def test_decay_is_divided_by_the_rate_and_norms_are_spared() -> None:
    model = Classifier(small_encoder(), 10, size=16)
    optimizer = build_optimizer(model, "nesterov", weight_decay=0.5)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert decays[id(model.encoder.conv1.weight)] == decays[id(model.linear.weight)] == 0.5  # type: ignore[union-attr]
    assert decays[id(model.encoder.bn1.weight)] == decays[id(model.linear.bias)] == 0.0  # type: ignore[union-attr]
    assert len(decays) == len(list(model.parameters()))


def test_simclr_v2_starts_within_the_head_and_says_when_there_is_none(fashion: LabelledSet) -> None:
    subject = Subject("e", small_encoder(), LAW)
    head = SimCLRProjectionHead(64, 48, 16, num_layers=3)
    protocol = Protocol("lars", 0.05, "sqrt", 50, epochs=1, from_layer=1)
    model = fine_tuned(subject, fashion.train.first(100), protocol, device=CPU, head=head)
    assert model.linear.in_features == 48 and model.head is not None
    first = model.head.layers[0].weight
    assert not torch.equal(first, head.layers[0].weight), "the head's first layer is trained"
    assert torch.equal(model.head.layers[3].weight, head.layers[3].weight), "what lies above is not"
    with pytest.raises(RecipeError, match="--head"):
        fine_tuned(subject, fashion.train, protocol, device=CPU)


def test_the_grid_goes_on_cell_by_cell_and_in_parts(fashion: LabelledSet, tmp_path: Path) -> None:
    subject = Subject("encoder", small_encoder(), LAW)
    cells = [Protocol("nesterov", rate, "none", 50, steps=4) for rate in (0.01, 0.1, 1e30)]
    said: list[str] = []
    first = evaluate_grid(subject, fashion, cells, tmp_path, device=CPU, part=(0, 2), say=said.append)
    assert first is None and "1 of 3 cells are missing" in said[-1]
    times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*.json")}
    assert len(times) == 2
    found = evaluate_grid(subject, fashion, cells, tmp_path, device=CPU, say=said.append)
    assert found is not None and len(list(tmp_path.glob("*.json"))) == 3
    assert all(file.stat().st_mtime_ns == time for file, time in times.items()), "no cell is trained twice"
    values = [json.loads(f.read_text())["validation"] for f in tmp_path.glob("*.json")]
    assert values.count(None) == 1 and any("diverged" in text for text in said)
    with pytest.raises(SimclrPlusError, match="every cell"):
        evaluate_grid(subject, fashion, cells[2:], tmp_path, device=CPU)


def test_results_predictions_and_splits_are_written_and_can_be_compared(photos: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name in ("a", "b"):
        save_encoder(small_encoder(ord(name)), tmp_path / f"{name}.safetensors", {"image_size": "16"})
        target = open_target(str(tmp_path / f"{name}.safetensors"), runs)
        result = transfer(
            target, str(photos), "", test="", relative_to="sum", seed=0, baselines=name == "a", say=lambda _: None
        )
    assert result["train_images"] + result["validation_images"] + result["test_images"] == 48
    files = [next(runs.glob(f"{name}-*/results/predictions/*.safetensors")) for name in ("a", "b")]
    found = compare_predictions(*files)
    assert found.b == pytest.approx(result["results"]["encoder"]["top1"])
    assert compare_predictions(files[0], files[0]).p == 1.0
    assert compare_predictions(files[0], files[0], "encoder", "random encoder").p_mcnemar is not None
    split = json.loads(next(runs.glob("b-*/results/splits/*.json")).read_text())
    assert len(split["train"]) == result["train_images"] and not set(split["train"]) & set(split["test"])
    tuned = fine_tune(
        target,
        str(photos),
        "",
        test="",
        cells="small",
        part=(0, 1),
        steps=2,
        batch_size=8,
        seed=0,
        random_start=True,
        say=lambda _: None,
    )
    assert (
        tuned is not None
        and tuned["evaluator"] == "fine_tuned_random"
        and tuned["results"]["random encoder"]["cells"] == 6
    )


def test_few_labels_write_their_list(tmp_path: Path) -> None:
    save_encoder(small_encoder(), tmp_path / "e.safetensors", {"recipe": "[augmentation]\nimage_size = 16"})
    target = open_target(str(tmp_path / "e.safetensors"), tmp_path / "runs")
    result = few_labels(
        target,
        data="embedded",
        test="",
        share=0.01,
        list_file="",
        protocol_name="paper",
        changes={"epochs": 1, "batch_size": 50},
        rates=(),
        seed=3,
        head_file="",
        baselines=True,
        say=lambda _: None,
    )
    listed = next((tmp_path / "runs").glob("e-*/results/splits/*.txt")).read_text().split()
    assert len(listed) == result["train_images"] == 100
    assert set(result["results"]) == {"encoder", "random encoder"}


def test_torchvisions_and_timms_networks_are_subjects(tmp_path: Path) -> None:
    from simclr_plus.weights.export import export_timm

    encoder = ResNet(18).eval()
    file = tmp_path / "encoder.safetensors"
    save_encoder(encoder, file, {"image_size": "64"})
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(images)
        ours = open_target(f"torchvision:resnet18@{file}", tmp_path)
        assert torch.allclose(ours.subject.encoder(images), expected, atol=1e-4)
        assert ours.subject.law.size == 224 and ours.subject.law.evaluation_crop == 0.875
        export_timm(file, tmp_path / "folder")
        theirs = open_target(f"timm:local-dir:{tmp_path / 'folder'}", tmp_path, image_size=64)
        assert torch.allclose(theirs.subject.encoder(images), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["few-labels", "linear"])
def test_two_processes_find_what_one_does(
    simclr_plus: Callable[..., Any], photos: Path, tmp_path: Path, verb: str
) -> None:
    save_encoder(small_encoder(), tmp_path / "e.safetensors", {"recipe": "[augmentation]\nimage_size = 16"})
    arguments = ["evaluate", verb, tmp_path / "e.safetensors", "--epochs", "2", "--batch-size", "8", "--data", photos]
    arguments += ["--json", *(["--share", "0.5"] if verb == "few-labels" else [])]
    found = [simclr_plus(*arguments, "--runs", f"runs{n}", "--nproc", n, cwd=tmp_path) for n in ("1", "2")]
    assert [done.returncode for done in found] == [0, 0], found[1].stderr
    documents = [json.loads(done.stdout) for done in found]
    results = [document["results"] for document in documents]
    one, two = (r["encoder"] if verb == "linear" else r[0]["results"]["encoder"] for r in results)
    assert one["top1"] == two["top1"] and one["mean_per_class"] == two["mean_per_class"] and one["epochs"] == 2


def test_of_all_twelve_those_that_are_not_there_are_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    from simclr_plus.cli.evaluate import _of_each
    from simclr_plus.errors import NotFoundError

    def evaluate(name: str) -> dict[str, Any] | None:
        if name not in ("cars", "dtd"):
            raise NotFoundError(f"no {name}")
        return {"data": name} if name == "dtd" else None  # cars: cells are missing

    assert _of_each("all", evaluate) == [{"data": "dtd"}]
    assert "pets is passed over: no pets" in capsys.readouterr().err
    with pytest.raises(NotFoundError, match="no pets"):
        _of_each("pets", evaluate)
