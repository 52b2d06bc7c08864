"""Are the images gray? For methods that learn from color, and for those that make images."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets.images import Images
from simclr_plus.errors import UnreadableImageError

LOOKED_AT = 256
NOISE = 8  # of 255, by which channels of a gray JPEG may differ


def is_gray(image: NDArray[np.uint8]) -> bool:
    """Whether red, green and blue of each pixel [H, W, 3] differ by no more than the noise of a JPEG."""
    wide = image.astype(np.int16)
    return bool(np.abs(wide[..., :2] - wide[..., 1:]).max() <= NOISE)


def count_gray(images: Images, count: int = LOOKED_AT) -> tuple[int, int]:
    """How many of at most `count` images, evenly spread, are gray, and how many were looked at.

    Images that cannot be read and are to be skipped are not counted; others raise UnreadableImageError.
    """
    count = min(count, len(images))
    seen = []
    for place in range(count):
        try:
            seen.append(is_gray(images.read(place * len(images) // count)))
        except UnreadableImageError:
            if not images.skip_bad:
                raise
    return sum(seen), len(seen)
