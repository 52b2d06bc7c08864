"""AutoAugment's policy for ImageNet (Cubuk et al. 2019, Table 9 of its appendix), with torchvision's operations.

Two operations follow each other; each is done to all images at once that it happens to with the same strength.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

LEVELS = 10  # magnitudes are numbers from 0 to 9

# of each image one line: two operations, their probabilities and magnitudes
POLICY = (
    (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
    (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
    (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
    (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
    (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
    (("rotate", 0.8, 8), ("color", 0.4, 0)),
    (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
    (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("rotate", 0.8, 8), ("color", 1.0, 2)),
    (("color", 0.8, 8), ("solarize", 0.8, 7)),
    (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
    (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
    (("color", 0.4, 0), ("equalize", 0.6, 0)),
    (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
    (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
    (("invert", 0.6, 0), ("equalize", 1.0, 0)),
    (("color", 0.6, 4), ("contrast", 1.0, 8)),
    (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
)


def auto_augment(images: Tensor, words: NDArray[np.uint32]) -> Tensor:
    """Images uint8 [n, 3, H, W] and five words each (the line, two gates, two signs) -> the same size and type."""
    images = images.clone()
    lines = (words[:, 0].astype(np.uint64) * np.uint64(len(POLICY)) >> np.uint64(32)).tolist()
    for place in (0, 1):
        alike: dict[tuple[str, float], list[int]] = {}
        gates, negative = words[:, 1 + place] / 2**32, words[:, 3 + place] < 2**31
        for image, line in enumerate(lines):
            name, probability, magnitude = POLICY[line][place]
            if gates[image] < probability:
                alike.setdefault((name, strength(name, magnitude, bool(negative[image]))), []).append(image)
        for (name, amount), at in alike.items():
            where = torch.tensor(at, device=images.device)
            images[where] = _OPERATIONS[name](images[where], amount)
    return images


def strength(name: str, magnitude: int, negative: bool) -> float:
    """What a magnitude means: degrees, a tangent, a change of a factor, bits, a threshold; 0 where it means nothing."""
    if name == "posterize":
        return 8 - round(magnitude * 4 / (LEVELS - 1))
    if name == "solarize":
        return 255 * _level(1.0, 0.0, magnitude)
    largest = {"rotate": 30.0, "shear_x": 0.3, "color": 0.9, "contrast": 0.9, "sharpness": 0.9}.get(name, 0.0)
    return _level(0.0, largest, magnitude) * (-1 if negative else 1)


def _level(first: float, last: float, magnitude: int) -> float:
    return float(torch.linspace(first, last, LEVELS)[magnitude])


def _shear_x(images: Tensor, tangent: float) -> Tensor:
    degrees = math.degrees(math.atan(tangent))
    sheared: Tensor = functional.affine(images, angle=0, translate=[0, 0], scale=1, shear=[degrees, 0], center=[0, 0])
    return sheared


_OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "rotate": functional.rotate,
    "shear_x": _shear_x,
    "color": lambda x, change: functional.adjust_saturation(x, 1 + change),
    "contrast": lambda x, change: functional.adjust_contrast(x, 1 + change),
    "sharpness": lambda x, change: functional.adjust_sharpness(x, 1 + change),
    "posterize": lambda x, bits: functional.posterize(x, int(bits)),
    "solarize": functional.solarize,
    "autocontrast": lambda x, _: functional.autocontrast(x),
    "equalize": lambda x, _: functional.equalize(x),
    "invert": lambda x, _: functional.invert(x),
}
