"""What a recipe says of BiGAN. No torch."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.parts.generative_shapes import (
    decoder_parameters,
    joint_parameters,
    picture_side,
    side_problem,
    spectral_parameters,
)
from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections

GRAY_SETS = ("embedded", "mnist", "fashion_mnist")  # values of data.name


class BiGANKeys(MethodKeys):
    """BiGAN (Donahue et al. 2017), and BigBiGAN (Donahue, Simonyan 2019) in small: f inverts a generator of images"""

    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
        "optimizer.beta1": 0.5,
    }
    name: Literal["bigan"]
    loss: Annotated[
        Literal["hinge", "logistic"], Field(description="of the discriminator: BigBiGAN's, or that of 2017")
    ] = "hinge"
    discriminator: Annotated[
        Literal["spectral", "joint"], Field(description="towards BigBiGAN's, or that of 2017 with batch norm")
    ] = "spectral"
    unary: Annotated[bool, Field(description="spectral: scores of an image alone and of a code alone as well")] = True
    encoder_rate: Annotated[
        float, Field(gt=0, description="times the learning rate, for f and its layer to the code; 2017: 1")
    ] = 5.0
    prior: Annotated[
        Literal["uniform", "normal"],
        Field(description="of codes: U(-1, 1), or BigBiGAN's N(0, 1), for which f's code is drawn too"),
    ] = "uniform"
    latent_dim: Annotated[int, Field(ge=1, description="dimensions of the code")] = 128
    width: Annotated[int, Field(ge=1, description="of the generator's last and the discriminator's first map")] = 64
    image_size: Annotated[int, Field(ge=0, description="side of what is generated; 0: the view's, at most 64")] = 0
    channels: Annotated[
        Literal[0, 1, 3],
        Field(description="of what is generated: 1 for gray images; 0: by the data set, where its name tells"),
    ] = 0

    def side(self, recipe: Sections) -> int:
        """Of what is generated."""
        return picture_side(self.image_size, recipe.augmentation.image_size)

    def channel_count(self, recipe: Sections) -> int:
        """Of what is generated."""
        return self.channels or (1 if recipe.data.name in GRAY_SETS else 3)

    def loss_title(self, recipe: Sections) -> str:
        """What the players minimise, in one sum."""
        return "discriminator's loss + encoder's and generator's"

    def chance_loss(self, recipe: Sections) -> float | None:
        """None: players of equal strength have the loss of guessing too."""
        return None

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """What comes back of an image by its code, and the losses of both sides."""
        guessing = (math.log(2), math.log(2)) if self.loss == "logistic" else (2.0, 0.0)
        return (
            Figure("reconstructed", "reconstructed", 0.0),
            Figure("discriminator_loss", "discriminator's loss", guessing[0], share=False),
            Figure("encoder_generator_loss", "encoder's and generator's loss", guessing[1], share=False),
        )

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The layer to the code, generator and discriminator."""
        shape = (self.latent_dim, self.side(recipe), self.width, self.channel_count(recipe))
        if self.discriminator == "spectral":
            judge = spectral_parameters(*shape, unary=self.unary)
        else:
            judge = joint_parameters(*shape)
        to_code = recipe.feature_dim * self.latent_dim * (2 if self.prior == "normal" else 1)
        return to_code + decoder_parameters(*shape) + judge

    def problem(self, recipe: Sections) -> str:
        """Unary scores need the spectral discriminator, the joint one a map that z can enter."""
        if self.discriminator == "joint":
            if self.unary:
                return (
                    'method.unary = true asks for scores that method.discriminator = "joint" has not; use '
                    'method.unary = false, or method.discriminator = "spectral"'
                )
            if (side := self.side(recipe)) < 16:
                return (
                    f'method.discriminator = "joint" sees a code from its second map on, and pictures of {side} pixels '
                    '(method.image_size) have one; use 16 or more, or method.discriminator = "spectral"'
                )
        return side_problem(self.image_size, recipe.augmentation.image_size)
