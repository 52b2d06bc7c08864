"""The transform for Lightly: the same views, whatever the image comes as, ruled by torch's generator."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_plus.augmentations import draw_views
from simclr_plus.augmentations.law import simclr_law
from simclr_plus.augmentations.transform import SimCLRTransform
from simclr_plus.augmentations.views import ViewMaker


@pytest.fixture
def image(real_images: np.ndarray) -> np.ndarray:
    return real_images[45]


def seeded(transform: SimCLRTransform, image: object, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.stack(transform(image))


def test_its_views_are_those_of_the_law(image):
    transform = SimCLRTransform(32, cj_strength=0.5)
    views = seeded(transform, image)
    torch.manual_seed(0)
    key, index = torch.randint(0, 2**31, (2,)).tolist()
    law = simclr_law(32, 0.5)
    (rows,) = draw_views(key, 0, [index], heights=28, widths=28, law=law)
    expected = np.empty((2, 1, 3, 32, 32), dtype=np.float32)
    ViewMaker(law).fill(image, rows, expected, 0)
    assert transform.law == law
    assert np.array_equal(views, expected[:, 0])


def test_pil_array_and_tensor_give_the_same_views(image):
    transform = SimCLRTransform(32)
    expected = seeded(transform, image)
    assert torch.equal(seeded(transform, Image.fromarray(image)), expected)
    assert torch.equal(seeded(transform, torch.from_numpy(image).permute(2, 0, 1)), expected)


def test_a_gray_picture_has_three_equal_channels(real_images):
    views = seeded(SimCLRTransform(32, cj_prob=0.0), Image.fromarray(real_images[0][:, :, 0]))
    assert torch.equal(views[:, :1].expand(-1, 3, -1, -1), views)
    assert torch.equal(seeded(SimCLRTransform(32, cj_prob=0.0), real_images[0]), views)


def test_the_generator_of_torch_rules_it(image):
    transform = SimCLRTransform(32)
    first, again, other = seeded(transform, image), seeded(transform, image), seeded(transform, image, seed=1)
    following = torch.stack(transform(image))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(other, following)
    assert not torch.equal(first[0], first[1])


def test_normalize_subtracts_the_mean_and_divides_by_the_deviation(image):
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.5]
    plain = seeded(SimCLRTransform(32), image)
    normal = seeded(SimCLRTransform(32, normalize={"mean": mean, "std": std}), image)
    for c in range(3):
        torch.testing.assert_close(normal[:, c], (plain[:, c] - mean[c]) / std[c])


def test_a_pickled_transform_makes_the_same_views(image):
    transform = SimCLRTransform(32)
    expected = seeded(transform, image)
    copy = pickle.loads(pickle.dumps(transform))
    assert torch.equal(seeded(copy, image), expected)


def test_arguments_reach_the_law():
    law = SimCLRTransform(
        64,
        cj_prob=0.1,
        cj_strength=0.5,
        cj_bright=0.6,
        cj_contrast=0.4,
        cj_sat=0.2,
        cj_hue=0.1,
        min_scale=0.3,
        random_gray_scale=0.11,
        gaussian_blur=0.12,
        sigmas=(0.2, 0.3),
        hf_prob=0.13,
        brightness_law="additive",
        resize="bicubic_legacy",
    ).law
    assert (law.size, law.min_scale, law.resize, law.brightness_law) == (64, 0.3, "bicubic_legacy", "additive")
    assert (law.brightness, law.contrast, law.saturation, law.hue) == (0.3, 0.2, 0.1, 0.05)
    assert (law.jitter_prob, law.gray_prob, law.blur_prob, law.flip_prob) == (0.1, 0.11, 0.12, 0.13)
    assert law.sigmas == (0.2, 0.3)


def test_a_strength_beyond_the_law_is_refused():
    with pytest.raises(ValueError, match=r"contrast 1\.04"):
        SimCLRTransform(32, cj_strength=1.3)


@pytest.mark.parametrize("wrong", [np.zeros((28, 28), np.uint8), np.zeros((28, 28, 3)), torch.zeros(3, 28, 28)])
def test_an_image_of_another_kind_is_refused(wrong):
    with pytest.raises(ValueError, match=r"takes a PIL image.* got (uint8|float\d\d) of shape \(28, 28"):
        SimCLRTransform(32)(wrong)


@pytest.mark.parametrize("mode, kind", [("I;16", np.uint16), ("I", np.int32), ("F", np.float32)])
def test_a_picture_deeper_than_8_bits_is_refused_where_pillow_would_make_it_white(mode, kind):
    deep = Image.fromarray(np.full((28, 28), 1000, kind))
    assert deep.mode == mode
    with pytest.raises(ValueError, match=f"mode {mode}"):
        SimCLRTransform(32)(deep)


LIGHTLYS = {"vf_prob": 0.0, "rr_prob": 0.0, "rr_degrees": (-10.0, 10.0), "normalize": {}}


def test_lightlys_arguments_that_ask_for_nothing_change_nothing(image):
    expected = seeded(SimCLRTransform(32), image)
    assert torch.equal(seeded(SimCLRTransform(32, **LIGHTLYS), image), expected)
    assert torch.equal(seeded(SimCLRTransform((32, 32)), image), expected)
    in_order = (32, 0.8, 1.0, 0.8, 0.8, 0.8, 0.2, 0.08, 0.2, 0.5, (0.1, 2.0), 0.0, 0.5, 0.0, None, None)
    assert torch.equal(seeded(SimCLRTransform(*in_order), image), expected)


@pytest.mark.parametrize("name, value", [("vf_prob", 0.5), ("rr_prob", 0.1), ("input_size", (32, 48))])
def test_what_lightly_does_and_simclr_does_not_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"{name} = ") as error:
        SimCLRTransform(**{"input_size": 32, name: value})
    assert str(value) in str(error.value)
