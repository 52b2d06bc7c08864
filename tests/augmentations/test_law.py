"""The law of a view: the paper's numbers, and errors that name the key and its value."""

import pytest

from simclr_plus.augmentations import ViewLaw, simclr_law


@pytest.mark.parametrize("strength", [0.0, 0.3, 0.5, 1.0, 1.25])
def test_the_colour_distortion_grows_with_its_strength(strength):
    law = simclr_law(224, strength)
    assert (law.brightness, law.contrast, law.saturation) == (0.8 * strength,) * 3
    assert law.hue == 0.2 * strength


def test_the_law_without_arguments_is_the_papers():
    """Appendix A: flip and blur for half of the images, jitter for 80 %, gray for 20 %, sigma from 0.1 to 2."""
    law = simclr_law(224)
    assert (law.flip_prob, law.jitter_prob, law.gray_prob, law.blur_prob) == (0.5, 0.8, 0.2, 0.5)
    assert (law.min_scale, law.sigmas, law.brightness_law, law.resize) == (
        0.08,
        (0.1, 2.0),
        "multiplicative",
        "bicubic",
    )
    assert law.random_order
    assert law == ViewLaw()


@pytest.mark.parametrize(("size", "radius"), [(224, 11), (96, 4), (64, 3), (32, 1), (20, 1), (19, 0), (8, 0)])
def test_the_blur_spans_a_tenth_of_the_side(size, radius):
    law = simclr_law(size)
    assert law.blur_kernel_size == size // 10
    assert law.blur_radius == radius


def test_changes_reach_the_law():
    law = simclr_law(32, 0.5, blur_prob=0.0, resize="bicubic_legacy")
    assert (law.size, law.brightness, law.blur_prob, law.resize) == (32, 0.4, 0.0, "bicubic_legacy")


def test_crop_and_flip_only_switches_off_the_rest_and_no_more():
    law = simclr_law(96, 0.5, min_scale=0.2, operations=("cutout",))
    plain = law.crop_and_flip_only()
    assert (plain.jitter_prob, plain.gray_prob, plain.blur_prob) == (0, 0, 0)
    assert (plain.size, plain.min_scale, plain.flip_prob, plain.operations) == (96, 0.2, 0.5, ())


@pytest.mark.parametrize("strength", [1.3, -0.1, float("nan")])
def test_an_impossible_strength_is_named(strength):
    with pytest.raises(ValueError, match=rf"strength = {strength}.*1\.25"):
        simclr_law(224, strength)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"size": 4}, r"size = 4 .*8 or more"),
        ({"resize": "bilinear"}, r"resize = 'bilinear'.*bicubic_legacy"),
        ({"brightness_law": "add"}, r"brightness_law = 'add'.*additive"),
        ({"contrast": 1.2}, r"contrast .*0\.8, contrast 1\.2, saturation 0\.8"),
        ({"saturation": 1.01}, r"saturation .*saturation 1\.01"),
        ({"brightness": -0.5}, r"brightness -0\.5"),
        ({"min_scale": 0}, r"min_scale = 0 .*\(0, 1\]"),
        ({"min_scale": 1.5}, r"min_scale = 1\.5 .*\(0, 1\]"),
        ({"sigmas": (0, 2.0)}, r"sigmas = \(0, 2\.0\).*0 < smallest"),
        ({"operations": ("crop", "sharpen")}, r"operations: 'sharpen' .*motion_blur"),
        ({"operations_on": "second"}, r"operations_on = 'second' .*first"),
        ({"operation_prob": 1.1}, r"operation_prob = 1\.1 .*from 0 to 1"),
        ({"sigmas": (2.0, 1.0)}, r"sigmas = \(2\.0, 1\.0\).*smallest <= largest"),
        *(({f"{gate}_prob": 2}, rf"{gate}_prob = 2 .*from 0 to 1") for gate in ("flip", "jitter", "gray", "blur")),
        *(({f"{gate}_prob": -1}, rf"{gate}_prob = -1 .*from 0 to 1") for gate in ("flip", "jitter", "gray", "blur")),
    ],
)
def test_an_impossible_value_is_named_with_its_key(change, named):
    with pytest.raises(ValueError, match=named):
        ViewLaw(**change)
