"""The device's half of the views against the compiled loops, which the original's numbers hold in test_views.py."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from simclr_plus.augmentations.draws import COLUMNS, GRAY, HUE, JITTER, ORDER, SIGMA, draw_views
from simclr_plus.augmentations.finishing import IMAGES_AT_ONCE, finish_in_parts, finish_views, packed
from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.augmentations.views import ViewMaker
from simclr_plus.datasets import open_folder

ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.float32)


def both_ways(images: list[np.ndarray], parameters: np.ndarray, law: ViewLaw) -> tuple[Tensor, Tensor, Tensor]:
    """Views by the CPU's loops, crops by them, and the draws [B, 16]."""
    views, crops = (np.empty((1, len(images), 3, law.size, law.size), dtype=np.float32) for _ in range(2))
    for b, image in enumerate(images):
        ViewMaker(law).fill(image, parameters[b], views, b)
        ViewMaker(law, crops_only=True).fill(image, parameters[b], crops, b)
    return torch.from_numpy(views[0]), torch.from_numpy(crops[0]), torch.from_numpy(parameters[:, 0])


def drawn(images: list[np.ndarray], law: ViewLaw, seed: int = 0) -> np.ndarray:
    heights, widths = ([image.shape[side] for image in images] for side in (0, 1))
    return draw_views(seed, 0, np.arange(len(images)), heights=heights, widths=widths, law=law, views=1)


@pytest.mark.parametrize(
    ("brightness_law", "resize"),
    [
        ("multiplicative", "bicubic_legacy"),
        ("additive", "bicubic"),
        pytest.param("multiplicative", "bicubic", marks=pytest.mark.slow),
        pytest.param("additive", "bicubic_legacy", marks=pytest.mark.slow),
    ],
)
def test_photographs_at_224_pixels_in_all_orders_equal_the_cpu_path(
    photos: Path, brightness_law: str, resize: str
) -> None:
    folder, law = open_folder(photos), simclr_law(224, brightness_law=brightness_law, resize=resize)
    images = [folder.read(i) for i in range(48)]
    parameters = drawn(images, law)
    parameters[:, 0, ORDER : ORDER + 4] = np.tile(ORDERS, (2, 1))
    parameters[:24, 0, JITTER] = 1  # all orders; the other half as drawn
    views, crops, draws = both_ways(images, parameters, law)
    gates = parameters[:, 0][:, [JITTER, GRAY, SIGMA]] > 0
    assert gates.any(axis=0).all() and not gates.all(axis=0).any()  # each operation both happens and does not
    assert crops.min() < 0 and crops.max() > 1  # the overshoot of the resize is there
    assert (finish_views(crops, draws, law) - views).abs().max() < 1e-5


def test_a_fixed_order_and_small_views_equal_the_cpu_path(real_images: np.ndarray) -> None:
    images = list(real_images)
    for law in (
        simclr_law(32, 0.5, blur_prob=0.0, random_order=False),
        simclr_law(28, 1.25, gray_prob=1.0),
        simclr_law(28).crop_and_flip_only(),
    ):
        views, crops, draws = both_ways(images, drawn(images, law), law)
        assert (finish_views(crops, draws, law) - views).abs().max() < 1e-5


def test_an_image_does_not_feel_the_others_of_its_batch(real_images: np.ndarray) -> None:
    law, images = simclr_law(28), list(real_images)
    _, crops, draws = both_ways(images, drawn(images, law), law)
    together = finish_views(crops, draws, law)
    alone = torch.cat([finish_views(crops[i : i + 1], draws[i : i + 1], law) for i in range(len(images))])
    assert (together - alone).abs().max() < 1e-6


def test_batches_beyond_what_is_worked_on_at_once_are_whole_and_in_order() -> None:
    law, count = simclr_law(16, blur_prob=0.0), IMAGES_AT_ONCE + 5
    crops = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    draws = torch.from_numpy(draw_views(0, 0, np.arange(count), heights=16, widths=16, law=law, views=1)[:, 0])
    assert torch.equal(finish_in_parts(crops, draws, law), finish_views(crops, draws, law))


def test_smaller_crops_are_off_by_what_is_said_and_float32_by_nothing() -> None:
    crops = torch.linspace(-0.2, 1.2, 3 * 64 * 64).view(1, 3, 64, 64)
    inside = crops.clamp(0, 1)
    draws, law = torch.zeros(1, COLUMNS), simclr_law(64, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
    assert torch.equal(finish_views(packed(crops, "float32"), draws, law), inside)
    for kind, most in (("float16", 2.5e-4), ("uint8", 2e-3)):
        small = packed(crops, kind)
        error = (finish_views(small, draws, law) - inside).abs().max()
        assert 0 < error <= most and small.element_size() == {"float16": 2, "uint8": 1}[kind]


def test_the_whole_can_be_traced_without_a_break_or_a_look_at_a_value() -> None:
    """What torch.compile asks of it; a look at a value of the device would be a break of the graph."""
    law = simclr_law(32)
    draws = torch.from_numpy(draw_views(0, 0, np.arange(4), heights=32, widths=32, law=law, views=1)[:, 0])
    explained = torch._dynamo.explain(finish_views)(torch.rand(4, 3, 32, 32), draws, law)
    assert explained.graph_count == 1 and explained.graph_break_count == 0


def test_hue_turned_round_and_round_comes_back(real_images: np.ndarray) -> None:
    """A check that needs no other implementation: six turns of a sixth are none."""
    x = torch.from_numpy(real_images).permute(0, 3, 1, 2) / 255
    law = simclr_law(28, gray_prob=0.0, blur_prob=0.0)
    draws = torch.zeros(len(x), COLUMNS)
    draws[:, JITTER], draws[:, ORDER : ORDER + 4] = 1, torch.tensor([3.0, 0, 1, 2])
    draws[:, [10, 11, 12]] = 1
    draws[:, HUE] = 1 / 6
    turned = x
    for _ in range(6):
        turned = finish_views(turned, draws, law)
    assert (turned - x).abs().max() < 1e-5
