"""Which runs the comparison has: each method by its published law, at three rates and with its own optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from simclr_plus.recipe.method_keys import METHODS
from simclr_plus.recipe.method_keys.color import GRAY_SETS, ColorKeys
from simclr_plus.recipe.reading import load_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.study import SMALL, Point, changed

RATES = {"1/3": 1 / 3, "1": 1.0, "3": 3.0}  # times the recipe's; chosen among by held-out training images
NEED_COLOR = tuple(name for name, keys in METHODS.items() if issubclass(keys, ColorKeys))
BUDGETS = ("pixels", "epochs")
LAW = (  # what makes a view; at the paper's scale other methods do not take SimCLR's values of these
    "strength",
    "colors",
    "min_scale",
    "aspect",
    "flip_prob",
    "same_flip",
    "jitter_prob",
    "gray_prob",
    "gray_law",
    "gray_first",
    "gray_shared",
    "blur_prob",
    "brightness_law",
    "random_order",
)
TUNED_BY_US = ("data.", "optimizer.", "training.", "checkpoints.", "head.", "loss.")  # sections that all methods share

# what methods whose laws are written for large images or long training have on 32 pixels and 4,000 images
ON_SMALL_IMAGES: Mapping[str, Mapping[str, Any]] = {
    "relative_patch": {
        "augmentation.image_size": 32,
        "method.crop": 30,
        "method.jitter": 2,
        "method.embedding_dim": 128,
        "method.hidden_dim": 512,
    },
    "jigsaw": {
        "augmentation.image_size": 32,
        "method.crop": 30,
        "method.jitter": 2,
        "method.embedding_dim": 128,
        "method.hidden_dim": 512,
    },
    "colorization": {"method.hidden_dim": 128},
    "autoencoder": {"method.width": 32},
    "bigan": {"method.width": 32, "method.latent_dim": 64},
    "exemplar": {"training.batch_size": 32},
    "instdist": {"method.loss": "softmax", "method.negatives": 0, "method.temperature": 0.1},
    "cmc": {"method.loss": "softmax", "method.negatives": 0, "method.temperature": 0.1},
    "moco": {"method.queue": 1024, "method.key_momentum": 0.99, "method.temperature": 0.1},
    "pirl": {"method.negatives": 1024},
    "dim": {"method.units": 256},
}
OWN_OPTIMIZER = (
    " with its own optimizer"  # ends the name of a row; the optimizer is that of the method's recipe for ImageNet
)
RECIPES = {"simclr": "", "supervised": "", "moco": "moco_v2_r50"}  # of methods; others are called after them
FEW = ("few_labels_1pct", "few_labels_10pct")


def points(recipe: Recipe, scale: str, budget: str) -> Iterator[Point]:
    """Every method at every rate; methods of color only where images are not known as gray."""
    for name in METHODS:
        if name in NEED_COLOR and recipe.data.name in GRAY_SETS:
            continue
        rows: list[tuple[str, str, dict[str, Any]]] = [
            (name, rate, {"optimizer.learning_rate": recipe.optimizer.learning_rate * factor})
            for rate, factor in RATES.items()
        ]
        own = own_optimizer(name)
        if own:
            rows.append((f"{name}{OWN_OPTIMIZER}", "1", own))
        for title, rate, optimizer in rows:
            changes = partial(_within_budget, recipe, name, scale, budget, optimizer)
            measures = _measures(scale, name, first=rate == "1")
            yield Point({"method": title, "rate": rate}, changes, measures, needs_color=name in NEED_COLOR)


def _within_budget(recipe: Recipe, name: str, scale: str, budget: str, optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The method by its law for as many epochs as the budget gives; raises RecipeError where it does not fit."""
    changes = by_its_law(recipe, name, scale)
    epochs = recipe.training.epochs
    if budget == "pixels":
        of_method = changed(recipe, changes)
        epochs *= 2 / (of_method.method.pixels(of_method) * areas(of_method, recipe))
    return {
        **changes,
        "training.epochs": epochs,
        "training.warmup_epochs": min(recipe.training.warmup_epochs, epochs / 2),
        "checkpoints.every_epochs": epochs,
        **optimizer,
    }


def areas(of_method: Recipe, base: Recipe) -> float:
    """A view's area over that of the recipe which the study starts from."""
    return (of_method.augmentation.image_size / base.augmentation.image_size) ** 2


def own_optimizer(name: str) -> dict[str, Any]:
    """What a method's recipe for ImageNet says of the optimizer; nothing of SimCLR and supervised training."""
    recipe = RECIPES.get(name, f"{name}_r50")
    return {f"optimizer.{key}": x for key, x in load_recipe(recipe).optimizer.model_dump().items()} if recipe else {}


def by_its_law(recipe: Recipe, name: str, scale: str) -> dict[str, Any]:
    """What makes the recipe train that method: views and encoder input as published, optimizer and schedule as all.

    augmentation.law = "simclr" leaves views as the recipe has them.
    """
    changes: dict[str, Any] = {"method.name": name}
    of_method = recipe.augmentation.law == "method"
    if scale != SMALL and of_method and name not in ("simclr", "supervised"):
        changes |= {f"augmentation.{key}": recipe.augmentation.usual(key) for key in LAW}
    if name != "simclr":
        changes |= {
            key: value
            for key, value in METHODS[name].defaults.items()
            if not key.startswith(TUNED_BY_US)
            and (recipe.reads(key) or not key.startswith("encoder."))
            and (of_method or not key.startswith("augmentation.") or key == "augmentation.image_size")
        }
    if scale == SMALL:
        changes |= ON_SMALL_IMAGES.get(name, {})
        changes["augmentation.blur_prob"] = recipe.augmentation.blur_prob
        changes["augmentation.evaluation_crop"] = recipe.augmentation.evaluation_crop
        size = changes.get("augmentation.image_size")
        if size is not None and name not in ON_SMALL_IMAGES:
            changes["augmentation.image_size"] = recipe.augmentation.image_size
    return changes


def _measures(scale: str, name: str, *, first: bool) -> tuple[str, ...]:
    """The encoder at its start too, which is another with each seed; raw pixels with SimCLR's cells of one rate."""
    frozen = ("frozen",) if scale == SMALL else ("linear", "linear_validation", "knn", *FEW)
    return (*frozen, "frozen_at_start", *(("frozen_pixels",) if first and name == "simclr" else ()), "task")
