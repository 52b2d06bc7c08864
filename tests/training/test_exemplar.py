"""Exemplar in the loop: keys and refusals, rows grouped by image, negatives over the batch or in groups, figures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from method_settings import TINY
from places import ROOT

from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.exemplar import exemplar_triplet_loss
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.training.methods.exemplar import Exemplar
from simclr_plus.training.methods.method import StepResult
from simclr_plus.training.model import build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import view_batches

CPU = torch.device("cpu")


def exemplar(tiny: list[str], *overrides: str) -> Exemplar:
    model = build_model(load_recipe("demo", [*tiny, "method.name=exemplar", *TINY["exemplar"], *overrides]), 10, 256)
    assert isinstance(model, Exemplar)
    return model.train()


def batch_of(model: Exemplar) -> Batch:
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)


def loss_of(model: Exemplar, batch: Batch) -> StepResult:
    inputs = model.prepare(batch)
    return model.loss(through(model, inputs, model.recipe), inputs)


def test_the_defaults_are_the_published_law_and_the_recipe_is_the_authors() -> None:
    recipe = parse_recipe("", ["method.name=exemplar"])
    k, law = recipe.method, recipe.law
    assert (k.loss, k.views, k.margin, k.normalize, k.group_images, k.output_dim) == ("triplet", 8, 0.5, "rows", 0, 128)
    assert (law.min_scale, law.jitter_prob, law.blur_prob, law.flip_prob) == (0.05, 1.0, 0.0, 0.5)
    assert (law.brightness, law.contrast, law.saturation, law.hue) == (32 / 255, 0.0, 0.5, 0.0)
    assert (law.gray_prob, law.gray_law, law.gray_shared, law.gray_first) == (0.66, "mean", True, True)
    assert law.brightness_law == "additive" and recipe.method.view_count == recipe.method.pixels(recipe) == 8
    r50 = load_recipe(ROOT / "recipes" / "exemplar_r50.toml")
    assert (r50.method.normalize, r50.method.group_images, r50.method.output_dim) == ("columns", 8, 1000)
    assert make_plan(r50, 1281167).peak_learning_rate == pytest.approx(0.025) and not r50.optimizer.nesterov


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.group_images=6", "training.batch_size=32"], ["method.group_images = 6", "32", "30 or 36", "= 0"]),
        (["method.group_images=1"], ["method.group_images = 1", "2 or more"]),
        (["method.views=1"], ["method.views"]),
        (["method.margin=-1"], ["method.margin"]),
        (["method.normalize=both"], ["method.normalize", "rows", "columns"]),
    ],
)
def test_what_cannot_work_is_refused_with_a_remedy(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=exemplar", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_groups_that_would_reach_over_processes_are_refused() -> None:
    keys = ["method.name=exemplar", "method.group_images=8", "training.batch_size=24", "training.epochs=100"]
    recipe = parse_recipe("", keys)
    assert make_plan(recipe, 1000, 3).batch_per_process == 8
    with pytest.raises(RecipeError, match=r"group_images = 8.*12 images.*batch_size = 16 or 32"):
        make_plan(recipe, 1000, 2)


def test_a_class_for_each_of_many_images_is_refused_before_anything_is_built(tiny: list[str]) -> None:
    model = exemplar(tiny, "method.loss=surrogate")
    refused = r'method.loss = "surrogate".*100,001.*"triplet".*data.limit = 100000'
    with pytest.raises(RecipeError, match=refused):
        Exemplar(model.recipe, model.encoder, 100_001)
    with pytest.raises(RecipeError, match=r'"surrogate".*1,281,167'):
        load_recipe("exemplar_r50", ["method.loss=surrogate"])
    assert load_recipe("exemplar_r50", ["method.loss=surrogate", "data.limit=100000"]).method.name == "exemplar"
    assert Exemplar(exemplar(tiny).recipe, model.encoder, 100_001).head.out_features == 16


def test_gray_is_one_draw_for_all_views_of_an_image(tiny: list[str]) -> None:
    model = exemplar(tiny, "data.name=places", "data.limit=64", "augmentation.gray_prob=0.5", "method.views=4")
    views = batch_of(model).views.unflatten(0, (4, -1))
    gray = (views.diff(dim=2).abs().amax(dim=(2, 3, 4)) < 1e-5).float()  # [views, images]
    assert torch.equal(gray.amin(0), gray.amax(0)) and 0.2 < float(gray.mean()) < 0.8


def test_rows_are_of_one_image_by_its_index_even_when_it_stands_twice_in_the_batch(tiny: list[str]) -> None:
    model = exemplar(tiny).double()
    batch = batch_of(model)
    indices = batch.indices.clone()
    indices[20] = indices[3]
    twice = replace(batch, views=batch.views.double(), indices=indices)
    inputs = model.prepare(twice)
    outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    z = outputs["z"].detach()
    expected = exemplar_triplet_loss(z, indices.repeat(3))
    assert float(result.loss) == pytest.approx(float(expected), rel=1e-12)
    as_negatives = exemplar_triplet_loss(z, batch.indices.repeat(3))
    assert float(as_negatives) != pytest.approx(float(expected), rel=1e-6)


def test_negatives_in_groups_are_those_of_consecutive_images_with_all_their_views(tiny: list[str]) -> None:
    model = exemplar(tiny, "method.group_images=8").double()
    batch = batch_of(model)
    inputs = model.prepare(replace(batch, views=batch.views.double()))
    outputs = through(model, inputs, model.recipe)
    z = outputs["z"].detach().view(3, 32, -1)
    losses = [
        float(exemplar_triplet_loss(z[:, i : i + 8].flatten(0, 1), torch.arange(8).repeat(3))) for i in range(0, 32, 8)
    ]
    assert float(model.loss(outputs, inputs).loss) == pytest.approx(sum(losses) / 4, rel=1e-12)


def test_a_collapse_has_the_loss_of_the_margin_and_an_alarm(tiny: list[str]) -> None:
    model = exemplar(tiny)
    torch.nn.init.zeros_(model.head.weight)
    result = loss_of(model, batch_of(model))
    assert float(result.loss) == pytest.approx(0.5, abs=1e-6)
    (collapse,) = model.recipe.method.collapses(model.recipe)
    assert result.metrics()[collapse.column] < collapse.limit and collapse.below
    assert loss_of(exemplar(tiny), batch_of(model)).metrics()[collapse.column] > collapse.limit


def test_images_as_classes_begin_at_chance_and_are_learnt_by_index(tiny: list[str]) -> None:
    model = exemplar(tiny, "method.loss=surrogate")
    torch.nn.init.zeros_(model.head.weight)
    torch.nn.init.zeros_(model.head.bias)
    batch = batch_of(model)
    result = loss_of(model, batch)
    assert float(result.loss) == pytest.approx(math.log(256), rel=1e-6)
    result.objective.backward()
    assert model.head.bias.grad is not None
    assert set(model.head.bias.grad.lt(0).nonzero().flatten().tolist()) == set(batch.indices.tolist())
    assert model.recipe.method.parameters_beside(model.recipe, 256) == sum(p.numel() for p in model.head.parameters())
    assert {f.column for f in model.recipe.method.figures(model.recipe)} == result.metrics().keys()


@pytest.mark.parametrize("loss", ["triplet", "surrogate"])
def test_a_step_in_bfloat16_runs_and_its_loss_is_in_full(tiny: list[str], loss: str) -> None:
    model = exemplar(tiny, "training.precision=bfloat16", f"method.loss={loss}")
    inputs = model.prepare(batch_of(model))
    with autocast(model.recipe, CPU):
        outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    result.objective.backward()
    assert result.loss.dtype == torch.float32 and bool(result.loss.isfinite())
    assert len(result.features) == 96
    assert all(p.grad is not None for name, p in model.named_parameters() if not name.startswith("probe"))
