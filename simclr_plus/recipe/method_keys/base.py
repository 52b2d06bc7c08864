"""What the rest of the program may ask of a method's section: in closed form, without building it. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.recipe.keys import Augmentation, Data, Encoder, Head, Loss, Optimizer, Section, Training
from simclr_plus.recipe.method_keys.networks_by_name import problem_of_maps, problem_of_sizes


class Sections(Protocol):
    """The rest of the recipe, as far as methods look at it."""

    @property
    def architecture(self) -> Architecture | ForeignArchitecture:
        """The network f in numbers; those of a network by name are measured when they are asked for."""

    @property
    def feature_dim(self) -> int:
        """F, dimensions of h."""

    @property
    def data(self) -> Data:
        """The images."""

    @property
    def augmentation(self) -> Augmentation:
        """The views."""

    @property
    def encoder(self) -> Encoder:
        """The network f."""

    @property
    def head(self) -> Head:
        """The projection head."""

    @property
    def head_hidden_dim(self) -> int:
        """Width of its hidden layers."""

    @property
    def loss(self) -> Loss:
        """SimCLR's."""

    @property
    def optimizer(self) -> Optimizer:
        """The update rule."""

    @property
    def training(self) -> Training:
        """The loop."""


def named(recipe: Sections) -> str:
    """What decides how large the maps of f are, as a user reads it: the stem of a ResNet, the name of another."""
    e = recipe.encoder
    return f'encoder.stem = "{e.stem}"' if e.is_resnet else f'encoder.name = "{e.name}"'


@dataclass(frozen=True)
class Figure:
    """What a method logs beside its loss: its column in metrics.jsonl, its name, its value for features of no use.

    share: it lies in [0, 1], as an accuracy does; otherwise it is a number that has an axis of its own. chance: None
    where there is none.
    """

    column: str
    title: str
    chance: float | None
    share: bool = True


@dataclass(frozen=True)
class Collapse:
    """A way in which a method fails: its column lies below (or above) a limit, and what to say then, with a remedy."""

    column: str
    limit: float
    below: bool
    sentence: str


