"""Why a method cannot work with a network by name: sizes that it does not take, maps that it has not. No torch.

What is asked here is measured, which loads PyTorch and the library: not while a recipe is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.errors import ImageSizeError, RecipeError

_ANY_SIZE = {"dynamic_img_size": True}  # timm's option for transformers


def problem_of_sizes(method: str, f: ForeignArchitecture, sizes: Mapping[int, str]) -> str:
    """A side that f does not take, or several for a network of one size; sizes: sides, each with the keys behind it.

    Raises RecipeError for a network that cannot be f at any size.
    """
    first, *others = sizes
    problem = _problem_of_size(f.at(first), sizes[first])
    if not problem and others and f.at(first).figures.fixed_size:
        shown = " and of ".join(f"{side} pixels ({keys})" for side, keys in sizes.items())
        told = "{ dynamic_img_size = true }"
        remedy = f"encoder.options = {told}, or " if _takes(_of_any_size(f), sizes) else ""
        return (
            f'encoder.name = "{f.name}" is built for images of one size, and method.name = "{method}" shows it images '
            f"of {shown}; use {remedy}a network that takes any size"
        )
    return problem or next(filter(None, (_problem_of_size(f.at(side), sizes[side]) for side in others)), "")


def problem_of_maps(method: str, f: ForeignArchitecture, *, last_alone: bool) -> str:
    """No maps; with `last_alone` also layers behind the last map, which a loss of that map leaves as they began."""
    figures = f.figures
    if not figures.maps:
        return (
            f'encoder.name = "{f.name}" gives no four square feature maps, which method.name = "{method}" reads; use '
            'a network of timm that does, as "timm:convnext_tiny", or "resnet"'
        )
    layers = [name for name, shape in figures.after_maps if len(shape) > 1]
    if last_alone and layers:
        return (
            f'encoder.name = "{f.name}" has {layers[0]} behind its last map, and method.name = "{method}", which '
            "trains f by that map, would leave it as it began; use a network that pools its last map, as "
            '"timm:convnext_tiny", or "resnet"'
        )
    return ""


def _problem_of_size(f: ForeignArchitecture, keys: str) -> str:
    try:
        _ = f.figures
    except ImageSizeError as error:
        return f"{keys}: {error}; use a size that it takes, or another network"
    return ""


def _of_any_size(f: ForeignArchitecture) -> ForeignArchitecture:
    return replace(f, options={**f.options, **_ANY_SIZE})


def _takes(f: ForeignArchitecture, sides: Iterable[int]) -> bool:
    try:
        return not any(f.at(side).figures.fixed_size for side in sides)
    except RecipeError:
        return False
