"""What a recipe says of supervised training. No torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from simclr_plus.recipe.keys import Loss
from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections


class SupervisedKeys(MethodKeys):
    """Supervised training of the same network in the same loop: the cross entropy of a linear classifier on f."""

    learns_labels: ClassVar[bool] = True
    features_tell: ClassVar[bool] = False  # images of a class are to be alike
    name: Literal["supervised"]

    def loss_title(self, recipe: Sections) -> str:
        """Of the labels."""
        return "cross entropy"

    def chance_loss(self, recipe: Sections) -> float | None:
        """It is the logarithm of the classes, which the recipe does not know."""
        return None

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """None: its classifier's accuracy stands where that of the probe does."""
        return ()

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The classifier stands where the probe does."""
        return 0

    def problem(self, recipe: Sections) -> str:
        """There are no negatives that could be chosen."""
        defaults = Loss()
        for key in ("negatives", "semi_hard"):
            value = getattr(recipe.loss, key)
            if value != getattr(defaults, key):
                return (
                    f'loss.{key} = {value!r} means nothing to method.name = "supervised", which has no negatives; '
                    'leave it out, or use method.name = "simclr"'
                )
        return ""
