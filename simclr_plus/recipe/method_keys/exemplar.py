"""What a recipe says of Exemplar. No torch."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from simclr_plus.recipe.method_keys.base import Collapse, Figure, MethodKeys, Sections

COLLAPSED = 0.1  # of the embeddings' deviation, which is near 1 in a run that learns

MOST_CLASSES = 100_000  # of images as classes


class ExemplarKeys(MethodKeys):
    """Exemplar (Dosovitskiy et al. 2014; as Kolesnikov et al. 2019): many views of an image are near each other."""

    compares_images: ClassVar[bool] = True
    defaults: ClassVar[dict[str, Any]] = {  # config/exemplar/imagenet.sh of google/revisiting-self-supervised
        "augmentation.min_scale": 0.05,
        "augmentation.jitter_prob": 1.0,
        "augmentation.colors": [32 / 255, 0.0, 0.5, 0.0],
        "augmentation.brightness_law": "additive",
        "augmentation.gray_prob": 0.66,
        "augmentation.gray_law": "mean",
        "augmentation.gray_first": True,
        "augmentation.gray_shared": True,
        "augmentation.blur_prob": 0.0,
        "optimizer.nesterov": False,
    }
    name: Literal["exemplar"]
    loss: Annotated[
        Literal["triplet", "surrogate"],
        Field(description="triplets with semi-hard negatives, or a class for each image (Dosovitskiy et al. 2014)"),
    ] = "triplet"
    views: Annotated[int, Field(ge=2, le=64, description="views of each image in a batch")] = 8
    margin: Annotated[
        float, Field(ge=0, description="triplet: by how much a negative is to be farther, in squared distance")
    ] = 0.5
    normalize: Annotated[
        Literal["rows", "columns", "none"],
        Field(description="triplet: embeddings of length 1; dimensions of length 1 over the batch (authors' code); no"),
    ] = "rows"
    group_images: Annotated[
        int,
        Field(ge=0, description="triplet: negatives are among so many consecutive images of the batch; 0: among all"),
    ] = 0
    output_dim: Annotated[int, Field(ge=2, description="triplet: dimensions of the embedding; authors 1000")] = 128

    @property
    def view_count(self) -> int:
        """As the key says."""
        return self.views

    @property
    def smallest_batch(self) -> int:
        """An image and another, or a group."""
        return self.group_images or 2

    def loss_title(self, recipe: Sections) -> str:
        """Of the triplets, or of the images as classes."""
        return "semi-hard triplet" if self.loss == "triplet" else "cross entropy of the image"

    def chance_loss(self, recipe: Sections) -> float | None:
        """The triplet's is near its margin with good features too; the other's depends on the number of images."""
        return None

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        """How often the nearest row is of the same image, how far embeddings are spread; or how often it is told."""
        if self.loss == "surrogate":
            return (Figure("pretext_accuracy", "images told", None),)
        rows = self.views * recipe.training.batch_size
        return (
            Figure("contrastive_accuracy", "contrastive accuracy", (self.views - 1) / (rows - 1)),
            Figure("embedding_deviation", "deviation of embeddings", None),
        )

    def collapses(self, recipe: Sections) -> tuple[Collapse, ...]:
        """All embeddings in one place have a loss of the margin, from which a run that learns hardly differs."""
        if self.loss == "surrogate":
            return ()
        sentence = (
            f"collapse: embeddings are nearly one point, though the loss is near its margin of {self.margin:g} as "
            "ever; lower optimizer.learning_rate, or lengthen training.warmup_epochs"
        )
        return (Collapse("embedding_deviation", COLLAPSED, below=True, sentence=sentence),)

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        """A linear layer to the embedding, or to the images as classes."""
        return (recipe.feature_dim + 1) * (self.output_dim if self.loss == "triplet" else images)

    def problem(self, recipe: Sections) -> str:
        """An image by itself has no negatives; a class for each image is for few images."""
        if problem := self.problem_of_images(recipe.data.known_images):
            return problem
        if self.group_images == 1:
            return "method.group_images = 1 leaves an image without negatives; use 2 or more, or 0 for the whole batch"
        return self.problem_of_share(recipe, recipe.training.batch_size)

    def problem_of_images(self, images: int) -> str:
        """Of so many, 0 where that is not known."""
        if self.loss != "surrogate" or images <= MOST_CLASSES:
            return ""
        return (
            f'method.loss = "surrogate" has a class for each of {images:,} images, more than {MOST_CLASSES:,}; use '
            f'method.loss = "triplet", or data.limit = {MOST_CLASSES}'
        )

    def problem_of_share(self, recipe: Sections, share: int) -> str:
        """Groups do not reach over processes."""
        group, batch = self.group_images, recipe.training.batch_size
        if not group or share % group == 0:
            return ""
        step = group * (batch // share)
        below, above = batch // step * step, -(-batch // step) * step
        return (
            f"method.group_images = {group} does not divide the {share} images that a process has of "
            f"training.batch_size = {batch}; use training.batch_size = {f'{below} or ' if below else ''}{above}, or "
            "method.group_images = 0 (the whole batch)"
        )
