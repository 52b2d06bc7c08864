"""What a run depends on, and what it costs. No torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_plus.recipe.recipe import (
        Recipe,
        documented_keys,
        find_recipe,
        load_recipe,
        parse_recipe,
        shipped_recipes,
    )

__all__ = ["Recipe", "documented_keys", "find_recipe", "load_recipe", "parse_recipe", "shipped_recipes"]

_HOME = dict.fromkeys(__all__, "recipe")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
