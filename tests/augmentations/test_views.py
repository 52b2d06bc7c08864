"""The compiled views against the original's numbers, and against the tensor operations said one after the other."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_plus.augmentations import (
    ViewLaw,
    add_brightness,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_and_resize,
    draw_views,
    gaussian_blur,
    simclr_law,
    to_grayscale,
)
from simclr_plus.augmentations.draws import (
    BRIGHTNESS,
    COLUMNS,
    CONTRAST,
    FLIP,
    GRAY,
    HUE,
    JITTER,
    ORDER,
    SATURATION,
    SIGMA,
    TOP,
    WIDTH,
)
from simclr_plus.augmentations.views import ViewMaker

KERNELS = {"resize_tf2": "bicubic", "resize_tf1": "bicubic_legacy"}
ORDERS = np.array(list(itertools.permutations(range(4))), dtype=np.float32)
few = settings(max_examples=60, deadline=None, derandomize=True)


def row_of(box: tuple[int, int, int, int] | np.ndarray, **changes: float | tuple[int, ...]) -> np.ndarray:
    """Parameters [16] of a view that only crops, but for the changes."""
    row = np.zeros(COLUMNS, dtype=np.float32)
    row[TOP : WIDTH + 1] = box
    row[ORDER : ORDER + 4] = changes.pop("order", (0, 1, 2, 3))
    row[[BRIGHTNESS, CONTRAST, SATURATION]] = 1
    places = {"flip": FLIP, "jitter": JITTER, "gray": GRAY, "sigma": SIGMA, "brightness": BRIGHTNESS}
    places |= {"contrast": CONTRAST, "saturation": SATURATION, "hue": HUE}
    for name, value in changes.items():
        row[places[name]] = value
    return row


def views_of(law: ViewLaw, image: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The views [V, 3, S, S] of an image by parameters [V, 16]."""
    out = np.full((len(rows), 1, 3, law.size, law.size), np.nan, dtype=np.float32)
    ViewMaker(law).fill(image, np.stack(list(rows)), out, 0)
    return out[:, 0]


