"""What a recipe says of PIRL. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.parts.patch_grid import PatchGrid, proportional_grid
from simclr_plus.recipe.keys import Share
from simclr_plus.recipe.method_keys import memory
from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections, named

SMALLEST_MAP = 2  # places a side that a patch leaves to the third group of the ResNet


class PIRLKeys(MethodKeys):
    """PIRL (Misra, van der Maaten 2020): an image and its shuffled patches are told by a memory of all images."""

    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.colors": (0.4, 0.4, 0.4, 0.2),
        "augmentation.jitter_prob": 1.0,
        "augmentation.blur_prob": 0.0,
        "optimizer.nesterov": False,
    }
    name: Literal["pirl"]
    weight: Annotated[
        Share, Field(description="of the patches' loss, the whole images' has the rest; 0: no patches, as instdist")
    ] = 0.5
    objective: Annotated[
        Literal["infonce", "nce"],
        Field(description="cross entropy of the own row of the memory, or noise-contrastive estimation"),
    ] = "infonce"
    negatives: Annotated[
        int,
        Field(ge=0, description="rows that are drawn for each image, at the most one an image; 0 (infonce): all rows"),
    ] = 32000
    temperature: Annotated[float, Field(gt=0, description="of the scores; with mlp VISSL has 0.1")] = 0.07
    memory_momentum: Annotated[
        float, Field(ge=0, le=1, description="of the memory's rows; 0: the image's last u replaces its row")
    ] = 0.5
    grid: Annotated[int, Field(ge=2, description="cells a side, of each of which a patch is cut")] = 3
    patch_operations: Annotated[
        Literal["each", "none"],
        Field(
            description="each: every patch is flipped and gets its colors by itself, by the law of the views (VISSL); "
            "none: the crop that they are cut from is flipped, no colors change (PyContrast)"
        ),
    ] = "each"
    output_dim: Annotated[int, Field(ge=1, description="dimensions of u, v and the memory's rows")] = 128
    mlp: Annotated[bool, Field(description="a hidden layer as wide as h and a ReLU before each first layer")] = False

    def patch_grid(self, recipe: Sections) -> PatchGrid:
        """Cells of 85 and patches of 64 pixels beside views of 224, in proportion at other sizes."""
        return proportional_grid(recipe.augmentation.image_size, self.grid)

    def second_law(self, recipe: Sections) -> dict[str, Any] | None:
        """The crop that patches are cut from."""
        if not self.weight:
            return None
        plain = {"jitter_prob": 0.0, "gray_prob": 0.0, "blur_prob": 0.0, "size": self.patch_grid(recipe).crop}
        flip = {"flip_prob": 0.0} if self.patch_operations == "each" else {}
        return plain | flip | {"min_scale": 0.6}

    def pixels(self, recipe: Sections) -> float:
        """A view and its patches."""
        if not self.weight:
            return 1
        grid = self.patch_grid(recipe)
        return 1 + grid.count * grid.side**2 / recipe.augmentation.image_size**2

    def loss_title(self, recipe: Sections) -> str:
        """Of both."""
        return memory.loss_title(self._loss, self._drawn(recipe))

    def chance_loss(self, recipe: Sections) -> float | None:
        """Of equal scores."""
        return memory.chance_loss(self._loss, self._drawn(recipe), recipe.data.known_images)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often a whole image, and how often its patches are nearest to its own row."""
        chance = memory.chance_accuracy(self._drawn(recipe), recipe.data.known_images)
        images = Figure("pretext_accuracy", "images found in the memory", chance)
        return (images, Figure("patch_accuracy", "patches found in the memory", chance)) if self.weight else (images,)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """Two first layers, and the one that puts the patches together."""
        width = recipe.feature_dim
        first = (width + 1) * self.output_dim + (width + 1) * width * self.mlp
        together = (self.grid**2 * self.output_dim + 1) * self.output_dim
        return 2 * first + together if self.weight else first

    def memory_beside(self, recipe: Sections, images: int) -> int:
        """The bank."""
        return memory.bank_bytes(images, self.output_dim)

    def problem(self, recipe: Sections) -> str:
        """No noise for noise-contrastive estimation; patches that are too small."""
        problem = memory.problem_of_nce("objective", self.objective, self.negatives)
        return problem or (self._problem_of_patches(recipe) if self.weight else "")

    def _problem_of_patches(self, recipe: Sections) -> str:
        size = recipe.augmentation.image_size
        try:
            _ = self.patch_grid(recipe)
        except ValueError:
            return (
                f"augmentation.image_size = {size} with method.grid = {self.grid}: patches are to be 8 pixels or more; "
                "use larger views (26 or more with method.grid = 3), or a smaller grid"
            )
        return ""

    def sizes_shown(self, recipe: Sections) -> dict[int, str]:
        """Whole images, and patches."""
        sizes = super().sizes_shown(recipe)
        if not self.weight:
            return sizes
        size = recipe.augmentation.image_size
        keys = f"patches of method.grid = {self.grid} and augmentation.image_size = {size}"
        return sizes | {self.patch_grid(recipe).side: keys}

    def problem_of_network(self, recipe: Sections) -> str:
        """Patches that leave nothing of f's maps, where it has some."""
        problem, f = super().problem_of_network(recipe), recipe.architecture
        if problem or not self.weight:
            return problem
        side = self.patch_grid(recipe).side
        if isinstance(f, ForeignArchitecture) and not f.at(side).figures.maps:
            return ""
        if f.map_shape(3, side)[1] >= SMALLEST_MAP:
            return ""
        group, remedy = ("group", 'encoder.stem = "cifar", or ') if recipe.encoder.is_resnet else ("map", "")
        return (
            f"{named(recipe)} leaves a single place of patches of {side} pixels (augmentation.image_size = "
            f"{recipe.augmentation.image_size}) to the third {group}; use {remedy}larger views"
        )

    @property
    def _loss(self) -> str:
        return "nce" if self.objective == "nce" else "softmax"

    def _drawn(self, recipe: Sections) -> int:
        """K, at the most n where n is known."""
        return min(self.negatives, recipe.data.known_images or self.negatives)
