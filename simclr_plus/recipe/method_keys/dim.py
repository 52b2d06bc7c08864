"""What a recipe says of DIM. No torch."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Figure, MethodKeys, Sections, named

HIDDEN = (1000, 200)  # of the discriminator
FEWEST_PLACES = 4  # of a side


class DIMKeys(MethodKeys):
    """DIM, the local objective (Hjelm et al. 2019): an image's features find its places among those of others."""

    compares_images: ClassVar[bool] = True
    trains_whole_pass: ClassVar[bool] = False
    reads_maps: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {  # the paper changes no image
        "augmentation.min_scale": 1.0,
        "augmentation.flip_prob": 0.0,
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
    }
    name: Literal["dim"]
    objective: Annotated[
        Literal["nce", "jsd", "dv"],
        Field(description="cross entropy of each place, Jensen-Shannon divergence, or the bound of Donsker-Varadhan"),
    ] = "nce"
    units: Annotated[int, Field(gt=0, description="dimensions whose product is a score")] = 2048
    global_dim: Annotated[int, Field(gt=0, description="dimensions of the linear layer on h that stands for it")] = 64
    stage: Annotated[
        int,
        Field(
            ge=1,
            le=4,
            description="group of the ResNet, or of the last four maps of a network by name, whose map has the places",
        ),
    ] = 3
    grid: Annotated[int, Field(ge=FEWEST_PLACES, description="places a side that are read of the map, at the most")] = 8
    prior_weight: Annotated[
        float, Field(ge=0, description="gamma: of matching that layer to uniform noise, by a discriminator; 0: none")
    ] = 0.0
    exact_mask: Annotated[
        bool,
        Field(description="nce: leave out other places of the own image; false: they score -10, as the authors' do"),
    ] = False

    def side(self, recipe: Sections) -> int:
        """Places a side that are read."""
        return min(self.grid, recipe.architecture.map_shape(self.stage, recipe.augmentation.image_size)[1])

    def loss_title(self, recipe: Sections) -> str:
        """Of its objective."""
        titles = {"nce": "cross entropy of places", "jsd": "-Jensen-Shannon", "dv": "-Donsker-Varadhan"}
        return titles[self.objective]

    def chance_loss(self, recipe: Sections) -> float | None:
        """Of scores of zero; None where maps would have to be measured for it."""
        if self.objective != "nce":
            return 0.0
        if not recipe.encoder.is_resnet:
            return None
        places, others = self.side(recipe) ** 2, recipe.training.batch_size - 1
        return math.log(1 + places * others + (0 if self.exact_mask else places * math.exp(-10)))

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often a place is found; both sides of the prior, the discriminator's against knowing nothing."""
        others = recipe.training.batch_size - 1
        chance = 1 / (1 + self.side(recipe) ** 2 * others) if recipe.encoder.is_resnet else None
        found = Figure("place_accuracy", "places found", chance)
        if not self.prior_weight:
            return (found,)
        return (
            found,
            Figure("prior_loss", "loss of h against the prior", math.log(2), share=False),
            Figure("discriminator_loss", "loss of the discriminator", 2 * math.log(2), share=False),
        )

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """The linear layer, two networks of places; with a prior, its discriminator."""
        channels = recipe.architecture.map_shape(self.stage, recipe.augmentation.image_size)[0]
        networks = sum(self.units * (2 * c + self.units + 5) for c in (channels, self.global_dim))
        widths = (self.global_dim, *HIDDEN, 1)
        discriminator = sum((a + 1) * b for a, b in pairwise(widths)) if self.prior_weight else 0
        return (recipe.feature_dim + 1) * self.global_dim + networks + discriminator

    def problem_of_network(self, recipe: Sections) -> str:
        """There must be places."""
        if problem := super().problem_of_network(recipe):
            return problem
        size = recipe.augmentation.image_size
        side = recipe.architecture.map_shape(self.stage, size)[1]
        if side >= FEWEST_PLACES:
            return ""
        stem = 'encoder.stem = "cifar", ' if recipe.encoder.is_resnet else ""
        return (
            f"method.stage = {self.stage}: with {named(recipe)} and augmentation.image_size = {size} its map has "
            f"{side}x{side} places; use {stem}larger images or an earlier stage"
        )
