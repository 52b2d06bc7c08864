"""AMDIM in the loop: its places, its loss, its closed forms, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from simclr_plus.augmentations.streams import Stream, whole_numbers
from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.amdim import AMDIMLoss, on_grid
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.amdim import AMDIM
from simclr_plus.training.model import blank_batch, build_model, laid_out
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches

CPU = torch.device("cpu")


def amdim(tiny: list[str], *overrides: str) -> AMDIM:
    model = build_model(load_recipe("demo", [*tiny, "method.name=amdim", *overrides]), 0)
    assert isinstance(model, AMDIM)
    return model


def batch_of(model: AMDIM, step: int = 0):  # type: ignore[no-untyped-def]
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(step)


def test_the_loss_is_that_of_its_parts_on_the_maps_of_f(tiny: list[str]) -> None:
    """By hand from the encoder's maps: the heads see a view at a time, the encoder both."""
    model = amdim(tiny).double()
    batch = batch_of(model)
    views = batch.views.double()
    inputs = model.prepare(batch)
    result = model.loss(model(views), inputs)
    by_hand = amdim(tiny).double()
    maps = by_hand.encoder.maps(views)
    h = maps["layer4"].mean(dim=(2, 3))
    scales = [
        by_hand.heads(h[here], on_grid(maps["layer4"], 5)[here], on_grid(maps["layer3"], 7)[here])
        for here in (slice(0, 32), slice(32, 64))
    ]
    loss = AMDIMLoss()(*scales, *inputs.targets)
    assert float(result.loss) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert torch.allclose(result.features, h, atol=1e-12) and float(result.objective.detach()) == float(result.loss)


def test_places_are_drawn_anew_for_each_image_view_and_epoch(tiny: list[str]) -> None:
    model = amdim(tiny, "augmentation.image_size=40")
    assert model.keys.sides(model.recipe) == (7, 5)
    batch = batch_of(model)
    places = model.prepare(batch).targets
    drawn = whole_numbers(0, Stream.PLACES, batch.indices, batch.epochs, 2, below=25)
    assert places is not None and torch.equal(places, drawn.T) and places.shape == (2, 32)
    later = model.prepare(batch_of(model, 8)).targets  # another epoch of the 256 images
    assert later is not None and not torch.equal(places, later) and not torch.equal(places[0], places[1])
    many = torch.cat([model.prepare(batch_of(model, step)).targets.flatten() for step in range(40)])
    counts = torch.bincount(many, minlength=25)
    assert counts.min() > 0.6 * len(many) / 25 and len(counts) == 25


@pytest.mark.parametrize(("size", "sides"), [(16, (4, 2)), (24, (6, 3)), (56, (7, 5))])
def test_features_that_tell_nothing_have_the_loss_of_chance(tiny: list[str], size: int, sides: tuple[int, int]) -> None:
    model = amdim(tiny, f"augmentation.image_size={size}", "training.batch_size=6")
    recipe, zeros = model.recipe, [torch.zeros(12, 8), *(torch.zeros(12, 8, s, s) for s in reversed(sides))]
    inputs = model.prepare(blank_batch(recipe, 6, CPU, torch.float32))
    outputs = dict(zip(("whole", "coarse", "fine"), zeros, strict=True)) | {"h": zeros[0]}
    result = model.loss(outputs, inputs)
    assert model.keys.sides(recipe) == sides
    expected = 2 * math.log(1 + 5 * sides[1] ** 2) + math.log(1 + 5 * sides[0] ** 2)
    assert float(result.loss) == pytest.approx(expected, rel=1e-6)
    assert recipe.method.chance_loss(recipe) == pytest.approx(expected)
    shares = {f.column: f.chance for f in recipe.method.figures(recipe) if f.share}
    assert shares == {"coarse_accuracy": 1 / (1 + 5 * sides[1] ** 2), "fine_accuracy": 1 / (1 + 5 * sides[0] ** 2)}


