"""What training.precision means on a device: which numbers convolutions and matrix products are computed in."""

from __future__ import annotations

import torch

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.recipe.recipe import Recipe

AMPERE = (8, 0)  # compute capability from which cuDNN convolves in bfloat16; before, PyTorch takes an image at a time


def autocast_enabled(recipe: Recipe, device: torch.device) -> bool:
    """Whether the network computes in bfloat16 there: asked for, or "auto" on a card that is made for it.

    Raises EnvironmentNotAbleError where it is asked for on a CUDA card before Ampere.
    """
    precision = recipe.training.precision
    if precision not in ("bfloat16", "auto") or device.type != "cuda":
        return precision == "bfloat16"
    if torch.version.hip is not None or torch.cuda.get_device_capability(device) >= AMPERE:
        return True
    if precision == "auto":
        return False
    major, minor = torch.cuda.get_device_capability(device)
    raise EnvironmentNotAbleError(
        f'training.precision = "bfloat16", but {device} is a card of compute capability {major}.{minor}, on which '
        f'PyTorch convolves in bfloat16 an image at a time; set training.precision = "float32" or "auto"'
    )


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """The context in which the network computes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=autocast_enabled(recipe, device))


def numbers_of(recipe: Recipe) -> torch.dtype:
    """Of weights, images and losses."""
    return torch.float64 if recipe.training.precision == "float64" else torch.float32


def set_float32_products(recipe: Recipe) -> bool:
    """Let CUDA round float32 factors to TF32 (10 bits of mantissa) where the recipe says so, and nowhere else.

    PyTorch by itself does so in convolutions, not in matrix products. Returns what holds now.
    """
    allowed = recipe.training.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed
    return allowed


def computed_in(recipe: Recipe, device: torch.device) -> str:
    """For the start event: "float64", "bfloat16", "tf32" or "float32"."""
    if autocast_enabled(recipe, device):
        return "bfloat16"
    if recipe.training.precision == "float64":
        return "float64"
    return "tf32" if recipe.training.precision == "tf32" and device.type == "cuda" else "float32"
