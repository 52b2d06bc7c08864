"""PIRL in the loop: what goes in, whose statistics run, what stays, what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from simclr_plus.datasets.images import Images, open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.patches import random_patches
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.instdist import InstDist
from simclr_plus.training.methods.pirl import PIRL
from simclr_plus.training.model import build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.checkpoints import load_checkpoint

CPU = torch.device("cpu")
SMALL = ["method.name=pirl", "augmentation.image_size=28", "method.negatives=64", "method.output_dim=16"]


def pirl(tiny: list[str], *overrides: str, images: int = 256) -> PIRL:
    model = build_model(load_recipe("demo", [*tiny, *SMALL, *overrides]), 10, images)
    assert isinstance(model, PIRL)
    return model


def batches_of(model: PIRL | InstDist):  # type: ignore[no-untyped-def]
    return view_batches(model.recipe, open_training_images(model.recipe), CPU)


def test_patches_are_cut_from_another_crop_of_the_photo_in_an_order_for_each_image(tiny: list[str]) -> None:
    """28 pixels: a crop of 33, cells of 11, patches of 8."""
    model = pirl(tiny, "method.patch_operations=none")
    batch = batches_of(model).at(1)
    assert batch.second is not None and batch.second.shape == (32, 3, 33, 33)
    inputs = model.prepare(batch)
    assert inputs.more["patches"].shape == (32 * 9, 3, 8, 8) and inputs.more["orders"].shape == (32, 9)
    drawn = {"seed": batch.seed, "indices": batch.counters.indices, "epochs": batch.counters.epochs}
    expected = random_patches(batch.second, model.grid, 0.0, **drawn)
    assert torch.equal(inputs.more["patches"], expected.flatten(0, 1))
    assert len({tuple(order) for order in inputs.more["orders"].tolist()}) == 32
    again = model.prepare(batches_of(model).at(1))
    assert torch.equal(again.more["patches"], inputs.more["patches"])
    assert torch.equal(again.more["orders"], inputs.more["orders"])


def test_each_patch_is_distorted_unless_a_recipe_says_none(tiny: list[str]) -> None:
    each, none = (pirl(tiny, f"method.patch_operations={how}", "augmentation.flip_prob=0") for how in ("each", "none"))
    batches = batches_of(each), batches_of(none)
    assert torch.equal(batches[0].at(0).second, batches[1].at(0).second)  # the crop itself is left as it is
    changed = each.prepare(batches[0].at(0)).more["patches"] - none.prepare(batches[1].at(0)).more["patches"]
    assert float((changed.abs().amax(dim=(1, 2, 3)) > 1e-3).float().mean()) > 0.8  # black ones stay


def test_running_statistics_are_those_of_whole_images(tiny: list[str]) -> None:
    model = pirl(tiny).double()
    alone = pirl(tiny).double()
    inputs = model.prepare(batches_of(model).at(0))
    model(inputs.images.double(), **{n: x.double() if x.is_floating_point() else x for n, x in inputs.more.items()})
    alone.encoder(inputs.images.double())
    buffers = dict(alone.encoder.named_buffers())
    assert buffers and all(torch.equal(x, buffers[name]) for name, x in model.encoder.named_buffers())


def test_checkpointed_activations_give_the_same_gradients_and_statistics(tiny: list[str]) -> None:
    results = []
    for checkpointing in ("false", "true"):
        model = pirl(tiny, f"training.activation_checkpointing={checkpointing}")
        inputs = model.prepare(batches_of(model).at(0))
        model.loss(through(model, inputs, model.recipe), inputs).objective.backward()
        results.append([*(p.grad for p in model.parameters() if p.grad is not None), *model.encoder.buffers()])
    assert len(results[0]) == len(results[1])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("overrides", "chance"),
    [
        (["method.objective=nce"], math.log(65) + 64 * math.log(1 + 1 / 64)),
        ([], math.log(65)),
        (["method.negatives=0"], math.log(256)),
        (["method.negatives=5000"], math.log(257)),  # no more than there are images
        (["method.weight=0"], math.log(65)),
    ],
)
def test_a_temperature_that_levels_all_scores_leaves_the_loss_of_chance(
    tiny: list[str], overrides: list[str], chance: float
) -> None:
    model = pirl(tiny, *overrides, "method.temperature=1000000.0")
    inputs = model.prepare(batches_of(model).at(0))
    result = model.loss(through(model, inputs, model.recipe), inputs)
    assert float(result.loss) == pytest.approx(chance, rel=1e-4)
    assert model.recipe.method.chance_loss(model.recipe) == pytest.approx(chance)
    columns = [figure.column for figure in model.recipe.method.figures(model.recipe)]
    assert set(columns) == set(result.metrics()) and ("patch_accuracy" in columns) == bool(model.keys.weight)


def test_without_patches_a_step_is_instdists(tiny: list[str]) -> None:
    settings = ["augmentation.image_size=28", "method.negatives=64", "method.output_dim=16", "augmentation.colors=[]"]
    ours = pirl(tiny, "method.weight=0", "augmentation.colors=[]")
    theirs = build_model(
        load_recipe("demo", [*tiny, "method.name=instdist", "method.loss=softmax", *settings]), 10, 256
    )
    assert isinstance(theirs, InstDist)
    theirs.encoder.load_state_dict(ours.encoder.state_dict())
    theirs.head.linear.load_state_dict(ours.head.first.state_dict())
    batch = batches_of(ours).at(0)
    assert batch.second is None
    losses = []
    for model in (ours, theirs):
        inputs = model.prepare(batch)
        result = model.loss(model(inputs.images), inputs)
        model.after_step(result, batch)
        losses.append(result.loss)
    assert torch.equal(*losses)
    assert torch.equal(ours.criterion.memory.bank.memory, theirs.criterion.bank.memory)


def test_a_step_changes_the_rows_of_its_images_towards_u(tiny: list[str]) -> None:
    model = pirl(tiny)
    before = model.criterion.memory.bank.memory.clone()
    batch = batches_of(model).at(0)
    inputs = model.prepare(batch)
    outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    assert torch.equal(model.criterion.memory.bank.memory, before)
    model.after_step(result, batch)
    after = model.criterion.memory.bank.memory
    shown = torch.zeros(256, dtype=torch.bool)
    shown[batch.indices] = True
    assert torch.equal(after[~shown], before[~shown])
    towards = 0.5 * before[batch.indices] + 0.5 * outputs["u"].detach()
    assert torch.allclose(after[batch.indices], towards / towards.norm(dim=1, keepdim=True), atol=1e-6)


def test_memory_and_z_are_in_a_checkpoint(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", [*tiny, *SMALL, "method.objective=nce"]), tmp_path, "run")
    assert train(run, quiet=True) == "finished"
    tensors = load_checkpoint(run.checkpoint_files()[-1]).tensors
    names = {name.rpartition("criterion.")[2] for name in tensors if "criterion." in name}
    assert names == {"memory.bank.memory", "memory.constant.log_z"}
    assert {"pretext_accuracy", "patch_accuracy"} <= list(run.metrics())[-1].keys()


def test_a_step_in_bfloat16_with_channels_last_keeps_a_memory_in_float32(tiny: list[str]) -> None:
    model = pirl(
        tiny, "training.precision=bfloat16", "training.channels_last=true", "encoder.width=0.25", "method.mlp=true"
    )
    model.to(memory_format=torch.channels_last)
    batch = batches_of(model).at(0)
    inputs = model.prepare(batch)
    with autocast(model.recipe, CPU):
        outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    result.objective.backward()
    model.after_step(result, batch)
    assert result.loss.dtype == outputs["v"].dtype == torch.float32
    grads = [p.grad for name, p in model.named_parameters() if not name.startswith("probe.")]
    assert all(g is not None and bool(torch.isfinite(g).all()) for g in grads)
    assert torch.allclose(model.criterion.memory.bank.memory.norm(dim=1), torch.ones(256), atol=1e-6)


def test_the_plan_counts_the_bank_and_the_pixels_of_patches() -> None:
    recipe = load_recipe("pirl_r50")
    assert make_plan(recipe, 1_281_167).memory_beside == 4 * 128 * 1_281_167
    assert recipe.method.pixels(recipe) == pytest.approx(1.73, abs=0.01)
    assert recipe.second_law is not None
    law = recipe.second_law
    assert (law.size, law.min_scale, law.flip_prob, law.jitter_prob, law.gray_prob) == (255, 0.6, 0.0, 0.0, 0.0)
    plain = parse_recipe("", ["method.name=pirl", "method.patch_operations=none"]).second_law
    assert plain is not None and plain.flip_prob == 0.5 and plain.jitter_prob == 0


def test_fewer_images_than_negatives_are_noted(tiny: list[str]) -> None:
    images = Images("any", np.zeros((300, 8, 8, 3), dtype=np.uint8))
    model = pirl(tiny, "method.negatives=1000", images=300)
    (note,) = model.study_images(images, model.recipe.law)
    assert "1,000" in note and "300" in note and "method.negatives" in note
    assert not list(pirl(tiny).study_images(images, model.recipe.law))


def test_its_views_are_the_authors_unless_a_recipe_says_otherwise() -> None:
    recipe = parse_recipe("", ["method.name=pirl"])
    a, law = recipe.augmentation, recipe.law
    assert (law.brightness, law.contrast, law.saturation, law.hue) == (0.4, 0.4, 0.4, 0.2)
    assert (a.min_scale, a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (0.08, 1.0, 0.2, 0.0, 0.5)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.objective=nce", "method.negatives=0"], ["method.negatives = 0", "method.objective", "infonce"]),
        (
            ["augmentation.image_size=32"],
            ["encoder.stem", "imagenet", "cifar", "9 pixels", "augmentation.image_size = 32"],
        ),
        (
            ["augmentation.image_size=16", "encoder.stem=cifar"],
            ["augmentation.image_size = 16", "method.grid = 3", "26"],
        ),
        (["method.grid=9", "augmentation.image_size=64"], ["method.grid = 9", "augmentation.image_size = 64"]),
        (["method.weight=1.5"], ["method.weight"]),
        (["method.temperature=0"], ["method.temperature"]),
        (["method.memory_momentum=2"], ["method.memory_momentum"]),
        (["method.objective=hinge"], ["method.objective", "hinge", "infonce"]),
        (["method.loss=nce"], ["method.loss", "pirl"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=pirl", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_without_patches_small_views_and_any_stem_will_do() -> None:
    assert parse_recipe("", ["method.name=pirl", "method.weight=0", "augmentation.image_size=16"]).method.name == "pirl"
