"""What a recipe says of CMC. No torch."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.recipe.keys import Share
from simclr_plus.recipe.method_keys import memory
from simclr_plus.recipe.method_keys.base import Figure, Sections
from simclr_plus.recipe.method_keys.color import ColorKeys


class CMCKeys(ColorKeys):
    """CMC (Tian, Krishnan, Isola 2020): lightness and colors of an image, seen by two networks, find each other."""

    defaults: ClassVar[dict[str, Any]] = {
        "data.name": "places",  # the usual set is gray
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
        "optimizer.nesterov": False,
        "optimizer.decay_norms": True,
    }
    what_for: ClassVar[str] = "contrasts lightness with color"
    instead: ClassVar[str] = "method.name=instdist"
    refused_above: ClassVar[float] = 0.5
    noted_above: ClassVar[float] = 0.05
    name: Literal["cmc"]
    branch_width: Annotated[
        float,
        Field(
            gt=0, le=4, description="width of each of the two networks, times encoder.width; 0.5: h is as long as f's"
        ),
    ] = 0.5
    color_space: Annotated[
        Literal["lab", "ydbdr"], Field(description="lightness and colors of CIELAB, or luma and colors of YDbDr")
    ] = "lab"
    loss: Annotated[
        Literal["nce", "softmax"],
        Field(description="noise-contrastive estimation, or the cross entropy of the image's row of the other memory"),
    ] = "nce"
    negatives: Annotated[
        int, Field(ge=0, description="rows of a memory that are drawn for each image; 0 (softmax): all are compared")
    ] = 4096
    temperature: Annotated[float, Field(gt=0, description="of the scores; small images and all rows: 0.1")] = 0.07
    momentum: Annotated[
        float, Field(ge=0, le=1, description="of the memories' rows; 0: the image's last z replaces its row")
    ] = 0.5
    z_momentum: Annotated[
        Share,
        Field(description="of the constants Z of nce; 1: those of the first batch for good, as the authors have it"),
    ] = 1.0
    output_dim: Annotated[int, Field(ge=1, description="dimensions of each z and of the memories' rows")] = 128

    def resnet(self, recipe: Sections) -> Architecture:
        """Each of the two networks; both see other channels than RGB, of which these numbers know nothing."""
        return replace(super().resnet(recipe), width=recipe.encoder.width * self.branch_width)

    def loss_title(self, recipe: Sections) -> str:
        """Which comparison, twice."""
        return f"{memory.loss_title(self.loss, self.negatives)}, of lightness and of colors"

    def chance_loss(self, recipe: Sections) -> float | None:
        """Of equal scores: the sum of both."""
        chance = memory.chance_loss(self.loss, self.negatives, recipe.data.known_images)
        return None if chance is None else 2 * chance

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often an image is nearest to its own row of the other memory."""
        chance = memory.chance_accuracy(self.negatives, recipe.data.known_images)
        return (
            Figure("pretext_accuracy", "images found in the other memory", chance),
            Figure("lightness_accuracy", "colors found by lightness", chance),
            Figure("color_accuracy", "lightness found by colors", chance),
        )

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """A linear layer for each network."""
        return 2 * (self.resnet(recipe).feature_dim + 1) * self.output_dim

    def memory_beside(self, recipe: Sections, images: int) -> int:
        """Two banks."""
        return 2 * memory.bank_bytes(images, self.output_dim)

    def network(self, recipe: Sections) -> dict[str, Any]:
        """The pair."""
        return {"family": "lab_pair", "color_space": self.color_space, **self.resnet(recipe).as_dict()}

    def encoder_title(self, recipe: Sections) -> str:
        """Both networks by their one name."""
        space = {"lab": "CIELAB", "ydbdr": "YDbDr"}[self.color_space]
        return f"{self.resnet(recipe).title}, twice: lightness and colors of {space}"

    def feature_dim(self, recipe: Sections) -> int:
        """Of both, side by side."""
        return 2 * self.resnet(recipe).feature_dim

    def encoder_parameters(self, recipe: Sections) -> int:
        """Of both, which see one channel and two."""
        return sum(replace(self.resnet(recipe), in_channels=channels).parameter_count() for channels in (1, 2))

    def activation_count(self, recipe: Sections, *, recompute_blocks: bool) -> int:
        """Of both."""
        size = recipe.augmentation.image_size
        return 2 * self.resnet(recipe).activation_count(size, recompute_blocks=recompute_blocks)

    def multiply_adds(self, recipe: Sections) -> int:
        """Of both."""
        return 2 * self.resnet(recipe).multiply_add_count(recipe.augmentation.image_size)

    def problem(self, recipe: Sections) -> str:
        """Noise-contrastive estimation needs noise, networks whole channels, and both color."""
        if not recipe.encoder.is_resnet:
            return (
                f'encoder.name = "{recipe.encoder.name}" sees RGB, and method.name = "cmc" builds two networks of one '
                'and two channels: use encoder.name = "resnet"'
            )
        problem = memory.problem_of_nce("loss", self.loss, self.negatives)
        if problem:
            return problem
        channels = 64 * recipe.encoder.width * self.branch_width
        if channels < 1 or channels != int(channels):
            return (
                f"method.branch_width = {self.branch_width:g} of encoder.width = {recipe.encoder.width:g} gives no "
                "whole number of channels; their product must be a multiple of 1/64"
            )
        e = recipe.encoder
        if (e.input, tuple(e.mean), tuple(e.std)) != ("rgb", (0, 0, 0), (1, 1, 1)):
            return (
                f'encoder.input = "{e.input}", encoder.mean = {list(e.mean)}, encoder.std = {list(e.std)}: the '
                'networks of method.name = "cmc" see no RGB and scale their own channels; leave these keys out'
            )
        return super().problem(recipe)
