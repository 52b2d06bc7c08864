"""What can be told in closed form of methods that compare with a memory of every image. No torch."""

from __future__ import annotations

import math

FEW = 20_000  # images, of which noise-contrastive estimation learns late


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


def problem_of_nce(key: str, loss: str, negatives: int) -> str:
    """Noise-contrastive estimation needs noise; "" where there is some. key: that of [method] which names the loss."""
    if loss != "nce" or negatives:
        return ""
    return (
        f'method.negatives = 0 with method.{key} = "nce": there is nothing to tell an image from; use 1 or more, or '
        f'method.{key} = "{_cross_entropy(key)}", which compares with all images'
    )


def note_on_few_images(key: str, loss: str, images: int) -> str:
    """Where noise-contrastive estimation has too few images to learn soon; "" elsewhere. key: as above."""
    if loss != "nce" or images >= FEW:
        return ""
    return (
        f'method.{key} = "nce" with {images:,} images: its constant is found on a memory of noise, and few images or '
        f'epochs are over before that is forgotten; method.{key} = "{_cross_entropy(key)}" with method.negatives = 0 '
        "and method.temperature = 0.1 learns sooner"
    )


def _cross_entropy(key: str) -> str:
    """What the section calls cross entropy among rows of the memory."""
    return "softmax" if key == "loss" else "infonce"


def loss_title(loss: str, negatives: int) -> str:
    """What is minimised, for people."""
    if loss == "nce":
        return f"noise-contrastive estimation against {negatives:,} images"
    return f"cross entropy of the image among {f'{1 + negatives:,}' if negatives else 'all'}"
