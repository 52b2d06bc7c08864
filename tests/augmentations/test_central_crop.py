"""The middle of an image, as the original shows it to an evaluated encoder."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from simclr_plus.augmentations import ViewLaw, crop_and_resize
from simclr_plus.augmentations.central_crop import central_crop_box, central_parameters
from simclr_plus.augmentations.views import ViewMaker

KERNELS = {"resize_tf2": "bicubic", "resize_tf1": "bicubic_legacy"}


def view_of(image: np.ndarray, size: int, method: str) -> np.ndarray:
    """[S, S, 3]."""
    out = np.empty((1, 1, 3, size, size), dtype=np.float32)
    law = ViewLaw(size, resize=method)
    ViewMaker(law).fill(image, central_parameters(*image.shape[:2], law), out, 0)
    return out[0, 0].transpose(1, 2, 0)


@pytest.mark.parametrize("case", range(15))
def test_the_central_box_equals_the_original(golden, case):
    height, width, *expected = golden("resize_tf2")["crop_shape_h_w_ch_cw_oy_ox"][case].tolist()
    top, left, h, w = central_crop_box(height, width, 224)
    assert [h, w, top, left] == expected


def test_the_central_box_is_the_same_for_both_versions_of_the_original(golden):
    name = "crop_shape_h_w_ch_cw_oy_ox"
    assert np.array_equal(golden("resize_tf1")[name], golden("resize_tf2")[name])


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("file", KERNELS)
def test_an_evaluated_image_equals_the_original(golden, file, case):
    arrays = golden(file)
    image, size = arrays[f"{arrays['eval_image'][case]}_uint8"], int(arrays["eval_size"][case])
    np.testing.assert_allclose(view_of(image, size, KERNELS[file]), arrays[f"eval/{case}"], rtol=0, atol=2e-6)
    box = torch.tensor([central_crop_box(*image.shape[:2], size)])
    planes = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    resized = crop_and_resize(planes, box, size, KERNELS[file]).clamp(0, 1)
    np.testing.assert_allclose(resized[0].permute(1, 2, 0), arrays[f"eval/{case}"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("file", KERNELS)
def test_a_small_image_of_the_right_size_is_shown_whole(golden, file):
    arrays = golden(file)
    ours = view_of(arrays["cifar_uint8"], 32, KERNELS[file])
    np.testing.assert_allclose(ours, arrays["eval_nocrop_cifar"], rtol=0, atol=1e-6)


def test_an_evaluated_image_is_neither_flipped_nor_coloured():
    (row,) = central_parameters(375, 500, ViewLaw(224))
    assert row.tolist() == [24, 86, 328, 328, *[0] * 12]


def test_a_law_may_show_the_whole_square() -> None:
    (row,) = central_parameters(375, 500, ViewLaw(224, evaluation_crop=1.0))
    assert row[:4].tolist() == [0, 63, 375, 375]


def test_small_views_show_the_whole_square_of_an_image_of_another_size() -> None:
    assert central_crop_box(28, 28, 32) == (0, 0, 28, 28) and central_crop_box(28, 30, 32) == (0, 1, 28, 28)


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), size=st.integers(8, 512))
@example(height=32, width=32, size=32)
@example(height=33, width=33, size=32)
@example(height=32, width=32, size=33)
@example(height=20, width=33, size=33)
def test_the_central_box_is_seven_eighths_of_the_shorter_side_rounded_half_to_even(height, width, size):
    shorter = min(height, width)
    side = shorter if max(height, width, size) <= 32 else round(Fraction(7 * shorter, 8))  # Python rounds half to even
    assert central_crop_box(height, width, size) == ((height - side + 1) // 2, (width - side + 1) // 2, side, side)
