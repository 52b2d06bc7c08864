"""What a run depends on, and what it costs. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.recipe.reading import find_recipe, load_recipe, parse_recipe, shipped_recipes
    from simclr_plus.recipe.recipe import Recipe, documented_keys

__all__ = ["Recipe", "documented_keys", "find_recipe", "load_recipe", "parse_recipe", "shipped_recipes"]

_HOME = dict.fromkeys(__all__, "reading") | {"Recipe": "recipe", "documented_keys": "recipe"}
__getattr__ = loads(__name__, _HOME)
