"""Encoders in other projects: torchvision and timm load our files with their own loaders and give our features."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simclr_plus.checkpoints import load_encoder, save_encoder
from simclr_plus.encoders import ResNet
from simclr_plus.errors import RecipeError
from simclr_plus.export import export_timm


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


@pytest.mark.parametrize("depth", [18, 50])
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


@pytest.mark.slow
def test_one_real_step_of_the_widest_recipe_runs_and_its_encoder_reloads(tmp_path: Path) -> None:
    """r50_4x as shipped but for the size of batch, data and image: 375 M parameters, one training step, an export."""
    from simclr_plus.recipe import load_recipe
    from simclr_plus.runs import create_run
    from simclr_plus.trainer import train

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
