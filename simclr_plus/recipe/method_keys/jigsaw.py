"""What a recipe says of jigsaw puzzles. No torch."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Figure, Sections
from simclr_plus.recipe.method_keys.patches import PatchKeys

MOST_PERMUTATIONS = 2000


class JigsawKeys(PatchKeys):
    """Jigsaw puzzles (Noroozi, Favaro 2016): in which order do the patches of an image stand?"""

    paths: ClassVar[tuple[str, ...]] = ("file",)
    name: Literal["jigsaw"]
    grid: Annotated[Literal[2, 3], Field(description="cells of a side of the crop")] = 3
    permutations: Annotated[
        int,
        Field(
            ge=2,
            le=MOST_PERMUTATIONS,
            description="P, orders that are told apart, far from each other; 24 at most for grid 2",
        ),
    ] = 100
    per_image: Annotated[int, Field(ge=1, description="different orders that an image is shown in, in a step")] = 8
    file: Annotated[
        str,
        Field(description="a .npy file with the P orders [P, grid^2], numbered from 0 or 1; empty: they are chosen"),
    ] = ""

    @property
    def cells(self) -> int:
        """Cells of a side."""
        return self.grid

    def loss_title(self, recipe: Sections) -> str:
        """Of the permutations."""
        return "cross entropy of the order"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All permutations equally likely."""
        return math.log(self.permutations)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the permutation is told."""
        return (Figure("pretext_accuracy", "jigsaw accuracy", 1 / self.permutations),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The embedding of a patch, the classifier of whole puzzles."""
        return self.head_parameters(recipe, self.grid**2, self.permutations)

    def problem(self, recipe: Sections) -> str:
        """More permutations than there are, more in an image than that."""
        every = math.factorial(self.grid**2)
        if self.permutations > every:
            return (
                f"method.permutations = {self.permutations}: {self.grid**2} patches (method.grid = {self.grid}) have "
                f"{every}; give method.permutations={every} or less"
            )
        if self.per_image > self.permutations:
            return (
                f"method.per_image = {self.per_image} different orders of an image are more than method.permutations = "
                f"{self.permutations}; give method.per_image={self.permutations} or less"
            )
        return super().problem(recipe)
