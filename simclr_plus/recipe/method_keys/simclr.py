"""What a recipe says of SimCLR. No torch."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from simclr_plus.encoders.architecture import head_parameter_count
from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections


class SimCLRKeys(MethodKeys):
    """SimCLR (Chen et al. 2020): its losses are chosen in [loss], its projection head in [head]."""

    reads: ClassVar[tuple[str, ...]] = ("head", "loss")
    compares_images: ClassVar[bool] = True
    name: Literal["simclr"] = "simclr"

    @property
    def view_count(self) -> int:
        """The two of a pair."""
        return 2

    def loss_title(self, recipe: Sections) -> str:
        """NT-Xent, or a loss that the paper compares with it."""
        return recipe.loss.title

    def chance_loss(self, recipe: Sections) -> float | None:
        """The logarithm of the candidates of NT-Xent; None for the other losses."""
        if recipe.loss.name != "nt_xent":
            return None
        n = recipe.training.batch_size
        return math.log(2 * n - 1 if recipe.loss.negatives == "both_views" else n)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the other view of an image is the nearest in the batch."""
        return (Figure("contrastive_accuracy", "contrastive accuracy", 1 / recipe.training.batch_size),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The projection head's."""
        features = recipe.feature_dim
        return head_parameter_count(features, recipe.head_hidden_dim, recipe.head.output_dim, recipe.head.num_layers)
