"""What methods that need color say of gray images, before the first step. Which images are gray is each one's rule."""

from __future__ import annotations

from collections.abc import Iterator

from simclr_plus.datasets.images import Images
from simclr_plus.errors import RecipeError
from simclr_plus.recipe.method_keys.color import ColorKeys


def notes_on_gray(keys: ColorKeys, images: Images, set_name: str, gray: int, looked_at: int) -> Iterator[str]:
    """A note where many of the images looked at are gray; RecipeError where they are too many for the method."""
    which = f"{gray:,} of {looked_at:,} images looked at are gray"
    if gray > keys.refused_above * looked_at:
        raise RecipeError(keys.gray_images(which, set_name))
    if gray > keys.noted_above * looked_at:
        yield f'{which} ({images.name}): method.name = "{keys.name}" learns little from them'
