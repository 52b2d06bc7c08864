"""What a recipe says of relative patch location. No torch."""

from __future__ import annotations

import math
from typing import Literal

from simclr_plus.recipe.method_keys.base import Figure, Sections
from simclr_plus.recipe.method_keys.patches import PatchKeys

PLACES = 8  # around the centre of 3 x 3 cells


class RelativePatchKeys(PatchKeys):
    """Relative patch location (Doersch, Gupta, Efros 2015): where does a patch lie from the centre?"""

    name: Literal["relative_patch"]

    @property
    def cells(self) -> int:
        """A centre and what is around it."""
        return 3

    def loss_title(self, recipe: Sections) -> str:
        """Of the eight places."""
        return "cross entropy of the place"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All places equally likely."""
        return math.log(PLACES)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the place is told."""
        return (Figure("pretext_accuracy", "place accuracy", 1 / PLACES),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The embedding of a patch, the classifier of pairs."""
        return self.head_parameters(recipe, 2, PLACES)