class MethodKeys(Section):
    """The section of a method; the class variables and functions are what is known of it without building it.

    Letters: B images of the global batch, S side of a view, F dimensions of h, n images that are trained on.
    """

    reads: ClassVar[tuple[str, ...]] = ()  # sections of the recipe that methods need not read, and this one does
    learns_labels: ClassVar[bool] = False  # then only labelled images that no evaluation holds out are trained on
    compares_images: ClassVar[bool] = False  # whether the images of a batch are told from each other
    trains_whole_pass: ClassVar[bool] = True  # of f from images to h, which is compiled; not one that gives maps
    reads_maps: ClassVar[bool] = False  # of f, beside h
    trains_by_last_map: ClassVar[bool] = False  # alone: what lies behind that map stays as it began
    defaults: ClassVar[dict[str, Any]] = {}  # of keys of other sections, where a recipe does not give them
    paths: ClassVar[tuple[str, ...]] = ()  # its keys that name files; a run records them whole
    refused_operations: ClassVar[Mapping[str, str]] = {}  # of augmentation.operations, and what each does
    features_tell: ClassVar[bool] = True  # whether features of images that come to be alike are a failure
    name: str

    @classmethod
    def about(cls) -> str:
        """What the method is, in a line."""
        return (cls.__doc__ or "").partition("\n")[0].rstrip(".")

    @classmethod
    def defaults_of(cls, method: dict[str, Any]) -> dict[str, Any]:
        """`defaults`, where they hang on keys of the section as a recipe gives them."""
        return cls.defaults

    @property
    def view_count(self) -> int:
        """Views that are made of each image."""
        return 1

    @property
    def smallest_batch(self) -> int:
        """Images that a process needs for a pass through the network."""
        return 2

    def pixels(self, recipe: Sections) -> float:
        """What goes through f of each image, in pixels of a view (S^2)."""
        return self.view_count

    def pixels_kept(self, recipe: Sections) -> float:
        """Of these pixels, those of which the backward pass needs what f computed."""
        return self.pixels(recipe)

    def loss_title(self, recipe: Sections) -> str:
        """What is minimised, for people."""
        raise NotImplementedError

    def chance_loss(self, recipe: Sections) -> float | None:
        """The loss of features that tell nothing; None where that has no closed form."""
        raise NotImplementedError

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """What is logged beside the loss."""
        raise NotImplementedError

    def collapses(self, recipe: Sections) -> tuple[Collapse, ...]:
        """Ways of failing that its figures show; those that features show are known of all methods."""
        return ()

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """Parameters that are trained beside f, the probe not counted, with n images."""
        raise NotImplementedError

    def memory_beside(self, recipe: Sections, images: int) -> int:
        """Bytes of what is kept beside parameters on each process: banks, queues, networks that follow; n images."""
        return 0

    def image_side(self, recipe: Sections) -> int:
        """Side of the images that f is built for: those of training."""
        return recipe.augmentation.image_size

    def sizes_shown(self, recipe: Sections) -> dict[int, str]:
        """Sides of all images that f sees, in training and evaluation, each with the keys that decide it."""
        size = recipe.augmentation.image_size
        return {size: f"augmentation.image_size = {size}"}

    def resnet(self, recipe: Sections) -> Architecture:
        """The ResNet that it trains, or each of several alike; of a recipe whose f is one."""
        assert isinstance(recipe.architecture, Architecture)
        return recipe.architecture

    def network(self, recipe: Sections) -> dict[str, Any]:
        """The encoder as its file's header describes it (`Encoder.spec`)."""
        return recipe.architecture.as_dict()

    def encoder_title(self, recipe: Sections) -> str:
        """What people call that network."""
        return recipe.architecture.title

    def feature_dim(self, recipe: Sections) -> int:
        """F of that network."""
        return recipe.architecture.feature_dim

    def encoder_parameters(self, recipe: Sections) -> int:
        """Trained numbers of that network."""
        trained = recipe.architecture.parameter_count()
        if isinstance(recipe.architecture, ForeignArchitecture) and recipe.encoder.freeze_patch_embedding:
            trained -= recipe.architecture.figures.patch_embedding
        if isinstance(recipe.architecture, ForeignArchitecture) and self.trains_by_last_map:
            trained -= sum(math.prod(shape) for _, shape in recipe.architecture.figures.after_maps)
        return trained

    def activation_count(self, recipe: Sections, *, recompute_blocks: bool) -> int:
        """Numbers that it leaves for the backward pass of a view's pixels."""
        side, f = recipe.augmentation.image_size, recipe.architecture
        if isinstance(f, ForeignArchitecture):  # which may take patches and no views
            return f.activation_count(f.image_size, recompute_blocks=recompute_blocks) * side**2 // f.image_size**2
        return f.activation_count(side, recompute_blocks=recompute_blocks)

    def multiply_adds(self, recipe: Sections) -> int:
        """Multiplications, each with its addition, of a view's pixels forward through it."""
        side, f = recipe.augmentation.image_size, recipe.architecture
        if isinstance(f, ForeignArchitecture):
            return f.multiply_add_count(f.image_size) * side**2 // f.image_size**2
        return f.multiply_add_count(side)

    def second_law(self, recipe: Sections) -> dict[str, Any] | None:
        """Another kind of view of each image, as changes to the law of the views; None: there is none."""
        return None

    def problem(self, recipe: Sections) -> str:
        """Why the method cannot work with the rest of the recipe, with the remedy; "" where it can."""
        return ""

    def problem_of_network(self, recipe: Sections) -> str:
        """Why it cannot work with that f, as far as its maps and sizes tell, with the remedy; "" where it can.

        A network by name is measured for it, which takes seconds, and may raise a RecipeError of its own.
        """
        f = recipe.architecture
        if not isinstance(f, ForeignArchitecture):
            return ""
        problem = problem_of_sizes(self.name, f, self.sizes_shown(recipe))
        if self.reads_maps and not problem:
            return problem_of_maps(self.name, f, last_alone=self.trains_by_last_map)
        return problem

    def problem_of_operations(self, recipe: Sections) -> str:
        """The first of augmentation.operations that is refused, with the remedy; "" where there is none."""
        for name in recipe.augmentation.operations:
            if name in self.refused_operations:
                return (
                    f'augmentation.operations has "{name}", which {self.refused_operations[name]}; with method.name = '
                    f'"{self.name}" leave it out'
                )
        return ""

    def problem_of_share(self, recipe: Sections, share: int) -> str:
        """Why it cannot work with so many images of the batch in each process, with the remedy; "" where it can."""
        return ""
