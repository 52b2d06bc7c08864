"""DIM in the loop: its loss from the maps of f, its closed forms, the prior and its discriminator, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from simclr_plus.augmentations.streams import Stream, uniforms
from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.amdim import on_grid
from simclr_plus.parts.dim import DIMLoss, prior_terms
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.dim import DIM
from simclr_plus.training.model import blank_batch, build_model, laid_out
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches

CPU = torch.device("cpu")
SMALL = ["method.name=dim", "method.units=32", "method.global_dim=8"]
PRIOR = "method.prior_weight=0.1"


def dim(tiny: list[str], *overrides: str) -> DIM:
    model = build_model(load_recipe("demo", [*tiny, *SMALL, *overrides]), 0)
    assert isinstance(model, DIM)
    return model


def batch_of(model: DIM, step: int = 0):  # type: ignore[no-untyped-def]
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(step)


@pytest.mark.parametrize("objective", ["nce", "jsd", "dv"])
@pytest.mark.parametrize("stage", [2, 3])
def test_the_loss_is_that_of_its_parts_on_the_maps_of_f(tiny: list[str], objective: str, stage: int) -> None:
    keys = [f"method.objective={objective}", f"method.stage={stage}", "method.grid=5"]
    model, by_hand = (dim(tiny, *keys).double() for _ in range(2))
    images = batch_of(model).views.double()
    inputs = model.prepare(batch_of(model))
    result = model.loss(model(images), inputs)
    maps = by_hand.encoder.maps(images)
    h = maps["layer4"].mean(dim=(2, 3))
    places = on_grid(maps[f"layer{stage}"], 5)
    assert places.shape[2] == {2: 5, 3: 4}[stage] == model.keys.side(model.recipe)
    vector = by_hand.heads.vector(h)
    whole = by_hand.heads.whole(vector[:, :, None, None])
    loss = DIMLoss(objective)(whole.flatten(1), by_hand.heads.places(places))  # type: ignore[arg-type]
    assert float(result.loss) == pytest.approx(float(loss.detach()), rel=1e-12)
    assert torch.allclose(result.features, h, atol=1e-12) and float(result.objective.detach()) == float(result.loss)


def test_no_image_is_changed_unless_a_recipe_says_so(tiny: list[str]) -> None:
    """The paper has no augmentation; the flip of its runs on STL-10 is a key."""
    recipe = parse_recipe("", ["method.name=dim", "augmentation.image_size=64"])
    a = recipe.augmentation
    assert (a.min_scale, a.flip_prob, a.jitter_prob, a.gray_prob, a.blur_prob) == (1.0, 0.0, 0.0, 0.0, 0.0)
    assert parse_recipe(
        "", ["method.name=dim", "augmentation.flip_prob=0.5", "augmentation.image_size=64"]
    ).law.flip_prob
    model = dim(tiny, "augmentation.image_size=28", "augmentation.min_scale=1")
    batch, images = batch_of(model), open_training_images(model.recipe)
    seen = view_batches(model.recipe, images, CPU).at(8)  # in another epoch
    same = (batch.indices[:, None] == seen.indices).nonzero()
    assert len(same) and all(torch.equal(batch.views[i], seen.views[j]) for i, j in same)


@pytest.mark.parametrize(("exact", "more"), [("true", 0.0), ("false", math.exp(-10))])
@pytest.mark.parametrize(("size", "grid", "side"), [(16, 8, 4), (40, 8, 8), (40, 6, 6)])
def test_features_that_tell_nothing_have_the_loss_of_chance(
    tiny: list[str], size: int, grid: int, side: int, exact: str, more: float
) -> None:
    keys = [f"augmentation.image_size={size}", f"method.grid={grid}", f"method.exact_mask={exact}"]
    model = dim(tiny, "training.batch_size=6", *keys)
    recipe, zeros = model.recipe, torch.zeros(6, 32, side, side)
    inputs = model.prepare(blank_batch(recipe, 6, CPU, torch.float32))
    result = model.loss({"h": zeros[:, :, 0, 0], "whole": zeros[:, :, 0, 0], "places": zeros}, inputs)
    expected = math.log(1 + 5 * side**2 + side**2 * more)
    assert float(result.loss) == pytest.approx(expected, rel=1e-6)
    assert recipe.method.chance_loss(recipe) == pytest.approx(expected, rel=1e-12)
    (found,) = recipe.method.figures(recipe)
    assert found.chance == 1 / (1 + 5 * side**2)


@pytest.mark.parametrize("objective", ["jsd", "dv"])
def test_an_estimate_of_features_that_tell_nothing_is_zero(tiny: list[str], objective: str) -> None:
    model = dim(tiny, f"method.objective={objective}")
    zeros = torch.zeros(32, 32, 4, 4)
    outputs = {"h": zeros[:, :, 0, 0], "whole": zeros[:, :, 0, 0], "places": zeros}
    result = model.loss(outputs, model.prepare(batch_of(model)))
    assert abs(float(result.loss)) < 1e-6 and model.keys.chance_loss(model.recipe) == 0


def test_places_that_are_found_are_counted(tiny: list[str]) -> None:
    model = dim(tiny, "training.batch_size=4")
    whole = torch.eye(4, 32)
    places = whole[:, :, None, None].repeat(1, 1, 4, 4)
    places[0, :, 0, 0] = whole[1]  # looks like image 1: it is not found, and no place of image 1 beats it
    outputs = {"h": whole, "whole": whole, "places": places}
    result = model.loss(outputs, model.prepare(blank_batch(model.recipe, 4, CPU, torch.float32)))
    assert result.metrics() == {"place_accuracy": pytest.approx((15 + 0 + 16 + 16) / 64)}


def test_the_prior_adds_its_two_sides_to_what_is_minimised_and_nothing_to_what_is_reported(tiny: list[str]) -> None:
    plain, model = dim(tiny, "method.prior_weight=0").double(), dim(tiny, "method.prior_weight=0.25").double()
    for name, parameter in plain.named_parameters():
        parameter.data.copy_(model.get_parameter(name))
    batch = batch_of(model)
    inputs = model.prepare(batch)
    images, samples = batch.views.double(), inputs.more["samples"].double()
    drawn = uniforms(0, Stream.LATENTS, batch.indices, batch.epochs, 8)
    assert torch.equal(samples, drawn)
    outputs = model(images, samples=samples)
    result, without = model.loss(outputs, inputs), plain.loss(plain(images), inputs)
    assert model.discriminator is not None
    h = outputs["h"].detach()
    terms = prior_terms(model.discriminator, model.heads.vector(h), samples)
    added = 0.25 * terms.encoder + terms.discriminator + terms.penalty
    assert float(result.loss) == pytest.approx(float(without.loss), rel=1e-12)
    assert result.objective.item() == pytest.approx(float(result.loss) + added.item(), rel=1e-12)
    logged = result.metrics()
    assert logged["prior_loss"] == pytest.approx(terms.encoder.item())
    assert logged["discriminator_loss"] == pytest.approx(terms.discriminator.item())


def test_the_discriminator_learns_and_h_follows_the_prior(tiny: list[str]) -> None:
    """One backward pass for both sides: the discriminator's gradients are of its own loss, f's are not of it."""
    model = dim(tiny, "method.prior_weight=3").double()
    batch = batch_of(model)
    inputs = model.prepare(batch)
    samples = inputs.more["samples"].double()
    outputs = model(batch.views.double(), samples=samples)
    discriminator = model.discriminator
    assert discriminator is not None
    own = torch.autograd.grad(
        outputs["discriminator"] + outputs["penalty"], list(discriminator.parameters()), retain_graph=True
    )
    local = DIMLoss()(outputs["whole"], outputs["places"]) + 3 * outputs["encoder"]
    of_vector = torch.autograd.grad(local, list(model.heads.vector.parameters()), retain_graph=True)
    model.loss(outputs, inputs).objective.backward()
    for gradients, parameters in ((own, discriminator.parameters()), (of_vector, model.heads.vector.parameters())):
        for expected, parameter in zip(gradients, parameters, strict=True):
            assert parameter.grad is not None and torch.allclose(parameter.grad, expected, rtol=1e-9, atol=1e-12)


def test_every_parameter_has_a_gradient(tiny: list[str]) -> None:
    model = dim(tiny, PRIOR)
    inputs = model.prepare(batch_of(model))
    model.loss(model(inputs.images, **inputs.more), inputs).objective.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


def test_in_evaluation_a_pass_changes_no_state(tiny: list[str]) -> None:
    model = dim(tiny, PRIOR)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    inputs = model.prepare(batch_of(model))
    with torch.no_grad():
        model.eval()(inputs.images, **inputs.more)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_a_step_in_bfloat16_and_channels_last_has_nearly_the_same_loss(tiny: list[str]) -> None:
    losses = []
    for keys in (["training.precision=float32"], ["training.precision=bfloat16", "training.channels_last=true"]):
        model = dim(tiny, PRIOR, *keys)
        inputs = model.prepare(batch_of(model))
        with autocast(model.recipe, CPU):
            outputs = model(laid_out(inputs.images, model.recipe), **inputs.more)
        result = model.loss(outputs, inputs)
        assert result.loss.dtype == torch.float32 and outputs["penalty"].dtype == torch.float32
        result.objective.backward()
        losses.append([float(result.loss), *result.metrics().values()])
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert losses[0][2:] == pytest.approx(losses[1][2:], rel=0.02)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (
            ["augmentation.image_size=32"],
            ["method.stage = 3", 'encoder.stem = "imagenet"', "32", "2x2", 'encoder.stem = "cifar"'],
        ),
        (
            ["augmentation.image_size=16", "encoder.stem=cifar", "method.stage=4"],
            ["method.stage = 4", "2x2", "earlier"],
        ),
        (["method.stage=5"], ["method.stage"]),
        (["method.grid=3"], ["method.grid"]),
        (["method.objective=mine"], ["method.objective", "nce"]),
        (["method.prior_weight=-1"], ["method.prior_weight"]),
        (["method.units=0"], ["method.units"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation", "dim"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=dim", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_a_run_writes_its_figures(tiny: list[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = create_run(load_recipe("demo", [*tiny, *SMALL, PRIOR, "method.objective=jsd"]), tmp_path, "dim")
    assert train(run, quiet=True) == "finished"
    (line, *_) = [line for line in run.metrics() if "loss" in line]
    assert 0 <= line["place_accuracy"] <= 1
    assert line["discriminator_loss"] == pytest.approx(2 * math.log(2), rel=0.1)  # at the start it knows nothing
    assert line["prior_loss"] == pytest.approx(math.log(2), rel=0.2)
