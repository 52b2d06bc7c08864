"""Patches of a grid: a crop of the image, its cells row by row, in each a patch at an offset of its own.

B images, M patches of each, side s. Offsets are functions of counters (augmentations/streams.py), independent for each
patch and axis. The law is that of google/revisiting-self-supervised at b530e3b (patch_utils.py, preprocess.py).
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from simclr_plus.augmentations.streams import Stream, uniforms, words
from simclr_plus.parts.patch_grid import PatchGrid


def random_patches(
    images: Tensor,
    grid: PatchGrid,
    gray_prob: float = 0.66,
    *,
    seed: int,
    indices: ArrayLike | Tensor,
    epochs: ArrayLike | Tensor,
) -> Tensor:
    """[B, C, H, W] -> [B, M, C, s, s]: a crop of each image anywhere, its patches by random offsets, some images gray.

    All patches of an image are gray or none. indices and epochs, numbers or [B], are the counters of the draws: the
    same numbers give the same patches. Raises ValueError for images that are smaller than the crop.
    """
    _check_images(images, grid)
    spare = torch.tensor([images.shape[-2] - grid.crop, images.shape[-1] - grid.crop])
    drawn = words(seed, Stream.PATCHES, indices, epochs, 2 + 2 * grid.count)
    corners = drawn[:, :2] * (spare + 1) >> 32
    offsets = drawn[:, 2:].reshape(-1, grid.count, 2) * (grid.jitter + 1) >> 32
    gray = uniforms(seed, Stream.GRAY, indices, epochs, 1)[:, 0] < gray_prob
    return grayed(cut(images, grid, corners, offsets), gray.to(images.device, non_blocking=True))


def central_patches(images: Tensor, grid: PatchGrid) -> Tensor:
    """[B, C, H, W] -> [B, M, C, s, s]: the central crop, the middle of each cell, without draws.

    Kolesnikov's evaluation shows them to f and takes the mean of their h; no evaluator here does.
    """
    _check_images(images, grid)
    corner = torch.tensor([(images.shape[-2] - grid.crop) // 2, (images.shape[-1] - grid.crop) // 2])
    middle = torch.full((len(images), grid.count, 2), grid.jitter // 2)
    return cut(images, grid, corner.expand(len(images), 2), middle)


def cut(images: Tensor, grid: PatchGrid, corners: Tensor, offsets: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, M, C, s, s], row by row, from crops at corners [B, 2], offsets [B, M, 2] in cells: y, x."""
    lines = torch.arange(grid.grid) * grid.cell
    cells = torch.cartesian_prod(lines, lines).view(grid.count, 2)
    first = (corners[:, None] + cells + offsets).to(images.device, non_blocking=True)
    places = first[..., None] + torch.arange(grid.side, device=images.device)  # [B, M, 2, s]
    ys, xs = places[:, :, 0, :, None], places[:, :, 1, None, :]
    rows = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[rows, ys, xs].movedim(-1, -3)


def grayed(images: Tensor, which: Tensor) -> Tensor:
    """Images [B, ..., C, H, W], those of which [B] with the mean of their channels in each (not luma)."""
    chosen = which.view(-1, *[1] * (images.ndim - 1))
    return torch.where(chosen, images.mean(dim=-3, keepdim=True), images)


def _check_images(images: Tensor, grid: PatchGrid) -> None:
    if images.ndim != 4 or min(images.shape[-2:]) < grid.crop:
        raise ValueError(
            f"patches are cut from a crop of {grid.crop} pixels, images are {tuple(images.shape)}: give [B, C, H, W] "
            "of that side or more, or a smaller crop"
        )
