"""What CPC does to each patch by itself, so that no patch is told from its neighbours by edges, color or place.

[B, P, 3, s, s]: images, patches of each, side. Draws are functions of seed, image, epoch and patch; one tensor
operation serves all patches of a batch.

v1 (van den Oord et al. 2018, 3.2): a smaller square of the patch, padded back. v2 (Henaff et al. 2019, appendix) names
two operations of AutoAugment, elastic deformation, shear, and colors as in Szegedy et al. 2014, without all numbers:
here it is one turn, shear or shift, then colors, then gray.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from simclr_plus.augmentations.operations import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    to_grayscale,
)
from simclr_plus.augmentations.streams import Stream, uniforms, whole_numbers

PIXELS_AT_ONCE = 1 << 23  # bounds what temporaries take
MOVED, COLORED, GRAY = 0.5, 0.8, 0.25  # shares of the patches
DEGREES, SHEAR, SHIFT = 30.0, 0.3, 1 / 3  # at the most, both ways; the shift in sides of a patch
STRENGTH, HUE = 0.4, 0.1  # of colors
_NUMBERS = 10  # drawn for a patch


def inner_squares(patches: Tensor, *, seed: int, indices: ArrayLike | Tensor, epochs: ArrayLike | Tensor) -> Tensor:
    """[B, P, 3, s, s] -> the same shape: of each patch a square of s - max(1, s // 16) at a random place, zeros around.

    60 of 64 pixels in the paper. The square lies in the middle; where the rest is odd, zeros below and right are more.
    """
    count, side = patches.shape[1], patches.shape[-1]
    spare = max(1, side // 16)
    drawn = whole_numbers(seed, Stream.PATCHES, indices, epochs, 2 * count, below=spare + 1)
    start = drawn.view(-1, count, 2).to(patches.device, non_blocking=True)
    padding = spare // 2
    inside = torch.arange(side, device=patches.device) - padding  # place in the square, of each place in the patch
    is_inside = (inside >= 0) & (inside < side - spare)
    source = (start[..., None] + inside.clamp(0, side - spare - 1))[:, :, :, None]  # [B, P, 2, 1, s]
    rows = source[:, :, 0].transpose(2, 3)[:, :, None].expand(-1, -1, patches.shape[2], -1, side)
    columns = source[:, :, 1][:, :, None].expand(-1, -1, patches.shape[2], side, -1)
    moved = patches.gather(3, rows).gather(4, columns)
    return moved * (is_inside[:, None] & is_inside)


def distorted(patches: Tensor, *, seed: int, indices: ArrayLike | Tensor, epochs: ArrayLike | Tensor) -> Tensor:
    """[B, P, 3, s, s] in [0, 1] -> the same shape: each patch moved (p 0.5), its colors changed (p 0.8), gray (p 0.25).

    Moved: one of a turn of up to 30 degrees, a shear of up to 0.3 and a shift of up to a third of the side, the latter
    two along one axis; zeros come in. Colors: brightness, contrast and saturation by 0.6 to 1.4, hue by up to 0.1.
    """
    count = patches.shape[1]
    drawn = uniforms(seed, Stream.PATCH_OPERATIONS, indices, epochs, _NUMBERS * count)
    drawn = drawn.view(-1, _NUMBERS).to(patches.device, patches.dtype, non_blocking=True)
    flat = patches.flatten(0, 1)
    at_once = max(1, PIXELS_AT_ONCE // flat[0].numel())
    parts = [
        _distorted(flat[start : start + at_once], drawn[start : start + at_once])
        for start in range(0, len(flat), at_once)
    ]
    return torch.cat(parts).view(patches.shape)


def _distorted(patches: Tensor, drawn: Tensor) -> Tensor:
    """[R, 3, s, s] and [R, 10] draws in [0, 1)."""
    is_moved, kind, amount, axis, is_colored, *factors, hue, is_gray = drawn.split(1, dim=1)  # type: ignore[no-untyped-call]
    grid = F.affine_grid(_matrices(kind[:, 0], 2 * amount[:, 0] - 1, axis[:, 0] < 0.5), list(patches.shape), False)
    moved = F.grid_sample(patches, grid.to(patches.dtype), padding_mode="zeros", align_corners=False)
    x = torch.where(_gate(is_moved < MOVED), moved, patches)
    colored = x
    changes = (adjust_brightness, adjust_contrast, adjust_saturation)
    for change, factor in zip(changes, factors, strict=True):
        colored = change(colored, 1 + STRENGTH * (2 * factor - 1)).clamp(0, 1)
    colored = adjust_hue(colored, HUE * (2 * hue - 1)).clamp(0, 1)
    x = torch.where(_gate(is_colored < COLORED), colored, x)
    return torch.where(_gate(is_gray < GRAY), to_grayscale(x), x)


def _matrices(kind: Tensor, amount: Tensor, is_first_axis: Tensor) -> Tensor:
    """[R, 2, 3]: where a place comes from, for places from -1 to 1; kind and amount [R] in [0, 1) and [-1, 1)."""
    turns, shears = kind < 1 / 3, (kind >= 1 / 3) & (kind < 2 / 3)
    angle = torch.where(turns, amount * math.radians(DEGREES), 0)
    shear = torch.where(shears, amount * SHEAR, 0)
    shift = torch.where(turns | shears, 0, amount * 2 * SHIFT)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    along_x = [torch.where(is_first_axis, value, 0) for value in (shear, shift)]
    along_y = [torch.where(is_first_axis, 0, value) for value in (shear, shift)]
    first = torch.stack([cosine, along_x[0] - sine, along_x[1]], dim=1)
    second = torch.stack([along_y[0] + sine, cosine, along_y[1]], dim=1)
    return torch.stack([first, second], dim=1)


def _gate(which: Tensor) -> Tensor:
    """[R, 1] -> [R, 1, 1, 1]."""
    return which[:, :, None, None]
