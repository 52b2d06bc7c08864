"""What a device does with crops: colour distortion, gray and blur of a whole batch, each image by its own draw.

Plain tensor operations without a loop over images, without a branch on a device's values and with fixed shapes, so
that the host never waits and `torch.compile` can fuse them. views.py does the same on a CPU, image by image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from simclr_plus.augmentations.draws import BRIGHTNESS, CONTRAST, GRAY, HUE, JITTER, ORDER, SATURATION, SIGMA
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.operations import (
    add_brightness,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    gaussian_blur,
    to_grayscale,
)

IMAGES_AT_ONCE = 128  # bounds what temporaries take: about 1 GB at 224 pixels
CROP_TYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}

Finish = Callable[[Tensor, Tensor, ViewLaw], Tensor]


def finish_views(crops: Tensor, parameters: Tensor, law: ViewLaw) -> Tensor:
    """Crops [B, 3, S, S] (float32 as cropped, or packed) and their draws [B, 16] -> views in [0, 1], float32."""
    x = crops.float() / 255 if crops.dtype == torch.uint8 else crops.float()
    if law.gray_prob > 0 and law.gray_first:
        x = torch.where(_gate(parameters, GRAY), _gray(x, law).clamp(0, 1), x)
    if law.jitter_prob > 0:
        x = torch.where(_gate(parameters, JITTER), _jittered(x, parameters, law), x)
    if law.gray_prob > 0 and not law.gray_first:
        x = torch.where(_gate(parameters, GRAY), _gray(x, law), x)
    x = x.clamp(0, 1)
    if law.blur_prob > 0:
        sigma = parameters[:, SIGMA]
        blurred = gaussian_blur(x, torch.where(sigma > 0, sigma, 1), law.blur_kernel_size)
        x = torch.where(_gate(parameters, SIGMA), blurred, x).clamp(0, 1)
    return x


def finish_in_parts(crops: Tensor, parameters: Tensor, law: ViewLaw, finish: Finish = finish_views) -> Tensor:
    """`finish`, some images at a time."""
    parts = zip(crops.split(IMAGES_AT_ONCE), parameters.split(IMAGES_AT_ONCE), strict=True)  # type: ignore[no-untyped-call]
    return torch.cat([finish(some, draws, law) for some, draws in parts])


def packed(crops: Tensor, kind: str) -> Tensor:
    """Crops as "float32", exact, or smaller for the way to the device, which is not.

    "float16" rounds to 11 bits (off by at most 2.5e-4 up to 1); "uint8" rounds to 1/255 and cuts overshoot (off by at
    most 2e-3 within [0, 1]).
    """
    if kind == "uint8":
        return crops.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    return crops.to(CROP_TYPES[kind])


def _gray(x: Tensor, law: ViewLaw) -> Tensor:
    return to_grayscale(x) if law.gray_law == "luma" else x.mean(dim=1, keepdim=True).expand_as(x)


def _jittered(x: Tensor, parameters: Tensor, law: ViewLaw) -> Tensor:
    """The four operations in each image's own order, a clip after each."""
    brighten = add_brightness if law.brightness_law == "additive" else adjust_brightness
    operations = (
        (brighten, BRIGHTNESS),
        (adjust_contrast, CONTRAST),
        (adjust_saturation, SATURATION),
        (adjust_hue, HUE),
    )
    for place in range(4):
        if law.random_order:
            operation_there, changed = parameters[:, ORDER + place].view(-1, 1, 1, 1), x
            for number, (operation, column) in enumerate(operations):
                changed = torch.where(operation_there == number, operation(x, parameters[:, column]), changed)
            x = changed.clamp(0, 1)
        else:
            operation, column = operations[place]
            x = operation(x, parameters[:, column]).clamp(0, 1)
    return x


def _gate(parameters: Tensor, column: int) -> Tensor:
    return (parameters[:, column] > 0).view(-1, 1, 1, 1)
