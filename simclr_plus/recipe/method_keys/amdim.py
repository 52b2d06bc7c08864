"""What a recipe says of AMDIM. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Collapse, Figure, MethodKeys, Sections, named


class AMDIMKeys(MethodKeys):
    """AMDIM (Bachman, Hjelm, Buchwalter 2019): a view, whole and by places, finds the places of the other view."""

    compares_images: ClassVar[bool] = True
    trains_whole_pass: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.min_scale": 0.3,
        "augmentation.strength": 0.5,  # 0.4, 0.4, 0.4, 0.1 of the authors' datasets.py
        "augmentation.gray_prob": 0.25,
        "augmentation.blur_prob": 0.0,
        "augmentation.aspect": (0.7, 1.4),
        "augmentation.same_flip": True,
    }
    name: Literal["amdim"]
    clip: Annotated[float, Field(gt=0, description="scores are bent to stay within +-clip")] = 20.0
    regulariser: Annotated[float, Field(ge=0, description="weight of the mean square of scores before the clip")] = 0.05
    units: Annotated[int, Field(ge=0, description="dimensions that are compared; 0: those of h")] = 0
    stages: Annotated[
        tuple[Annotated[int, Field(ge=1, le=4)], Annotated[int, Field(ge=1, le=4)]],
        Field(
            strict=False,
            description="groups of the ResNet, or of the last four maps of a network by name: fine and coarse",
        ),
    ] = (3, 4)
    grids: Annotated[
        tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]],
        Field(strict=False, description="places a side that are read of the fine and of the coarse map, at the most"),
    ] = (7, 5)

    @property
    def view_count(self) -> int:
        """The two of a pair."""
        return 2

    def sides(self, recipe: Sections) -> tuple[int, int]:
        """Places a side of the fine and of the coarse map, as they are read."""
        fine, coarse = (
            min(grid, recipe.architecture.map_shape(stage, recipe.augmentation.image_size)[1])
            for stage, grid in zip(self.stages, self.grids, strict=True)
        )
        return fine, coarse

    def loss_title(self, recipe: Sections) -> str:
        """Of three tasks, and the regulariser."""
        return "sum of three cross entropies of places"

    def chance_loss(self, recipe: Sections) -> float | None:
        """Of scores of zero: the logarithm of a place and those of all other images, for each task.

        None for a network by name: its maps would have to be measured.
        """
        if not recipe.encoder.is_resnet:
            return None
        fine, coarse = self.sides(recipe)
        others = recipe.training.batch_size - 1
        return 2 * math.log(1 + coarse**2 * others) + math.log(1 + fine**2 * others)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the whole of a view finds a place of the other one; how large the scores are."""
        chance: list[float | None] = [None, None]
        if recipe.encoder.is_resnet:
            chance = [1 / (1 + side**2 * (recipe.training.batch_size - 1)) for side in self.sides(recipe)]
        return (
            Figure("coarse_accuracy", "coarse places", chance[1]),
            Figure("fine_accuracy", "fine places", chance[0]),
            Figure("score_size", "size of scores", None, share=False),
        )

    def collapses(self, recipe: Sections) -> tuple[Collapse, ...]:
        """Scores beyond the clip have no gradient."""
        sentence = (
            "the scores lie beyond method.clip, where they have no gradient: a lower optimizer.learning_rate, or a "
            "higher method.regulariser, may help"
        )
        return (Collapse("score_size", self.clip, below=False, sentence=sentence),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """A batch norm of h, and two networks of places; a linear layer where units are not those of h."""
        units = self.units or recipe.feature_dim
        whole = 2 * units + (0 if units == recipe.feature_dim else recipe.feature_dim * units)
        size = recipe.augmentation.image_size
        channels = [recipe.architecture.map_shape(stage, size)[0] for stage in self.stages]
        return whole + sum(units * (2 * c + units + 1 + 2) for c in channels)

    def problem(self, recipe: Sections) -> str:
        """The fine map must be finer."""
        fine, coarse = self.stages
        if fine >= coarse:
            return f"method.stages = {list(self.stages)} names no finer map and a coarser one; use [3, 4]"
        return ""

    def problem_of_network(self, recipe: Sections) -> str:
        """Places must be several."""
        if problem := super().problem_of_network(recipe):
            return problem
        size = recipe.augmentation.image_size
        if recipe.architecture.map_shape(self.stages[1], size)[1] >= 2:
            return ""
        stem = 'encoder.stem = "cifar", ' if recipe.encoder.is_resnet else ""
        return (
            f"method.stages = {list(self.stages)}: with {named(recipe)} and augmentation.image_size = {size} the "
            f"coarse map is a single place; use {stem}larger images or earlier stages"
        )
