"""What encoders do to images first, networks without batch norm, and features that are means over patches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from torch import nn

from simclr_plus.color_spaces import lab
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.build import build
from simclr_plus.encoders.input_law import standardized
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.evaluators.foreign_encoders import foreign_network
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.export import export_timm

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "pretext_patches.npz")


@pytest.mark.parametrize(("number", "tolerance"), [(0, 3e-6), (1, 3e-6), (2, 1e-5), (3, 3e-6)])
def test_standardized_images_are_tensorflows(number: int, tolerance: float) -> None:
    """Random values, a constant image, and one whose deviation is below the floor, of 0 to 255; values of [0, 1]."""
    image = torch.from_numpy(GOLDEN[f"standardize_in{number}"]).double().permute(2, 0, 1)[None]
    image = image if number == 3 else image / 255  # far above the floor the scale cancels
    expected = torch.from_numpy(GOLDEN[f"standardize_out{number}"]).double().permute(2, 0, 1)
    assert torch.allclose(standardized(image)[0], expected, rtol=0, atol=tolerance)


def test_a_standardized_image_forgets_brightness_and_contrast_and_a_constant_one_is_zero() -> None:
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    assert torch.allclose(standardized(0.3 * image + 0.2), standardized(image), atol=1e-12)
    assert torch.equal(standardized(torch.full((1, 3, 8, 8), 0.25)), torch.zeros(1, 3, 8, 8))


def test_a_network_of_lightness_does_not_see_color() -> None:
    torch.manual_seed(0)
    network = ResNet(18, 0.125, stem="cifar", input="lightness").double().eval()
    rgb = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    light = lab(rgb)[:, :1]
    gray = (light + 16) / 116  # a gray image of the same L: its Y, and the gamma of sRGB
    linear = torch.where(light > 8, gray**3, light / 903.2963)
    gray = torch.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear).expand(-1, 3, -1, -1)
    assert torch.allclose(network(gray), network(rgb), atol=1e-5) and not torch.allclose(gray, rgb, atol=0.1)


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("depth", [18, 50])
def test_without_batch_norm_an_image_is_alone_and_the_numbers_count(norm: str, depth: int) -> None:
    torch.manual_seed(0)
    network = ResNet(depth, 0.125, stem="cifar", norm=norm).double()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert sum(p.numel() for p in network.parameters()) == network.architecture.parameter_count()
    nn.init.constant_(network.layer4[0].bn2.weight if depth == 18 else network.layer4[0].bn3.weight, 0.5)
    images = torch.rand(3, 3, 16, 16, dtype=torch.float64)
    assert torch.allclose(network(images)[:1], network(images[:1]), atol=1e-12)
    network(images).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert len(network.exempt) == (0 if norm == "layer" else sum((2, 2, 2, 2) if depth == 18 else (3, 4, 6, 3)))


def test_features_are_the_mean_over_patches(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(ResNet(18, 0.125, stem="cifar", norm="layer", mean=(0.5,) * 3, std=(0.5,) * 3), 8, 4).eval()
    images = torch.rand(2, 3, 16, 20)
    grid = encoder.grid(images)
    assert grid.shape == (2, 3, 4, encoder.feature_dim)
    assert torch.allclose(grid[1, 2, 3], encoder.encoder(images[1:, :, 8:16, 12:20])[0], atol=1e-5)
    assert torch.allclose(encoder(images), grid.flatten(1, 2).mean(1))
    save_encoder(encoder, tmp_path / "e.safetensors")
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(loaded(images), encoder(images)) and loaded.spec == encoder.spec
    with pytest.raises(ValueError, match="6x20 pixels hold no patch of 8"):
        encoder(images[:, :, :6])
    with pytest.raises(RecipeError, match="no folder for timm"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")


@pytest.mark.parametrize(
    "changes", [{"input": "standardized"}, {"input": "lightness"}, {"norm": "layer"}, {"norm": "none"}]
)
def test_what_a_network_does_first_travels_with_its_file(tmp_path: Path, changes: dict[str, str]) -> None:
    torch.manual_seed(0)
    encoder, images = ResNet(18, 1, **changes).eval(), torch.rand(2, 3, 32, 32)
    save_encoder(encoder, tmp_path / "e.safetensors")
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(loaded(images), encoder(images)) and loaded.spec | changes == loaded.spec
    with pytest.raises(RecipeError, match=f"{next(iter(changes.values()))} input|layer norm|no norm"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    with pytest.raises(CheckpointError, match="no network of torchvision's"):
        foreign_network(f"torchvision:resnet18@{tmp_path / 'e.safetensors'}")


def test_a_plain_network_is_described_as_before() -> None:
    """So that earlier versions read its file, and what is kept under its digest stays."""
    assert Architecture(18).as_dict().keys().isdisjoint({"input", "norm", "in_channels"})
    part = build(Architecture(18, 0.125, in_channels=2).as_dict()).eval()
    assert part(torch.rand(1, 2, 32, 32)).shape == (1, 64)
    with pytest.raises(ValueError, match=r"in_channels = 2: only RGB"):
        Architecture(18, in_channels=2, input="lightness")
    with pytest.raises(ValueError, match=r"norm = 'group' is unknown; use one of batch, layer, none"):
        Architecture(18, norm="group")
