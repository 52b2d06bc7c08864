"""CMC in the loop: two halves, two memories, one encoder that all others feed RGB; what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_settings import TINY
from PIL import Image

from simclr_plus.datasets.images import Images, open_folder, open_images, open_training_images
from simclr_plus.encoders.lab_pair import LabPair
from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.features.extraction import features_of
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.cmc import CMC
from simclr_plus.training.model import blank_batch, build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import load_encoder

CPU = torch.device("cpu")
NAMED = ["method.name=cmc"]


def keys_of(tiny: list[str], *overrides: str) -> list[str]:
    return [*tiny, *NAMED, *TINY["cmc"], *overrides]


def cmc(tiny: list[str], *overrides: str) -> CMC:
    model = build_model(load_recipe("demo", keys_of(tiny, *overrides)), 0, 256)
    assert isinstance(model, CMC)
    return model


def pictures(count: int, colored: int, spread: int = 8) -> np.ndarray:
    """uint8 [N, H, W, 3], the last `colored` of them in color; the others are gray but for JPEG's noise."""
    random = np.random.default_rng(0)
    images = np.repeat(random.integers(0, 200, (count, 20, 20, 1), dtype=np.uint8), 3, axis=-1)
    images[..., 0] += spread
    images[count - colored :] = random.integers(0, 256, (colored, 20, 20, 3), dtype=np.uint8)
    return images


def test_its_views_are_crops_and_flips_alone_and_its_network_is_the_pair() -> None:
    recipe = parse_recipe("", NAMED)
    a, o = recipe.augmentation, recipe.optimizer
    assert (a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob, a.min_scale) == (0.0, 0.0, 0.0, 0.5, 0.08)
    assert (recipe.data.name, o.nesterov, o.decay_norms) == ("places", False, True)
    assert recipe.network["family"] == "lab_pair" and recipe.network["width"] == 0.5
    assert recipe.feature_dim == 2048 == load_recipe("r50_1x").feature_dim
    parameters = recipe.method.encoder_parameters(recipe)
    plain = load_recipe("r50_1x")
    assert parameters == pytest.approx(11.8e6, rel=0.01)
    assert plain.method.encoder_parameters(plain) == pytest.approx(23.5e6, rel=0.01)
    assert parse_recipe("", [*NAMED, "augmentation.jitter_prob=1"]).augmentation.jitter_prob == 1  # as PyContrast


@pytest.mark.parametrize(("width", "of_branch", "features"), [(1.0, 0.5, 2048), (1.0, 1.0, 4096), (0.5, 0.25, 512)])
def test_h_is_as_long_as_both_halves(width: float, of_branch: float, features: int) -> None:
    recipe = parse_recipe("", [*NAMED, f"encoder.width={width}", f"method.branch_width={of_branch}"])
    assert recipe.feature_dim == features


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["data.name=embedded"], ["data.name", "embedded", "gray", "instdist"]),
        (["data.name=mnist"], ["mnist", "instdist"]),
        (["data.name=fashion_mnist"], ["fashion_mnist"]),
        (["augmentation.gray_prob=0.2"], ["augmentation.gray_prob = 0.2"]),
        (['augmentation.operations=["color"]'], ["augmentation.operations", "color", "gray"]),
        (["encoder.input=lightness"], ["encoder.input", "lightness", "cmc"]),
        (["encoder.mean=[0.5,0.5,0.5]"], ["encoder.mean", "0.5"]),
        (["method.branch_width=0.3"], ["method.branch_width = 0.3", "1/64"]),
        (["encoder.width=0.015625"], ["method.branch_width = 0.5", "encoder.width = 0.015625"]),
        (["method.negatives=0"], ["method.negatives = 0", "softmax"]),
        (["method.color_space=hsv"], ["method.color_space", "lab", "ydbdr"]),
        (["method.proximal=1"], ["method.proximal", "instdist", "cmc"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", [*NAMED, *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_images_are_refused_where_more_than_half_of_a_sample_are_gray_and_noted_from_a_twentieth(
    tiny: list[str], tmp_path: Path
) -> None:
    model, law = cmc(tiny, "method.loss=softmax"), load_recipe("demo", tiny).law
    with pytest.raises(RecipeError, match=r"21 of 40 images looked at are gray \(data.name = \"places\"\).*instdist"):
        list(model.study_images(Images("most", pictures(40, 19)), law))
    (note,) = model.study_images(Images("half", pictures(40, 20)), law)
    assert "20 of 40 images looked at are gray" in note
    assert list(model.study_images(Images("few", pictures(40, 38)), law)) == []
    many = pictures(1024, 768)  # the first quarter gray: the sample is spread over all
    (note,) = model.study_images(Images("many", many), law)
    assert "64 of 256 images" in note
    for i, image in enumerate(pictures(3, 0)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    (tmp_path / "3.png").write_bytes(b"none")
    with pytest.raises(RecipeError, match="3 of 3 images looked at"):
        list(model.study_images(replace(open_folder(tmp_path), skip_bad=True), law))


def test_few_images_with_nce_are_noted(tiny: list[str]) -> None:
    images = Images("any", pictures(300, 300))
    law = load_recipe("demo", tiny).law
    (note,) = cmc(tiny).study_images(images, law)
    assert "300" in note and "method.loss" in note and "method.negatives = 0" in note
    assert not list(cmc(tiny, "method.loss=softmax").study_images(images, law))


@pytest.mark.parametrize(
    ("overrides", "chance"),
    [
        ([], 2 * (math.log(65) + 64 * math.log(1 + 1 / 64))),
        (["method.loss=softmax"], 2 * math.log(65)),
        (["method.loss=softmax", "method.negatives=0"], 2 * math.log(256)),
    ],
)
def test_a_temperature_that_levels_all_scores_leaves_the_loss_of_chance(
    tiny: list[str], overrides: list[str], chance: float
) -> None:
    model = cmc(tiny, *overrides, "method.temperature=1000000.0")
    inputs = model.prepare(view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0))
    result = model.loss(model(inputs.images), inputs)
    assert float(result.loss) == pytest.approx(chance, rel=1e-4)
    assert model.recipe.method.chance_loss(model.recipe) == pytest.approx(chance)
    expected = 1 / 65 if model.keys.negatives else 1 / 256
    assert {figure.chance for figure in model.recipe.method.figures(model.recipe)} == {expected}


def test_the_gradient_of_a_half_reaches_its_own_network_alone(tiny: list[str]) -> None:
    model = cmc(tiny)
    inputs = model.prepare(view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0))
    outputs = model(inputs.images)
    assert inputs.targets is not None
    told = model.criterion.compare(outputs["lightness"], outputs["colors"], inputs.targets)
    told.lightness.loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert with_gradient and all(name.startswith(("encoder.lightness.", "head.lightness.")) for name in with_gradient)