def slow_view(law: ViewLaw, image: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The law read aloud, in float64: crop, flip, jitter with a clip after each, gray, clip, blur, clip."""
    p = row.astype(np.float64)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 255
    x = crop_and_resize(x, torch.from_numpy(row[None, TOP : WIDTH + 1]), law.size, law.resize)
    if p[FLIP]:
        x = x.flip(3)
    brightness = add_brightness if law.brightness_law == "additive" else adjust_brightness
    jitter = [
        lambda x: brightness(x, p[BRIGHTNESS]),
        lambda x: adjust_contrast(x, p[CONTRAST]),
        lambda x: adjust_saturation(x, p[SATURATION]),
        lambda x: adjust_hue(x, p[HUE]),
    ]
    if p[JITTER]:
        for operation in p[ORDER : ORDER + 4].astype(int):
            x = jitter[operation](x).clamp(0, 1)
    if p[GRAY]:
        x = to_grayscale(x)
    x = x.clamp(0, 1)
    if p[SIGMA]:
        x = gaussian_blur(x, p[SIGMA], law.blur_kernel_size).clamp(0, 1)
    return x[0].numpy()


def assert_equals_the_operations(law: ViewLaw, image: np.ndarray, rows: np.ndarray, tolerance: float = 1e-5) -> None:
    expected = np.stack([slow_view(law, image, row) for row in rows])
    np.testing.assert_allclose(views_of(law, image, rows), expected, rtol=0, atol=tolerance)


def random_image(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)


# the original's numbers


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("case", range(12))
@pytest.mark.parametrize("file", KERNELS)
def test_a_view_that_only_crops_equals_the_original(golden, file, case, flip):
    arrays = golden(file)
    law = ViewLaw(int(arrays["case_size"][case]), resize=KERNELS[file])
    image = arrays[f"{arrays['case_image'][case]}_uint8"]
    (view,) = views_of(law, image, [row_of(arrays["case_box_yxhw"][case], flip=flip)])
    expected = arrays[f"crop_resize/{case}"].clip(0, 1).transpose(2, 0, 1)
    np.testing.assert_allclose(view, expected[:, :, ::-1] if flip else expected, rtol=0, atol=2e-6)


def test_bytes_become_numbers_as_in_the_original(golden):
    arrays = golden("color")
    image = np.repeat(arrays["uint8_to_float/in"][:, :, None], 3, axis=2)
    for method in KERNELS.values():
        (view,) = views_of(ViewLaw(16, resize=method), image, [row_of((0, 0, 16, 16))])
        np.testing.assert_allclose(view[0], arrays["uint8_to_float/out"], rtol=0, atol=2e-7)


def test_the_border_of_a_blurred_white_view_darkens_as_in_the_original(golden):
    expected = golden("blur")["ones_k22_s2"][:15, :15, 0]
    white = np.full((40, 50, 3), 255, dtype=np.uint8)
    (view,) = views_of(ViewLaw(224), white, [row_of((0, 0, 40, 50), sigma=2)])
    for corner in (view, view[:, ::-1], view[:, :, ::-1], view[:, ::-1, ::-1]):
        np.testing.assert_allclose(corner[:, :15, :15], np.stack([expected] * 3), rtol=0, atol=2e-6)
    np.testing.assert_allclose(view[:, 12:-12, 12:-12], 1, rtol=0, atol=2e-6)


# the tensor operations


@pytest.mark.parametrize("brightness_law", ["multiplicative", "additive"])
@pytest.mark.parametrize("resize", KERNELS.values())
@pytest.mark.parametrize(("size", "images"), [(32, 60), (224, 8)])
def test_views_of_real_images_equal_the_operations(real_images, size, images, resize, brightness_law):
    law = simclr_law(size, resize=resize, brightness_law=brightness_law, gray_prob=0.4, jitter_prob=0.7)
    indices = np.linspace(0, len(real_images) - 1, images).astype(int)
    rows = draw_views(11, 0, indices, heights=28, widths=28, law=law)
    assert all(0 < (rows[..., gate] > 0).mean() < 1 for gate in (FLIP, JITTER, GRAY, SIGMA))
    for i, row in zip(indices, rows, strict=True):
        assert_equals_the_operations(law, real_images[i], row)


@pytest.mark.parametrize("brightness_law", ["multiplicative", "additive"])
@pytest.mark.parametrize("resize", KERNELS.values())
@pytest.mark.parametrize(("size", "images"), [(32, 30), (224, 8)])
def test_views_of_noise_of_any_shape_equal_the_operations(size, images, resize, brightness_law):
    """Noise overshoots more than any photograph and has every hue."""
    law = simclr_law(size, resize=resize, brightness_law=brightness_law, gray_prob=0.4, jitter_prob=0.7)
    shapes = np.random.default_rng(12).integers(20, 400, size=(images, 2))
    rows = draw_views(13, 0, np.arange(images), heights=shapes[:, 0], widths=shapes[:, 1], law=law)
    for i, (height, width) in enumerate(shapes):
        assert_equals_the_operations(law, random_image(i, height, width), rows[i])


@pytest.mark.parametrize("gray", [0, 1])
@pytest.mark.parametrize("brightness_law", ["multiplicative", "additive"])
@pytest.mark.parametrize("size", [32, 64])
def test_each_of_the_24_orders_equals_the_operations(size, brightness_law, gray):
    """64 pixels a side take several sweeps, which contrast, alone in needing the mean, splits."""
    law = ViewLaw(size, brightness_law=brightness_law)
    rng = np.random.default_rng(14)
    rows = [
        row_of(
            (1, 2, 37, 40),
            jitter=1,
            order=order,
            gray=gray,
            brightness=rng.uniform(0.2, 1.8) - (brightness_law == "additive"),
            contrast=rng.uniform(0.2, 1.8),
            saturation=rng.uniform(0.2, 1.8),
            hue=rng.uniform(-0.2, 0.2),
        )
        for order in ORDERS
    ]
    views = views_of(law, random_image(15, 40, 44), rows)
    assert len({view.tobytes() for view in views}) == 24
    assert_equals_the_operations(law, random_image(15, 40, 44), rows)


@few
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(8, 50),
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    resize=st.sampled_from(list(KERNELS.values())),
    additive=st.booleans(),
    strength=st.floats(0, 1.25),
)
def test_any_view_of_any_image_equals_the_operations(seed, size, height, width, resize, additive, strength):
    """Every parameter at random, boxes included: also those that the law would never draw."""
    rng = np.random.default_rng(seed)
    law = simclr_law(size, strength, resize=resize, brightness_law="additive" if additive else "multiplicative")
    image = random_image(seed, height, width)
    if rng.random() < 0.3:  # flat colours: ties, grays, black and white
        image = np.repeat(np.repeat(image[::7, ::7] // 128 * 255, 7, axis=0), 7, axis=1)[:height, :width].copy()
    rows = draw_views(seed, 0, [0], heights=height, widths=width, law=law)[0]
    h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
    rows[1, TOP : WIDTH + 1] = rng.integers(height - h + 1), rng.integers(width - w + 1), h, w
    assert_equals_the_operations(law, image, rows)


@pytest.mark.parametrize("sigma", [0.1, 0.15, 0.3, 1.0, 2.0])
@pytest.mark.parametrize("size", [8, 19, 20, 32, 100, 224])
def test_a_blur_of_any_width_equals_the_operation(size, sigma):
    law = ViewLaw(size)
    rows = [row_of((0, 0, 30, 30), sigma=sigma, gray=gray) for gray in (0, 1)]
    assert_equals_the_operations(law, random_image(16, 30, 30), rows, tolerance=3e-6)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_flat_image_stays_flat_and_finite(level):
    """No hue, no chroma, no variance: every division has nothing to divide."""
    rows = [row_of((0, 0, 9, 9), jitter=1, order=order, saturation=1.8, contrast=0.2, hue=0.1) for order in ORDERS]
    views = views_of(ViewLaw(32), np.full((9, 9, 3), level, dtype=np.uint8), rows)
    np.testing.assert_allclose(views, level / 255, rtol=0, atol=2e-6)


def test_a_view_reaches_black_and_white_and_goes_no_further(real_images):
    law = simclr_law(32, blur_prob=0.0)
    rows = draw_views(17, 0, np.arange(60), heights=28, widths=28, law=law)
    views = np.stack([views_of(law, image, row) for image, row in zip(real_images, rows, strict=True)])
    assert views.min() == 0
    assert views.max() == 1


@pytest.mark.parametrize("method", KERNELS.values())
def test_pixels_outside_the_box_leave_no_trace(method):
    image = random_image(18, 50, 60)
    painted = 255 - image
    painted[9:34, 7:47] = image[9:34, 7:47]
    row = row_of((9, 7, 25, 40), jitter=1, contrast=0.5, sigma=1.5)
    ours, theirs = (views_of(ViewLaw(64, resize=method), x, [row]) for x in (image, painted))
    assert np.array_equal(ours, theirs)


def test_a_flipped_view_is_the_mirror_of_the_view():
    image = random_image(19, 30, 44)
    straight, flipped = views_of(ViewLaw(48), image, [row_of((2, 3, 20, 31), flip=flip) for flip in (0, 1)])
    assert np.array_equal(flipped, straight[:, :, ::-1])
    assert not np.array_equal(flipped, straight)


# batches, buffers and threads


def test_a_batch_of_views_equals_the_views_one_by_one(real_images):
    law, indices = simclr_law(32), np.array([59, 3, 3, 17, 40, 0, 31])
    rows = draw_views(20, 0, indices, heights=28, widths=28, law=law)
    together = np.empty((2, 7, 3, 32, 32), dtype=np.float32)
    ViewMaker(law).fill_batch(real_images, indices, rows, together, 0, 7)
    one_by_one = np.stack([views_of(law, real_images[i], row) for i, row in zip(indices, rows, strict=True)], axis=1)
    assert np.array_equal(together, one_by_one)


def test_a_part_of_a_batch_leaves_the_rest_untouched(real_images):
    law, indices = simclr_law(32), np.arange(8)
    rows = draw_views(21, 0, indices, heights=28, widths=28, law=law)
    whole = np.empty((2, 8, 3, 32, 32), dtype=np.float32)
    part = np.full_like(whole, -7)
    ViewMaker(law).fill_batch(real_images, indices, rows, whole, 0, 8)
    ViewMaker(law).fill_batch(real_images, indices, rows, part, 3, 6)
    assert np.array_equal(part[:, 3:6], whole[:, 3:6])
    assert (part[:, :3] == -7).all()
    assert (part[:, 6:] == -7).all()


def test_nothing_carries_over_from_one_image_to_the_next():
    """One maker for images of many widths gives the bits of a maker for each."""
    law = simclr_law(64, blur_prob=0.7)
    maker = ViewMaker(law)
    for i, (height, width) in enumerate([(30, 300), (300, 30), (8, 8), (200, 200), (9, 31)]):
        image = random_image(i, height, width)
        (rows,) = draw_views(22, 0, [i], heights=height, widths=width, law=law, views=4)
        out = np.empty((4, 1, 3, 64, 64), dtype=np.float32)
        maker.fill(image, rows, out, 0)
        assert np.array_equal(out[:, 0], views_of(law, image, rows))


def test_threads_with_their_own_makers_give_the_same_bits(real_images):
    law, indices = simclr_law(32), np.arange(60)
    rows = draw_views(23, 0, indices, heights=28, widths=28, law=law)
    alone, shared = (np.empty((2, 60, 3, 32, 32), dtype=np.float32) for _ in range(2))
    ViewMaker(law).fill_batch(real_images, indices, rows, alone, 0, 60)
    with ThreadPoolExecutor(4) as pool:
        parts = [
            pool.submit(ViewMaker(law).fill_batch, real_images, indices, rows, shared, first, first + 4)
            for first in range(0, 60, 4)
        ]
    assert all(part.exception() is None for part in parts)
    assert np.array_equal(alone, shared)


# what a maker refuses


@pytest.mark.parametrize("box", [(0, 0, 31, 30), (0, 0, 30, 41), (1, 0, 30, 40), (-1, 0, 5, 5), (0, 0, 0, 5)])
def test_a_crop_that_leaves_its_image_is_refused(box):
    with pytest.raises(ValueError, match="leaves its image of 30 x 40 pixels"):
        views_of(ViewLaw(32), random_image(0, 30, 40), [row_of(box)])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((30, 40, 3), dtype=np.float32),
        np.zeros((30, 40), dtype=np.uint8),
        np.zeros((30, 40, 4), dtype=np.uint8),
        np.zeros((30, 80, 3), dtype=np.uint8)[:, ::2],
    ],
    ids=["float", "plane", "four channels", "every other column"],
)
def test_an_image_that_is_not_bytes_in_a_row_is_refused(image):
    with pytest.raises(ValueError, match=r"contiguous uint8 array \[H, W, 3\], got " + str(image.dtype)):
        views_of(ViewLaw(32), image, [row_of((0, 0, 10, 10))])


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((1, 1, 3, 32, 32)),
        np.zeros((1, 1, 3, 31, 32), dtype=np.float32),
        np.zeros((1, 1, 32, 32, 3), dtype=np.float32).transpose(0, 1, 4, 2, 3),
    ],
    ids=["float64", "another size", "channels last"],
)
def test_a_place_for_views_of_another_kind_is_refused(out):
    with pytest.raises(ValueError, match=r"contiguous float32 array \[V, B, 3, S, S\], got float"):
        ViewMaker(ViewLaw(32)).fill(random_image(0, 30, 40), row_of((0, 0, 10, 10))[None], out, 0)
