"""What is drawn: the generator, a plain version of the whole row, the original's crops, and the law's probabilities."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_plus.augmentations import ViewLaw, draw_views, epoch_order, simclr_law
from simclr_plus.augmentations.draws import (
    BRIGHTNESS,
    COLUMNS,
    CONTRAST,
    FLIP,
    GRAY,
    HEIGHT,
    HUE,
    JITTER,
    LEFT,
    ORDER,
    SATURATION,
    SIGMA,
    TOP,
    WIDTH,
    _philox,
    draw_words,
)

DRAWS = 20_000
few = settings(max_examples=60, deadline=None, derandomize=True)
f = np.float32


def draw(law: ViewLaw, *, images: int = DRAWS, seed: int = 0, size: int = 32, **changes: object) -> np.ndarray:
    return draw_views(seed, changes.pop("epoch", 0), np.arange(images), heights=size, widths=size, law=law, **changes)


# the generator

PHILOX = [  # counters, key, words: kat_vectors of Random123 (Salmon et al. 2011)
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words_of(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def plain_philox(counters: tuple[int, ...] | list[int], key: tuple[int, int] | list[int]) -> list[int]:
    """Ten rounds, as the paper's figure draws them."""
    c0, c1, c2, c3 = counters
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(("counters", "key", "words"), PHILOX)
def test_philox_gives_its_published_words(counters, key, words):
    k0, k1 = words_of(key)
    assert plain_philox(words_of(counters), (k0, k1)) == words_of(words)
    assert [int(word) for word in _philox(*words_of(counters), np.uint64(k0 | k1 << 32))] == words_of(words)


# a plain version of a row


def plain_uniform(word: int, low: float = 0, high: float = 1) -> np.float32:
    return f(word >> 8) * f(2.0**-24) * (f(high) - f(low)) + f(low)


def plain_below(word: int, n: int) -> int:
    return word * n // 2**32


def plain_crop(
    words_of_attempt, image_height: int, image_width: int, min_scale: float, attempts: int = 100
) -> tuple[int, int, int, int]:
    """sample_distorted_bounding_box step by step, single precision; a box is y, x, height, width."""
    whole = f(image_height * image_width)
    smallest = f(min_scale) * whole
    for attempt in range(attempts):
        words = words_of_attempt(attempt)
        aspect = plain_uniform(words[0], 3 / 4, 4 / 3)

        def width_of(height: int, aspect: np.float32 = aspect) -> int:
            return int(np.rint(f(height) * aspect))

        # heights to choose from: all that give an area in range and fit the image
        lowest, highest = int(np.rint(np.sqrt(smallest / aspect))), int(np.rint(np.sqrt(whole / aspect)))
        while width_of(highest) > image_width:
            highest -= 1
        highest = min(highest, image_height)
        lowest = min(lowest, highest)
        height = lowest + plain_below(words[1], highest - lowest + 1)
        if height * width_of(height) < smallest:
            height += 1
        if height * width_of(height) > whole:
            height -= 1
        width = width_of(height)
        if not (0 < height <= image_height and 0 < width <= image_width and smallest <= height * width <= whole):
            continue
        if f(height * width) / whole < f(0.1):
            continue
        # the last offset is never taken, unless there is only one
        top = plain_below(words[2], image_height - height) if height < image_height else 0
        left = plain_below(words[3], image_width - width) if width < image_width else 0
        return top, left, height, width
    return 0, 0, image_height, image_width


def plain_orders() -> list[tuple[int, ...]]:
    """The 24 orders of four operations, in the order of a dictionary."""
    return [
        (a, b, c, d) for a in range(4) for b in range(4) for c in range(4) for d in range(4) if len({a, b, c, d}) == 4
    ]


