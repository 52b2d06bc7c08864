"""Networks of torchvision and timm: nothing in their files is run, and images are normalised as the weights need it."""

from __future__ import annotations

import json
import os
import urllib.error
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from parameters import rest_slow
from safetensors.torch import load_file, save_file
from torch import nn

from simclr_plus.cli import main
from simclr_plus.datasets.images import open_folder
from simclr_plus.encoders import ResNet
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.evaluators.foreign_encoders import foreign_network
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.features.extraction import features_of
from simclr_plus.results.evaluate import evaluate_target
from simclr_plus.results.targets import open_target
from simclr_plus.weights.encoder_files import save_encoder
from simclr_plus.weights.export import export_timm
from simclr_plus.weights.tensor_files import read_header

CPU = torch.device("cpu")

CACHED = "resnet18-f37072fd.pth"  # torchvision's name of its weights of resnet18
IMAGENET = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


class Planted:
    """What a pickled file of a stranger may hold: opening it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of PyTorch's, and no network."""

    def no_network(*_: Any, **__: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return torchvision.models.resnet18().eval()


def features(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Those of torchvision's network of images as they are given."""
    classifier, network.fc = network.fc, nn.Identity()
    with torch.no_grad():
        found: torch.Tensor = network(images)
    network.fc = classifier
    return found


def same(found: nn.Module, images: torch.Tensor, expected: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.allclose(found(images), expected, rtol=1e-4, atol=1e-5)


def test_code_planted_in_torchvisions_cache_is_not_run(
    cache: Path, tmp_path: Path, resnet18: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({**resnet18.state_dict(), "x": Planted(tmp_path / "ran")}, cache / CACHED)
    for name in ("", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        if name:
            monkeypatch.setenv(name, "1")
        with pytest.raises(CheckpointError, match=CACHED):
            foreign_network("torchvision:resnet18")
        assert not (tmp_path / "ran").exists()
        assert os.environ.get(name or "TORCH_FORCE_WEIGHTS_ONLY_LOAD") == ("1" if name else None)  # left as it was


def test_code_planted_in_a_folder_of_timms_is_not_run(tmp_path: Path) -> None:
    save_encoder(ResNet(18), tmp_path / "e.safetensors")
    export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    (tmp_path / "timm" / "model.safetensors").unlink()
    torch.save({"x": Planted(tmp_path / "ran")}, tmp_path / "timm" / "pytorch_model.bin")
    with pytest.raises(NotFoundError, match="timm:local-dir"):
        foreign_network(f"timm:local-dir:{tmp_path / 'timm'}")
    assert not (tmp_path / "ran").exists()


def test_code_planted_in_a_file_that_is_named_is_not_run(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save({**resnet18.state_dict(), "x": Planted(tmp_path / "ran")}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="refused"):
        foreign_network(f"torchvision:resnet18@{tmp_path / 'x.pth'}")
    assert not (tmp_path / "ran").exists()


def test_weights_in_torchvisions_cache_are_those_that_are_evaluated(cache: Path, resnet18: nn.Module) -> None:
    torch.save(resnet18.state_dict(), cache / CACHED)
    images = torch.rand(2, 3, 64, 64)
    expected = features(resnet18, (images - IMAGENET[0]) / IMAGENET[1])
    assert same(foreign_network("torchvision:resnet18").subject.encoder, images, expected)


def test_without_network_the_file_to_put_into_the_cache_is_named(cache: Path) -> None:
    with pytest.raises(NotFoundError) as error:
        foreign_network("torchvision:resnet18")
    assert str(cache / CACHED) in str(error.value) and "download.pytorch.org" in str(error.value)
    for name in ("nothing", "fcn_resnet50", "raft_large"):  # the last two classify nothing
        with pytest.raises(NotFoundError, match="no classifier"):
            foreign_network(f"torchvision:{name}")


@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_a_file_that_does_not_say_is_normalised_as_torchvisions_own_and_that_is_said(
    tmp_path: Path, resnet18: nn.Module, ending: str
) -> None:
    file, images = tmp_path / f"theirs.{ending}", torch.rand(2, 3, 64, 64)
    (save_file if ending == "safetensors" else torch.save)(resnet18.state_dict(), file)
    target = open_target(f"torchvision:resnet18@{file}", tmp_path)
    assert same(target.subject.encoder, images, features(resnet18, (images - IMAGENET[0]) / IMAGENET[1]))
    assert len(target.choices) == 1 and file.name in target.choices[0]
    plain = open_target(f"torchvision:resnet18@{file}", tmp_path, normalize="none")
    assert same(plain.subject.encoder, images, features(resnet18, images)) and plain.choices == ()
    other = open_target(f"torchvision:resnet18@{file}", tmp_path, normalize="0.5,0.5,0.5,0.25,0.25,0.25")
    assert same(other.subject.encoder, images, features(resnet18, (images - 0.5) / 0.25))


def test_a_file_of_ours_is_normalised_as_its_header_says(tmp_path: Path) -> None:
    images, file = torch.rand(2, 3, 64, 64), tmp_path / "ours.safetensors"
    for numbers in ({}, {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}):
        encoder = ResNet(18, **numbers).eval()
        save_encoder(encoder, file)
        with torch.no_grad():
            expected = encoder(images)
        found = foreign_network(f"torchvision:resnet18@{file}")
        assert same(found.subject.encoder, images, expected) and found.choices == ()
        with pytest.raises(RecipeError, match="--normalize"):
            foreign_network(f"torchvision:resnet18@{file}", "none")


def test_what_is_fetched_is_said_and_from_where(
    cache: Path, resnet18: nn.Module, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def from_there(url: str, path: str, *_: Any, **__: Any) -> None:
        torch.save(resnet18.state_dict(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", from_there)
    for times in ("first", "again"):
        foreign_network("torchvision:resnet18")
        assert ("https://download.pytorch.org/models/resnet18" in capsys.readouterr().err) == (times == "first")


def test_a_folder_that_timm_saved_is_opened_at_its_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("test_vit", num_classes=0, img_size=48, class_token=False, global_pool="avg").eval()
    config = {"input_size": (3, 48, 48), "mean": (0.1, 0.2, 0.3), "crop_pct": 0.5}
    timm.models.save_for_hf(
        theirs, tmp_path / "folder", model_config={"pretrained_cfg": theirs.pretrained_cfg | config}
    )
    subject = foreign_network(f"timm:local-dir:{tmp_path / 'folder'}").subject
    images = torch.rand(2, 3, 48, 48)
    expected = (images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    with torch.no_grad():
        assert same(subject.encoder, images, theirs(expected))
    assert (subject.law.size, subject.law.evaluation_crop) == (48, 0.5)


def test_a_foreign_network_has_a_random_one_beside_it(tmp_path: Path) -> None:
    torch.save(torchvision.models.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "w.pth")
    target = open_target(f"torchvision:squeezenet1_1@{tmp_path / 'w.pth'}", tmp_path, normalize="none")
    encoder, random = target.networks(baselines=True)
    assert (encoder.name, random.name) == ("encoder", "random encoder") and random.law == encoder.law
    assert {name: x.shape for name, x in random.encoder.state_dict().items()} == {
        name: x.shape for name, x in encoder.encoder.state_dict().items()
    }
    again = target.networks(baselines=True)[1]
    assert again.digest == random.digest != encoder.digest


def test_a_classifier_loses_its_last_layer_alone(tmp_path: Path) -> None:
    theirs, seen = torchvision.models.mobilenet_v3_small().eval(), []
    torch.save(theirs.state_dict(), tmp_path / "w.pth")
    theirs.classifier[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        theirs(images)
    target = open_target(f"torchvision:mobilenet_v3_small@{tmp_path / 'w.pth'}", tmp_path, normalize="none")
    assert same(target.subject.encoder, images, seen[0])


def test_a_file_of_another_network_is_refused(tmp_path: Path, resnet18: nn.Module) -> None:
    save_encoder(ResNet(18, flavor="reference"), tmp_path / "authors.safetensors")
    with pytest.raises(CheckpointError, match="flavor"):
        foreign_network(f"torchvision:resnet18@{tmp_path / 'authors.safetensors'}")
    save_file(resnet18.state_dict(), tmp_path / "theirs.safetensors")
    with pytest.raises(CheckpointError, match="does not fit torchvision's resnet34"):
        foreign_network(f"torchvision:resnet34@{tmp_path / 'theirs.safetensors'}")
    state = resnet18.state_dict()
    state["layer1.0.conv1.weight"] = torch.full_like(state["layer1.0.conv1.weight"], torch.nan)
    save_file(state, tmp_path / "diverged.safetensors")
    with pytest.raises(CheckpointError, match=r"not finite.*layer1\.0\.conv1\.weight"):
        foreign_network(f"torchvision:resnet18@{tmp_path / 'diverged.safetensors'}")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr("sys.argv", ["simclr-plus", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0


@pytest.mark.parametrize("verb", rest_slow([["knn", "--k", 5], ["linear", "--fast"], ["linear", "--epochs", 1]]))
def test_a_network_by_name_is_evaluated_as_the_same_weights_in_a_file_of_ours(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: list[str]
) -> None:
    """Raw pixels are the same numbers; the encoder's features differ by rounding."""
    torch.manual_seed(0)
    ours, folder = tmp_path / "e.safetensors", tmp_path / "timm"
    save_encoder(ResNet(18), ours, {"image_size": "48"})
    export_timm(ours, folder)
    monkeypatch.chdir(tmp_path)
    results, given = [], ("--data", photos, "--baselines", "--image-size", 32, "--json")
    for target in (ours, f"timm:local-dir:{folder}"):
        run(monkeypatch, "evaluate", *verb, target, *given)
        results.append(json.loads(capsys.readouterr().out))
    file, name = results
    assert name["weights"] == f"timm:local-dir:{folder}" and name["image_size"] == file["image_size"] == 32
    assert name["results"]["raw pixels"] == file["results"]["raw pixels"]
    encoders = [result["results"]["encoder"]["top1"] for result in results]
    assert encoders[0] == pytest.approx(encoders[1], abs=1 / name["test_images"] + 1e-9)
    assert Path(name["file"]).is_file() and Path(name["file"]).parents[1] != Path(file["file"]).parents[1]
    assert all("image_size-32" in Path(result["file"]).name for result in results)


def test_images_are_embedded_by_a_network_by_name(
    tmp_path: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.squeezenet1_1(num_classes=3).state_dict(), tmp_path / "w.pth")
    target, file = f"torchvision:squeezenet1_1@{tmp_path / 'w.pth'}", tmp_path / "f.safetensors"
    run(monkeypatch, "embed", target, photos, "--image-size", 64, "--normalize", "none", "-o", file)
    found, header = load_file(file), read_header(file)
    assert header["encoder"] == target and len(json.loads(header["files"])) == len(found["features"]) == 48
    opened = open_target(target, tmp_path, image_size=64, normalize="none")
    expected, _ = features_of(opened.subject.encoder, open_folder(photos), opened.subject.law, device=CPU)
    assert torch.equal(found["features"], expected) and expected.std() > 0
    capsys.readouterr()
    run(monkeypatch, "embed", target, photos, "--image-size", 64, "-o", tmp_path / "g.safetensors")
    assert "--normalize none" in capsys.readouterr().err  # what was taken is said
    assert not torch.equal(load_file(tmp_path / "g.safetensors")["features"], expected)
    run(monkeypatch, "evaluate", "knn", target, "--data", photos, "--image-size", 64, "--runs", tmp_path / "runs")
    assert "--normalize none" in capsys.readouterr().err


def test_a_network_by_name_without_data_or_a_head_is_refused(tmp_path: Path, photos: Path, resnet18: nn.Module) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "w.pth")
    target = open_target(f"torchvision:resnet18@{tmp_path / 'w.pth'}", tmp_path, image_size=32)
    with pytest.raises(RecipeError, match=r"resnet18@.*does not say what it was trained on.*--data"):
        evaluate_target(target, "knn", evaluate_knn, {})
    with pytest.raises(RecipeError, match=r"resnet18@.*has no projection head"):
        evaluate_target(target, "knn", evaluate_knn, {}, on="z", data=str(photos))
    assert not list(tmp_path.glob("*/results"))
