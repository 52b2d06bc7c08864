"""What a recipe says of instance discrimination. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.keys import Share
from simclr_plus.recipe.method_keys import memory
from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections


class InstDistKeys(MethodKeys):
    """InstDist, or NPID (Wu, Xiong, Yu, Lin 2018): every image is a class of its own, told by a memory of all."""

    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.min_scale": 0.2,
        "augmentation.colors": (0.4, 0.4, 0.4, 0.4),
        "augmentation.jitter_prob": 1.0,
        "augmentation.gray_first": True,
        "augmentation.blur_prob": 0.0,
        "optimizer.nesterov": False,
        "optimizer.decay_norms": True,
    }
    name: Literal["instdist"]
    loss: Annotated[
        Literal["nce", "softmax"],
        Field(description="noise-contrastive estimation, or the cross entropy of the own row of the memory"),
    ] = "nce"
    negatives: Annotated[
        int, Field(ge=0, description="rows of the memory that are drawn for each image; 0 (softmax): all are compared")
    ] = 4096
    temperature: Annotated[float, Field(gt=0, description="of the scores; small images and all rows: 0.1")] = 0.07
    momentum: Annotated[
        float, Field(ge=0, le=1, description="of the memory's rows; 0: the image's last z replaces its row")
    ] = 0.5
    proximal: Annotated[float, Field(ge=0, description="weight of |z - v|^2, v the image's row before the update")] = (
        0.0
    )
    z_momentum: Annotated[
        Share,
        Field(description="of the constant Z of nce; 1: that of the first batch for good, as the authors have it"),
    ] = 1.0
    output_dim: Annotated[int, Field(ge=1, description="dimensions of z and of the memory's rows")] = 128

    def loss_title(self, recipe: Sections) -> str:
        """Which comparison."""
        return memory.loss_title(self.loss, self.negatives)

    def chance_loss(self, recipe: Sections) -> float | None:
        """Of equal scores."""
        return memory.chance_loss(self.loss, self.negatives, recipe.data.known_images)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often an image is nearest to its own row."""
        chance = memory.chance_accuracy(self.negatives, recipe.data.known_images)
        return (Figure("pretext_accuracy", "images found in the memory", chance),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """A linear layer."""
        return (recipe.feature_dim + 1) * self.output_dim

    def memory_beside(self, recipe: Sections, images: int) -> int:
        """The bank."""
        return memory.bank_bytes(images, self.output_dim)

    def problem(self, recipe: Sections) -> str:
        """Noise-contrastive estimation needs noise."""
        return memory.problem_of_nce("loss", self.loss, self.negatives)
