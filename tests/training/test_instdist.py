"""InstDist in the loop: what goes in, what stays, what is refused; its losses are tested in tests/parts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_plus.datasets.images import Images, open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.instdist import InstDist
from simclr_plus.training.model import blank_batch, build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.checkpoints import load_checkpoint

CPU = torch.device("cpu")
SMALL = ["method.name=instdist", "method.negatives=64", "method.output_dim=16"]
ALL_ROWS = [*SMALL, "method.loss=softmax", "method.negatives=0"]


def instdist(tiny: list[str], *overrides: str, images: int = 256) -> InstDist:
    model = build_model(load_recipe("demo", [*tiny, *SMALL, *overrides]), 10, images)
    assert isinstance(model, InstDist)
    return model


@pytest.mark.parametrize(
    ("overrides", "chance"),
    [
        ([], math.log(65) + 64 * math.log(1 + 1 / 64)),
        (["method.loss=softmax"], math.log(65)),
        (["method.loss=softmax", "method.negatives=0"], math.log(256)),
    ],
)
def test_a_temperature_that_levels_all_scores_leaves_the_loss_of_chance(
    tiny: list[str], overrides: list[str], chance: float
) -> None:
    model = instdist(tiny, *overrides, "method.temperature=1000000.0")
    inputs = model.prepare(view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0))
    result = model.loss(model(inputs.images), inputs)
    assert float(result.loss) == pytest.approx(chance, rel=1e-4)
    assert model.recipe.method.chance_loss(model.recipe) == pytest.approx(chance)
    (figure,) = model.recipe.method.figures(model.recipe)
    assert figure.chance == pytest.approx(1 / 65 if model.keys.negatives else 1 / 256)


def test_the_chance_among_all_images_is_not_told_where_their_number_is_not_known() -> None:
    overrides = [*ALL_ROWS, "data.name=folder"]
    unknown = parse_recipe("", overrides)
    assert unknown.method.chance_loss(unknown) is None and unknown.method.figures(unknown)[0].chance is None
    known = parse_recipe("", [*overrides, "data.expected_images=5000", "data.limit=3000"])
    assert known.method.chance_loss(known) == pytest.approx(math.log(3000))


def test_a_step_changes_the_rows_of_its_images_alone_and_after_the_update(tiny: list[str]) -> None:
    model = instdist(tiny).double()
    before = model.criterion.bank.memory.clone()
    batch = view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)
    inputs = model.prepare(batch)
    result = model.loss(model(inputs.images.double()), inputs)
    assert torch.equal(model.criterion.bank.memory, before)
    model.after_step(result, batch)
    shown = torch.zeros(256, dtype=torch.bool)
    shown[batch.indices] = True
    memory = model.criterion.bank.memory
    assert torch.equal(memory[~shown], before[~shown])
    z = result.memory
    assert z is not None and not z.requires_grad
    expected = 0.5 * before[batch.indices] + 0.5 * z
    assert torch.allclose(memory[batch.indices], expected / expected.norm(dim=1, keepdim=True), atol=1e-12)


def test_negatives_are_counted_by_the_step_and_the_place_in_the_global_batch(tiny: list[str]) -> None:
    model = instdist(tiny)
    batches = view_batches(model.recipe, open_training_images(model.recipe), CPU)
    first, again, second = (model.prepare(batches.at(step)) for step in (0, 0, 1))
    assert torch.equal(first.targets, again.targets) and first.targets.shape == (32, 65)
    assert torch.equal(first.targets[:, 0], batches.at(0).indices)
    assert not torch.equal(first.targets[:, 1:], second.targets[:, 1:])
    by_places = model.criterion.bank.candidates(
        batches.at(0).indices, 64, seed=model.recipe.training.seed, step=0, places=batches.at(0).counters.places
    )
    assert torch.equal(first.targets, by_places)


def test_memory_and_z_are_in_a_checkpoint_and_evaluation_leaves_them(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", [*tiny, *SMALL]), tmp_path, "run")
    assert train(run, quiet=True) == "finished"
    checkpoint = load_checkpoint(run.checkpoint_files()[-1])
    names = {name.rpartition("criterion.")[2] for name in checkpoint.tensors if "criterion." in name}
    assert names == {"bank.memory", "constant.log_z"}
    memory = next(x for name, x in checkpoint.tensors.items() if name.endswith("bank.memory"))
    assert memory.shape == (256, 16) and torch.allclose(memory.norm(dim=1), torch.ones(256), atol=1e-5)
    model = instdist(tiny)
    before = {name: buffer.clone() for name, buffer in model.criterion.named_buffers()}
    model.eval()
    inputs = model.prepare(blank_batch(model.recipe, 4, CPU, torch.float32))
    model.loss(model(inputs.images), inputs)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.criterion.named_buffers())


def test_a_step_in_bfloat16_with_channels_last_keeps_a_memory_in_float32(tiny: list[str]) -> None:
    model = instdist(tiny, "training.precision=bfloat16", "training.channels_last=true", "encoder.width=0.25")
    model.to(memory_format=torch.channels_last)
    batch = view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)
    inputs = model.prepare(batch)
    with autocast(model.recipe, CPU):
        outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    result.objective.backward()
    model.after_step(result, batch)
    assert result.loss.dtype == torch.float32 and outputs["z"].dtype == torch.float32
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.head.parameters())
    assert torch.allclose(model.criterion.bank.memory.norm(dim=1), torch.ones(256), atol=1e-6)


def test_the_proximal_term_is_minimised_and_not_reported(tiny: list[str]) -> None:
    with_term, without = (instdist(tiny, f"method.proximal={weight}") for weight in (0.5, 0.0))
    batch = view_batches(with_term.recipe, open_training_images(with_term.recipe), CPU).at(0)
    results = [model.loss(model(batch.views), model.prepare(batch)) for model in (with_term, without)]
    own = with_term.criterion.bank.rows(batch.indices)
    z = results[0].memory
    assert z is not None
    assert float(results[0].loss) == float(results[1].loss)
    more = float((results[0].objective - results[1].objective).detach())
    assert more == pytest.approx(float((1 - (z * own).sum(dim=1)).mean()), rel=1e-4)


def test_the_plan_counts_the_bank() -> None:
    recipe = load_recipe("instdist_r50")
    assert make_plan(recipe, 1_281_167).memory_beside == 4 * 128 * 1_281_167
    other = load_recipe("instdist_r50", ["method.output_dim=64"])
    assert make_plan(recipe, 1_281_167).memory - make_plan(other, 1_281_167).memory >= 4 * 64 * 1_281_167


def test_few_images_with_nce_are_noted(tiny: list[str]) -> None:
    images = Images("any", np.zeros((300, 8, 8, 3), dtype=np.uint8))
    (note,) = instdist(tiny).study_images(images, load_recipe("demo", tiny).law)
    assert "300" in note and "method.loss" in note and "method.negatives = 0" in note
    model = instdist(tiny, "method.loss=softmax")
    assert not list(model.study_images(images, model.recipe.law))


def test_its_views_and_its_decay_are_the_authors_unless_a_recipe_says_otherwise() -> None:
    recipe = parse_recipe("", ["method.name=instdist"])
    a, law = recipe.augmentation, recipe.law
    assert (law.brightness, law.contrast, law.saturation, law.hue) == (0.4, 0.4, 0.4, 0.4)
    assert (a.min_scale, a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (0.2, 1.0, 0.2, 0.0, 0.5)
    assert a.gray_first and not recipe.optimizer.nesterov and recipe.optimizer.decay_norms
    assert parse_recipe("", ["method.name=instdist", "augmentation.colors=[]"]).law.hue == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.negatives=0"], ["method.negatives = 0", "method.loss", "softmax"]),
        (["method.negatives=-1"], ["method.negatives"]),
        (["method.temperature=0"], ["method.temperature"]),
        (["method.momentum=1.5"], ["method.momentum"]),
        (["method.z_momentum=2.0"], ["method.z_momentum"]),
        (["method.output_dim=0"], ["method.output_dim"]),
        (["method.loss=hinge"], ["method.loss", "hinge", "nce"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation", "instdist"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=instdist", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)
