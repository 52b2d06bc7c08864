"""The tensor operations against the original's numbers and against slow formulas, one pixel at a time."""

import colorsys
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simclr_plus.augmentations import (
    ViewLaw,
    add_brightness,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    crop_and_resize,
    gaussian_blur,
    to_grayscale,
)

COLOUR = {
    "brightness_v2": adjust_brightness,
    "brightness_v1": add_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}
KERNELS = {"resize_tf2": "bicubic", "resize_tf1": "bicubic_legacy"}
few = settings(max_examples=60, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def planes(images: np.ndarray) -> Tensor:
    """[H, W, 3] or [B, H, W, 3] -> [B, 3, H, W]."""
    return torch.from_numpy(images.reshape(-1, *images.shape[-3:])).permute(0, 3, 1, 2)


def assert_close(ours: Tensor, expected: np.ndarray, tolerance: float = 3e-6) -> None:
    expected = expected.reshape(-1, *expected.shape[-3:])
    np.testing.assert_allclose(ours.permute(0, 2, 3, 1).numpy(), expected, rtol=0, atol=tolerance)


# the original's numbers


@pytest.mark.parametrize("image", ["img", "img_over"])
@pytest.mark.parametrize("operation", COLOUR)
def test_a_colour_operation_equals_the_original_at_every_factor(golden, operation, image):
    arrays = golden("color")
    factors = torch.from_numpy(arrays[f"factors/{operation}"])
    images = planes(arrays[image]).expand(len(factors), -1, -1, -1)
    assert_close(COLOUR[operation](images, factors), arrays[f"{operation}/{image}"])


@pytest.mark.parametrize("operation", COLOUR)
def test_a_number_and_a_tensor_of_factors_give_the_same(golden, operation):
    arrays = golden("color")
    factors = torch.from_numpy(arrays[f"factors/{operation}"])
    images = planes(arrays["img"])
    one_by_one = torch.cat([COLOUR[operation](images, factor.item()) for factor in factors])
    together = COLOUR[operation](images.expand(len(factors), -1, -1, -1), factors)
    torch.testing.assert_close(one_by_one, together, rtol=0, atol=1e-7)


@pytest.mark.parametrize("image", ["img", "img_over"])
def test_grayscale_equals_the_original(golden, image):
    arrays = golden("color")
    assert_close(to_grayscale(planes(arrays[image])), arrays[f"grayscale/{image}"])


@pytest.mark.parametrize("image", ["img", "img_over"])
@pytest.mark.parametrize("law", ["simclrv2", "simclrv1"])
def test_the_jitter_equals_the_original_in_each_of_the_24_orders(golden, law, image):
    arrays = golden("color")
    factor, delta, contrast, saturation, hue = arrays["jitter/factors_b_bv1_c_s_h"].tolist()
    operations = [
        lambda x: adjust_brightness(x, factor) if law == "simclrv2" else add_brightness(x, delta),
        lambda x: adjust_contrast(x, contrast),
        lambda x: adjust_saturation(x, saturation),
        lambda x: adjust_hue(x, hue),
    ]

    def jitter(order: np.ndarray) -> Tensor:
        x = planes(arrays[image])
        for operation in order:
            x = operations[operation](x).clamp(0, 1)
        return x

    orders = arrays["jitter/perms"]
    assert len(np.unique(orders, axis=0)) == 24
    assert_close(torch.cat([jitter(order) for order in orders]), arrays[f"jitter_rand/{law}/{image}"], 6e-6)
    assert_close(jitter(np.arange(4)), arrays[f"jitter_nonrand/{law}/{image}"], 6e-6)


@pytest.mark.parametrize("case", range(11))
def test_the_blur_equals_the_original(golden, case):
    arrays = golden("blur")
    kernel_size, sigma = int(arrays["kernel_size"][case]), float(arrays["sigma"][case])
    assert_close(gaussian_blur(planes(arrays["img"]), sigma, kernel_size), arrays[f"out/{case}"])


@pytest.mark.parametrize("case", range(11))
def test_an_odd_or_even_kernel_size_gives_the_taps_of_the_original(golden, case):
    """A point of light spreads over as many pixels as the original's kernel has taps."""
    kernel_size, taps = golden("blur")["kernel_size"][case], golden("blur")["actual_size"][case]
    light = torch.zeros(1, 3, 41, 41)
    light[:, :, 20, 20] = 1
    spread = gaussian_blur(light, 10.0, int(kernel_size))
    assert (spread[0, 0, 20] > 0).sum() == taps
    assert (spread[0, 0, :, 20] > 0).sum() == taps


def test_a_blurred_batch_equals_the_original(golden):
    arrays = golden("blur")
    assert_close(gaussian_blur(planes(arrays["batch"]), 1.2, 22), arrays["batch_out_k22_s1.2"])


def test_the_border_of_a_blurred_white_image_darkens_as_in_the_original(golden):
    expected = golden("blur")["ones_k22_s2"]
    assert_close(gaussian_blur(torch.ones(1, 3, 30, 30), 2.0, 22), expected)
    assert expected.min() < 0.4


@pytest.mark.parametrize("view", [0, 1])
def test_a_view_blurred_by_fixed_draws_equals_the_original(golden, view):
    """One sigma for all images of the view, and a blur where the draw is below one half: 0.5 itself stays sharp."""
    arrays = golden("blur")
    images, chosen = planes(arrays[f"brb/view{view}_in"]), torch.from_numpy(arrays["brb/select_u"][view] < 0.5)
    blurred = gaussian_blur(
        images, float(arrays["brb/sigma"][view]), ViewLaw(int(arrays["brb/height_arg"])).blur_kernel_size
    )
    ours = torch.where(chosen.view(-1, 1, 1, 1), blurred, images).clamp(0, 1)
    assert_close(ours, arrays[f"brb/view{view}_out"])


@pytest.mark.parametrize("case", range(12))
@pytest.mark.parametrize("file", KERNELS)
def test_a_resized_crop_equals_the_original(golden, file, case):
    arrays = golden(file)
    image = planes(arrays[f"{arrays['case_image'][case]}_uint8"]).float() / 255
    box = torch.from_numpy(arrays["case_box_yxhw"][[case]])
    ours = crop_and_resize(image, box, int(arrays["case_size"][case]), KERNELS[file])
    assert_close(ours, arrays[f"crop_resize/{case}"])


@pytest.mark.parametrize("file", KERNELS)
def test_boxes_of_a_batch_are_cut_from_their_own_images(golden, file):
    arrays = golden(file)
    cases = np.flatnonzero(arrays["case_image"] == "cifar")
    images = torch.from_numpy(np.random.default_rng(0).random((len(cases), 3, 32, 32), dtype=np.float32))
    boxes = torch.from_numpy(arrays["case_box_yxhw"][cases])
    together = crop_and_resize(images, boxes, 32, KERNELS[file])
    one_by_one = [crop_and_resize(images[[i]], boxes[[i]], 32, KERNELS[file]) for i in range(len(cases))]
    torch.testing.assert_close(together, torch.cat(one_by_one), rtol=0, atol=1e-6)


def test_an_unknown_resize_kernel_is_named():
    with pytest.raises(ValueError, match=r"method = 'bilinear'.*bicubic_legacy"):
        crop_and_resize(torch.zeros(1, 3, 8, 8), torch.tensor([[0, 0, 8, 8]]), 8, "bilinear")


# slow formulas


def slow_weight(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel at a distance in pixels (Keys 1981, equation 14 for a = -0.5)."""
    x = abs(distance)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def slow_axis(length: int, size: int, legacy: bool) -> list[list[tuple[int, float]]]:
    """For each output pixel, (input pixel, weight) of its four taps; coordinates in float32 as in TensorFlow."""
    f = np.float32
    scale = f(length) / f(size)
    axis = []
    for o in range(size):
        source = f(o) * scale if legacy else (f(o) + f(0.5)) * scale - f(0.5)
        first = math.floor(source)
        fraction = float(np.rint((source - f(first)) * f(1024))) / 1024
        taps = [(first + k, slow_weight(fraction - k, -0.75 if legacy else -0.5)) for k in (-1, 0, 1, 2)]
        if legacy:
            axis.append([(min(max(pixel, 0), length - 1), weight) for pixel, weight in taps])
        else:
            inside = [(pixel, weight) for pixel, weight in taps if 0 <= pixel < length]
            axis.append([(pixel, weight / sum(w for _, w in inside)) for pixel, weight in inside])
    return axis


def slow_resize(image: np.ndarray, box: tuple[int, int, int, int], size: int, legacy: bool) -> np.ndarray:
    top, left, height, width = box
    rows, columns = slow_axis(height, size, legacy), slow_axis(width, size, legacy)
    out = np.zeros((size, size, 3))
    for y in range(size):
        for x in range(size):
            for i, row_weight in rows[y]:
                for j, column_weight in columns[x]:
                    out[y, x] += row_weight * column_weight * image[top + i, left + j]
    return out


@few
@given(seed=seeds, height=st.integers(1, 14), width=st.integers(1, 14), size=st.integers(1, 10), legacy=st.booleans())
def test_a_resized_crop_is_a_sum_over_four_by_four_pixels(seed, height, width, size, legacy):
    rng = np.random.default_rng(seed)
    image = rng.random((height, width, 3))
    h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
    box = (rng.integers(height - h + 1), rng.integers(width - w + 1), h, w)
    ours = crop_and_resize(planes(image), torch.tensor([box]), size, "bicubic_legacy" if legacy else "bicubic")
    assert_close(ours, slow_resize(image, box, size, legacy))


@pytest.mark.parametrize("method", KERNELS.values())
def test_pixels_outside_the_box_leave_no_trace(method):
    rng = np.random.default_rng(3)
    image = torch.from_numpy(rng.random((1, 3, 20, 24), dtype=np.float32))
    box = torch.tensor([[4, 5, 9, 11]])
    inside = torch.zeros(20, 24, dtype=torch.bool)
    inside[4:13, 5:16] = True
    painted = torch.where(inside, image, 7.0)
    torch.testing.assert_close(crop_and_resize(image, box, 16, method), crop_and_resize(painted, box, 16, method))


@pytest.mark.parametrize("method", KERNELS.values())
def test_a_crop_of_the_target_size_is_only_cut_out(method):
    image = torch.from_numpy(np.random.default_rng(4).random((1, 3, 20, 24), dtype=np.float32))
    ours = crop_and_resize(image, torch.tensor([[3, 6, 16, 16]]), 16, method)
    torch.testing.assert_close(ours, image[:, :, 3:19, 6:22], rtol=0, atol=1e-6)


def slow_hsv(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """colorsys.rgb_to_hsv for any sign; ties go to red, then green (TensorFlow's rgb_to_hsv)."""
    value = max(red, green, blue)
    chroma = value - min(red, green, blue)
    saturation = chroma / value if value > 0 else 0.0
    if chroma == 0:
        hue = 0.0
    elif value == red:
        hue = (green - blue) / (6 * chroma)
    elif value == green:
        hue = (blue - red) / (6 * chroma) + 1 / 3
    else:
        hue = (red - green) / (6 * chroma) + 2 / 3
    return hue % 1.0, saturation, value


def slow_rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """The six sectors of the colour wheel, as in a textbook."""
    sector, along = int(hue * 6) % 6, hue * 6 - int(hue * 6)
    low, falling, rising = (
        value * (1 - saturation),
        value * (1 - saturation * along),
        value * (1 - saturation * (1 - along)),
    )
    return [
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    ][sector]


def slow_saturation(pixel: np.ndarray, factor: float) -> tuple[float, float, float]:
    hue, saturation, value = slow_hsv(*pixel)
    return slow_rgb(hue, min(max(saturation * factor, 0), 1), value)


def slow_hue(pixel: np.ndarray, delta: float) -> tuple[float, float, float]:
    hue, saturation, value = slow_hsv(*pixel)
    return slow_rgb((hue + delta) % 1.0, saturation, value)


def test_the_slow_colours_are_those_of_the_standard_library():
    for pixel in np.random.default_rng(5).random((50, 3)):
        np.testing.assert_allclose(slow_hsv(*pixel), colorsys.rgb_to_hsv(*pixel), atol=1e-12)
        np.testing.assert_allclose(slow_rgb(*pixel), colorsys.hsv_to_rgb(*pixel), atol=1e-12)


def random_colours(seed: int) -> np.ndarray:
    """[5, 6, 3], from -0.2 to 1.2, on a coarse grid for every other pixel so that channels tie and vanish."""
    image = np.random.default_rng(seed).uniform(-0.2, 1.2, size=(5, 6, 3))
    image[:, ::2] = np.round(image[:, ::2] * 3) / 3
    return image


@few
@given(seed=seeds, factor=st.floats(0, 2), delta=st.floats(-0.5, 0.5))
def test_saturation_and_hue_are_those_of_the_colour_wheel(seed, factor, delta):
    image = random_colours(seed)
    assert_close(adjust_saturation(planes(image), factor), np.apply_along_axis(slow_saturation, 2, image, factor))
    assert_close(adjust_hue(planes(image), delta), np.apply_along_axis(slow_hue, 2, image, delta))


@few
@given(seed=seeds, factor=st.floats(0, 2), delta=st.floats(-0.8, 0.8))
def test_brightness_contrast_and_gray_are_their_formulas(seed, factor, delta):
    image = random_colours(seed)
    assert_close(adjust_brightness(planes(image), factor), image * factor)
    assert_close(add_brightness(planes(image), delta), image + delta)
    contrast = image.copy()
    for c in range(3):
        mean = sum(image[y, x, c] for y in range(5) for x in range(6)) / 30
        contrast[:, :, c] = (image[:, :, c] - mean) * factor + mean
    assert_close(adjust_contrast(planes(image), factor), contrast)
    gray = 0.2989 * image[:, :, 0] + 0.587 * image[:, :, 1] + 0.114 * image[:, :, 2]
    assert_close(to_grayscale(planes(image)), np.stack([gray, gray, gray], axis=2))


def slow_blur(image: np.ndarray, sigma: float, radius: int) -> np.ndarray:
    """One sum over a square of pixels for each pixel, not two passes."""
    height, width, _ = image.shape
    offsets = range(-radius, radius + 1)
    total = sum(math.exp(-(k * k) / (2 * sigma**2)) for k in offsets) ** 2
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            for i in offsets:
                for j in offsets:
                    if 0 <= y + i < height and 0 <= x + j < width:
                        weight = math.exp(-(i * i + j * j) / (2 * sigma**2)) / total
                        out[y, x] += weight * image[y + i, x + j]
    return out


@settings(few, max_examples=30)
@given(
    seed=seeds,
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    sigma=st.floats(0.1, 2),
    kernel_size=st.integers(0, 9),
)
def test_the_blur_is_a_sum_over_a_square_of_pixels(seed, height, width, sigma, kernel_size):
    image = np.random.default_rng(seed).random((height, width, 3))
    assert_close(gaussian_blur(planes(image), sigma, kernel_size), slow_blur(image, sigma, kernel_size // 2))


def test_each_image_of_a_batch_is_blurred_by_its_own_sigma():
    images = torch.from_numpy(np.random.default_rng(6).random((3, 3, 12, 10), dtype=np.float32))
    sigmas = torch.tensor([0.1, 0.9, 2.0])
    together = gaussian_blur(images, sigmas, 5)
    for i in range(3):
        torch.testing.assert_close(together[[i]], gaussian_blur(images[[i]], sigmas[i].item(), 5))
    assert not torch.allclose(together[1], gaussian_blur(images[[1]], 2.0, 5)[0], atol=1e-2)
