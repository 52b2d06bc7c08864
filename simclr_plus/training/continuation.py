"""What a checkpoint may be gone on from with: the same images, the same network, the same stream of batches.

Step s of a run shows the images that its number, seed and batch size say. Under other ones step s + 1 would show images
that were seen already, or pass over some. A branch, a run with keys changed, is looked at before it is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from simclr_plus.datasets.identity import images_digest, listing_digest
from simclr_plus.datasets.images import Images
from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.recipe.plan import Plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.weights.checkpoints import Checkpoint

HOW_DATA_ARE_FETCHED = ("download", "expected_images", "on_bad_image", "threads")  # keys of [data]; the rest says which


@dataclass(frozen=True)
class Identity:
    """Digests that tell these images from others; `sizes` is "" where the files were not asked for their sizes."""

    listing: str = ""
    sizes: str = ""


def identity_of(images: Images, *, sizes: bool = True) -> Identity:
    """The digests of images in memory are one and the same."""
    listing = listing_digest(images)
    if images.pixels is not None:
        return Identity(listing, listing)
    return Identity(listing, images_digest(images) if sizes else "")


def require_same_images(checkpoint: Checkpoint, images: Images, identity: Identity) -> None:
    """Raises CheckpointError naming what differs. Early checkpoints tell number and classes only."""
    remedy = "restore the data, or start a new run with training.init_from"
    if checkpoint.images != len(images) or checkpoint.classes != images.classes:
        raise CheckpointError(
            f"{checkpoint.path} was trained on {checkpoint.images} images of {len(checkpoint.classes)} classes, "
            f"{images.name} now holds {len(images)} of {len(images.classes)}; {remedy}"
        )
    if checkpoint.listing and checkpoint.listing != identity.listing:
        files = "names: files were renamed, moved or exchanged, or they are read in another way"
        raise CheckpointError(
            f"{checkpoint.path} was trained on {checkpoint.images} images, {images.name} now holds as many with other "
            f"{files if images.pixels is None else 'pixels or labels'}; {remedy}"
        )
    if checkpoint.sizes and identity.sizes and checkpoint.sizes != identity.sizes:
        raise CheckpointError(
            f"{checkpoint.path} was trained on {checkpoint.images} images, {images.name} now holds files of these "
            f"names with other sizes: their content was replaced; {remedy}"
        )


def require_same_stream(checkpoint: Checkpoint, recipe: Recipe, images: Images) -> None:
    """That step s + 1 of the recipe follows step s of the checkpoint; raises RecipeError naming key and both values."""
    for key, old, new, why in _differences(checkpoint.recipe, recipe, images):
        if old != new:
            weights = "" if key.startswith("encoder.") else _from_weights(checkpoint)
            raise RecipeError(
                f"{key} = {_as_toml(new)}, but {checkpoint.path} was trained with {_as_toml(old)}: {why}. Leave {key} "
                f"as it was, or start a new run: simclr-plus run RECIPE {key}={_as_toml(new)}{weights}"
            )


def require_branch(checkpoint: Checkpoint, recipe: Recipe, images: Images, plan: Plan) -> None:
    """That a run with keys changed can go on there; raises RecipeError naming the key, its values and the remedy."""
    require_same_stream(checkpoint, recipe, images)
    before, after = checkpoint.recipe.training.init_from, recipe.training.init_from
    if after != before:
        raise RecipeError(
            f"training.init_from = {after!r}: a run with keys changed begins with the weights of {checkpoint.path}; "
            f"leave it out, or start a new run: simclr-plus run RECIPE training.init_from={after}"
        )
    _require_same_data(checkpoint, recipe, images)
    if plan.total_steps <= checkpoint.step:
        done = checkpoint.step * plan.global_batch / plan.images
        raise RecipeError(
            f"training.epochs = {recipe.training.epochs:g} is {plan.total_steps} steps, but {checkpoint.path} has done "
            f"{checkpoint.step} ({done:g} epochs), so that nothing is left to train; give more epochs"
        )


def _require_same_data(checkpoint: Checkpoint, recipe: Recipe, images: Images) -> None:
    """A folder that moved is the same data; an early checkpoint cannot tell."""
    before, after = checkpoint.recipe.data, recipe.data
    changed = [
        f"data.{key} = {_as_toml(getattr(after, key))} (it was {_as_toml(getattr(before, key))})"
        for key in type(after).model_fields
        if key not in HOW_DATA_ARE_FETCHED and getattr(after, key) != getattr(before, key)
    ]
    if changed and not checkpoint.listing:
        raise RecipeError(
            f"{', '.join(changed)}, but {checkpoint.path} is of a version that did not note which images it saw; "
            "leave [data] as it was, or start a new run: simclr-plus run RECIPE "
            f"data.root={after.root}{_from_weights(checkpoint)}"
        )
    try:
        require_same_images(checkpoint, images, identity_of(images))
    except CheckpointError as error:
        raise RecipeError(f"{', '.join(changed)}: {error}" if changed else str(error)) from None


def _from_weights(checkpoint: Checkpoint) -> str:
    return f" training.init_from={shlex.quote(str(checkpoint.path))}"


def _differences(before: Recipe, after: Recipe, images: Images) -> Iterator[tuple[str, object, object, str]]:
    """(key, old value, new value, why it cannot change)."""
    counts = "its steps count batches of that size, and the images to come depend on it"
    yield "training.batch_size", before.training.batch_size, after.training.batch_size, counts
    order = "the order of the images and every view come from it"
    yield "training.seed", before.training.seed, after.training.seed, order
    network = "it holds the weights of that network"
    for key, old in before.method.model_dump().items():
        yield f"method.{key}", old, getattr(after.method, key, None), "it holds what that method builds"
    for key, old in before.encoder.model_dump(exclude={"download"}).items():
        if before.reads(f"encoder.{key}") or after.reads(f"encoder.{key}"):
            yield f"encoder.{key}", old, getattr(after.encoder, key), network
    if images.labels is not None and not after.method.learns_labels:
        yield "training.probe", before.training.probe, after.training.probe, network
    if "head" in after.method.reads:
        yield "head.num_layers", before.head.num_layers, after.head.num_layers, network
        if after.head.num_layers:
            yield "head.output_dim", before.head.output_dim, after.head.output_dim, network
        if after.head.num_layers > 1:
            yield "head.hidden_dim", before.head_hidden_dim, after.head_hidden_dim, network


def _as_toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else f"{value}"
