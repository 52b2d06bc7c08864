"""Relative patch location in the loop: what goes through f, what is refused, what the loss starts from."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from batch_parts import moved, part_of
from method_settings import TINY
from torch import nn

from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.full_precision import in_full
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.relative_patch import RelativePatch
from simclr_plus.training.model import blank_batch, build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import view_batches

CPU = torch.device("cpu")


def recipe_of(tiny: list[str], *overrides: str) -> Recipe:
    return load_recipe("demo", [*tiny, "method.name=relative_patch", *TINY["relative_patch"], *overrides])


def model_of(recipe: Recipe, classes: int = 0) -> RelativePatch:
    model = build_model(recipe, classes)
    assert isinstance(model, RelativePatch)
    return model


def test_patches_are_of_the_loaders_view_and_depend_on_epoch_and_image_alone(tiny: list[str]) -> None:
    recipe = recipe_of(tiny, "method.gray_prob=0")
    model, images = model_of(recipe), open_training_images(recipe)
    batch = view_batches(recipe, images, CPU).at(1)
    inputs = model.prepare(batch)
    assert inputs.images.shape == (9 * 32, 3, 8, 8) and inputs.targets is not None and len(inputs.targets) == 8 * 32
    windows = F.unfold(batch.views[:1], 8)[0].T  # every place that a patch of image 0 can have
    for patch in inputs.images[:9]:
        assert (windows == patch.flatten()).all(dim=1).any()
    half = model.prepare(moved(replace(part_of(batch, slice(16, None)), step=9), -16))
    assert torch.equal(half.images, inputs.images[9 * 16 :])
    assert torch.equal(half.more["dropped"], inputs.more["dropped"][8 * 16 :])


def test_the_loss_is_the_mean_over_all_rows_and_starts_near_chance(tiny: list[str]) -> None:
    recipe = recipe_of(tiny)
    model = model_of(recipe)
    inputs = model.prepare(view_batches(recipe, open_training_images(recipe), CPU).at(0))
    outputs = through(model, inputs, recipe)
    result = model.loss(outputs, inputs)
    by_hand = -outputs["places"].log_softmax(dim=1)[torch.arange(256), torch.arange(256) % 8].mean()
    assert float(result.loss) == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert float(result.loss) == pytest.approx(math.log(8), abs=0.05)
    assert recipe.method.chance_loss(recipe) == pytest.approx(math.log(8))
    share = result.metrics()["pretext_accuracy"]
    assert abs(share - 1 / 8) < 4 * (7 / 64 / 256) ** 0.5  # binomial
    assert result.features.shape == (32, model.encoder.feature_dim)


def test_logits_that_tell_nothing_have_the_loss_of_chance(tiny: list[str]) -> None:
    recipe = recipe_of(tiny)
    model = model_of(recipe)
    nn.init.zeros_(model.head.classifier.weight)
    inputs = model.prepare(blank_batch(recipe, 3, CPU, torch.float32))
    assert float(model.loss(model(inputs.images, **inputs.more), inputs).loss) == pytest.approx(math.log(8), rel=1e-6)


def test_h_for_the_probe_is_the_mean_over_the_patches_of_an_image(tiny: list[str]) -> None:
    recipe = recipe_of(tiny)
    model = model_of(recipe, classes=10).double().eval()
    batch = view_batches(recipe, open_training_images(recipe), CPU).at(0)
    inputs = model.prepare(type(batch)(batch.views.double(), *list(vars(batch).values())[1:]))
    outputs = model(inputs.images, **inputs.more)
    mean = torch.stack([h.mean(dim=0) for h in model.encoder(inputs.images).split(9)])
    assert torch.allclose(outputs["h"], mean, atol=1e-12) and model.probe is not None
    F.cross_entropy(outputs["probe"], batch.labels).backward()
    assert all(p.grad is None for p in model.encoder.parameters()) and model.probe.weight.grad is not None


def test_every_parameter_learns_and_a_step_in_bfloat16_and_channels_last_is_like_one_in_float32(
    tiny: list[str],
) -> None:
    losses = []
    for precision, last in (("float32", "false"), ("bfloat16", "true")):
        recipe = recipe_of(
            tiny, f"training.precision={precision}", f"training.channels_last={last}", "encoder.width=0.25"
        )
        model = model_of(recipe)
        inputs = model.prepare(view_batches(recipe, open_training_images(recipe), CPU).at(0))
        with autocast(recipe, CPU):
            outputs = through(model, inputs, recipe)
        result = model.loss(outputs, inputs)
        result.objective.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        losses.append(float(in_full(result.loss)))
    assert losses[0] == pytest.approx(losses[1], abs=0.02)


def test_without_color_changes_a_view_is_the_whole_image() -> None:
    recipe = parse_recipe("", ["method.name=relative_patch"])
    a = recipe.augmentation
    assert (a.image_size, a.min_scale, a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (292, 1, 0, 0, 0, 0.5)
    assert recipe.encoder.input == "standardized" and not recipe.optimizer.nesterov
    assert recipe.method.pixels(recipe) == pytest.approx(9 * 64**2 / 292**2)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (
            ["augmentation.image_size=224"],
            ["method.crop = 255", "image_size = 224", "method.crop=224", "method.jitter=18"],
        ),
        (["method.jitter=85"], ["method.jitter = 85", "0 to 77"]),
        (["method.jitter=78"], ["method.jitter = 78", "7 pixels", "8 or more"]),
        (["method.jitter=-1"], ["method.jitter"]),
        (["method.gray_prob=1.5"], ["method.gray_prob"]),
        (["method.dropout=1"], ["method.dropout"]),
        (["augmentation.resize=bicubic_legacy"], ["augmentation.resize", "bicubic"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=relative_patch", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)
