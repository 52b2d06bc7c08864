"""Encoders in other projects: torchvision and timm load our files with their own loaders and give our features."""

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.cli import main
from simclr_plus.datasets import open_folder
from simclr_plus.encoders import ResNet
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.errors import CheckpointError, EnvironmentNotAbleError, RecipeError
from simclr_plus.features.embed import embed
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.export import export_encoder, export_timm, recipe_of
from simclr_plus.weights.tensor_files import read_header


def lived_in(depth: int) -> ResNet:
    """A network whose every weight and running statistic has a value of its own."""
    torch.manual_seed(0)
    encoder = ResNet(depth)
    for name, tensor in encoder.state_dict().items():
        if "running_var" in name or ("bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif tensor.is_floating_point() and tensor.ndim == 1:
            tensor.normal_(std=0.1)
    return encoder.eval()


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_our_file_gives_our_features_in_torchvision_and_timm(tmp_path: Path, depth: int) -> None:
    import timm
    import torchvision

    encoder, images = lived_in(depth), torch.rand(2, 3, 224, 224)
    file = tmp_path / "e.safetensors"
    save_encoder(encoder, file)
    tensors = load_file(file)

    theirs = torchvision.models.get_model(f"resnet{depth}")
    theirs.fc = torch.nn.Identity()
    theirs.load_state_dict(tensors)
    in_timm = timm.create_model(f"resnet{depth}", num_classes=0)
    in_timm.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        h = encoder(images)
        for model in (theirs, in_timm):
            assert torch.allclose(model.eval()(images), h, rtol=1e-4, atol=1e-4 * float(h.abs().max()))


def test_timm_is_told_how_an_imported_encoder_normalises(tmp_path: Path) -> None:
    import timm

    encoder, images = ResNet(18, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1)).eval(), torch.rand(1, 3, 64, 64)
    save_encoder(encoder, tmp_path / "e.safetensors", {"image_size": "64"})
    export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_data_config(model=model)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(model((images - mean) / std), encoder(images), rtol=1e-4, atol=1e-5)


def test_timm_opens_the_exported_folder_by_itself(tmp_path: Path) -> None:
    import timm

    encoder, images = lived_in(18), torch.rand(1, 3, 96, 96)
    save_encoder(encoder, tmp_path / "e.safetensors", {"recipe": "[augmentation]\nimage_size = 96"})
    export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    model = timm.create_model(f"local-dir:{tmp_path / 'timm'}", pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        assert torch.allclose(model(images), encoder(images), rtol=1e-4, atol=1e-4)
    config = timm.data.resolve_data_config(model=model)
    assert tuple(config["input_size"]) == (3, 96, 96) and config["crop_pct"] == 0.875
    assert tuple(config["mean"]) == (0, 0, 0) and tuple(config["std"]) == (1, 1, 1)


SMALL_SWIN = {"embed_dim": 32, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 4, 8]}


