"""CIELAB and YDbDr against scikit-image's numbers, at their edges, and inside the colors that screens have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER

from simclr_plus.color_spaces import lab, lightness, ydbdr

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_lab.npz")


@pytest.mark.parametrize("images", ["rgb_uint8", "rgb_float"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_colors_are_those_of_scikit_image(images: str, dtype: torch.dtype, tolerance: float) -> None:
    array = GOLDEN[images]
    rgb = torch.from_numpy(array / 255.0 if array.dtype == np.uint8 else array).to(dtype).permute(2, 0, 1)[None]
    for function, name in ((lab, "lab"), (ydbdr, "ydbdr")):
        expected = torch.from_numpy(GOLDEN[f"{images}/{name}"]).permute(2, 0, 1)
        assert torch.allclose(function(rgb)[0].double(), expected, rtol=0, atol=tolerance), name
    expected = torch.from_numpy(GOLDEN[f"{images}/lab"])[..., 0] / 100
    assert torch.allclose(lightness(rgb)[0, 0].double(), expected, rtol=0, atol=tolerance / 100)


def test_black_white_and_values_outside_have_finite_colors_and_gradients() -> None:
    rgb = torch.tensor([0.0, 1.0, -0.3, 1.4]).view(4, 1, 1, 1).expand(4, 3, 1, 1).clone().requires_grad_()
    colors = lab(rgb)
    assert colors[0].abs().max() < 1e-4 and torch.allclose(colors[1].flatten(), torch.tensor([100.0, 0, 0]), atol=0.02)
    colors.sum().backward()
    assert rgb.grad is not None and torch.isfinite(colors).all() and torch.isfinite(rgb.grad).all()


def test_colors_are_computed_in_full_within_autocast_and_only_of_images() -> None:
    rgb = torch.rand(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (
            torch.equal(lab(rgb.bfloat16()), lab(rgb.bfloat16().float())) and lab(rgb.bfloat16()).dtype == torch.float32
        )
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \(2, 1, 4, 4\)"):
        lab(rgb[:, :1])