def test_a_step_changes_the_rows_of_its_images_alone_and_after_the_update(tiny: list[str]) -> None:
    model = cmc(tiny).double()
    banks = model.criterion.lightness.bank, model.criterion.colors.bank
    before = [bank.memory.clone() for bank in banks]
    batch = view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)
    inputs = model.prepare(batch)
    result = model.loss(model(inputs.images.double()), inputs)
    assert all(torch.equal(bank.memory, rows) for bank, rows in zip(banks, before, strict=True))
    model.after_step(result, batch)
    shown = torch.zeros(256, dtype=torch.bool)
    shown[batch.indices] = True
    assert result.memory is not None and not result.memory.requires_grad
    for bank, rows, z in zip(banks, before, result.memory, strict=True):
        assert torch.equal(bank.memory[~shown], rows[~shown])
        expected = 0.5 * rows[batch.indices] + 0.5 * z
        assert torch.allclose(bank.memory[batch.indices], expected / expected.norm(dim=1, keepdim=True), atol=1e-12)


def test_memories_and_constants_are_in_a_checkpoint_and_evaluation_leaves_them(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", keys_of(tiny)), tmp_path, "run")
    assert train(run, quiet=True) == "finished"
    checkpoint = load_checkpoint(run.checkpoint_files()[-1])
    names = {name.rpartition("criterion.")[2] for name in checkpoint.tensors if "criterion." in name}
    assert names == {f"{half}.{kept}" for half in ("lightness", "colors") for kept in ("bank.memory", "constant.log_z")}
    model = cmc(tiny)
    before = {name: buffer.clone() for name, buffer in model.criterion.named_buffers()}
    model.eval()
    inputs = model.prepare(blank_batch(model.recipe, 4, CPU, torch.float32))
    model.loss(model(inputs.images), inputs)
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.criterion.named_buffers())


def test_what_was_trained_is_read_again_as_one_encoder_of_rgb(tmp_path: Path, tiny: list[str]) -> None:
    """From the run's file and from its checkpoint; an encoder to start from; h as features see it."""
    run = create_run(load_recipe("demo", keys_of(tiny, "method.color_space=ydbdr")), tmp_path, "run")
    train(run, quiet=True)
    recipe, images = run.recipe(), open_images(run.recipe().data, "test").first(8)
    of_file, of_checkpoint = (load_encoder(p) for p in (run.path / "encoder.safetensors", run.checkpoint_files()[-1]))
    assert isinstance(of_file, LabPair) and of_file.color_space == "ydbdr"
    assert of_file.spec == recipe.network and of_file.feature_dim == recipe.feature_dim == 128
    (h, _), (again, _) = (features_of(e, images, recipe.law, device=CPU) for e in (of_file, of_checkpoint))
    assert np.array_equal(h, again) and h.shape == (8, 128)
    start = f"training.init_from={run.path / 'encoder.safetensors'}"
    goes_on = create_run(load_recipe("demo", keys_of(tiny, "method.color_space=ydbdr", start)), tmp_path, "next")
    assert train(goes_on, quiet=True) == "finished"
    other = create_run(load_recipe("demo", keys_of(tiny, start)), tmp_path, "other")
    with pytest.raises(CheckpointError, match=r"training.init_from.*ydbdr.*lab"):
        train(other, quiet=True)


def test_a_step_in_bfloat16_with_channels_last_keeps_memories_in_float32(tiny: list[str]) -> None:
    keys = ("training.precision=bfloat16", "training.channels_last=true", "encoder.width=0.25")
    model = cmc(tiny, *keys)
    model.to(memory_format=torch.channels_last)
    batch = view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)
    inputs = model.prepare(batch)
    with autocast(model.recipe, CPU):
        outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    result.objective.backward()  # type: ignore[no-untyped-call]
    model.after_step(result, batch)
    assert result.loss.dtype == torch.float32 and outputs["lightness"].dtype == torch.float32
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    assert torch.allclose(model.criterion.colors.bank.memory.norm(dim=1), torch.ones(256), atol=1e-6)


def test_the_plan_counts_both_memories_and_both_networks() -> None:
    recipe = load_recipe("cmc_r50")
    wide = load_recipe("cmc_r50", ["method.branch_width=1"])
    more = make_plan(wide, 1_281_167).memory - make_plan(recipe, 1_281_167).memory
    halves, wholes = (r.method.activation_count(r, recompute_blocks=False) for r in (recipe, wide))
    assert wholes == pytest.approx(2 * halves) and more > 128 * (wholes - halves) * 2
    assert make_plan(recipe, 1_281_167).memory_beside == 2 * 4 * 128 * 1_281_167
