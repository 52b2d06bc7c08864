"""Rotation prediction's parts: images turned by right angles, and a linear classifier of the angle.

Gidaris, Singh, Komodakis, ICLR 2018; gidariss/FeatureLearningRotNet `edafaba` and google/revisiting-self-supervised
`b530e3b` turn alike, pixel for pixel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def turned(images: Tensor, angles: Sequence[int] = (0, 90, 180, 270)) -> Tensor:
    """[B, C, S, S] -> [B K, C, S, S]: each image by each of K angles, counter-clockwise, its rows side by side.

    An order of pixels: it leaves no trace at the edges. Flip before turning, never after: the mirror of an image turned
    by 90 degrees is its mirror turned by 270. Raises ValueError for images that are not square.
    """
    if images.shape[-1] != images.shape[-2]:
        raise ValueError(f"images of {images.shape[-2]}x{images.shape[-1]} pixels are not square: crop them first")
    return torch.stack([torch.rot90(images, angle // 90, (2, 3)) for angle in angles], dim=1).flatten(0, 1)


class RotationHead(nn.Linear):
    """h [R, F] -> logits of the K angles [R, K]; weights from N(0, 0.01), no offset at the start."""

    def __init__(self, feature_dim: int, angles: int = 4) -> None:
        super().__init__(feature_dim, angles)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)
