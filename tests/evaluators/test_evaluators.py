from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import TEST, TRAIN, Images, open_images
from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.encoders import ResNet
from simclr_plus.errors import CheckpointError, RecipeError, SimclrPlusError
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.linear import _fit, evaluate_linear, evaluate_linear_fast
from simclr_plus.evaluators.subjects import RawPixels, Subject, projected, subjects
from simclr_plus.evaluators.transfer import evaluate_transfer
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.keys import Data
from simclr_plus.results.evaluate import Evaluator, evaluate_target
from simclr_plus.results.report import make_report
from simclr_plus.results.targets import labelled_images, open_target
from simclr_plus.results.verify import verify
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.model import build_model
from simclr_plus.weights.checkpoints import save_checkpoint
from simclr_plus.weights.encoder_files import save_encoder

CPU = torch.device("cpu")
LAW = simclr_law(28, blur_prob=0.0)
PIXELS = Subject("raw pixels", RawPixels(), LAW)


@pytest.fixture(scope="module")
def fashion() -> tuple[Images, Images]:
    return open_images(Data(), TRAIN).first(1000), open_images(Data(), TEST).first(500)


def test_knn_on_pixels_is_cosine_knn(fashion: tuple[Images, Images]) -> None:
    train, test = fashion
    found = evaluate_knn(PIXELS, train, test, device=CPU, k=1)
    assert train.pixels is not None and test.pixels is not None and train.labels is not None
    bank, queries = (i.pixels[..., 0].reshape(len(i), -1).astype(np.float64) for i in (train, test))  # type: ignore[union-attr]
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    nearest = train.labels[(queries @ bank.T).argmax(axis=1)]
    assert found["top1"] == pytest.approx(float((nearest == test.labels).mean()))
    assert found["top1"] > 0.6 and found["top5"] >= found["top1"]


def test_the_classifier_takes_nesterovs_steps_as_torch_does() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(16, 5), torch.randint(0, 3, (16,))) for _ in range(20)]
    ours = _fit(iter(batches), 20, 3, [0.5, 0.1])
    for peak, weights in zip((0.5, 0.1), ours, strict=True):
        linear = torch.nn.Linear(5, 3)
        torch.nn.init.zeros_(linear.weight), torch.nn.init.zeros_(linear.bias)
        optimizer = torch.optim.SGD(linear.parameters(), lr=0.0, momentum=0.9, nesterov=True)
        for step, (x, y) in enumerate(batches):
            optimizer.param_groups[0]["lr"] = peak * 0.5 * (1 + np.cos(np.pi * step / 20))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(linear(x), y).backward()
            optimizer.step()
        assert torch.allclose(weights[:-1], linear.weight.detach().T, atol=1e-5)
        assert torch.allclose(weights[-1], linear.bias.detach(), atol=1e-5)


def test_the_fast_form_chooses_its_rate_without_the_test_images(fashion: tuple[Images, Images]) -> None:
    train, test = fashion
    found = evaluate_linear_fast(PIXELS, train, test, device=CPU, epochs=20)
    blind = evaluate_linear_fast(PIXELS, train, test.first(100), device=CPU, epochs=20)
    assert found["learning_rate"] == blind["learning_rate"]
    fixed = evaluate_linear_fast(PIXELS, train, test, device=CPU, epochs=20, learning_rate=found["learning_rate"])
    assert fixed["top1"] == found["top1"] > 0.7


def test_the_fast_form_is_fair_to_features_of_any_scale(fashion: tuple[Images, Images]) -> None:
    class Scaled(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1) * 0.1

    train, test = fashion
    scores = [
        evaluate_linear_fast(Subject("x", e, LAW), train, test, device=CPU, epochs=30) for e in (RawPixels(), Scaled())
    ]
    assert abs(scores[0]["top1"] - scores[1]["top1"]) < 0.03
    assert scores[1]["learning_rate"] > scores[0]["learning_rate"]


@pytest.mark.parametrize("count", [40, 100, 256])
def test_the_fast_form_takes_few_images(fashion: tuple[Images, Images], count: int) -> None:
    train, test = fashion
    found = evaluate_linear_fast(PIXELS, train.first(count), test, device=CPU, epochs=5)
    assert 0.2 < found["top1"] < 0.9


