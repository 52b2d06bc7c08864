"""Operations of studies: each against PIL, scipy, torchvision, numpy or the compiled loops; what is drawn for whom."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from scipy import ndimage, stats
from torch import Tensor

from simclr_plus.augmentations import ViewLaw, simclr_law
from simclr_plus.augmentations.auto_augment import POLICY
from simclr_plus.augmentations.draws import GRAY, HEIGHT, JITTER, SIGMA, TOP, WIDTH
from simclr_plus.augmentations.further_operations import (
    STUDY_OPERATIONS,
    Draws,
    apply_operations,
    draws_of,
    standard_normal,
)
from simclr_plus.augmentations.law import OPERATIONS
from simclr_plus.augmentations.views import ViewMaker

SIZE = 28
LAW = simclr_law(SIZE, 0.5)
MANY = 20_000


@pytest.fixture(scope="module")
def images(real_images: np.ndarray) -> Tensor:
    """Sixty real views [60, 3, 28, 28], each a byte over 255."""
    return torch.from_numpy(real_images).permute(0, 3, 1, 2).float() / 255


def drawn(count: int, *, law: ViewLaw = LAW, place: int = 0, seed: int = 3, views: int = 1) -> Draws:
    return draws_of(place, law, seed=seed, epochs=np.zeros(count, np.int64), indices=np.arange(count), views=views)


def operated(name: str, images: Tensor, law: ViewLaw = LAW) -> tuple[Tensor, Draws]:
    draws = drawn(len(images), law=law)
    return STUDY_OPERATIONS[name](images, draws, law), draws


def by_bytes(images: Tensor, change: object) -> Tensor:
    """What PIL makes of each image."""
    pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])  # type: ignore[operator]
    return torch.from_numpy(changed).permute(0, 3, 1, 2).float() / 255


def by_the_loops(real_images: np.ndarray, draws: Draws, law: ViewLaw) -> Tensor:
    """What views.py makes of each image by its row."""
    out = np.empty((1, len(real_images), 3, law.size, law.size), dtype=np.float32)
    for b, image in enumerate(real_images):
        ViewMaker(law).fill(image, draws.rows[b : b + 1], out, b)
    return torch.from_numpy(out[0])


def test_every_name_of_the_law_is_an_operation() -> None:
    assert tuple(STUDY_OPERATIONS) and set(STUDY_OPERATIONS) == set(OPERATIONS)


@pytest.mark.parametrize("resize", ["bicubic", "bicubic_legacy"])
def test_a_crop_is_that_of_the_ordinary_law(images: Tensor, real_images: np.ndarray, resize: str) -> None:
    law = replace(LAW, resize=resize)
    cropped, draws = operated("crop", images, law)
    plain = Draws(draws.rows.copy(), draws.words)
    plain.rows[:, [JITTER, GRAY, SIGMA]] = 0
    assert (cropped - by_the_loops(real_images, plain, law)).abs().max() < 1e-5
    assert (draws.rows[:, HEIGHT] < SIZE).any()


@pytest.mark.parametrize("brightness_law", ["multiplicative", "additive"])
def test_color_is_the_ordinary_distortion_even_where_the_ordinary_law_has_none(
    images: Tensor, real_images: np.ndarray, brightness_law: str
) -> None:
    law = replace(LAW, brightness_law=brightness_law, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
    distorted, draws = operated("color", images, law)
    plain = Draws(draws.rows.copy(), draws.words)
    plain.rows[:, TOP : WIDTH + 1] = (0, 0, SIZE, SIZE)
    plain.rows[:, [4, SIGMA]] = 0
    assert (distorted - by_the_loops(real_images, plain, law)).abs().max() < 1e-5
    assert 0 < draws.rows[:, JITTER].mean() < 1 and 0 < draws.rows[:, GRAY].mean() < 1


def test_blur_is_the_papers_with_zeros_outside(images: Tensor) -> None:
    blurred, draws = operated("blur", images)
    for image, result, sigma in zip(images.numpy(), blurred, draws.rows[:, SIGMA], strict=True):
        taps = np.exp(-(np.arange(-1.0, 2) ** 2) / (2 * float(sigma) ** 2))
        expected = ndimage.correlate1d(image.astype(np.float64), taps / taps.sum(), axis=1, mode="constant")
        expected = ndimage.correlate1d(expected, taps / taps.sum(), axis=2, mode="constant")
        assert np.abs(result.numpy() - expected).max() < 1e-6


def test_the_published_operations_draw_by_the_published_probabilities() -> None:
    """Whatever the ordinary law has: Appendix A's 0.8 and 0.2, and a blur always, with a sigma of each image's own."""
    rows = drawn(
        MANY, law=simclr_law(SIZE, 0.5, jitter_prob=0.0, gray_prob=1.0, blur_prob=0.0, blur_sigma_group=4)
    ).rows
    assert abs(rows[:, JITTER].mean() - 0.8) < 0.012 and abs(rows[:, GRAY].mean() - 0.2) < 0.012
    assert stats.kstest(rows[:, SIGMA], "uniform", args=(0.1, 1.9)).pvalue > 1e-3
    assert len(np.unique(rows[:8, SIGMA])) == 8


def test_cutout_is_a_gray_square_of_half_the_side_cut_off_by_the_border(images: Tensor) -> None:
    cut, draws = operated("cutout", images)
    beyond = 0
    for image, result, words in zip(images, cut, draws.words, strict=True):
        y, x = (int(word) // 2**8 * SIZE // 2**24 for word in words[1:3])
        expected = image.clone()
        expected[:, max(0, y - 7) : y + 7, max(0, x - 7) : x + 7] = 0.5
        assert torch.equal(result, expected)
        beyond += not (7 <= y <= SIZE - 7 and 7 <= x <= SIZE - 7)
    assert 0 < beyond < len(images)


def test_the_centre_of_a_cutout_is_anywhere() -> None:
    black = torch.zeros(MANY, 3, 8, 8)
    rows, columns = (STUDY_OPERATIONS["cutout"](black, drawn(MANY), LAW)[:, 0].amax(dim=d) > 0 for d in (2, 1))
    for lines in (rows, columns):  # a square of 4 from c - 2 to c + 1: the line 7 is in it where c is 6 or 7
        share = lines.float().mean(dim=0)
        assert (share - torch.tensor([3, 4, 4, 4, 4, 4, 3, 2]) / 8).abs().max() < 0.015


def test_rotation_is_by_quarters(images: Tensor) -> None:
    turned, draws = operated("rotate", images)
    quarters = draws.words[:, 1] // 2**30
    for image, result, quarter in zip(images.numpy(), turned.numpy(), quarters, strict=True):
        assert (result == np.rot90(image, quarter, axes=(1, 2))).all()
    assert stats.chisquare(np.bincount(drawn(MANY).words[:, 1] // 2**30, minlength=4)).pvalue > 1e-3


def test_sobel_is_the_length_of_the_gradient(images: Tensor) -> None:
    edges, _ = operated("sobel", images)
    for plane, found in zip(images.flatten(0, 1).double().numpy(), edges.flatten(0, 1).numpy(), strict=True):
        down, right = (ndimage.sobel(plane, axis=axis, mode="mirror") for axis in (0, 1))
        assert np.abs(found - np.minimum(np.hypot(down, right) / 4, 1)).max() < 1e-6
    step = torch.zeros(1, 3, 8, 8)
    step[..., 4:] = 1
    assert STUDY_OPERATIONS["sobel"](step, drawn(1), LAW)[0, 0, 3].tolist() == [0, 0, 0, 1, 1, 0, 0, 0]


def plain_mixed(word: int) -> int:
    word = (word ^ word >> 16) * 0x21F0AAAD % 2**32
    word = (word ^ word >> 15) * 0x735A2D97 % 2**32
    return word ^ word >> 15


def test_noise_is_box_and_mullers_of_hashed_words() -> None:
    keys = [(0, 0), (2**32 - 1, 2**32 - 1), (123456789, 3141592653)]
    found = standard_normal(torch.tensor(keys), 50)
    for (a, b), row in zip(keys, found, strict=True):
        for at, value in enumerate(row.tolist()):
            first = plain_mixed(plain_mixed(at ^ a) ^ b)
            second = plain_mixed((first + 0x9E3779B9) % 2**32)
            u, v = ((first >> 8) + 1) / 2**24, (second >> 8) / 2**24
            assert value == pytest.approx(math.sqrt(-2 * math.log(u)) * math.cos(2 * math.pi * v), abs=1e-5)


def test_noise_is_normal_of_deviation_a_tenth_and_of_its_number_alone() -> None:
    gray = torch.full((400, 3, 16, 16), 0.5)
    z = (STUDY_OPERATIONS["noise"](gray, drawn(400), LAW) - 0.5).flatten(1).double().numpy()
    assert stats.kstest(z.ravel(), "norm", args=(0, 0.1)).pvalue > 1e-3
    assert abs(z.std() / 0.1 - 1) < 0.005 and abs(z.mean()) < 1e-3
    limit = 4 / math.sqrt(z.size)
    for neighbour in (z[:, 1:] * z[:, :-1], z[:, 16:] * z[:, :-16], z[:, 256:] * z[:, :-256], z[1:] * z[:-1]):
        assert abs(neighbour.mean() / 0.01) < 1.3 * limit
    assert len(np.unique(z[:, 0])) > 390
    clipped = STUDY_OPERATIONS["noise"](gray.round(), drawn(400), LAW)
    assert clipped.min() >= 0 and clipped.max() <= 1 and 0.45 < (clipped > 0).float().mean() < 0.55


def test_solarize_is_pils(images: Tensor) -> None:
    solarized, _ = operated("solarize", images)
    assert (solarized - by_bytes(images, lambda image: ImageOps.solarize(image, 128))).abs().max() < 1e-6


def test_equalize_is_pils(images: Tensor) -> None:
    equal, _ = operated("equalize", images)
    assert torch.equal(equal, by_bytes(images, ImageOps.equalize)) and not torch.equal(equal, images)


@pytest.mark.parametrize(("size", "radius"), [(SIZE, 1), (64, 3), (16, 1)])
def test_motion_blur_is_the_mean_along_a_line(images: Tensor, size: int, radius: int) -> None:
    law = simclr_law(size)
    some = torch.nn.functional.interpolate(images[::6], (size, size))
    blurred, draws = operated("motion_blur", some, law)
    y, x = np.mgrid[:size, :size]
    for image, result, word in zip(some.double().numpy(), blurred.numpy(), draws.words[:, 1], strict=True):
        angle = math.pi * (int(word) >> 8) / 2**24
        points = [(y + k * math.sin(angle), x + k * math.cos(angle)) for k in range(-radius, radius + 1)]
        for plane, found in zip(image, result, strict=True):
            expected = np.mean([ndimage.map_coordinates(plane, p, order=1, mode="nearest") for p in points], axis=0)
            assert np.abs(found - expected).max() < 1e-5


def test_the_policy_is_torchvisions() -> None:
    def words(name: str, probability: float, magnitude: int | None) -> tuple[str, float, int]:
        return {"ShearX": "shear_x"}.get(name, name.lower()), probability, magnitude or 0

    theirs = torchvision.transforms.AutoAugment().policies
    assert tuple(tuple(words(*operation) for operation in line) for line in theirs) == POLICY


def test_autoaugment_is_torchvisions_given_the_same_draws(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each image has a line of the policy of its own and the gates and signs of its words."""
    many = images[torch.arange(400) % len(images)]
    theirs = torchvision.transforms.v2.AutoAugment()
    found, draws = operated("autoaugment", many)
    words = draws.words[:, 1:6].tolist()
    script: list[Tensor] = []
    monkeypatch.setattr(torch, "randint", lambda *_: script.pop(0))
    monkeypatch.setattr(torch, "rand", lambda *_: script.pop(0))
    for image, result, (line, *gates_and_signs) in zip(many, found, words, strict=True):
        script.append(torch.tensor(line * 25 // 2**32))
        for (name, probability, _), gate, sign in zip(
            POLICY[int(script[0])], gates_and_signs[:2], gates_and_signs[2:], strict=True
        ):
            script.append(torch.tensor(gate / 2**32))
            if gate / 2**32 < probability and name in ("rotate", "shear_x", "color", "contrast", "sharpness"):
                script.append(torch.tensor(sign / 2**32))
        expected = theirs((image * 255).round().to(torch.uint8))
        assert torch.equal((result * 255).round().to(torch.uint8), expected) and not script
    assert len({line * 25 // 2**32 for line, *_ in words}) == 25
    lines = drawn(MANY).words[:, 1].astype(np.int64) * 25 // 2**32
    assert stats.chisquare(np.bincount(lines, minlength=25)).pvalue > 1e-3


# who is changed, by which draws


def views_of(images: Tensor, law: ViewLaw, *, seed: int = 0, epoch: int = 0, indices: object = None) -> Tensor:
    pair = torch.unflatten(torch.cat([images, images]), 0, (2, -1))  # keeps the layout
    numbers = np.arange(len(images)) if indices is None else np.asarray(indices)
    return apply_operations(pair, law, seed=seed, epochs=np.full(len(images), epoch), indices=numbers)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_image_is_changed_by_its_own_draw_whoever_stands_beside_it(images: Tensor, name: str) -> None:
    law = replace(LAW, operations=(name, "color"), operation_prob=0.8)
    together = views_of(images, law)
    order = np.random.default_rng(0).permutation(len(images))
    assert torch.equal(views_of(images[order], law, indices=order), together[:, order])
    assert torch.equal(views_of(images.to(memory_format=torch.channels_last), law), together)
    for some in (slice(0, 1), slice(20, 33)):
        alone = views_of(images[some], law, indices=np.arange(len(images))[some])
        assert (alone - together[:, some]).abs().max() < 1e-5
    assert together.min() >= 0 and together.max() <= 1


def test_a_batch_beyond_what_is_worked_on_at_once_is_whole_and_in_order(images: Tensor) -> None:
    law = replace(LAW, operations=("cutout", "rotate"))
    many = images[torch.arange(300) % len(images)]
    whole = views_of(many, law)
    parts = [views_of(many[i : i + 75], law, indices=np.arange(i, i + 75)) for i in range(0, 300, 75)]
    assert torch.equal(whole, torch.cat(parts, dim=1))


def test_the_operations_follow_each_other_as_listed(images: Tensor) -> None:
    for names in (("cutout", "sobel"), ("sobel", "cutout")):
        law = replace(LAW, operations=names)
        expected = images
        for place, name in enumerate(names):
            expected = STUDY_OPERATIONS[name](expected, drawn(len(images), law=law, place=place, seed=0), law)
        assert torch.equal(views_of(images, law)[0], expected)


def test_seed_epoch_image_view_and_place_each_have_draws_of_their_own() -> None:
    base = drawn(50, views=2)
    who = {"epochs": np.zeros(50, np.int64), "indices": np.arange(50), "views": 2}
    others = [
        draws_of(1, LAW, seed=3, **who),
        draws_of(0, LAW, seed=4, **who),
        draws_of(0, LAW, seed=3, **who | {"epochs": np.ones(50, np.int64)}),
        draws_of(0, LAW, seed=3, **who | {"indices": np.arange(50, 100)}),
        Draws(np.roll(base.rows, 50, axis=0), np.roll(base.words, 50, axis=0)),  # the other view
    ]
    for other in others:
        assert (other.words != base.words).mean() > 0.99
        assert (other.rows[:, TOP : WIDTH + 1] != base.rows[:, TOP : WIDTH + 1]).any(axis=1).mean() > 0.9


def test_an_operation_happens_as_often_as_the_law_says_and_independently() -> None:
    white = torch.ones(MANY // 2, 3, 8, 8)
    both = []
    for place in (0, 1):
        names = ("solarize",) if place == 0 else ("cutout", "solarize")
        done = views_of(white, replace(simclr_law(8), operations=names, operation_prob=0.3))
        both.append((done[:, :, 0] == 0).flatten(2).any(dim=2))  # solarize makes white black, what is cut out stays
    for happened in both:
        assert abs(happened.float().mean() - 0.3) < 0.015
        assert abs((happened[0] & happened[1]).float().mean() - 0.09) < 0.012
    assert abs((both[0] & both[1]).float().mean() - 0.09) < 0.01


def test_a_probability_of_0_or_of_1_is_never_or_always(images: Tensor) -> None:
    law = replace(LAW, operations=("solarize",), operation_prob=0.0)
    assert torch.equal(views_of(images, law), torch.stack([images, images]))
    always = views_of(images, replace(law, operation_prob=1.0))
    assert torch.equal(always[0], torch.where(images < 0.5, images, 1 - images))


def test_on_the_first_branch_alone_the_others_stay_as_they_were(images: Tensor) -> None:
    law = replace(LAW, operations=("crop", "noise"))
    both, first = views_of(images, law), views_of(images, replace(law, operations_on="first"))
    assert torch.equal(first[0], both[0]) and torch.equal(first[1], images) and not torch.equal(both[1], images)
