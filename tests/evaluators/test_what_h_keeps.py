from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import TEST, TRAIN, Images, open_images
from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.evaluators.what_h_keeps import TASKS, predict_transformation
from simclr_plus.recipe.keys import Data

CPU = torch.device("cpu")
LAW = simclr_law(16)
GENERATOR = np.random.Generator(np.random.Philox(7))


def smooth_colours(count: int) -> Images:
    """Images whose top is bright, each in a hue of its own: every transformation can be seen in them."""
    ramp = np.linspace(1, 0.2, 16)[:, None, None] * GENERATOR.uniform(
        [0.7, 0.3, 0.0], [1.0, 0.6, 0.2], (count, 1, 1, 3)
    )
    return Images("ramps", (255 * np.broadcast_to(ramp, (count, 16, 16, 3))).astype(np.uint8))


TRAINING, TESTING = smooth_colours(400), smooth_colours(300)


class Telling(nn.Module):
    """Features that hold the answer: saturation, where it is brightest, roughness."""

    def forward(self, images: Tensor) -> Tensor:
        red, blue, gray = images[:, 0].mean((1, 2)), images[:, 2].mean((1, 2)), images.mean(1)
        rough = (gray[:, 1:, 1:] - gray[:, :-1, 1:] - gray[:, 1:, :-1] + gray[:, :-1, :-1]).abs().mean((1, 2))
        columns = [red - blue, gray[:, :8].mean((1, 2)) - gray[:, 8:].mean((1, 2)), rough, gray.mean((1, 2))]
        columns.append(gray[:, :, :8].mean((1, 2)) - gray[:, :, 8:].mean((1, 2)))
        return torch.stack(columns, dim=1)


class Telltale(nn.Module):
    """Random numbers that the image decides but that tell nothing of what it looks like."""

    def forward(self, images: Tensor) -> Tensor:
        seeds = [int(row.double().sum() * 1e6) for row in images]
        return torch.stack([torch.randn(64, generator=torch.Generator().manual_seed(s)) for s in seeds])


@pytest.mark.parametrize(
    ("task", "chance"), [("color_or_gray", 0.8), ("rotation", 0.25), ("corrupted", 0.5), ("sobel", 0.5)]
)
def test_features_that_tell_give_all_right_and_those_that_do_not_give_chance(task: str, chance: float) -> None:
    told = predict_transformation(Subject("x", Telling(), LAW), TRAINING, TESTING, task, device=CPU)
    assert told["top1"] == 1.0
    assert told["chance"] == pytest.approx(chance, abs=0.08) and told["train_images"] == 400
    blind = predict_transformation(Subject("x", Telltale(), LAW), TRAINING, TESTING, task, device=CPU)
    assert blind["top1"] == pytest.approx(chance, abs=0.1) and blind["chance"] == told["chance"]


class Recorder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        return torch.rand(len(images), 2)


def shown(task: str, images: Images, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Test images as a task shows them, beside the images as they are."""
    recorder = Recorder()
    predict_transformation(Subject("x", recorder, LAW), TRAINING, images, task, device=CPU, epochs=1, seed=seed)
    assert images.pixels is not None
    return torch.cat(recorder.seen[-(-len(images) // 256) * -1 :]), torch.from_numpy(images.pixels).permute(
        0, 3, 1, 2
    ) / 255


def different(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().amax(dim=(1, 2, 3)) > 1e-3


def test_a_fifth_of_the_images_is_gray_by_pillows_weights_and_the_rest_as_it_was() -> None:
    found, plain = shown("color_or_gray", TESTING)
    gray = different(found, plain)
    assert 0.14 < gray.double().mean() < 0.26
    expected = 0.2989 * plain[gray, 0] + 0.587 * plain[gray, 1] + 0.114 * plain[gray, 2]
    assert all(torch.allclose(found[gray, c], expected, atol=1e-5) for c in range(3))


def test_images_are_turned_by_quarters() -> None:
    found, plain = shown("rotation", TESTING)
    counts = [
        int(sum(np.allclose(f, np.rot90(p, k, axes=(1, 2)), atol=1e-5) for f, p in zip(found, plain, strict=True)))
        for k in range(4)
    ]
    assert sum(counts) == 300 and min(counts) > 50


def test_noise_is_normal_of_its_sigma_and_each_image_has_its_own() -> None:
    flat = Images("gray", np.full((300, 16, 16, 3), 128, np.uint8))
    found, plain = shown("corrupted", flat)
    noisy = different(found, plain)
    assert 0.4 < noisy.double().mean() < 0.6
    noise = (found - plain)[noisy]
    assert float(noise.std()) == pytest.approx(0.1, rel=0.01) and abs(float(noise.mean())) < 0.001
    assert len(torch.unique(noise[:, 0, 0, 0])) == len(noise)


def test_edges_are_the_length_of_scipys_sobel_gradient() -> None:
    images = open_images(Data(), TEST).first(200)
    law = simclr_law(28)
    recorder = Recorder()
    predict_transformation(
        Subject("x", recorder, law), open_images(Data(), TRAIN).first(100), images, "sobel", device=CPU, epochs=1
    )
    assert images.pixels is not None
    for found, pixels in zip(recorder.seen[-1], images.pixels, strict=True):
        plane = pixels[..., 0].astype(np.float64) / 255
        edges = np.hypot(ndimage.sobel(plane, 0, mode="mirror"), ndimage.sobel(plane, 1, mode="mirror"))
        edges = (edges / 4).clip(max=1)
        assert min(np.abs(found[0].numpy() - edges).max(), np.abs(found[0].numpy() - plane).max()) < 1e-5


def test_an_images_transformation_does_not_depend_on_the_others() -> None:
    whole, _ = shown("corrupted", TESTING)
    few, _ = shown("corrupted", TESTING.first(50))
    assert torch.equal(whole[:50], few)
    other, _ = shown("corrupted", TESTING, seed=1)
    assert not torch.equal(whole, other)


def test_training_and_test_images_are_drawn_apart() -> None:
    recorder = Recorder()
    predict_transformation(Subject("x", recorder, LAW), TESTING, TESTING, "rotation", device=CPU, epochs=1)
    first, second = torch.cat(recorder.seen).split(300)
    assert different(first, second).double().mean() == pytest.approx(0.75, abs=0.1)


def test_what_cannot_be_asked_is_refused() -> None:
    gray = open_images(Data(), TRAIN).first(50)
    subject = Subject("x", Telling(), LAW)
    with pytest.raises(SimclrPlusError, match="embedded holds gray images alone"):
        predict_transformation(subject, gray, gray, "color_or_gray", device=CPU)
    with pytest.raises(RecipeError, match=f"'colour' is unknown; use {', '.join(TASKS)}"):
        predict_transformation(subject, gray, gray, "colour", device=CPU)
