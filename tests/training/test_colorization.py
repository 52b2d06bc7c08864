"""Colorization in the loop: what f sees, what is asked, how colors are counted, which images are refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from method_settings import TINY
from PIL import Image

from simclr_plus.augmentations.further_operations import apply_operations
from simclr_plus.augmentations.law import OPERATIONS
from simclr_plus.color_spaces import lab
from simclr_plus.datasets.images import Images, open_folder, open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.colorization import COLORS, color_prior, color_targets, imagenet_prior
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.colorization import Colorization, prior_in_words
from simclr_plus.training.model import build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import load_encoder

CPU = torch.device("cpu")
NAMED = ["method.name=colorization"]


def keys_of(tiny: list[str], *overrides: str) -> list[str]:
    return [*tiny, *NAMED, *TINY["colorization"], *overrides]


def colorization(tiny: list[str], *overrides: str) -> Colorization:
    model = build_model(load_recipe("demo", keys_of(tiny, *overrides)), 0)
    assert isinstance(model, Colorization)
    return model


def pictures(count: int, colored: int, side: int = 20) -> np.ndarray:
    """uint8 [N, H, W, 3], the last `colored` of them in color."""
    random = np.random.default_rng(0)
    gray = np.repeat(random.integers(0, 256, (count, side, side, 1), dtype=np.uint8), 3, axis=-1)
    gray[count - colored :] = random.integers(0, 256, (colored, side, side, 3), dtype=np.uint8)
    return gray


def test_its_views_keep_their_colors_and_its_network_sees_lightness() -> None:
    recipe = parse_recipe("", NAMED)
    a = recipe.augmentation
    assert (a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (0.0, 0.0, 0.0, 0.5)
    assert recipe.encoder.input == "lightness" and recipe.data.name == "places" and not recipe.optimizer.nesterov
    assert recipe.method.view_count == recipe.method.pixels(recipe) == 1


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["data.name=embedded"], ["data.name", "embedded", "gray", "rotation"]),
        (["data.name=mnist"], ["data.name", "mnist", "places"]),
        (["data.name=fashion_mnist"], ["data.name", "fashion_mnist"]),
        (["augmentation.gray_prob=0.2"], ["augmentation.gray_prob = 0.2", "0"]),
        (["augmentation.jitter_prob=0.8"], ["augmentation.jitter_prob = 0.8", "0"]),
        (['augmentation.operations=["crop","color"]'], ["augmentation.operations", "color", "leave it out"]),
        (['augmentation.operations=["solarize"]'], ["augmentation.operations", "solarize", "changes the colors"]),
        (["encoder.input=rgb"], ["encoder.input", "rgb", "lightness"]),
        (["method.rebalance=0"], ["method.rebalance"]),
        (["method.rebalance=1.5"], ["method.rebalance"]),
        (["method.neighbours=314"], ["method.neighbours"]),
        (["method.prior=zhang"], ["method.prior", "dataset", "imagenet"]),
        (["augmentation.image_size=64", "method.label_stride=65"], ["method.label_stride = 65"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", [*NAMED, *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_refused_where_it_changes_colors(name: str) -> None:
    """Done to views of one color, a quarter of each black: is there another color after it, or little of this one?"""
    law = replace(parse_recipe("", NAMED).law, size=32, min_scale=1.0, operations=(name,))
    color, views = torch.tensor([0.9, 0.3, 0.2]), torch.zeros(1, 64, 3, 32, 32)
    views[..., 8:, :] = color.view(3, 1, 1)
    who = {"epochs": np.zeros(64, dtype=np.int64), "indices": np.arange(64)}
    pixels = apply_operations(views, law, seed=0, **who)[0].movedim(1, -1)
    sums = pixels.sum(dim=-1, keepdim=True)
    colored = sums[..., 0] > 0.2
    same = torch.allclose((pixels / sums)[colored], color / color.sum(), atol=0.02)
    keeps = same and float(colored.float().mean(dim=(1, 2)).min()) > 0.5
    try:
        parse_recipe("", [*NAMED, f'augmentation.operations=["{name}"]'])
    except RecipeError:
        assert not keeps
    else:
        assert keeps


def test_a_folder_is_refused_where_the_first_images_are_all_gray_and_noted_where_most_are(
    tiny: list[str], tmp_path: Path
) -> None:
    model, law = colorization(tiny), load_recipe("demo", tiny).law
    with pytest.raises(RecipeError, match=r"12 of 12 images looked at are gray \(data.name = \"places\"\).*rotation"):
        list(model.study_images(Images("gray", pictures(12, 0)), law))
    notes = list(model.study_images(Images("some", pictures(12, 1)), law))
    assert any("11 of 12 images looked at are gray" in note for note in notes)
    assert not any("looked at" in note for note in model.study_images(Images("half", pictures(12, 6)), law))
    for name, array in (("a/0.png", pictures(1, 0, 20)[0]), ("a/1.jpg", pictures(1, 0, 31)[0, :17])):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / name)
    folder = open_folder(tmp_path)
    with pytest.raises(RecipeError, match="2 of 2 images"):
        list(model.study_images(folder, law))
    with pytest.raises(RecipeError, match="2 of 2 images"):  # an unreadable one is left out where the run does so
        (tmp_path / "a" / "2.png").write_bytes(b"none")
        list(model.study_images(replace(open_folder(tmp_path), skip_bad=True), law))


def test_where_none_of_the_first_images_can_be_read_nothing_is_said_of_gray_and_others_are_counted(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simclr_plus.training.methods.colorization.LOOKED_AT", 3)
    (tmp_path / "a").mkdir()
    for i in range(3):
        (tmp_path / "a" / f"{i}.png").write_bytes(b"none")
    model, law = colorization(tiny), load_recipe("demo", tiny).law
    with pytest.raises(RecipeError, match=r"none of those looked at can be read.*method.prior=imagenet"):
        list(model.study_images(replace(open_folder(tmp_path), skip_bad=True), law))
    Image.fromarray(pictures(1, 1)[0]).save(tmp_path / "a" / "3.png")
    (note,) = model.study_images(replace(open_folder(tmp_path), skip_bad=True), law)
    assert note == prior_in_words(model.prior.double()) and float(model.prior.sum()) == pytest.approx(1, abs=1e-5)


def test_a_run_on_gray_images_ends_before_its_first_step_with_that_sentence(tiny: list[str], tmp_path: Path) -> None:
    for i, array in enumerate(pictures(40, 0)):
        (tmp_path / "p").mkdir(exist_ok=True)
        Image.fromarray(array).save(tmp_path / "p" / f"{i}.png")
    keys = keys_of(tiny, "data.name=folder", f"data.root={tmp_path / 'p'}")
    with pytest.raises(RecipeError, match=r'40 of 40 images looked at are gray \(data.name = "folder"'):
        train(create_run(load_recipe("demo", keys), tmp_path / "runs", "gray"), quiet=True)


def test_the_prior_is_that_of_whole_training_images_and_is_kept(tiny: list[str], tmp_path: Path) -> None:
    recipe = load_recipe("demo", keys_of(tiny))
    images = open_training_images(recipe)
    model = colorization(tiny)
    (note,) = model.study_images(images, recipe.law)
    assert note == prior_in_words(model.prior.double()) and "within 30" in note
    shown = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255  # type: ignore[arg-type]
    small = torch.nn.functional.interpolate(shown, (16, 16), mode="bicubic", antialias=True).clamp(0, 1)
    exact = color_prior(color_targets(small.double(), 4).movedim(1, -1).reshape(-1, 2))
    assert float((model.prior - exact).abs().sum()) / 2 < 0.02  # another kernel, and whole numbers
    assert float(model.prior.sum()) == pytest.approx(1, abs=1e-5)
    again = colorization(tiny)
    list(again.study_images(images, recipe.law))
    assert torch.equal(again.prior, model.prior)
    run = create_run(recipe, tmp_path, "kept")
    train(run, quiet=True)
    tensors = load_checkpoint(run.checkpoint_files()[-1]).tensors
    assert torch.equal(next(x for name, x in tensors.items() if name.endswith("prior")), model.prior)
    assert note in [event.get("message") for event in run.events()]


def test_rounded_colors_make_nearly_the_prior_of_exact_ones(tiny: list[str]) -> None:
    model = colorization(tiny, "method.label_stride=1", "augmentation.image_size=20", "augmentation.min_scale=1")
    pixels = pictures(6, 6)
    list(model.study_images(Images("colors", pixels), model.recipe.law))
    exact = color_prior(lab(torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255)[:, 1:].movedim(1, -1).reshape(-1, 2))
    assert float((model.prior - exact).abs().sum()) / 2 < 5e-3


def test_the_authors_prior_is_taken_where_the_recipe_says_so(tiny: list[str]) -> None:
    model = colorization(tiny, "method.prior=imagenet")
    images = open_training_images(model.recipe)
    (note,) = model.study_images(images, model.recipe.law)
    assert torch.equal(model.prior, imagenet_prior().float())
    assert note.startswith("colors of the images: 48% within 10 of gray, 81% within 30") and "313 of 313" in note


@pytest.mark.parametrize(
    ("stem", "stride", "size", "grid"), [("cifar", 0, 16, 4), ("imagenet", 0, 64, 8), ("cifar", 3, 16, 6)]
)
def test_logits_stand_on_the_grid_of_labels_and_h_is_the_mean_of_the_last_map(
    tiny: list[str], stem: str, stride: int, size: int, grid: int
) -> None:
    keys = (f"encoder.stem={stem}", f"method.label_stride={stride}", f"augmentation.image_size={size}")
    model = colorization(tiny, *keys).eval()
    batch = view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)
    inputs = model.prepare(batch)
    outputs = model(inputs.images)
    assert outputs["colors"].shape == (32, COLORS, grid, grid)
    assert inputs.targets is not None and inputs.targets.shape == (32, 2, grid, grid)
    assert torch.allclose(outputs["h"], model.encoder(batch.views), atol=1e-6)


def test_logits_that_tell_nothing_have_the_loss_of_chance(tiny: list[str]) -> None:
    model = colorization(tiny)
    images = open_training_images(model.recipe)
    list(model.study_images(images, model.recipe.law))
    torch.nn.init.zeros_(model.head.colors.weight)
    inputs = model.prepare(view_batches(model.recipe, images, CPU).at(0))
    result = model.loss(model(inputs.images), inputs)
    chance = model.recipe.method.chance_loss(model.recipe)
    assert chance == pytest.approx(math.log(313))
    assert float(result.loss) == pytest.approx(chance, rel=0.35)  # the batch's colors are not quite the set's
    assert result.metrics()["excess_loss"] < float(result.loss)


def test_an_image_and_its_gray_version_of_equal_lightness_have_equal_features_also_from_a_file(
    tiny: list[str], tmp_path: Path
) -> None:
    run = create_run(load_recipe("demo", keys_of(tiny)), tmp_path, "h")
    train(run, quiet=True)
    encoder = load_encoder(run.path / "encoder.safetensors").double().eval()
    rgb = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    light = lab(rgb)[:, :1]
    root = (light + 16) / 116
    linear = torch.where(light > 8, root**3, light / 903.2963)
    gray = torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(1e-9) ** (1 / 2.4) - 0.055, 12.92 * linear)
    assert torch.allclose(encoder(gray.expand(-1, 3, -1, -1)), encoder(rgb), atol=1e-5)
    assert encoder.spec["input"] == "lightness"


def test_a_step_in_bfloat16_with_channels_last_gives_a_loss_in_full(tiny: list[str]) -> None:
    model = colorization(tiny, "training.precision=bfloat16", "training.channels_last=true")
    batch = view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)
    model.to(memory_format=torch.channels_last)
    inputs = model.prepare(batch)
    with autocast(model.recipe, CPU):
        outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    result.objective.backward()  # type: ignore[no-untyped-call]
    assert outputs["colors"].dtype == torch.bfloat16 and result.loss.dtype == torch.float32
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
