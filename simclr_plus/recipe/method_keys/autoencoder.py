"""What a recipe says of the autoencoder. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.parts.generative_shapes import decoder_parameters, picture_side, side_problem
from simclr_plus.recipe.method_keys.base import Collapse, Figure, MethodKeys, Sections


class AutoencoderKeys(MethodKeys):
    """Autoencoder, plain, denoising (Vincent et al. 2008) or variational (Kingma, Welling 2014): h becomes the image"""

    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
    }
    name: Literal["autoencoder"]
    latent_dim: Annotated[
        int, Field(ge=0, description="dimensions of a linear layer between h and the decoder; 0: h is the code")
    ] = 0
    noise_deviation: Annotated[
        float, Field(ge=0, description="denoising: deviation of normal noise on what f sees, of values in [0, 1]")
    ] = 0.0
    kl_weight: Annotated[
        float, Field(ge=0, description="variational: weight of KL / values of an image; 0: no variational one")
    ] = 0.0
    width: Annotated[int, Field(ge=1, description="of the decoder's last map; earlier ones are up to 8 times it")] = 64
    image_size: Annotated[int, Field(ge=0, description="side of what is decoded; 0: the view's, at most 64")] = 0

    def side(self, recipe: Sections) -> int:
        """Of what is decoded."""
        return picture_side(self.image_size, recipe.augmentation.image_size)

    def loss_title(self, recipe: Sections) -> str:
        """Of pixels; a variational one adds its divergence."""
        return "squared error" + (" + KL" if self.kl_weight else "")

    def chance_loss(self, recipe: Sections) -> float | None:
        """It is the variance of the images, which the recipe does not know."""
        return None

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """What of an image is decoded; of a variational one what its code says."""
        figures = (Figure("reconstructed", "reconstructed", 0.0),)
        if not self.kl_weight:
            return figures
        return (
            *figures,
            Figure("kl", "KL of the code, in nats", 0.0, share=False),
            Figure("active_latents", "active dimensions of the code", 0.0, share=False),
        )

    def collapses(self, recipe: Sections) -> tuple[Collapse, ...]:
        """A divergence that weighs too much makes every code the same."""
        if not self.kl_weight:
            return ()
        remedy = f"the code says nothing of the image; lower method.kl_weight = {self.kl_weight:g}"
        return (Collapse("active_latents", 0.5, True, f"collapse: no dimension of the code is active, {remedy}"),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The linear layer, where there is one, and the decoder."""
        features, code = recipe.feature_dim, self.latent_dim or recipe.feature_dim
        linear = (features + 1) * self.latent_dim * (2 if self.kl_weight else 1)
        return linear + decoder_parameters(code, self.side(recipe), self.width, 3)

    def problem(self, recipe: Sections) -> str:
        """A variational one needs its own layer, and nothing decodes a larger picture than was seen."""
        if self.kl_weight and not self.latent_dim:
            return (
                f"method.kl_weight = {self.kl_weight:g} makes the autoencoder variational, whose code is a layer of "
                "its own, but method.latent_dim = 0; use method.latent_dim = 128, or method.kl_weight = 0"
            )
        return side_problem(self.image_size, recipe.augmentation.image_size)
