from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.checkpoints import save_encoder
from simclr_plus.datasets import TEST, TRAIN, Images, open_images
from simclr_plus.encoders import ResNet
from simclr_plus.errors import SimclrPlusError
from simclr_plus.evaluation import evaluate_target, labelled_images
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.linear import _fit, evaluate_linear, evaluate_linear_fast
from simclr_plus.evaluators.subjects import RawPixels, Subject, subjects
from simclr_plus.recipe import Data

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


def test_an_encoder_file_is_evaluated_on_a_data_set_by_name(tmp_path: Path) -> None:
    save_encoder(
        ResNet(18, 0.125, stem="cifar"), tmp_path / "e.safetensors", {"recipe": "[augmentation]\nimage_size=28"}
    )
    result, path = evaluate_target(
        str(tmp_path / "e.safetensors"), "knn", evaluate_knn, {"k": 5}, data="embedded", labels=300
    )
    assert path is None and (result["train_images"], result["test_images"]) == (300, 2000)
    assert 0.1 < result["results"]["encoder"]["top1"] < 0.9


def test_folders_with_other_classes_are_refused(photos: Path, tmp_path: Path) -> None:
    for name in ("Aqua", "Other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes((photos / "Aqua" / "00.jpg").read_bytes())
    with pytest.raises(SimclrPlusError, match=r"different classes \(Dune, Other\)"):
        labelled_images(Data(name="folder", root="unused"), str(photos), str(tmp_path))
