"""The pair of networks of CMC: what each sees, what h is of, and that RGB in [0, 1] is all that anyone feeds it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from safetensors import safe_open

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.color_spaces import lab
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.build import build
from simclr_plus.encoders.digest import encoder_digest
from simclr_plus.encoders.lab_pair import LabPair
from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.evaluators.foreign_encoders import foreign_network
from simclr_plus.features.extraction import features_of
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.export import export_timm

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_lab.npz")


def pair(**changes: object) -> LabPair:
    torch.manual_seed(0)
    return LabPair(**({"depth": 18, "width": 0.125, "stem": "cifar"} | changes)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("images", ["rgb_uint8", "rgb_float"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-6)])
def test_what_the_networks_see_is_scaled_as_by_the_authors(images: str, dtype: torch.dtype, tolerance: float) -> None:
    array = GOLDEN[images]
    rgb = torch.from_numpy(array / 255.0 if array.dtype == np.uint8 else array).to(dtype).permute(2, 0, 1)[None]
    seen = torch.cat(pair().channels(rgb), dim=1)[0]
    assert torch.allclose(seen.double(), torch.from_numpy(GOLDEN[f"{images}/lab_normalized"]), rtol=0, atol=tolerance)
    mean, std = (torch.from_numpy(GOLDEN[f"ydbdr_{name}"]) for name in ("mean", "std"))
    expected = ((torch.from_numpy(GOLDEN[f"{images}/ydbdr"]) - mean) / std).permute(2, 0, 1)
    seen = torch.cat(pair(color_space="ydbdr").channels(rgb), dim=1)[0]
    assert torch.allclose(seen.double(), expected, rtol=0, atol=tolerance)


def test_h_is_that_of_both_networks_fed_by_hand_and_the_mean_of_the_last_maps() -> None:
    encoder, images = pair(), torch.rand(2, 3, 16, 16)
    light, colors = encoder.channels(images)
    h = encoder(images)
    assert light.shape == (2, 1, 16, 16) and colors.shape == (2, 2, 16, 16) and h.shape == (2, encoder.feature_dim)
    assert torch.equal(h, torch.cat([encoder.lightness(light), encoder.colors(colors)], dim=1))
    assert torch.allclose(encoder.maps(images)["layer4"].mean(dim=(2, 3)), h, atol=1e-6)
    assert encoder.feature_dim == 128 and torch.equal(torch.cat(encoder.halves(h), dim=1), h)


def test_colors_say_nothing_to_the_network_of_lightness() -> None:
    encoder, images = pair(width=0.25), torch.rand(2, 3, 16, 16)
    light, colors = encoder.channels(images)
    encoder.channels = lambda _: (light, colors.flip(0))  # type: ignore[method-assign]
    other = encoder(images)
    del encoder.channels
    h = encoder(images)
    assert torch.equal(encoder.halves(h)[0], encoder.halves(other)[0])
    assert not torch.equal(encoder.halves(h)[1], encoder.halves(other)[1])


def test_a_gray_image_has_next_to_no_color_and_what_a_resize_leaves_outside_is_cut() -> None:
    encoder = pair()
    gray = torch.rand(1, 1, 8, 8).expand(-1, 3, -1, -1)
    middle = torch.tensor([-6.025 / 92.208, 6.6895 / 101.1675])[:, None, None]
    assert float((encoder.channels(gray)[1][0] - middle).abs().max()) < 1e-3
    beyond = torch.rand(1, 3, 8, 8) * 3 - 1
    assert torch.isfinite(encoder(beyond)).all() and torch.equal(encoder(beyond), encoder(beyond.clamp(0, 1)))
    beyond.requires_grad_()
    encoder(beyond).sum().backward()
    assert beyond.grad is not None and torch.isfinite(beyond.grad).all()


@pytest.mark.parametrize("changes", [{}, {"color_space": "ydbdr"}, {"norm": "layer"}, {"depth": 50, "width": 0.0625}])
def test_its_file_rebuilds_it(tmp_path: Path, changes: dict[str, object]) -> None:
    encoder, images = pair(**changes), torch.rand(2, 3, 16, 16)
    save_encoder(encoder, tmp_path / "e.safetensors")
    loaded = load_encoder(tmp_path / "e.safetensors")
    assert torch.equal(loaded(images), encoder(images)) and loaded.spec == encoder.spec == build(loaded.spec).spec
    assert encoder_digest(loaded) == encoder_digest(encoder)
    with safe_open(tmp_path / "e.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["architecture"])["family"] == "lab_pair"
        assert file.metadata()["feature_dim"] == str(encoder.feature_dim)
    assert "twice" in loaded.title and loaded.normalizes


def test_the_color_space_counts_in_the_digest() -> None:
    other = pair(color_space="ydbdr")
    other.load_state_dict(pair().state_dict())
    assert encoder_digest(other) != encoder_digest(pair())


def test_evaluators_feed_it_rgb() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    law = simclr_law(16, evaluation_crop=1.0)
    h, _ = features_of(pair(), Images("any", pixels), law, device=torch.device("cpu"))
    expected = pair()(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)
    assert torch.allclose(torch.as_tensor(h), expected, atol=1e-5)
    assert not torch.equal(lab(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255), expected)


def test_it_goes_to_no_program_that_would_feed_it_otherwise(tmp_path: Path) -> None:
    save_encoder(pair(depth=50, width=0.0625, stem="imagenet"), tmp_path / "e.safetensors")
    with pytest.raises(RecipeError, match=r"no folder for timm .* twice"):
        export_timm(tmp_path / "e.safetensors", tmp_path / "timm")
    with pytest.raises(CheckpointError, match=r"no network of torchvision's"):
        foreign_network(f"torchvision:resnet50@{tmp_path / 'e.safetensors'}")


def test_what_it_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match=r"color_space = 'hsv' is unknown; use one of lab, ydbdr"):
        LabPair(color_space="hsv")
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\]"):
        pair()(torch.rand(1, 1, 16, 16))