def test_what_is_logged_is_what_the_features_say(tiny: list[str]) -> None:
    """Whole and places of an image alike, images apart: all places are found, and scores have a known size."""
    model = amdim(tiny, "training.batch_size=4")
    apart = 4 * torch.eye(4).repeat(2, 1)
    outputs = {"h": apart, "whole": apart}
    for name, side in (("coarse", 2), ("fine", 4)):
        outputs[name] = apart[:, :, None, None].expand(-1, -1, side, side)
    result = model.loss(outputs, model.prepare(blank_batch(model.recipe, 4, CPU, torch.float32)))
    logged = result.metrics()
    assert logged["coarse_accuracy"] == logged["fine_accuracy"] == 1.0
    assert logged["score_size"] == pytest.approx(math.sqrt(8.0**2 / 4), rel=1e-6)  # 4 x 4 / sqrt(4), in one of 4
    assert float(result.loss) == pytest.approx(
        2 * math.log(1 + 4 * 3 * math.exp(-20 * math.tanh(8 / 20)))
        + math.log(1 + 16 * 3 * math.exp(-20 * math.tanh(8 / 20)))
        + 3 * 0.05 * 16,
        rel=1e-5,
    )


def test_scores_beyond_the_clip_are_told_as_a_collapse(tiny: list[str]) -> None:
    recipe = load_recipe("demo", [*tiny, "method.name=amdim", "method.clip=7.5"])
    (collapse,) = recipe.method.collapses(recipe)
    assert (collapse.column, collapse.limit, collapse.below) == ("score_size", 7.5, False)


def test_every_parameter_has_a_gradient(tiny: list[str]) -> None:
    model = amdim(tiny, "method.units=24")
    inputs = model.prepare(batch_of(model))
    model.loss(model(inputs.images), inputs).objective.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_in_evaluation_a_pass_changes_no_state(tiny: list[str]) -> None:
    model = amdim(tiny)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad():
        model.eval()(batch_of(model).views)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_step_in_bfloat16_and_channels_last_has_nearly_the_same_loss(tiny: list[str]) -> None:
    losses = []
    for keys in (["training.precision=float32"], ["training.precision=bfloat16", "training.channels_last=true"]):
        model = amdim(tiny, *keys)
        inputs = model.prepare(batch_of(model))
        with autocast(model.recipe, CPU):
            outputs = model(laid_out(inputs.images, model.recipe))
        result = model.loss(outputs, inputs)
        assert result.loss.dtype == torch.float32
        result.objective.backward()
        losses.append(float(result.loss))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_its_views_are_those_of_its_authors_unless_a_recipe_says_otherwise() -> None:
    a = parse_recipe("", ["method.name=amdim"]).augmentation
    assert (a.min_scale, a.strength, a.jitter_prob, a.gray_prob, a.blur_prob) == (0.3, 0.5, 0.8, 0.25, 0.0)
    assert (a.aspect, a.same_flip, a.flip_prob, a.colors) == ((0.7, 1.4), True, 0.5, ())
    assert parse_recipe("", ["method.name=amdim", "augmentation.min_scale=0.08"]).augmentation.min_scale == 0.08


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.stages=[4,3]"], ["method.stages = [4, 3]", "[3, 4]"]),
        (["method.stages=[3,3]"], ["method.stages"]),
        (["method.stages=[0,4]"], ["method.stages"]),
        (["augmentation.image_size=32"], ["method.stages", 'encoder.stem = "imagenet"', "32", '"cifar"']),
        (["method.grids=[7,1]"], ["method.grids"]),
        (["method.clip=0"], ["method.clip"]),
        (["method.regulariser=-1"], ["method.regulariser"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation", "amdim"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=amdim", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_the_plan_of_the_shipped_recipe_has_the_authors_steps() -> None:
    recipe = load_recipe("amdim_r50")
    plan = make_plan(recipe, 1_281_167)
    assert plan.warmup_steps == 500 and plan.learning_rate(499) == pytest.approx(2e-4, rel=0.01)
    assert recipe.method.name == "amdim" and recipe.method.sides(recipe) == (7, 4)  # type: ignore[attr-defined]


def test_a_run_writes_its_figures(tiny: list[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = create_run(load_recipe("demo", [*tiny, "method.name=amdim"]), tmp_path, "amdim")
    assert train(run, quiet=True) == "finished"
    (line, *_) = [line for line in run.metrics() if "loss" in line]
    assert {"coarse_accuracy", "fine_accuracy", "score_size"} <= line.keys() and 0 < line["score_size"] < 20
