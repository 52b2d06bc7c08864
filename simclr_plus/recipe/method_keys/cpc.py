"""What a recipe says of CPC. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections

_BY_VERSION = "; 0: by version"
_OF_BOTH = {
    "augmentation.min_scale": 0.6,
    "augmentation.jitter_prob": 0.0,
    "augmentation.blur_prob": 0.0,
    "encoder.mean": (0.5, 0.5, 0.5),
    "encoder.std": (0.5, 0.5, 0.5),
}


class CPCKeys(MethodKeys):
    """CPC (van den Oord et al. 2018; v2: Henaff et al. 2019): rows of patches predict rows to come"""

    compares_images: ClassVar[bool] = True
    trains_whole_pass: ClassVar[bool] = False
    defaults: ClassVar[dict[str, Any]] = {**_OF_BOTH, "augmentation.gray_prob": 0.0, "encoder.norm": "layer"}
    name: Literal["cpc"]
    version: Annotated[
        Literal[1, 2], Field(description="1: five offsets from above, no norm; 2: one offset, 4 directions, layer norm")
    ] = 2
    patch: Annotated[int, Field(ge=0, description="side of a patch in pixels; 0: a quarter of the view")] = 0
    stride: Annotated[int, Field(ge=0, description="pixels from patch to patch; 0: an eighth of the view")] = 0
    offsets: Annotated[
        tuple[int, ...],
        Field(strict=False, description="rows ahead that are predicted; []: by version, [2, 3, 4, 5, 6] or [3]"),
    ] = ()
    directions: Annotated[Literal[0, 1, 4], Field(description="from above, or from all sides" + _BY_VERSION)] = 0
    patch_views: Annotated[
        Literal["version", "crop", "distort", "none"],
        Field(description="each patch by itself: an inner square (v1), moved and colored (v2), or as it is"),
    ] = "version"
    target_dim: Annotated[int, Field(gt=0, description="v2: dimensions that are compared")] = 64
    score_scale: Annotated[float, Field(gt=0, description="v2: factor of a prediction")] = 0.1
    context_width: Annotated[int, Field(gt=0, description="channels inside a block of the context network")] = 256
    context_blocks: Annotated[int, Field(ge=1, description="blocks of the context network")] = 5
    candidates: Annotated[
        int, Field(ge=0, description="images whose places are told apart, in groups; 0: the global batch")
    ] = 0

    @classmethod
    def defaults_of(cls, method: dict[str, Any]) -> dict[str, Any]:
        """v1 has gray views and no norm."""
        if method.get("version", 2) != 1:
            return cls.defaults
        return {**cls.defaults, "augmentation.gray_prob": 1.0, "encoder.norm": "none"}

    def geometry(self, recipe: Sections) -> tuple[int, int, int]:
        """Side of a patch, stride, and patches in a row or column."""
        size = recipe.augmentation.image_size
        side, stride = self.patch or size // 4, self.stride or max(1, size // 8)
        return side, stride, max(0, size - side) // stride + 1

    @property
    def rows_ahead(self) -> tuple[int, ...]:
        """Offsets, those of the version where none are given."""
        return self.offsets or ((2, 3, 4, 5, 6) if self.version == 1 else (3,))

    @property
    def sides(self) -> Literal[1, 4]:
        """Directions, those of the version where none are given."""
        return self.directions or (1 if self.version == 1 else 4)

    @property
    def views_of_patches(self) -> str:
        """What is done to each patch: "crop", "distort" or "none"."""
        return {1: "crop", 2: "distort"}[self.version] if self.patch_views == "version" else self.patch_views

    def places(self, recipe: Sections) -> int:
        """Candidates of a prediction."""
        return (self.candidates or recipe.training.batch_size) * self.geometry(recipe)[2] ** 2

    def image_side(self, recipe: Sections) -> int:
        """That of a patch."""
        return self.geometry(recipe)[0]

    def sizes_shown(self, recipe: Sections) -> dict[int, str]:
        """Patches, in training and evaluation."""
        size, side = recipe.augmentation.image_size, self.geometry(recipe)[0]
        keys = f"method.patch = {side}" if self.patch else f"a quarter of augmentation.image_size = {size}"
        return {side: f"patches of {keys}"}

    def pixels(self, recipe: Sections) -> float:
        """All patches, which overlap."""
        side, _, count = self.geometry(recipe)
        return (count * side / recipe.augmentation.image_size) ** 2

    def loss_title(self, recipe: Sections) -> str:
        """InfoNCE."""
        return "InfoNCE of patches"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All places equally likely."""
        return math.log(self.places(recipe))

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the right place is the likeliest."""
        return (Figure("prediction_accuracy", "patches predicted", 1 / self.places(recipe)),)

    def network(self, recipe: Sections) -> dict[str, Any]:
        """The mean over patches."""
        side, stride, _ = self.geometry(recipe)
        return {"family": "patches", "encoder": recipe.architecture.as_dict(), "side": side, "stride": stride}

    def encoder_title(self, recipe: Sections) -> str:
        """The network of a patch, and the patches."""
        return f"{recipe.architecture.title}, mean over {self.geometry(recipe)[0]}-pixel patches"

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """Of each direction a context network, and the maps of its offsets."""
        f, w, d, offsets = recipe.feature_dim, self.context_width, self.target_dim, len(self.rows_ahead)
        block = (f + 1) * w + (3 * w + 1) * w + (2 * w + 1) * w + (w + 1) * f
        maps = f * f * offsets if self.version == 1 else (f + 1) * d * (1 + offsets)
        return self.sides * (self.context_blocks * block + maps)

    def problem(self, recipe: Sections) -> str:
        """Patches must fit and be several, offsets lead to rows that are there and share no pixel."""
        size, (side, stride, count) = recipe.augmentation.image_size, self.geometry(recipe)
        if not (self.patch and self.stride) and size % 8:
            return (
                f"augmentation.image_size = {size} has no whole quarter and eighth for patches; use a multiple of 8, "
                f"as {max(32, size // 8 * 8)}, or give method.patch and method.stride"
            )
        if side < 8 or side > size:
            return (
                f"method.patch = {self.patch} makes patches of {side} pixels in views of augmentation.image_size = "
                f"{size}; use 8 pixels or more, and no more than the view has (views of 32 or more have a quarter of 8)"
            )
        if len(set(self.offsets)) < len(self.offsets):
            return f"method.offsets = {list(self.offsets)} names a row twice; use {sorted(set(self.offsets))}"
        nearest, farthest = min(self.rows_ahead), max(self.rows_ahead)
        if farthest >= count:
            return (
                f"method.offsets = {list(self.rows_ahead)} lead out of {count} rows of patches; use offsets below "
                f"{count}, or a smaller method.stride than {stride}"
            )
        if nearest * stride < side:
            return (
                f"method.offsets = {list(self.rows_ahead)}: {nearest} rows of {stride} pixels ahead a patch of {side} "
                f"overlaps what it is predicted from, and copying solves the task; use {-(-side // stride)} or more"
            )
        return self._problem_of_groups(recipe, recipe.training.batch_size)

    def problem_of_share(self, recipe: Sections, share: int) -> str:
        """Groups of candidates do not reach over processes."""
        return self._problem_of_groups(recipe, share)

    def _problem_of_groups(self, recipe: Sections, share: int) -> str:
        if not self.candidates or share % self.candidates == 0:
            return ""
        return (
            f"method.candidates = {self.candidates} does not divide the {share} images that a process has of "
            f"training.batch_size = {recipe.training.batch_size}; use {math.gcd(self.candidates, share)}, or 0 for all"
        )
