"""Rotation prediction against the authors' numbers, closed forms and its own law; what every method must do."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from places import GOLDEN_FOLDER
from torch import nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import ViewBatches
from simclr_plus.datasets.images import Images, open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.rotation import turned
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.rotation import Rotation
from simclr_plus.training.model import blank_batch, build_model
from simclr_plus.training.trainer import view_batches

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "pretext_rotation.npz")
CPU = torch.device("cpu")


def images_of(array: np.ndarray) -> torch.Tensor:
    """[B, H, W, 3] -> [B, 3, H, W], or with a dimension of angles before H."""
    return torch.from_numpy(array).movedim(-1, -3)


@pytest.mark.parametrize("number", [0, 1])
def test_turned_images_are_the_authors(number: int) -> None:
    images, expected = images_of(GOLDEN[f"image{number}"]), images_of(GOLDEN[f"rotated{number}"])
    assert torch.equal(turned(images), expected.flatten(0, 1))
    assert GOLDEN["labels"].tolist() == [0, 1, 2, 3]


def test_an_image_that_is_not_square_is_refused() -> None:
    with pytest.raises(ValueError, match="8x11 pixels are not square"):
        turned(images_of(GOLDEN["image2"]))


def test_turning_by_a_right_angle_four_times_is_nothing_and_rolls_the_rows() -> None:
    images = torch.rand(2, 3, 5, 5)
    once = turned(images, (90,))
    assert torch.equal(turned(turned(turned(once, (90,)), (90,)), (90,)), images)
    rows = turned(images).unflatten(0, (2, 4))
    assert torch.equal(turned(once).unflatten(0, (2, 4)), rows.roll(-1, dims=1))


def test_a_flip_after_turning_would_make_two_angles_one() -> None:
    """Which is why views are flipped before: the mirror of an image turned by 90 degrees is its mirror by 270."""
    image = images_of(GOLDEN["image0"])[:1]
    flipped_first, flipped_last = turned(image.flip(3)), turned(image).flip(3)
    assert [torch.equal(a, b) for a, b in zip(flipped_first, flipped_last, strict=True)] == [True, False, True, False]
    assert torch.equal(flipped_first[1], flipped_last[3]) and torch.equal(flipped_first[3], flipped_last[1])


def rotation(tiny: list[str], *overrides: str) -> Rotation:
    model = build_model(load_recipe("rotation_demo", [*tiny, *overrides]), 0)
    assert isinstance(model, Rotation)
    return model


def test_the_loss_and_its_gradient_are_the_authors(tiny: list[str]) -> None:
    model, logits = rotation(tiny), torch.from_numpy(GOLDEN["logits"]).double().requires_grad_()
    inputs = model.prepare(blank_batch(model.recipe, 2, CPU, torch.float64))
    assert inputs.targets is not None
    order = torch.from_numpy(GOLDEN["logit_labels"])
    assert inputs.targets.tolist() == [0, 1, 2, 3] * 2
    rows = torch.stack([logits[int(i)] for i in range(8)])
    result = model.loss({"h": torch.zeros(2, 4), "angles": rows}, type(inputs)(inputs.images, order))
    result.objective.backward()
    assert float(result.loss) == pytest.approx(float(GOLDEN["loss"]), rel=1e-6)
    assert logits.grad is not None and np.allclose(logits.grad.numpy(), GOLDEN["loss_grad"], atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize(("angles", "classes"), [("[0,90,180,270]", 4), ("[0,180]", 2), ("[90,270]", 2)])
def test_features_that_tell_nothing_have_the_loss_of_chance(tiny: list[str], angles: str, classes: int) -> None:
    model = rotation(tiny, f"method.angles={angles}")
    nn.init.zeros_(model.classifier.weight)
    inputs = model.prepare(blank_batch(model.recipe, 3, CPU, torch.float32))
    outputs = model(inputs.images)
    result = model.loss(outputs, inputs)
    assert float(result.loss) == pytest.approx(math.log(classes), rel=1e-6)
    assert model.recipe.method.chance_loss(model.recipe) == pytest.approx(math.log(classes))
    (figure,) = model.recipe.method.figures(model.recipe)
    assert figure.chance == pytest.approx(1 / classes)
    assert outputs["h"].shape[0] == 3 and outputs["angles"].shape == (3 * classes, classes)


def test_the_probe_sees_the_upright_copies_and_its_gradient_stays_there(tiny: list[str]) -> None:
    recipe = load_recipe("rotation_demo", tiny)
    model = build_model(recipe, 10).double().eval()
    batch = view_batches(recipe, open_training_images(recipe), CPU).at(0)
    views = batch.views.double()
    outputs = model(turned(views))
    upright = model.encoder(views)
    assert torch.allclose(outputs["h"], upright, atol=1e-12) and model.probe is not None
    assert torch.allclose(outputs["probe"], model.probe(upright), atol=1e-12)
    F.cross_entropy(outputs["probe"], batch.labels).backward()
    assert all(p.grad is None for p in model.encoder.parameters()) and model.probe.weight.grad is not None


def test_an_untrained_network_tells_as_many_angles_as_chance(tiny: list[str]) -> None:
    model = rotation(tiny)
    inputs = model.prepare(view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0))
    result = model.loss(model(inputs.images), inputs)
    assert float(result.loss) == pytest.approx(math.log(4), abs=0.05)
    assert abs(result.metrics()["pretext_accuracy"] - 1 / 4) < 4 * (3 / 4**2 / 128) ** 0.5  # binomial


@pytest.mark.parametrize(("angles", "seen"), [((180, 0), 0), ((90, 180, 0, 270), 0), ((270, 90), 270)])
def test_h_is_of_the_upright_copy_wherever_its_angle_stands(
    tiny: list[str], angles: tuple[int, ...], seen: int
) -> None:
    model, views = rotation(tiny, f"method.angles={list(angles)}").double().eval(), torch.rand(3, 3, 16, 16).double()
    assert torch.allclose(model(turned(views, angles))["h"], model.encoder(turned(views, (seen,))), atol=1e-12)


def test_its_views_have_no_color_distortion_unless_a_recipe_says_so() -> None:
    a = parse_recipe("", ["method.name=rotation"]).augmentation
    assert (a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (0.0, 0.0, 0.0, 0.5)
    assert parse_recipe("", ["method.name=rotation", "augmentation.jitter_prob=0.8"]).augmentation.jitter_prob == 0.8


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.name=rotation", "augmentation.resize=bicubic_legacy"], ["augmentation.resize", "bicubic"]),
        (["method.name=rotation", "variant=paper"], ["augmentation.resize"]),
        (["method.name=rotation", 'augmentation.operations=["rotate"]'], ["augmentation.operations", "rotate"]),
        (["method.name=rotation", 'augmentation.operations=["blur","autoaugment"]'], ["autoaugment", "leave it out"]),
        (["method.name=rotation", "method.angles=[0,0]"], ["method.angles", "twice"]),
        (["method.name=rotation", "method.angles=[0]"], ["method.angles"]),
        (["method.name=rotation", "method.angles=[0,45]"], ["method.angles"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation", "simclr"]),
        (["method.name=supervised", "method.angles=[0,180]"], ["method.angles", "rotation", "supervised"]),
        (["method.name=turning"], ["method.name", "turning", "simclr", "rotation"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", overrides)
    assert all(name in str(refused.value) for name in names), str(refused.value)


def borders_of_noise(recipe: Recipe, law: ViewLaw) -> tuple[np.ndarray, np.ndarray]:
    """White noise through the loader, turned: the roughness of two lines at each border, and the angles' numbers."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 28, 28, 3), dtype=np.uint8)
    views = ViewBatches(Images("noise", pixels), law, batch_size=400, seed=recipe.training.seed, views=1).at(0).views
    rows = turned(views).mean(dim=1)
    lines = [line for at in (0, -1, 1, -2) for line in (rows[:, at], rows[:, :, at])]
    rough = torch.stack([line.diff(dim=-1).abs().mean(dim=-1) for line in lines], dim=1)
    return rough.numpy(), np.tile(np.arange(4), 400)


@pytest.mark.parametrize(("resize", "least", "most"), [("bicubic", 0.15, 0.30), ("bicubic_legacy", 0.40, 1.0)])
def test_borders_of_noise_tell_the_angle_by_tf1s_kernel_alone(
    tiny: list[str], resize: str, least: float, most: float
) -> None:
    """Views twice as large as the images, so that a kernel that repeats edges shows; chance is 0.25."""
    from sklearn.linear_model import LogisticRegression

    recipe = load_recipe("rotation_demo", [*tiny, "augmentation.image_size=56", "augmentation.min_scale=0.5"])
    features, labels = borders_of_noise(recipe, replace(recipe.law, resize=resize))
    learnt = LogisticRegression(C=100.0, max_iter=2000).fit(features[:800], labels[:800])
    assert least < learnt.score(features[800:], labels[800:]) < most
