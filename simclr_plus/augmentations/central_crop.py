"""How an image is shown to an evaluated encoder: the middle of it, resized, without anything random."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_plus.augmentations.draws import COLUMNS, HEIGHT, LEFT, TOP, WIDTH
from simclr_plus.augmentations.law import ViewLaw

SMALL = 32  # images up to this size are shown whole


def central_crop_box(height: int, width: int, size: int, crop: float = 0.875) -> tuple[int, int, int, int]:
    """Top, left, height, width of what is shown at `size` pixels: a square, `crop` of the shorter side.

    Of images of at most 32 pixels shown at at most 32 nothing is cut but what makes them square: the authors show
    CIFAR's as they are (preprocess_for_eval).
    """
    share = np.float32(1 if max(height, width, size) <= SMALL else crop)
    side = int(np.rint(share * np.float32(min(height, width))))
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def whole_parameters(height: int, width: int, law: ViewLaw) -> NDArray[np.float32]:
    """The view parameters [1, 16] of the whole image, which becomes a square whatever its aspect."""
    row = np.zeros((1, COLUMNS), dtype=np.float32)
    row[0, [HEIGHT, WIDTH]] = height, width
    return row


def central_parameters(height: int, width: int, law: ViewLaw) -> NDArray[np.float32]:
    """The view parameters [1, 16] of the central crop."""
    row = np.zeros((1, COLUMNS), dtype=np.float32)
    row[0, [TOP, LEFT, HEIGHT, WIDTH]] = central_crop_box(height, width, law.size, law.evaluation_crop)
    return row