@pytest.mark.parametrize(
    ("name", "options", "size"),
    [
        ("test_vit", {}, 112),  # made for 160
        ("test_convnext", {"drop_path_rate": 0.1}, 72),
        pytest.param("test_vit", {"dynamic_img_size": True, "pos_drop_rate": 0.1}, 96, marks=pytest.mark.slow),
        pytest.param("test_vit", {"img_size": 64, "global_pool": "avg", "fc_norm": False}, 64, marks=pytest.mark.slow),
        pytest.param("test_efficientnet", {}, 72, marks=pytest.mark.slow),
        pytest.param("regnetx_002", {}, 72, marks=pytest.mark.slow),
        pytest.param("swin_tiny_patch4_window7_224", SMALL_SWIN, 96, marks=pytest.mark.slow),
        pytest.param("mobilenetv3_small_050", {}, 72, marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224.augreg_in21k", {"depth": 2}, 80, marks=pytest.mark.slow),
    ],
)
def test_a_network_of_timm_goes_back_to_timm_by_a_folder_and_by_its_names(
    tmp_path: Path, name: str, options: dict[str, Any], size: int
) -> None:
    import timm

    torch.manual_seed(0)
    encoder = ForeignEncoder(f"timm:{name}", options, size, mean=(0.5, 0.4, 0.3), std=(0.3, 0.2, 0.1))
    for key, tensor in encoder.network.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.normal_(std=0.1) if key.endswith(("bias", "running_mean")) else tensor.uniform_(0.5, 1.5)
    file, folder = tmp_path / "e.safetensors", tmp_path / "timm"
    save_encoder(encoder, file)
    export_timm(file, folder)
    opened = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    config = timm.data.resolve_data_config(model=opened)
    assert tuple(config["input_size"]) == (3, size, size)
    mean, std = (torch.tensor(config[key]).view(3, 1, 1) for key in ("mean", "std"))
    arguments = {"img_size": size} if encoder.fixed_size else {}
    plain = timm.create_model(name, num_classes=0, **arguments, **options).eval()
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():
        h = load_encoder(file)(images)
        torch.testing.assert_close(opened((images - mean) / std), h, rtol=1e-5, atol=1e-5)
        for weights in (file, folder / "model.safetensors"):
            plain.load_state_dict(load_file(weights), strict=True)
            torch.testing.assert_close(plain((images - mean) / std), h, rtol=1e-5, atol=1e-5)
    assert h.std() > 0 and read_header(file)["library"] == f"timm {timm.__version__}"


def test_weights_of_torchvisions_network_load_into_it_as_they_are(tmp_path: Path) -> None:
    from torchvision import models

    torch.manual_seed(0)
    encoder = ForeignEncoder("torchvision:mobilenet_v3_small", image_size=64).eval()
    save_encoder(encoder, tmp_path / "e.safetensors")
    tensors, images = load_file(tmp_path / "e.safetensors"), torch.rand(2, 3, 64, 64)
    whole = models.mobilenet_v3_small().eval()
    lacking = whole.load_state_dict(tensors, strict=False)
    assert lacking.missing_keys == ["classifier.3.weight", "classifier.3.bias"] and not lacking.unexpected_keys
    headless = models.mobilenet_v3_small().eval()
    headless.classifier[3] = torch.nn.Identity()
    headless.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        assert torch.equal(headless(images), encoder(images))
    with pytest.raises(RecipeError, match="no network of timm's"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


def test_what_is_done_to_images_before_timms_network_must_be_a_mean_and_a_deviation(tmp_path: Path) -> None:
    save_encoder(ForeignEncoder("timm:test_convnext", image_size=64, input="lightness"), tmp_path / "e.safetensors")
    with pytest.raises(RecipeError, match="lightness input"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


def test_a_folder_that_timm_would_open_with_other_features_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    create = timm.create_model
    save_encoder(ForeignEncoder("timm:test_convnext", image_size=64), tmp_path / "e.safetensors")
    without_weights = lambda *names, pretrained, **more: create(*names, **more)  # noqa: E731
    monkeypatch.setattr(timm, "create_model", without_weights)
    with pytest.raises(RecipeError, match="would not open again"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


def test_an_encoder_file_of_timms_network_says_what_it_lacks_without_timm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(ForeignEncoder("timm:test_convnext", image_size=64), tmp_path / "e.safetensors")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentNotAbleError, match=r"e\.safetensors.*timm \d.*pip install 'simclr-plus\[timm\]'"):
        load_encoder(tmp_path / "e.safetensors")


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (ResNet(18, 0.25), "width 0.25"),
        (ResNet(18, stem="cifar"), "the cifar stem"),
        (ResNet(18, flavor="reference"), "flavor reference"),
        (ResNet(200, 0.125), "depth 200"),
    ],
)
def test_a_network_that_timm_cannot_express_is_refused_with_the_reason(
    tmp_path: Path, network: ResNet, reason: str
) -> None:
    save_encoder(network, tmp_path / "e.safetensors")
    with pytest.raises(RecipeError, match=f"{reason}.*load_encoder"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    assert not (tmp_path / "timm").exists()


@pytest.mark.parametrize(
    "start",
    [
        '[training]\ninit_from = "{}/w.safetensors"',
        '[encoder]\nname = "timm:resnet18"\npretrained = "{}/w.safetensors"',
    ],
)
def test_an_anonymous_export_names_no_place_of_this_machine(tmp_path: Path, start: str) -> None:
    recipe = f'[data]\nname = "folder"\nroot = "{tmp_path}/photos"\n{start.format(tmp_path)}'
    if "[training]" not in recipe:
        recipe += "\n[training]"
    header = {"recipe": recipe + "\nepochs = 70", "data": f"folder {tmp_path}/photos"}
    save_encoder(ResNet(18), tmp_path / "e.safetensors", header)
    export_encoder(tmp_path / "e.safetensors", tmp_path / "as_it_is.safetensors")
    export_encoder(tmp_path / "e.safetensors", tmp_path / "a.safetensors", anonymous=True)
    export_timm(tmp_path / "e.safetensors", tmp_path / "timm", anonymous=True)
    assert str(tmp_path) in str(read_header(tmp_path / "as_it_is.safetensors"))
    for file in (tmp_path / "a.safetensors", tmp_path / "timm" / "model.safetensors"):
        assert str(tmp_path) not in str(read_header(file)) and recipe_of(file).training.epochs == 70
        assert "w.safetensors" in read_header(file)["recipe"]
    assert str(tmp_path) not in (tmp_path / "timm" / "config.json").read_text()


@pytest.mark.parametrize("verb", ["export", "import", "embed", "verify"])
def test_what_is_read_or_of_another_kind_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Whatever --output names: the source itself, also by a link, a photograph, a folder."""
    torch.manual_seed(0)
    source, photo = tmp_path / "e.safetensors", tmp_path / "photos" / "a.png"
    encoder = ResNet(18, 1 / 8, stem="cifar")
    if verb == "import":
        save_file({f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}, source)
    else:
        save_encoder(encoder, source, {"image_size": "16"})
    photo.parent.mkdir()
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(photo)
    (tmp_path / "link").symlink_to(source)
    before = {file: file.read_bytes() for file in (source, photo)}
    between = {"embed": [str(photo.parent)], "verify": [str(photo.parent)]}.get(verb, [])
    outputs = [source, tmp_path / "link", *([photo, photo.parent] if verb != "verify" else [])]
    for output in outputs:
        monkeypatch.setattr("sys.argv", ["simclr-plus", verb, str(source), *between, "--output", str(output)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 2, output
    assert {file: file.read_bytes() for file in (source, photo)} == before


def test_features_name_their_images_and_those_left_out_whatever_their_names_are(tmp_path: Path) -> None:
    weights = tmp_path / "e.safetensors"
    save_encoder(ResNet(18, 1 / 8, stem="cifar"), weights)
    odd = os.fsdecode(b"caf\xe9")
    for name in (f"{odd}/1.png", f"{odd}/broken.png", "dog/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(tmp_path / "set" / name)
    (tmp_path / "set" / odd / "broken.png").write_bytes(b"no image")
    images = replace(open_folder(tmp_path / "set"), skip_bad=True)
    file = tmp_path / "new" / "folder" / "f.safetensors"
    law = simclr_law(16, blur_prob=0.0)
    features = embed(
        load_encoder(weights), images, tmp_path / "set", file, weights=str(weights), law=law, device=torch.device("cpu")
    )
    header = read_header(file)
    assert sorted(json.loads(header["files"])) == sorted([f"{odd}/1.png", "dog/2.png"])
    assert json.loads(header["left_out"]) == [f"{odd}/broken.png"]
    assert sorted(json.loads(header["classes"])) == sorted([odd, "dog"])
    assert torch.equal(load_file(file)["features"], features) and len(features) == 2


def test_a_name_that_is_no_utf8_is_written_and_printed_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(ResNet(18, 1 / 8, stem="cifar"), tmp_path / "e.safetensors")
    printed, target = io.BytesIO(), os.fsencode(tmp_path) + b"/caf\xe9.safetensors"
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, "utf-8", write_through=True))
    monkeypatch.setattr(
        "sys.argv", ["simclr-plus", "export", str(tmp_path / "e.safetensors"), "-o", os.fsdecode(target)]
    )
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code and printed.getvalue() == target + b"\n"
    with open(target, "rb") as file:  # noqa: PTH123 (bytes)
        assert file.read() == (tmp_path / "e.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="UTF-8"):
        load_encoder(os.fsdecode(target))  # safetensors opens no such name


@pytest.mark.soak
def test_one_real_step_of_the_widest_recipe_runs_and_its_encoder_reloads(tmp_path: Path) -> None:
    """r50_4x as shipped but for the size of batch, data and image: 375 M parameters, one training step, an export."""
    from simclr_plus.recipe import load_recipe
    from simclr_plus.runs.folder import create_run
    from simclr_plus.training.trainer import train

    overrides = ["data.name=embedded", "data.limit=4", "training.batch_size=4", "training.epochs=0.5"]
    overrides += ["training.warmup_epochs=0", "augmentation.image_size=64", "checkpoints.every_epochs=100"]
    run = create_run(load_recipe("r50_4x", overrides), tmp_path, "wide")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(run, quiet=True) == "finished"
    assert run.metrics()[-1]["step"] == 1 and run.metrics()[-1]["loss"] > 0
    encoder = load_encoder(run.path / "encoder.safetensors")
    assert sum(p.numel() for p in encoder.parameters()) == 375_378_176
    with torch.no_grad():
        h = encoder(torch.rand(1, 3, 64, 64))
    assert h.shape == (1, 8192) and torch.isfinite(h).all()
    run.latest_checkpoint().unlink()