def test_the_papers_protocol_trains_on_crops_and_leaves_the_encoder_as_it_was(fashion: tuple[Images, Images]) -> None:
    train, test = fashion
    encoder = ResNet(18, 0.125, stem="cifar").train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    subject = Subject("encoder", encoder, LAW)
    found = evaluate_linear(subject, train.first(200), test, device=CPU, epochs=2, batch_size=50)
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items()) and not encoder.training
    again = evaluate_linear(subject, train.first(200), test, device=CPU, epochs=2, batch_size=50)
    assert found == again and found["learning_rate"] == 0.1 and found["epochs"] == 2


def test_the_baselines_are_pixels_and_the_same_network_untrained() -> None:
    encoder = ResNet(18, 0.125, stem="cifar")
    names = [s.name for s in subjects(encoder, LAW, baselines=True)]
    assert names == ["encoder", "raw pixels", "random encoder"]
    random = subjects(encoder, LAW, baselines=True)[2].encoder
    assert isinstance(random, ResNet) and random.architecture == encoder.architecture
    assert not torch.equal(random.conv1.weight, encoder.conv1.weight)


def test_raw_pixels_of_large_images_are_means_over_areas_and_say_so() -> None:
    encoder, images = ResNet(18, 0.125, stem="cifar"), torch.rand(2, 3, 64, 64)
    asked: list[dict[str, int]] = [{}, {"pixels_side": 16}, {"pixels_side": 0}, {"native_size": 32}]
    pixels = [subjects(encoder, simclr_law(64), baselines=True, **more)[1] for more in asked]
    assert [p.name for p in pixels] == ["raw pixels, 32x32", "raw pixels, 16x16", "raw pixels", "raw pixels"]
    means = images.unflatten(3, (32, 2)).unflatten(2, (32, 2)).mean(dim=(3, 5))
    assert torch.allclose(pixels[0].encoder(images), means.flatten(1), atol=1e-6)
    assert torch.equal(pixels[2].encoder(images), images.flatten(1)) and pixels[3].law.size == 32
    large = subjects(encoder, simclr_law(224), baselines=True)[1]
    assert large.encoder(torch.rand(1, 3, 224, 224)).shape == (1, 3072)


