"""What can be told in closed form of methods that compare with a memory of every image. No torch."""

from __future__ import annotations

import math


def chance_loss(loss: str, negatives: int, images: int) -> float | None:
    """Of equal scores: of one among 1 + K, or with K = 0 among all images; None where their number is not known."""
    if loss == "nce":
        return math.log(1 + negatives) + negatives * math.log(1 + 1 / negatives)
    candidates = 1 + negatives if negatives else images
    return math.log(candidates) if candidates else None


def chance_accuracy(negatives: int, images: int) -> float | None:
    """The share of images that are nearest to their own row where rows tell nothing; None as above."""
    candidates = 1 + negatives if negatives else images
    return 1 / candidates if candidates else None


def bank_bytes(images: int, dim: int) -> int:
    """A row in float32 for each image."""
    return 4 * images * dim


def loss_title(loss: str, negatives: int) -> str:
    """What is minimised, for people."""
    if loss == "nce":
        return f"noise-contrastive estimation against {negatives:,} images"
    return f"cross entropy of the image among {f'{1 + negatives:,}' if negatives else 'all'}"
