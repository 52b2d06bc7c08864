"""What a recipe says of MoCo. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections


class MoCoKeys(MethodKeys):
    """MoCo (He et al. 2019; v2: Chen, Fan et al. 2020): a view finds the key of the other among older keys."""

    compares_images: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {  # of v2: main_moco.py of facebookresearch/moco, --aug-plus
        "augmentation.min_scale": 0.2,
        "augmentation.strength": 0.5,
        "augmentation.jitter_prob": 0.8,
        "augmentation.gray_prob": 0.2,
        "augmentation.blur_prob": 0.5,
        "optimizer.nesterov": False,
        "optimizer.decay_norms": True,
    }
    name: Literal["moco"]
    queue: Annotated[int, Field(ge=2, description="keys of past batches that are negatives, K")] = 65536
    key_momentum: Annotated[
        float, Field(ge=0, le=1, description="share of its past that the key network keeps at each step")
    ] = 0.999
    temperature: Annotated[float, Field(gt=0, description="temperature: v1 0.07, v2 0.2")] = 0.2
    head_layers: Annotated[int, Field(ge=1, le=8, description="layers of the head: v1 1 (linear), v2 2")] = 2
    output_dim: Annotated[int, Field(ge=2, description="dimensions of z and of the keys")] = 128
    norm_group: Annotated[
        int,
        Field(
            ge=0,
            description="images of the batch that a batch norm takes together, in both networks; 0: the global batch",
        ),
    ] = 32
    shuffle: Annotated[
        bool, Field(description="keys are made in another order of the global batch, so that their groups are others")
    ] = True
    symmetric: Annotated[
        bool, Field(description="each view is a query for the key of the other: twice the cost, the sum of both losses")
    ] = False

    @property
    def view_count(self) -> int:
        """The query and the key."""
        return 2

    @property
    def directions(self) -> int:
        """Queries, and keys, of each image."""
        return 2 if self.symmetric else 1

    @property
    def smallest_batch(self) -> int:
        """One group."""
        return self.norm_group or 2

    def pixels(self, recipe: Sections) -> float:
        """Queries through f, keys through the network that follows it."""
        return 2 * self.directions

    def pixels_kept(self, recipe: Sections) -> float:
        """Queries: no gradient reaches a key."""
        return self.directions

    def loss_title(self, recipe: Sections) -> str:
        """InfoNCE."""
        return "InfoNCE with a queue"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All keys equally likely."""
        return math.log(1 + self.queue)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the right key is the nearest of all, and how old keys are."""
        return (
            Figure("contrastive_accuracy", "contrastive accuracy", 1 / (1 + self.queue)),
            Figure("queue_age", "age of the oldest key, epochs", None, share=False),
        )

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The head's, biases too."""
        f = recipe.feature_dim
        return (self.head_layers - 1) * (f * f + f) + (f + 1) * self.output_dim

    def memory_beside(self, recipe: Sections, images: int) -> int:
        """The key network, its head, the queue."""
        numbers = recipe.architecture.parameter_count() + self.parameters_beside(recipe, images)
        return 4 * (numbers + self.queue * self.output_dim)

    def problem(self, recipe: Sections) -> str:
        """A queue forgets whole batches; batch norm takes whole groups."""
        batch, keys = recipe.training.batch_size, recipe.training.batch_size * self.directions
        if self.queue % keys:
            below, above = self.queue // keys * keys, -(-self.queue // keys) * keys
            both = " in both views" if self.symmetric else ""
            return (
                f"method.queue = {self.queue} does not divide into the {keys} keys of a step (training.batch_size = "
                f"{batch}{both}); use method.queue = {f'{below} or ' if below else ''}{above}"
            )
        return self.problem_of_share(recipe, batch)

    def problem_of_network(self, recipe: Sections) -> str:
        """A batch norm needs several numbers, and rows that are images."""
        if problem := super().problem_of_network(recipe):
            return problem
        f = recipe.architecture
        if isinstance(f, ForeignArchitecture):
            norms = f.figures.norms
            if self.norm_group and norms.count and not norms.rows_are_images:
                return (
                    f'method.norm_group = {self.norm_group}: batch norms of encoder.name = "{f.name}" see rows that '
                    "are no images, of which no group can be told; use method.norm_group = 0, the global batch"
                )
            single = norms.fewest == 1
        else:
            single = f.map_shape(4, recipe.augmentation.image_size)[1] == 1
        if self.norm_group == 1 and single:
            return (
                "method.norm_group = 1: f's last maps have a single place, of which a batch norm sees one number; use "
                "method.norm_group = 32, or 0 for the global batch"
            )
        return ""

    def problem_of_share(self, recipe: Sections, share: int) -> str:
        """Groups do not reach over processes."""
        group, batch = self.norm_group, recipe.training.batch_size
        if not group or share % group == 0:
            return ""
        step = group * (batch // share)
        below, above = batch // step * step, -(-batch // step) * step
        divisor = min((d for d in range(2, share + 1) if share % d == 0), key=lambda d: abs(d - group), default=0)
        return (
            f"method.norm_group = {group} does not divide the {share} images that a process has of "
            f"training.batch_size = {batch}; use training.batch_size = {f'{below} or ' if below else ''}{above}, or "
            f"method.norm_group = {divisor}{'' if divisor else ' (the global batch)'}"
        )
