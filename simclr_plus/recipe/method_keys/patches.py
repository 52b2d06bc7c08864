"""What recipes say of methods that ask how patches of an image stand to each other. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from simclr_plus.parts.patch_grid import SMALLEST_SIDE, PatchGrid
from simclr_plus.recipe.method_keys.base import MethodKeys, Sections


class PatchKeys(MethodKeys):
    """A grid of patches, and a classifier of rows of their embeddings.

    The loader's view is the whole image, of whatever aspect, as a square; the crop for the grid is cut from it.
    """

    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.image_size": 292,
        "augmentation.min_scale": 1.0,
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
        "encoder.input": "standardized",
        "optimizer.nesterov": False,
    }
    crop: Annotated[int, Field(gt=0, description="side of the square that is cut from a view, anywhere; in cells")] = (
        255
    )
    jitter: Annotated[
        int,
        Field(ge=0, description="pixels by which a patch is narrower than its cell, crop // grid; its place is drawn"),
    ] = 21
    gray_prob: Annotated[
        float, Field(ge=0, le=1, description="share of the images that are gray, by the mean of their channels")
    ] = 0.66
    embedding_dim: Annotated[int, Field(gt=0, description="E, numbers that a patch's h becomes")] = 1000
    hidden_dim: Annotated[int, Field(gt=0, description="hidden numbers of the classifier of rows")] = 4096
    dropout: Annotated[float, Field(ge=0, lt=1, description="share of the hidden numbers that training drops")] = 0.5

    @property
    def cells(self) -> int:
        """Cells of a side."""
        raise NotImplementedError

    @property
    def patch_grid(self) -> PatchGrid:
        """Where the patches lie."""
        return PatchGrid(self.crop, self.cells, self.jitter)

    def sizes_shown(self, recipe: Sections) -> dict[int, str]:
        """Patches in training, whole images in evaluation."""
        keys = f"patches of method.crop = {self.crop} and method.jitter = {self.jitter}"
        return super().sizes_shown(recipe) | {self.patch_grid.side: keys}

    def pixels(self, recipe: Sections) -> float:
        """The patches', in pixels of a view, which is the size that h is evaluated at as well."""
        grid = self.patch_grid
        return grid.count * grid.side**2 / recipe.augmentation.image_size**2

    def head_parameters(self, recipe: Sections, patches: int, classes: int) -> int:
        """Of a `PatchHead`: embedding, hidden layer with its norm, classifier; each with a bias."""
        embedding = (recipe.feature_dim + 1) * self.embedding_dim
        hidden = (patches * self.embedding_dim + 1) * self.hidden_dim + 2 * self.hidden_dim
        return embedding + hidden + (self.hidden_dim + 1) * classes

    def _remedy(self, size: int) -> str:
        """For a crop that is larger than views of `size` pixels."""
        least, cell = SMALLEST_SIDE * self.cells, size // self.cells
        if size < least:
            return f"views of {least} pixels or more; augmentation.image_size={self.crop} fits this crop"
        jitter = min(cell // 4, cell - SMALLEST_SIDE)
        return f"larger views, or a smaller crop and jitter, as method.crop={size} method.jitter={jitter}"

    def problem(self, recipe: Sections) -> str:
        """A crop that does not fit, patches that are too small, a resize that tells where a patch was."""
        try:
            _ = self.patch_grid
        except ValueError as error:
            return (
                f"method.{error} (method.crop = {self.crop}, method.jitter = {self.jitter}, {self.cells} cells a side)"
            )
        size = recipe.augmentation.image_size
        if self.crop > size:
            return (
                f"method.crop = {self.crop} does not fit in a view of augmentation.image_size = {size} pixels; give "
                f"{self._remedy(size)}"
            )
        if recipe.augmentation.resize == "bicubic_legacy":
            return (
                'augmentation.resize = "bicubic_legacy" repeats edges at the bottom and at the right, which tells '
                f'where a patch was; with method.name = "{self.name}" use "bicubic"'
            )
        return ""