@few
@given(
    seed=st.integers(-(2**63), 2**64 - 1),
    epoch=st.integers(0, 5000),
    index=st.integers(0, 2_000_000),
    height=st.integers(1, 700),
    width=st.integers(1, 700),
    min_scale=st.sampled_from([0.08, 0.2, 0.5, 1.0]),
    strength=st.sampled_from([0.5, 1.0, 1.25]),
    additive=st.booleans(),
    group=st.sampled_from([0, 8]),
)
def test_a_row_is_the_plain_law_applied_to_philox(
    seed, epoch, index, height, width, min_scale, strength, additive, group
):
    law = simclr_law(
        64,
        strength,
        min_scale=min_scale,
        brightness_law="additive" if additive else "multiplicative",
        blur_sigma_group=group,
    )
    step, position = epoch * 7 + 3, index % 4096
    ours = draw_views(
        seed, epoch, [index], heights=height, widths=width, law=law, views=3, step=step, positions=position
    )
    key = (seed % 2**32, seed // 2**32 % 2**32)
    for view in range(3):
        row = ours[0, view]
        crop = plain_crop(lambda n, v=view: plain_philox((index, epoch, 0x100 + v, n), key), height, width, min_scale)
        assert tuple(row[TOP : WIDTH + 1]) == crop
        gates = plain_philox((index, epoch, 0x200 + view, 0), key)
        assert row[FLIP] == (plain_uniform(gates[0]) < f(0.5))
        assert row[JITTER] == (plain_uniform(gates[1]) < f(0.8))
        assert row[GRAY] == (plain_uniform(gates[2]) < f(0.2))
        colours = plain_philox((index, epoch, 0x300 + view, 0), key)
        change = 0.8 * strength
        assert tuple(row[ORDER : ORDER + 4]) == plain_orders()[plain_below(colours[0], 24)]
        low, high = (-change, change) if additive else (1 - change, 1 + change)
        assert row[BRIGHTNESS] == plain_uniform(colours[1], low, high)
        assert row[CONTRAST] == plain_uniform(colours[2], 1 - change, 1 + change)
        assert row[SATURATION] == plain_uniform(colours[3], 1 - change, 1 + change)
        blur = plain_philox((index, epoch, 0x400 + view, 0), key)
        assert row[HUE] == plain_uniform(blur[0], -0.2 * strength, 0.2 * strength)
        word = plain_philox((position // group, step, 0x500 + view, 0), key)[0] if group else blur[1]
        assert row[SIGMA] == (plain_uniform(word, 0.1, 2) if plain_uniform(gates[3]) < f(0.5) else 0)


# the original's crops


def kolmogorov_smirnov(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest gap between two empirical distribution functions."""
    values = np.union1d(ours, theirs)
    shares = [np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (ours, theirs)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (600, 250)])
def test_crops_are_distributed_as_the_originals(golden, height, width):
    top, left, h, w = golden("crop_samples")[f"boxes_{height}x{width}"].astype(float).T
    theirs = {"top": top, "left": left, "height": h, "width": w, "area": h * w}
    boxes = draw_views(5, 0, np.arange(40_000), heights=height, widths=width, law=ViewLaw(), views=1)[:, 0]
    ours = {"top": boxes[:, TOP], "left": boxes[:, LEFT], "height": boxes[:, HEIGHT], "width": boxes[:, WIDTH]}
    ours["area"] = ours["height"] * ours["width"]
    gaps = {name: kolmogorov_smirnov(ours[name], theirs[name]) for name in theirs}
    assert max(gaps.values()) < 0.02, gaps


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (600, 250), (9, 11)])
def test_a_crop_never_touches_the_last_row_or_column(height, width):
    boxes = draw_views(6, 0, np.arange(DRAWS), heights=height, widths=width, law=ViewLaw()).reshape(-1, COLUMNS)
    lower, narrower = boxes[:, HEIGHT] < height, boxes[:, WIDTH] < width
    assert lower.any()
    assert narrower.any()
    assert (boxes[lower, TOP] + boxes[lower, HEIGHT]).max() == height - 1
    assert (boxes[narrower, LEFT] + boxes[narrower, WIDTH]).max() == width - 1
    assert (boxes[~lower, TOP] == 0).all()
    assert (boxes[~narrower, LEFT] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(375, 500), (32, 32), (600, 250)])
def test_a_crop_covers_a_tenth_of_the_image_though_the_law_allows_less(height, width):
    boxes = draw_views(7, 0, np.arange(DRAWS), heights=height, widths=width, law=ViewLaw(min_scale=0.08))
    share = boxes[..., HEIGHT] * boxes[..., WIDTH] / (height * width)
    assert 0.1 <= share.min() < 0.11
    assert share.max() <= 1


@pytest.mark.parametrize("min_scale", [0.2, 0.5, 1.0])
def test_a_crop_covers_the_smallest_share_that_the_law_allows(min_scale):
    boxes = draw(ViewLaw(min_scale=min_scale), size=64)
    share = boxes[..., HEIGHT] * boxes[..., WIDTH] / 64**2
    assert share.min() >= min_scale
    assert share.min() < min_scale + 0.02


def test_crops_of_a_square_are_as_often_wide_as_tall_as_the_aspect_says():
    """Uniform from 3/4 to 4/3: wider than tall in 4/7 of the draws, before rounding to pixels."""
    boxes = draw(ViewLaw(min_scale=0.08), size=2000)[:, 0]
    wide, tall = boxes[:, WIDTH] > boxes[:, HEIGHT], boxes[:, WIDTH] < boxes[:, HEIGHT]
    aspect = boxes[:, WIDTH] / boxes[:, HEIGHT]
    assert wide.mean() / tall.mean() == pytest.approx(4 / 3, abs=0.08)
    assert aspect.min() == pytest.approx(3 / 4, abs=0.002)
    assert aspect.max() == pytest.approx(4 / 3, abs=0.002)


@pytest.mark.parametrize(("height", "width"), [(1000, 10), (10, 1000), (1, 1)])
def test_an_image_without_a_possible_crop_is_taken_whole(height, width):
    boxes = draw_views(8, 0, np.arange(50), heights=height, widths=width, law=ViewLaw())[..., TOP : WIDTH + 1]
    assert (boxes == [0, 0, height, width]).all()


def test_the_hundredth_attempt_is_the_last():
    """Into 40 x 528 pixels a crop seldom fits: a 100th attempt that is the first to fit is taken, a 101st is not."""
    height, width, seed = 40, 528, 3

    def crop_of_attempt(index: int, attempt: int) -> tuple[int, int, int, int]:
        words = plain_philox((index, 0, 0x100, attempt), (seed, 0))
        return plain_crop(lambda _: words, height, width, 0.08, attempts=1)

    whole, seen = (0, 0, height, width), {99: 0, 100: 0}
    for index in range(1000):
        fitting = next((n for n in range(101) if crop_of_attempt(index, n) != whole), None)
        if fitting in seen:
            seen[fitting] += 1
            (row,) = draw_views(seed, 0, [index], heights=height, widths=width, law=ViewLaw(), views=1)[:, 0]
            expected = crop_of_attempt(index, 99) if fitting == 99 else whole
            assert tuple(row[TOP : WIDTH + 1]) == expected
    assert min(seen.values()) >= 1


def test_a_crop_covers_a_tenth_exactly():
    """Of 45 x 50 pixels 15 x 15 are enough and 14 x 16 are not, whatever min_scale allows."""
    boxes = draw_views(9, 0, np.arange(60_000), heights=45, widths=50, law=ViewLaw(min_scale=0.05), views=1)[:, 0]
    areas = boxes[:, HEIGHT] * boxes[:, WIDTH]
    plain = [plain_crop(lambda n, i=i: plain_philox((i, 0, 0x100, n), (9, 0)), 45, 50, 0.05) for i in range(300)]
    assert areas.min() == 225
    assert [tuple(box) for box in boxes[:300, TOP : WIDTH + 1]] == plain


# a pure function of counters


def test_a_batch_split_or_shuffled_draws_the_same():
    law, indices = simclr_law(32), np.arange(100, 164)
    heights, widths = np.arange(64) + 20, 100 - np.arange(64)
    whole = draw_views(1, 2, indices, heights=heights, widths=widths, law=law)
    one_by_one = [
        draw_views(1, 2, [i], heights=h, widths=w, law=law) for i, h, w in zip(indices, heights, widths, strict=True)
    ]
    order = np.random.default_rng(0).permutation(64)
    shuffled = draw_views(1, 2, indices[order], heights=heights[order], widths=widths[order], law=law)
    assert np.array_equal(whole, np.concatenate(one_by_one))
    assert np.array_equal(whole[order], shuffled)
    assert np.array_equal(whole, draw_views(1, 2, indices, heights=heights, widths=widths, law=law))


def test_more_views_leave_the_first_two_as_they_were():
    two, four = draw(simclr_law(32), images=64), draw(simclr_law(32), images=64, views=4)
    assert four.shape == (64, 4, COLUMNS)
    assert np.array_equal(two, four[:, :2])


def test_an_epoch_for_each_image_draws_what_the_epochs_draw_alone():
    law, epochs = simclr_law(32), np.arange(64) // 8
    mixed = draw(law, images=64, epoch=epochs)
    alone = np.stack([draw(law, images=64, epoch=epoch)[i] for i, epoch in enumerate(epochs)])
    assert np.array_equal(mixed, alone)


def test_the_colours_of_a_law_leave_its_crops_and_flips_as_they_were():
    full, plain = draw(simclr_law(32)), draw(simclr_law(32, 0.5).crop_and_flip_only())
    assert np.array_equal(full[..., : FLIP + 1], plain[..., : FLIP + 1])
    assert not plain[..., [JITTER, GRAY, SIGMA]].any()


@pytest.mark.parametrize("column", [TOP, HEIGHT, BRIGHTNESS, CONTRAST, SATURATION, HUE, SIGMA])
def test_seed_epoch_image_and_view_each_change_a_draw(column):
    law = ViewLaw(blur_prob=1.0)
    here = draw(law, size=5000)
    others = {
        "seed": draw(law, size=5000, seed=1),
        "high seed": draw(law, size=5000, seed=2**32),
        "epoch": draw(law, size=5000, epoch=1),
        "image": np.roll(here, 1, axis=0),
        "view": here[:, ::-1],
    }
    for name, other in others.items():
        x, y = here[..., column].ravel(), other[..., column].ravel()
        assert (x == y).mean() < 0.01, name
        # the two columns of views are each other's mirror, so only DRAWS pairs are independent
        assert abs(np.corrcoef(x, y)[0, 1]) < 4 / math.sqrt(DRAWS), name


def test_the_draws_of_a_view_do_not_follow_each_other():
    rows = draw(ViewLaw(blur_prob=1.0), size=5000)[:, 0]
    columns = rows[:, [TOP, LEFT, HEIGHT, FLIP, JITTER, ORDER, BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY, SIGMA]]
    correlations = np.corrcoef(columns.T) - np.eye(12)
    correlations[:3, :3] = 0  # where a crop can lie depends on its size
    assert np.abs(correlations).max() < 4.5 / math.sqrt(DRAWS)


# probabilities and ranges


@pytest.mark.parametrize(("column", "probability"), [(FLIP, 0.5), (JITTER, 0.8), (GRAY, 0.2), (SIGMA, 0.5)])
def test_an_operation_is_applied_as_often_as_the_law_says(column, probability):
    applied = draw(simclr_law(32), images=DRAWS // 2)[..., column] > 0
    assert abs(applied.mean() - probability) < 4 * math.sqrt(probability * (1 - probability) / DRAWS)


@pytest.mark.parametrize(
    ("gate", "column"), [("flip_prob", FLIP), ("jitter_prob", JITTER), ("gray_prob", GRAY), ("blur_prob", SIGMA)]
)
def test_probability_one_is_always_and_zero_is_never(gate, column):
    assert (draw(ViewLaw(**{gate: 1.0}))[..., column] > 0).all()
    assert (draw(ViewLaw(**{gate: 0.0}))[..., column] == 0).all()


def test_jitter_and_gray_are_independent():
    rows = draw(simclr_law(32), images=DRAWS // 2).reshape(-1, COLUMNS)
    unchanged = ((rows[:, JITTER] == 0) & (rows[:, GRAY] == 0)).mean()
    assert abs(unchanged - 0.16) < 4 * math.sqrt(0.16 * 0.84 / DRAWS)


def assert_uniform(values: np.ndarray, low: float, high: float) -> None:
    """Within the range, both ends reached, and Kolmogorov-Smirnov at the 0.1 % level."""
    values = np.sort(values.ravel().astype(np.float64))
    n, width = len(values), high - low
    assert values[0] >= low - 1e-6
    assert values[-1] <= high + 1e-6
    expected = (values - low) / width
    gap = max((np.arange(1, n + 1) / n - expected).max(), (expected - np.arange(n) / n).max())
    assert gap < 1.95 / math.sqrt(n)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_factors_are_uniform_over_the_range_of_the_strength(strength):
    rows = draw(simclr_law(32, strength), images=DRAWS // 2)
    for column in (BRIGHTNESS, CONTRAST, SATURATION):
        assert_uniform(rows[..., column], 1 - 0.8 * strength, 1 + 0.8 * strength)
    assert_uniform(rows[..., HUE], -0.2 * strength, 0.2 * strength)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_additive_law_draws_an_offset_around_zero(strength):
    rows = draw(simclr_law(32, strength, brightness_law="additive"), images=DRAWS // 2)
    assert_uniform(rows[..., BRIGHTNESS], -0.8 * strength, 0.8 * strength)
    assert_uniform(rows[..., CONTRAST], 1 - 0.8 * strength, 1 + 0.8 * strength)


def test_a_brightness_change_above_one_stops_at_black():
    assert_uniform(draw(ViewLaw(brightness=1.2))[..., BRIGHTNESS], 0, 2.2)


def test_sigma_is_uniform_over_its_range():
    assert_uniform(draw(ViewLaw(blur_prob=1.0))[..., SIGMA], 0.1, 2.0)
    assert_uniform(draw(ViewLaw(blur_prob=1.0, sigmas=(0.5, 0.7)))[..., SIGMA], 0.5, 0.7)


def test_the_24_orders_are_equally_likely():
    orders = draw(simclr_law(32), images=DRAWS // 2)[..., ORDER : ORDER + 4].reshape(-1, 4)
    found, counts = np.unique(orders, axis=0, return_counts=True)
    assert np.array_equal(found, plain_orders())
    expected = DRAWS / 24
    assert ((counts - expected) ** 2 / expected).sum() < 49.7  # chi-square, 23 degrees of freedom, 0.1 %


def test_without_random_order_the_operations_come_as_they_are_numbered():
    orders = draw(simclr_law(32, random_order=False), images=100)[..., ORDER : ORDER + 4]
    assert (orders == [0, 1, 2, 3]).all()


# a shared sigma


def test_a_group_of_the_global_batch_shares_its_sigma():
    law = ViewLaw(blur_prob=1.0, blur_sigma_group=16)
    rows = draw(law, images=64, positions=np.arange(64), step=9)
    sigmas = rows[..., SIGMA].reshape(4, 16, 2)
    assert (sigmas == sigmas[:, :1]).all()
    assert len(np.unique(sigmas)) == 8  # four groups, two views
    assert_other_columns_equal(rows, draw(ViewLaw(blur_prob=1.0), images=64))


def assert_other_columns_equal(rows: np.ndarray, others: np.ndarray) -> None:
    assert np.array_equal(rows[..., :SIGMA], others[..., :SIGMA])


def test_a_shared_sigma_changes_with_the_step_and_not_with_the_images():
    law = ViewLaw(blur_prob=1.0, blur_sigma_group=16)
    here = draw(law, images=16, positions=np.arange(16), step=9)[0, :, SIGMA]
    later = draw(law, images=16, positions=np.arange(16), step=10)[0, :, SIGMA]
    others = draw_views(0, 3, [77], heights=50, widths=40, law=law, positions=5, step=9)[0, :, SIGMA]
    assert (here != later).all()
    assert np.array_equal(here, others)


def test_a_rank_that_holds_part_of_the_batch_draws_its_part():
    law = simclr_law(32, blur_sigma_group=16)
    whole = draw(law, images=64, positions=np.arange(64), step=2)
    part = draw_views(0, 0, np.arange(40, 52), heights=32, widths=32, law=law, positions=np.arange(40, 52), step=2)
    assert np.array_equal(whole[40:52], part)


def test_each_image_of_a_group_still_chooses_whether_it_is_blurred():
    sigmas = draw(ViewLaw(blur_sigma_group=DRAWS), positions=np.arange(DRAWS))[:, 0, SIGMA]
    assert len(np.unique(sigmas)) == 2  # none, and the group's
    assert abs((sigmas > 0).mean() - 0.5) < 4 * math.sqrt(0.25 / DRAWS)


def test_shared_sigmas_are_uniform_over_the_steps():
    law = ViewLaw(blur_prob=1.0, blur_sigma_group=8)
    sigmas = [draw(law, images=1, step=step)[0, :, SIGMA] for step in range(1000)]
    assert_uniform(np.array(sigmas), 0.1, 2.0)


# the order of an epoch


@pytest.mark.parametrize("images", [1, 2, 1000])
def test_an_epoch_visits_each_image_once(images):
    assert np.array_equal(np.sort(epoch_order(3, 4, images)), np.arange(images))


def test_the_order_of_an_epoch_is_the_same_each_time_it_is_asked_for():
    assert np.array_equal(epoch_order(3, 4, 1000), epoch_order(3, 4, 1000))


def test_the_order_sorts_the_images_by_their_philox_words():
    words = [plain_philox((i, 4, 0x600, 0), (3, 0)) for i in range(300)]
    expected = sorted(range(300), key=lambda i: words[i][:2])
    assert epoch_order(3, 4, 300).tolist() == expected


def test_orders_of_other_epochs_and_seeds_are_unrelated():
    here = epoch_order(3, 4, 5000)
    for other in (epoch_order(3, 5, 5000), epoch_order(4, 4, 5000), epoch_order(3 + 2**32, 4, 5000), np.arange(5000)):
        assert abs(np.corrcoef(here, other)[0, 1]) < 4 / math.sqrt(5000)
        assert (here == other).mean() < 0.002


def test_each_image_comes_first_equally_often():
    firsts = np.array([epoch_order(0, epoch, 10)[0] for epoch in range(5000)])
    counts = np.bincount(firsts, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 27.9  # chi-square, 9 degrees of freedom, 0.1 %


# what the operations of studies draw from


@few
@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 5000), index=st.integers(0, 2_000_000))
def test_words_are_philox_of_image_epoch_view_and_block(seed, epoch, index):
    words = draw_words(seed, epoch, [index], views=2)
    assert words.shape == (1, 2, 8) and words.dtype == np.uint32
    for view in range(2):
        plain = [
            w for block in (0, 1) for w in plain_philox((index, epoch, view | 0x700, block), divmod(seed, 2**32)[::-1])
        ]
        assert words[0, view].tolist() == plain


def test_one_draw_for_both_views_is_that_of_the_first():
    apart, together = draw(simclr_law(32), images=500), draw(simclr_law(32, same_crop=True), images=500)
    assert (together[:, 0] == apart[:, 0]).all() and (together[:, 1] == apart[:, 0]).all()
    assert (apart[:, 0] != apart[:, 1]).any(axis=1).all()
