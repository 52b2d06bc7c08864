"""What other methods ask of views: four sizes of color change, wider crops, gray before the jitter, shared draws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from simclr_plus.augmentations.draws import (
    BRIGHTNESS,
    FLIP,
    GRAY,
    HEIGHT,
    HUE,
    JITTER,
    ORDER,
    WIDTH,
    draw_views,
)
from simclr_plus.augmentations.finishing import finish_views
from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.augmentations.views import ViewMaker
from simclr_plus.errors import RecipeError
from simclr_plus.recipe import parse_recipe

IMAGE = np.random.default_rng(0).integers(90, 160, (40, 48, 3), dtype=np.uint8)  # no overshoot is cut


def draws_of(law: ViewLaw, count: int = 400, views: int = 4) -> np.ndarray:
    return draw_views(5, 2, np.arange(count), heights=40, widths=48, law=law, views=views)


def views_of(law: ViewLaw, parameters: np.ndarray, *, on_device: bool = False) -> torch.Tensor:
    out = np.empty((parameters.shape[1], len(parameters), 3, law.size, law.size), dtype=np.float32)
    maker = ViewMaker(law, crops_only=on_device)
    for b in range(len(parameters)):
        maker.fill(IMAGE, parameters[b], out, b)
    views = torch.from_numpy(out).flatten(0, 1)
    if not on_device:
        return views
    return finish_views(views, torch.from_numpy(parameters).transpose(0, 1).flatten(0, 1), law)


@pytest.mark.parametrize(("key", "column"), [("same_flip", FLIP), ("gray_shared", GRAY)])
def test_a_shared_draw_is_the_same_for_all_views_of_an_image_and_fair(key: str, column: int) -> None:
    law = ViewLaw(16, gray_prob=0.5)
    shared, own = draws_of(replace(law, **{key: True})), draws_of(law)  # type: ignore[arg-type]
    gate = shared[..., column]
    assert (gate == gate[:, :1]).all() and 0.4 < gate.mean() < 0.6
    assert (own[..., column] != own[:, :1, column]).any()
    rest = [c for c in range(16) if c != column]
    assert np.array_equal(shared[..., rest], own[..., rest])  # nothing else is drawn otherwise


def test_the_shape_of_crops_follows_its_range() -> None:
    wide = draws_of(ViewLaw(16, aspect=(0.4, 2.5), min_scale=0.1))
    usual = draws_of(ViewLaw(16, min_scale=0.1))
    of_wide, of_usual = (d[..., WIDTH] / d[..., HEIGHT] for d in (wide, usual))
    assert of_wide.min() < 0.6 and of_wide.max() > 1.8
    assert of_usual.min() > 0.69 and of_usual.max() < 1.45  # whole pixels of small crops


@pytest.mark.parametrize("law", ["luma", "mean"])
@pytest.mark.parametrize("first", [False, True])
def test_gray_is_done_where_and_as_the_law_says_on_cpu_and_device(law: str, first: bool) -> None:
    of = simclr_law(16, 1.0, gray_prob=1.0, blur_prob=0.5, gray_law=law, gray_first=first)
    drawn = draws_of(of, 40)
    views, on_device = views_of(of, drawn), views_of(of, drawn, on_device=True)
    assert torch.allclose(views, on_device, atol=1e-5)
    assert torch.equal(views[:, 0], views[:, 1]) and torch.equal(views[:, 0], views[:, 2])
    weights = torch.tensor([0.2989, 0.587, 0.114] if law == "luma" else [1 / 3] * 3)
    plain = replace(of, gray_prob=0.0, blur_prob=0.0)
    still = replace(of, jitter_prob=0.0, blur_prob=0.0)
    color = views_of(replace(plain, jitter_prob=0.0), draws_of(replace(plain, jitter_prob=0.0), 40))
    gray = (color * weights.view(1, 3, 1, 1)).sum(1)
    assert torch.allclose(
        views_of(still, draws_of(still, 40))[:, 0], gray.clamp(0, 1), atol=2e-3
    )  # overshoot is cut later


def test_gray_before_the_jitter_is_brightened_after_it() -> None:
    """An image of pure green, made gray and then brighter by f: f times its luma; after the jitter it would be cut."""
    green = np.zeros((8, 8, 3), dtype=np.uint8)
    green[..., 1] = 255
    out = {}
    for first in (False, True):
        law = ViewLaw(8, gray_prob=1.0, jitter_prob=1.0, blur_prob=0.0, gray_first=first)
        p = draw_views(0, 0, [0], heights=8, widths=8, law=law, views=1)
        p[0, 0, ORDER : ORDER + 4], p[0, 0, BRIGHTNESS : HUE + 1] = (0, 1, 2, 3), (1.5, 1, 1, 0)
        assert p[0, 0, GRAY] == p[0, 0, JITTER] == 1
        view = np.empty((1, 1, 3, 8, 8), dtype=np.float32)
        ViewMaker(law).fill(green, p[0], view, 0)
        out[first] = float(view.mean())
    assert out[True] == pytest.approx(1.5 * 0.587, abs=1e-5) and out[False] == pytest.approx(0.587, abs=1e-5)


def test_four_numbers_stand_in_for_the_strength_and_others_are_refused() -> None:
    law = parse_recipe("", ["augmentation.colors=[0.4, 0.4, 0.2, 0.1]", "augmentation.aspect=[0.7, 1.4]"]).law
    assert (law.brightness, law.contrast, law.saturation, law.hue, law.aspect) == (0.4, 0.4, 0.2, 0.1, (0.7, 1.4))
    assert parse_recipe("", ["augmentation.strength=0.5"]).law.hue == pytest.approx(0.1)
    with pytest.raises(RecipeError, match=r"colors = \[0.4, 0.4\]: give four numbers"):
        parse_recipe("", ["augmentation.colors=[0.4, 0.4]"])
    with pytest.raises(RecipeError, match=r"aspect = \(1.4, 0.7\).*smallest <= largest"):
        parse_recipe("", ["augmentation.aspect=[1.4, 0.7]"])