@pytest.mark.parametrize("evaluator", [evaluate_linear_fast, evaluate_transfer])
def test_features_turned_into_the_span_of_few_images_give_the_same_classifier(
    fashion: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch, evaluator: Any
) -> None:
    train, test = fashion
    few, of, small = train.first(60), "simclr_plus.evaluators.", replace(PIXELS, law=simclr_law(12))
    given: Any = (few, test)
    more: dict[str, Any] = {"epochs": 10}
    if evaluator is evaluate_transfer:
        given, more = (LabelledSet("fashion", few, train.subset(np.arange(60, 100)), test),), {}
        monkeypatch.setattr(f"{of}transfer.PENALTIES", (1e-2, 1.0, 1e2))
    found, widths = [], []
    for turned in (True, False):
        with monkeypatch.context() as patch:
            module = "linear" if evaluator is evaluate_linear_fast else "transfer"
            name = "_fit" if module == "linear" else "fit_path"
            real = getattr(import_module(f"{of}{module}"), name)

            def watched(first: Any, *rest: Any, real: Any = real) -> Any:
                batches = list(first) if isinstance(first, Iterator) else first
                widths.append((batches[0][0] if isinstance(batches, list) else batches).shape[1])
                return real(iter(batches) if isinstance(batches, list) else batches, *rest)

            patch.setattr(f"{of}{module}.{name}", watched)
            if not turned:
                patch.setattr(f"{of}{module}.spanning", lambda _: None)
            result = evaluator(small, *given, device=CPU, **more)
            found.append(result if isinstance(result, dict) else result.numbers)
    assert max(widths[: len(widths) // 2]) <= 100 and set(widths[len(widths) // 2 :]) == {12 * 12 * 3}
    one, other = found
    for key in ("learning_rate", "l2"):
        assert one.get(key) == other.get(key)
    assert one["top1"] == pytest.approx(other["top1"], abs=0.0041)  # two images of 500


def test_each_subject_tells_how_much_time_is_left(
    fashion: tuple[Images, Images], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("simclr_plus.evaluators.pace.SECONDS_BETWEEN_LINES", 0.0)
    file = tmp_path / "e.safetensors"
    save_encoder(ResNet(18, 0.125, stem="cifar"), file, {"image_size": "16"})
    few = fashion[0].first(80), fashion[1].first(40)
    monkeypatch.setattr("simclr_plus.results.targets.labelled_images", lambda *_, **__: few)
    for evaluator in (evaluate_knn, evaluate_linear_fast, evaluate_linear):
        said: list[str] = []
        settings = {} if evaluator is evaluate_knn else {"epochs": 1}
        more: dict[str, Any] = {
            "data": "embedded",
            "labels": 300,
            "baselines": True,
            "say": said.append,
        }
        evaluate_target(open_target(str(file), tmp_path), evaluator.__name__, evaluator, settings, **more)
        begins = [i for i, text in enumerate(said) if text.startswith(f"{evaluator.__name__}: ")]
        parts = [said[a:b] for a, b in zip(begins, [*begins[1:], None], strict=True)]
        assert len(parts) == 3 and all(any(text.endswith(" left") for text in part) for part in parts)


def test_an_encoder_file_is_evaluated_on_a_data_set_by_name(tmp_path: Path) -> None:
    save_encoder(
        ResNet(18, 0.125, stem="cifar"), tmp_path / "e.safetensors", {"recipe": "[augmentation]\nimage_size=28"}
    )
    file, runs = str(tmp_path / "e.safetensors"), tmp_path / "runs"
    result, path = evaluate_target(open_target(file, runs), "knn", evaluate_knn, {"k": 5}, data="embedded", labels=300)
    assert (result["train_images"], result["test_images"]) == (300, 2000)
    assert 0.1 < result["results"]["encoder"]["top1"] < 0.9
    assert json.loads(path.read_text())["results"] == result["results"] and path.is_relative_to(runs)


def test_z_is_what_the_projection_head_makes_of_h(fashion: tuple[Images, Images]) -> None:
    torch.manual_seed(0)
    head = SimCLRProjectionHead(28 * 28 * 3, 32, 8)
    head.layers[1].running_mean.normal_()  # statistics of a training, to tell eval mode
    subject = projected(PIXELS, head)
    images = torch.rand(4, 3, 28, 28)
    first, norm, _, second, last = head.eval().layers
    hidden = norm(images.flatten(1) @ first.weight.T).clamp_min(0)
    assert torch.allclose(subject.encoder(images), last(hidden @ second.weight.T), atol=1e-5)
    assert subject.name == "raw pixels, z" and not subject.encoder.training
    train, test = fashion
    before = {k: v.clone() for k, v in head.state_dict().items()}
    found = evaluate_linear(subject, train.first(200), test, device=CPU, epochs=1, batch_size=50)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items()) and 0 < found["top1"] < 1


@pytest.fixture
def trained(tmp_path: Path, tiny: list[str]) -> Run:
    """A run with a checkpoint that holds encoder, head and probe, of random weights."""
    recipe = load_recipe("demo", [*tiny, "augmentation.image_size=28"])
    run = create_run(recipe, tmp_path / "runs", "r")
    torch.manual_seed(0)
    model = build_model(recipe, 10).eval()
    optimizer = torch.optim.SGD(model.parameters())
    save_checkpoint(run.checkpoints / "step_00000001.safetensors", model, optimizer, step=1, recipe=recipe)
    return run


def test_results_on_h_and_on_z_lie_side_by_side(trained: Run) -> None:
    target = open_target("r", trained.path.parent)
    found = {on: evaluate_target(target, "knn", evaluate_knn, {"k": 5}, on=on, labels=300) for on in ("h", "z")}
    files = {path.name for path in trained.results.glob("*.json")}
    assert {path.name for _, path in found.values() if path} == files and len(files) == 2
    scores = [next(iter(result["results"].items())) for result, _ in found.values()]
    assert [name for name, _ in scores] == ["encoder", "encoder, z"] and scores[0][1] != scores[1][1]


def test_results_of_other_settings_do_not_replace_each_other(trained: Run) -> None:
    asked: list[tuple[dict[str, int], dict[str, str]]] = [({"k": 20}, {}), ({"k": 5}, {}), ({"k": 20}, {"on": "z"})]
    target = open_target("r", trained.path.parent)
    for settings, where in asked:
        evaluate_target(target, "knn", evaluate_knn, settings, labels=300, **where)
    the_runs_own = {"data": "embedded"}  # named or not, the same images
    evaluate_target(target, "knn", evaluate_knn, {"k": 5}, labels=300, **the_runs_own)
    step = "knn_step_00000001"
    assert sorted(path.name for path in trained.results.iterdir()) == [
        f"{step}_labels-300.json",
        f"{step}_labels-300_k-5.json",
        f"{step}_on-z_labels-300.json",
    ]
    assert [(row.evaluation, row.subject, row.n) for row in make_report([trained]).rows if row.metric == "top1"] == [
        ("knn, labels 300", "encoder", 1),
        ("knn, labels 300", "encoder, z", 1),
        ("knn, labels 300, k 5", "encoder", 1),
    ]


@pytest.mark.parametrize(
    ("evaluator", "on"),
    [
        (evaluate_linear, "h"),
        (evaluate_linear_fast, "z"),
        pytest.param(evaluate_linear, "z", marks=pytest.mark.slow),
        pytest.param(evaluate_linear_fast, "h", marks=pytest.mark.slow),
    ],
)
def test_a_kept_classifier_is_verified_to_the_digit(trained: Run, on: str, evaluator: Evaluator) -> None:
    settings = {"epochs": 1, "batch_size": 100}
    target = open_target("r", trained.path.parent)
    result, path = evaluate_target(target, "linear", evaluator, settings, on=on, labels=300, baselines=on == "h")
    assert path is not None and result["classifier"] == path.with_suffix(".safetensors").name
    test = open_images(Data(), TEST)
    few = test.subset(np.flatnonzero(np.isin(np.asarray(test.labels), [3, 7])))
    renumbered = replace(few, labels=np.asarray(few.labels) // 4, classes=(test.classes[3], test.classes[7]))
    assert trained.latest_checkpoint().name == "step_00000001.safetensors"
    found = {
        name: verify(trained.latest_checkpoint(), images, LAW, device=CPU, head=path.with_suffix(".safetensors"))
        for name, images in (("all", test), ("two", renumbered))
    }
    scored = result["results"]["encoder" if on == "h" else "encoder, z"]
    assert {key: scored[key] for key in found["all"]["results"]} == found["all"]["results"]
    assert found["all"]["selector"] == (0 if on == "h" else -1) and found["two"]["test_images"] == len(few)
    assert 0 <= found["two"]["results"]["top1"] < 1  # of ten classes, named in the file, two are shown
    other = replace(renumbered, classes=("Coat", "Hat"))
    with pytest.raises(SimclrPlusError, match=r"does not know: Hat .*--classes FILE"):
        verify(trained.latest_checkpoint(), other, LAW, device=CPU, head=path.with_suffix(".safetensors"))


def test_z_is_refused_where_there_is_no_head(trained: Run, tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    save_encoder(ResNet(18, 0.125, stem="cifar"), file)
    target = open_target(str(file), tmp_path)
    with pytest.raises(CheckpointError, match="needs the projection head: name a run"):
        evaluate_target(target, "knn", evaluate_knn, {}, on="z", data="embedded")
    with pytest.raises(RecipeError, match="--on 'g' is unknown"):
        evaluate_target(target, "knn", evaluate_knn, {}, on="g")
    with pytest.raises(RecipeError, match="--baselines have no projection head"):
        evaluate_target(target, "knn", evaluate_knn, {}, on="z", baselines=True)


def test_folders_with_other_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    for name in ("sand", "Other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes((photos / "sand" / "00.jpg").read_bytes())
    with pytest.raises(SimclrPlusError, match=r"(?s)different classes: sea .*Other of"):
        labelled_images(Data(name="folder", root="unused"), str(photos), str(tmp_path))
