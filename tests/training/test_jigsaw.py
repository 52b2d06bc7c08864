"""Jigsaw puzzles in the loop: which orders an image is shown in, what is kept, what is refused."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import part_of
from method_settings import TINY
from safetensors.torch import load_file
from torch import nn

from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.permutation_set import permutation_set
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.jigsaw import Jigsaw
from simclr_plus.training.model import blank_batch, build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches

CPU = torch.device("cpu")


def recipe_of(tiny: list[str], *overrides: str) -> Recipe:
    return load_recipe("demo", [*tiny, "method.name=jigsaw", *TINY["jigsaw"], *overrides])


def model_of(recipe: Recipe) -> Jigsaw:
    model = build_model(recipe, 0)
    assert isinstance(model, Jigsaw)
    return model


def test_rows_show_the_orders_that_their_labels_number_different_ones_for_each_image(tiny: list[str]) -> None:
    recipe = recipe_of(tiny)
    model = model_of(recipe)
    inputs = model.prepare(view_batches(recipe, open_training_images(recipe), CPU).at(0))
    assert inputs.images.shape == (9 * 32, 3, 8, 8) and inputs.targets is not None and inputs.targets.shape == (32 * 4,)
    orders = inputs.more["orders"]
    assert orders.shape == (32, 4, 9)
    assert torch.equal(orders.flatten(0, 1), torch.from_numpy(permutation_set(20, 9)).long()[inputs.targets])
    assert len({tuple(labels) for labels in inputs.targets.view(32, 4).tolist()}) > 16
    assert inputs.targets.unique().numel() == 20  # of the whole set, not of those drawn


def test_images_keep_their_orders_whoever_they_share_a_batch_with(tiny: list[str]) -> None:
    recipe = recipe_of(tiny)
    model, batches = model_of(recipe), view_batches(recipe, open_training_images(recipe), CPU)
    batch = batches.at(2)
    part = replace(part_of(batch, slice(20, None)), step=7)
    whole, alone = model.prepare(batch), model.prepare(part)
    assert torch.equal(alone.more["orders"], whole.more["orders"][20:])
    assert torch.equal(alone.more["dropped"], whole.more["dropped"][80:]) and torch.equal(
        alone.images, whole.images[180:]
    )


@pytest.mark.parametrize("grid", [2, 3])
def test_logits_that_tell_nothing_have_the_loss_of_chance(tiny: list[str], grid: int) -> None:
    recipe = recipe_of(tiny, f"method.grid={grid}", "method.permutations=24")
    model = model_of(recipe)
    inputs = model.prepare(view_batches(recipe, open_training_images(recipe), CPU).at(0))
    result = model.loss(through(model, inputs, recipe), inputs)
    assert float(result.loss) == pytest.approx(math.log(24), abs=0.05)  # at the start
    share = result.metrics()["pretext_accuracy"]
    assert abs(share - 1 / 24) < 4 * (23 / 24**2 / 128) ** 0.5  # binomial
    nn.init.zeros_(model.head.classifier.weight)
    inputs = model.prepare(blank_batch(recipe, 3, CPU, torch.float32))
    result = model.loss(model(inputs.images, **inputs.more), inputs)
    assert float(result.loss) == pytest.approx(math.log(24), rel=1e-6)
    assert recipe.method.chance_loss(recipe) == pytest.approx(math.log(24))


def test_every_parameter_learns_in_bfloat16_and_channels_last(tiny: list[str]) -> None:
    recipe = recipe_of(tiny, "training.precision=bfloat16", "training.channels_last=true", "encoder.width=0.25")
    model = model_of(recipe)
    inputs = model.prepare(view_batches(recipe, open_training_images(recipe), CPU).at(0))
    with autocast(recipe, CPU):
        outputs = through(model, inputs, recipe)
    model.loss(outputs, inputs).objective.backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_permutations_of_a_file_take_the_place_of_the_law_and_a_checkpoint_keeps_them(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).permuted(np.tile(np.arange(9), (20, 1)), axis=1)
    np.save(tmp_path / "mine.npy", rows + 1)  # counted from 1
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(tiny, "method.file=mine.npy", "training.epochs=0.25", "training.warmup_epochs=0.125")
    assert np.array_equal(model_of(recipe).permutations.numpy(), rows)
    run = create_run(recipe, tmp_path, "run")
    assert train(run, quiet=True) == "finished"
    kept = [x for name, x in load_file(run.checkpoint_files()[-1]).items() if name.endswith("permutations")]
    assert len(kept) == 1 and np.array_equal(kept[0].numpy(), rows)
    monkeypatch.chdir("/")
    recorded = run.recipe()
    assert np.array_equal(model_of(recorded).permutations.numpy(), rows)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read"),
        (b"none", "no .npy file"),
        (b"PK\x03\x04 and no more", "no .npy file"),  # begins as a zip
        (np.zeros((20, 9)), "float64"),
        (np.tile(np.arange(9), (20, 1)), "twice"),
        (np.tile(np.arange(9), (7, 1)), "7 permutations, not 20"),
        (np.zeros((20, 9), dtype=int), "row 0"),
        (np.tile(np.arange(4), (20, 1)), "(20, 4)"),
    ],
)
def test_a_file_without_such_a_set_is_refused_by_key_value_and_remedy(
    tmp_path: Path, tiny: list[str], content: np.ndarray | bytes | None, said: str
) -> None:
    file = tmp_path / "mine.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        np.save(file, content)
    with pytest.raises(RecipeError) as refused:
        model_of(recipe_of(tiny, f"method.file={file}"))
    text = str(refused.value)
    assert "method.file" in text and str(file) in text and said in text and "leave method.file out" in text


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.grid=2"], ["method.permutations = 100", "method.grid = 2", "method.permutations=24"]),
        (["method.permutations=2001"], ["method.permutations"]),
        (["method.permutations=1"], ["method.permutations"]),
        (["method.permutations=5"], ["method.per_image = 8", "method.permutations = 5", "method.per_image=5"]),
        (["method.grid=4"], ["method.grid"]),
        (["method.jitter=90"], ["method.jitter = 90"]),
        (["augmentation.image_size=100"], ["method.crop = 255", "image_size = 100", "method.crop=100"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=jigsaw", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


@pytest.mark.parametrize("name", ["jigsaw", "relative_patch"])
@pytest.mark.parametrize("size", [16, 23, 24, 27, 31, 32, 100, 254])
def test_the_remedy_for_a_crop_that_does_not_fit_is_accepted(name: str, size: int) -> None:
    keys = [f"method.name={name}", f"augmentation.image_size={size}"]
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", keys)
    remedy = re.findall(r"(?:method\.crop|method\.jitter|augmentation\.image_size)=\d+", str(refused.value))
    assert remedy and parse_recipe("", [*keys, *remedy]).method.name == name


def test_its_momentum_is_plain_unless_a_recipe_says_so() -> None:
    assert not parse_recipe("", ["method.name=jigsaw"]).optimizer.nesterov
    assert not load_recipe("jigsaw_r50").optimizer.nesterov
    assert parse_recipe("", ["method.name=jigsaw", "optimizer.nesterov=true"]).optimizer.nesterov
