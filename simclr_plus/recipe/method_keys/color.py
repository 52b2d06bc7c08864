"""What recipes say of methods that need color in their images, and how gray ones are refused. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from simclr_plus.recipe.method_keys.base import MethodKeys, Sections

GRAY_SETS = ("embedded", "mnist", "fashion_mnist")


class ColorKeys(MethodKeys):
    """A method that cannot work with gray images.

    A sample of them is looked at before training: the method refuses them where more than `refused_above` of it are
    gray, and says so where more than `noted_above` are.
    """

    what_for: ClassVar[str]  # what it does with color, after its name
    instead: ClassVar[str]  # methods that need none
    refused_operations: ClassVar[Mapping[str, str]] = {"color": "makes a fifth of the views gray"}
    refused_above: ClassVar[float]
    noted_above: ClassVar[float]

    def gray_images(self, which: str, set_name: str) -> str:
        """The sentence that refuses them; which: "all are gray"."""
        return (
            f'method.name = "{self.name}" {self.what_for}, and {which} (data.name = "{set_name}"); use images in '
            f"color, e.g. data.name=places, or {self.instead}"
        )

    def problem(self, recipe: Sections) -> str:
        """Sets that are known to be gray, and views that become gray."""
        if recipe.data.name in GRAY_SETS:
            return self.gray_images("all of these images are gray", recipe.data.name)
        if recipe.augmentation.gray_prob > 0:
            return (
                f"augmentation.gray_prob = {recipe.augmentation.gray_prob:g} makes views gray, and method.name = "
                f'"{self.name}" {self.what_for}; set it to 0'
            )
        return self.problem_of_operations(recipe)
