"""What a recipe says of colorization. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Figure, Sections
from simclr_plus.recipe.method_keys.color import ColorKeys

COLORS = 313  # that are predicted


class ColorizationKeys(ColorKeys):
    """Colorization (Zhang, Isola, Efros 2016): from lightness, which of 313 colors has each place of the image?"""

    trains_whole_pass: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = True
    trains_by_last_map: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {
        "data.name": "places",  # the usual set is gray
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
        "encoder.input": "lightness",
        "optimizer.nesterov": False,
    }
    what_for: ClassVar[str] = "predicts colors"
    instead: ClassVar[str] = "method.name=rotation, relative_patch or jigsaw"
    refused_operations: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("cutout", "color", "sobel", "noise", "equalize", "solarize", "autoaugment"), "changes the colors asked for"
    )
    refused_above: ClassVar[float] = 1 - 1e-9
    noted_above: ClassVar[float] = 0.5
    name: Literal["colorization"]
    hidden_dim: Annotated[int, Field(gt=0, description="channels of the head's 3x3 convolution")] = 512
    label_stride: Annotated[int, Field(ge=0, description="pixels from label to label; 0: 8, with CIFAR's stem 4")] = 0
    neighbours: Annotated[
        int, Field(ge=1, le=COLORS, description="colors that share a label; authors' code 10, their text 5")
    ] = 10
    sigma: Annotated[float, Field(gt=0, description="of the Gaussian by which they share it, in units of a and b")] = (
        5.0
    )
    rebalance: Annotated[
        float,
        Field(gt=0, le=1, description="share of the uniform distribution in a label's weight: less favors rare colors"),
    ] = 0.5
    prior: Annotated[
        Literal["dataset", "imagenet"],
        Field(description="how often colors occur: counted in up to 10,000 training images, or the authors' figures"),
    ] = "dataset"

    def stride(self, recipe: Sections) -> int:
        """Pixels from label to label: a quarter of the last map's, or half where that is small."""
        small = recipe.encoder.is_resnet and recipe.encoder.stem != "imagenet"
        return self.label_stride or (4 if small else 8)

    def loss_title(self, recipe: Sections) -> str:
        """Of the colors."""
        return "weighed cross entropy of the color"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All colors equally likely; weights are 1 in the mean."""
        return math.log(COLORS)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the nearest color is the likeliest, and the loss above what exact labels would leave."""
        return (
            Figure("pretext_accuracy", "color accuracy", 1 / COLORS),
            Figure("excess_loss", "loss above its floor", None, share=False),
        )

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """A 3x3 convolution with batch norm and a 1x1 convolution, with biases."""
        hidden, (channels, _) = self.hidden_dim, recipe.architecture.map_shape(4, recipe.augmentation.image_size)
        return (9 * channels + 1 + 2) * hidden + (hidden + 1) * COLORS

    def problem(self, recipe: Sections) -> str:
        """Gray images, color in the input, colors that are changed."""
        if recipe.encoder.input != "lightness":
            return (
                f'encoder.input = "{recipe.encoder.input}" shows the network the colors that method.name = '
                '"colorization" asks for; use "lightness"'
            )
        if recipe.augmentation.jitter_prob > 0:
            return (
                f"augmentation.jitter_prob = {recipe.augmentation.jitter_prob:g} changes the colors that "
                'method.name = "colorization" asks for; set it to 0'
            )
        if self.label_stride > recipe.augmentation.image_size:
            return (
                f"method.label_stride = {self.label_stride} leaves one label of a view of "
                f"{recipe.augmentation.image_size} pixels; use 4 or 8"
            )
        return super().problem(recipe)
