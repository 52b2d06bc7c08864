"""What a recipe says of its method: `[method]`, whose keys belong to the named method alone. No torch.

A method's section also tells, in closed form, what the rest of the program asks about it without building it: views,
rows, the loss of features that tell nothing, the figures that it logs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from simclr_plus.encoders.architecture import Architecture, head_parameter_count
from simclr_plus.recipe.keys import Augmentation, Head, Loss, Section, Training


class Sections(Protocol):
    """The rest of the recipe, as far as methods look at it."""

    @property
    def architecture(self) -> Architecture:
        """The encoder in numbers."""

    @property
    def augmentation(self) -> Augmentation:
        """The views."""

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
    def training(self) -> Training:
        """The loop."""


@dataclass(frozen=True)
class Figure:
    """A share in [0, 1] that a method logs beside its loss: its column in metrics.jsonl, its name, its chance level."""

    column: str
    title: str
    chance: float


class MethodKeys(Section):
    """The section of a method; the class variables and functions are what is known of it without building it."""

    views: ClassVar[int] = 1  # that are made of each image
    reads: ClassVar[tuple[str, ...]] = ()  # sections of the recipe that methods need not read, and this one does
    learns_labels: ClassVar[bool] = False  # then only labelled images that no evaluation holds out are trained on
    defaults: ClassVar[dict[str, Any]] = {}  # of keys of other sections, where a recipe does not give them

    @classmethod
    def about(cls) -> str:
        """What the method is, in a line."""
        return (cls.__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def rows(self) -> int:
        """Passes of a whole view through f for each image."""
        return self.views

    def loss_title(self, recipe: Sections) -> str:
        """What is minimised, for people."""
        raise NotImplementedError

    def chance_loss(self, recipe: Sections) -> float | None:
        """The loss of features that tell nothing; None where that has no closed form."""
        raise NotImplementedError

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """What is logged beside the loss."""
        raise NotImplementedError

    def parameters_beside(self, recipe: Sections) -> int:
        """Parameters that are trained beside f, the probe not counted."""
        raise NotImplementedError

    def problem(self, recipe: Sections) -> str:
        """Why the method cannot work with the rest of the recipe, with the remedy; "" where it can."""
        return ""


class SimCLRKeys(MethodKeys):
    """SimCLR (Chen et al. 2020): its losses are chosen in [loss], its projection head in [head]."""

    views: ClassVar[int] = 2
    reads: ClassVar[tuple[str, ...]] = ("head", "loss")
    name: Literal["simclr"] = "simclr"

    def loss_title(self, recipe: Sections) -> str:
        """NT-Xent, or a loss that the paper compares with it."""
        return recipe.loss.title

    def chance_loss(self, recipe: Sections) -> float | None:
        """The logarithm of the candidates of NT-Xent; None for the other losses."""
        if recipe.loss.name != "nt_xent":
            return None
        n = recipe.training.batch_size
        return math.log(2 * n - 1 if recipe.loss.negatives == "both_views" else n)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the other view of an image is the nearest in the batch."""
        return (Figure("contrastive_accuracy", "contrastive accuracy", 1 / recipe.training.batch_size),)

    def parameters_beside(self, recipe: Sections) -> int:
        """The projection head's."""
        features = recipe.architecture.feature_dim
        return head_parameter_count(features, recipe.head_hidden_dim, recipe.head.output_dim, recipe.head.num_layers)


class SupervisedKeys(MethodKeys):
    """Supervised training of the same network in the same loop: the cross entropy of a linear classifier on f."""

    learns_labels: ClassVar[bool] = True
    name: Literal["supervised"]

    def loss_title(self, recipe: Sections) -> str:
        """Of the labels."""
        return "cross entropy"

    def chance_loss(self, recipe: Sections) -> float | None:
        """It is the logarithm of the classes, which the recipe does not know."""
        return None

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """None: its classifier's accuracy stands where that of the probe does."""
        return ()

    def parameters_beside(self, recipe: Sections) -> int:
        """The classifier stands where the probe does."""
        return 0

    def problem(self, recipe: Sections) -> str:
        """There are no negatives that could be chosen."""
        defaults = Loss()
        for key in ("negatives", "semi_hard"):
            value = getattr(recipe.loss, key)
            if value != getattr(defaults, key):
                return (
                    f'loss.{key} = {value!r} means nothing to method.name = "supervised", which has no negatives; '
                    'leave it out, or use method.name = "simclr"'
                )
        return ""


class RotationKeys(MethodKeys):
    """Rotation prediction (Gidaris, Singh, Komodakis 2018): by which angle was the image turned?"""

    defaults: ClassVar[dict[str, Any]] = {
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
    }
    name: Literal["rotation"]
    angles: Annotated[
        tuple[Literal[0, 90, 180, 270], ...],
        Field(strict=False, min_length=2, description="degrees, counter-clockwise, each at most once"),
    ] = (0, 90, 180, 270)

    @property
    def rows(self) -> int:
        """Each view is shown by every angle."""
        return len(self.angles)

    def loss_title(self, recipe: Sections) -> str:
        """Of the angles."""
        return "cross entropy of the angle"

    def chance_loss(self, recipe: Sections) -> float | None:
        """All angles equally likely."""
        return math.log(len(self.angles))

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the angle is told."""
        return (Figure("pretext_accuracy", "rotation accuracy", 1 / len(self.angles)),)

    def parameters_beside(self, recipe: Sections) -> int:
        """A linear classifier of the angles."""
        return (recipe.architecture.feature_dim + 1) * len(self.angles)

    def problem(self, recipe: Sections) -> str:
        """The edges of a half-pixel resize look alike on all sides; those of TF1's kernel tell how an image stands."""
        if len(set(self.angles)) < len(self.angles):
            return f"method.angles = {list(self.angles)} names an angle twice; give each once"
        if recipe.augmentation.resize == "bicubic_legacy":
            return (
                'augmentation.resize = "bicubic_legacy" repeats edges at the bottom and at the right, by which a '
                'rotation is told without looking at the image; with method.name = "rotation" use "bicubic"'
            )
        return ""


TASK_ACCURACIES = ("contrastive_accuracy", "pretext_accuracy")  # columns of metrics.jsonl that a figure may have
AnyMethod = Annotated[SimCLRKeys | SupervisedKeys | RotationKeys, Field(discriminator="name")]
METHODS: dict[str, type[MethodKeys]] = {"simclr": SimCLRKeys, "supervised": SupervisedKeys, "rotation": RotationKeys}
