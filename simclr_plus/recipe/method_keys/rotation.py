"""What a recipe says of rotation prediction. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections


class RotationKeys(MethodKeys):
    """Rotation prediction (Gidaris, Singh, Komodakis 2018): by which angle was the image turned?"""

    features_tell: ClassVar[bool] = False  # images that stand alike may be alike
    refused_operations: ClassVar[Mapping[str, str]] = {
        "rotate": "turns views by angles of its own, so that the angle asked for cannot be told",
        "autoaugment": "turns and shears views and leaves black edges, some of which tell how a view stands",
    }
    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
    }
    name: Literal["rotation"]
    angles: Annotated[
        tuple[Literal[0, 90, 180, 270], ...],
        Field(strict=False, min_length=2, description="degrees, counter-clockwise, each at most once"),
    ] = (0, 90, 180, 270)

    def pixels(self, recipe: Sections) -> float:
        """Each view is shown by every angle."""
        return len(self.angles)

    def loss_title(self, recipe: Sections) -> str:
        """Of the angles."""
        return "cross entropy of the angle"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All angles equally likely."""
        return math.log(len(self.angles))

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the angle is told."""
        return (Figure("pretext_accuracy", "rotation accuracy", 1 / len(self.angles)),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """A linear classifier of the angles."""
        return (recipe.feature_dim + 1) * len(self.angles)

    def problem(self, recipe: Sections) -> str:
        """The edges of a half-pixel resize look alike on all sides; those of TF1's kernel tell how an image stands."""
        if len(set(self.angles)) < len(self.angles):
            return f"method.angles = {list(self.angles)} names an angle twice; give each once"
        if recipe.augmentation.resize == "bicubic_legacy":
            return (
                'augmentation.resize = "bicubic_legacy" repeats edges at the bottom and at the right, by which a '
                'rotation is told without looking at the image; with method.name = "rotation" use "bicubic"'
            )
        return self.problem_of_operations(recipe)
