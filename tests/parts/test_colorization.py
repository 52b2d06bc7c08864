"""Colorization's parts against the authors' numbers, dense formulas, closed forms and PyTorch's own gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from places import GOLDEN_FOLDER
from torch import Tensor

from simclr_plus.color_spaces import lab, lightness
from simclr_plus.datasets.embedded import places
from simclr_plus.encoders import ResNet
from simclr_plus.global_batch_norm import GlobalBatchNorm2d
from simclr_plus.parts.colorization import (
    COLORS,
    ColorHead,
    are_colored,
    color_bins,
    color_prior,
    color_targets,
    colorization_loss,
    colors_of,
    imagenet_prior,
    rebalancing_weights,
    soft_code,
)

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "pretext_color.npz")


def golden(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(GOLDEN[name]).to(dtype)


def dense(ab: Tensor) -> Tensor:
    """[..., 2] -> [..., Q]."""
    indices, shares = soft_code(ab)
    return torch.zeros(*ab.shape[:-1], COLORS, dtype=ab.dtype).scatter_(-1, indices, shares)


def weights_of_labels() -> Tensor:
    """[3, 4, 4] of those images."""
    return golden("prior_factor")[golden("image_argmax", torch.int64)] * (golden("image_weight")[:, 0] > 0)


def drawn_images() -> Tensor:
    """[3, 3, 16, 16] in [0, 1], the second gray."""
    return golden("image").permute(0, 3, 1, 2) / 255


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 1e-4)])
def test_colors_are_those_of_scikit_image(dtype: torch.dtype, tolerance: float) -> None:
    rgb = (golden("rgb") / 255).to(dtype)[..., None, None]
    assert torch.allclose(lab(rgb)[..., 0, 0].double(), golden("lab"), rtol=0, atol=tolerance)


def test_the_colors_that_are_predicted_are_the_authors_and_hold_all_that_screens_show() -> None:
    bins = color_bins()
    assert torch.equal(bins, golden("pts_in_hull")) and torch.equal(imagenet_prior(), golden("prior_probs"))
    levels = torch.linspace(0, 1, 18, dtype=torch.float64)
    cube = torch.cartesian_prod(levels, levels, levels)[..., None, None]
    assert torch.cdist(lab(cube)[:, 1:, 0, 0], bins).min(dim=1).values.max() < 7.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
def test_a_soft_code_is_the_authors(dtype: torch.dtype, tolerance: float) -> None:
    codes = dense(golden("ab", dtype))
    assert torch.allclose(codes.double(), golden("encoded"), rtol=0, atol=tolerance)
    assert torch.allclose(codes.sum(dim=-1), torch.ones(53, dtype=dtype))


def test_the_soft_code_of_a_bins_own_point_is_the_authors_but_for_which_of_the_tied_come_in() -> None:
    codes, expected = dense(golden("tie_ab")), golden("tie_encoded")
    assert torch.allclose(codes, expected, rtol=0, atol=5e-3)
    assert torch.allclose(codes.sort().values, expected.sort().values, rtol=0, atol=1e-6)
    assert float(codes[0].max()) == pytest.approx(1 / (1 + 4 * math.exp(-2) + 4 * math.exp(-4) + math.exp(-8)))


def test_a_color_far_from_all_bins_has_a_code_too() -> None:
    _, shares = soft_code(torch.tensor([[5000.0, -5000.0]]))
    assert torch.isfinite(shares).all() and float(shares.sum()) == pytest.approx(1)


def test_weights_are_the_authors_and_one_in_the_mean() -> None:
    weights = rebalancing_weights(imagenet_prior())
    assert torch.allclose(weights, golden("prior_factor"), rtol=1e-12, atol=0)
    assert float((imagenet_prior() * weights).sum()) == pytest.approx(1, rel=1e-12)
    assert (float(weights.min()), float(weights.max())) == pytest.approx((0.0965, 6.175), rel=1e-3)
    assert torch.allclose(rebalancing_weights(imagenet_prior(), 1.0), torch.ones_like(weights), rtol=1e-12)


def test_a_prior_counted_from_colors_is_the_mean_of_their_codes_and_colors_that_never_occur_have_finite_weights() -> (
    None
):
    ab = golden("ab")
    prior = color_prior(ab)
    assert torch.allclose(prior, golden("prior_from_ab"), rtol=0, atol=1e-6)
    assert torch.allclose(color_prior(ab[[0, 1, 1, 1]]), color_prior(ab[:2], torch.tensor([1, 3])), atol=1e-15)
    assert float(prior.sum()) == pytest.approx(1) and int((prior == 0).sum()) > 0
    for name, share in (("factor_from_ab", 0.5), ("factor_from_ab_lambda0.25", 0.25)):
        weights = rebalancing_weights(prior, share)
        assert torch.allclose(weights, golden(name), rtol=1e-5, atol=0)
        empty, most = weights[prior == 0][0], prior.argmax()
        expected = 1 + COLORS * prior[most] * (1 - share) / share
        assert float(empty / weights[most]) == pytest.approx(float(expected))
    with pytest.raises(ValueError, match=r"rebalance = 0.*no weight is infinite"):
        rebalancing_weights(prior, 0)


def test_the_nearest_color_and_its_weight_are_the_authors() -> None:
    indices, _ = soft_code(golden("map_ab", torch.float32).movedim(1, -1))
    assert torch.equal(indices[..., 0], golden("map_argmax", torch.int64))
    weights = golden("prior_factor")[indices[..., 0]]
    assert torch.allclose(weights, golden("map_boost")[:, 0], rtol=1e-6)


def test_gray_images_are_those_of_the_authors() -> None:
    assert are_colored(golden("gray_ab")).tolist() == GOLDEN["nongray"].tolist()


@pytest.mark.parametrize("temperature", [0.38, 1.0, 1 / 2.606])
def test_pictures_are_decoded_as_by_the_authors(temperature: float) -> None:
    name = {0.38: "decoded_T0.38", 1.0: "decoded_T1"}.get(temperature, "decoded_x2.606")
    assert torch.allclose(colors_of(golden("logits"), temperature), golden(name), rtol=0, atol=1e-4)


def test_targets_of_images_are_the_authors() -> None:
    images = drawn_images()
    ab = color_targets(images, 4)
    assert torch.allclose(ab, golden("image_ab_stride4"), rtol=0, atol=1e-4)
    assert torch.allclose(lightness(images)[:, 0] * 100, golden("image_L"), rtol=0, atol=1e-4)
    nearest, colored = soft_code(ab.movedim(1, -1))[0][..., 0], are_colored(ab)
    assert colored.tolist() == [True, False, True]
    assert torch.equal(nearest[colored], golden("image_argmax", torch.int64)[colored])
    weights = golden("prior_factor")[nearest] * colored[:, None, None]
    assert torch.allclose(weights, golden("image_weight")[:, 0], rtol=1e-6)


def test_labels_are_single_pixels_and_what_a_resize_leaves_outside_is_cut() -> None:
    images = torch.rand(1, 3, 9, 9, dtype=torch.float64)
    ab = color_targets(images, 4)
    assert ab.shape == (1, 2, 3, 3)
    assert torch.allclose(ab, lab(images)[:, 1:, ::4, ::4], rtol=0, atol=1e-12)
    assert torch.equal(color_targets(images * 3 - 1, 4), color_targets((images * 3 - 1).clamp(0, 1), 4))


def test_the_loss_and_its_gradient_are_as_derived_from_the_authors_targets() -> None:
    logits = golden("loss_logits").requires_grad_()
    ab, weights = golden("image_ab_stride4"), golden("prior_factor")
    found = colorization_loss(logits, ab, weights)
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert float(found.loss.detach()) == pytest.approx(float(GOLDEN["loss"]), rel=1e-6)
    expected = golden("loss_grad")
    assert torch.allclose(logits.grad, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
    closed = (
        weights_of_labels()[:, None]
        * (logits.detach().softmax(1) - dense(ab.movedim(1, -1)).movedim(-1, 1))
        / (3 * 4 * 4)
    )
    assert torch.allclose(logits.grad, closed, rtol=0, atol=1e-12)


def test_the_loss_with_few_neighbours_is_that_of_whole_distributions_and_its_floor_is_their_entropy() -> None:
    torch.manual_seed(0)
    ab, logits = golden("image_ab_stride4"), torch.randn(3, COLORS, 4, 4, dtype=torch.float64)
    weights = golden("prior_factor")
    codes, per_label = dense(ab.movedim(1, -1)).movedim(-1, 1), weights_of_labels()
    found = colorization_loss(logits, ab, weights)
    plain = per_label * F.cross_entropy(logits, codes, reduction="none")
    assert float(found.loss) == pytest.approx(float(plain.mean()), rel=1e-12)
    exact = colorization_loss(codes.clamp_min(1e-300).log(), ab, weights)
    assert float(exact.loss) == pytest.approx(float(exact.floor), rel=1e-9) and float(found.loss) > float(found.floor)
    assert float(exact.right / exact.counted) == 1 and float(exact.counted) == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_loss_of_rounded_logits_is_computed_in_float32_within_autocast_too(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (8 * torch.randn(3, COLORS, 4, 4)).to(dtype).requires_grad_()
    ab, weights = golden("image_ab_stride4", torch.float32), golden("prior_factor")
    exact = colorization_loss(logits.double(), ab.double(), weights)
    with torch.autocast("cpu", torch.bfloat16):
        found = colorization_loss(logits, ab, weights)
    assert {x.dtype for x in found} == {torch.float32} and {x.dtype for x in exact} == {torch.float64}
    assert all(
        float(x.detach()) == pytest.approx(float(y.detach()), rel=1e-5) for x, y in zip(found, exact, strict=True)
    )
    (gradient,) = torch.autograd.grad(found.loss, logits)
    assert gradient.dtype == dtype and bool(gradient.isfinite().all())


def test_logits_that_tell_nothing_have_the_mean_weight_times_the_logarithm_of_the_colors() -> None:
    ab, weights = golden("image_ab_stride4"), golden("prior_factor")
    found = colorization_loss(torch.zeros(3, COLORS, 4, 4, dtype=torch.float64), ab, weights)
    assert float(found.loss) == pytest.approx(float(golden("image_weight").mean()) * math.log(COLORS))


def test_a_gray_batch_has_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, COLORS, 4, 4, requires_grad=True)
    gray = color_targets(torch.rand(2, 1, 16, 16).expand(-1, 3, -1, -1), 4)
    found = colorization_loss(logits, gray, rebalancing_weights(imagenet_prior()))
    found.loss.backward()  # type: ignore[no-untyped-call]
    assert float(found.loss.detach()) == 0 and logits.grad is not None and not logits.grad.any()


def test_the_head_resizes_logits_by_centres_of_pixels() -> None:
    torch.manual_seed(0)
    head = ColorHead(8, 16).double().eval()
    maps = torch.randn(2, 8, 2, 3, dtype=torch.float64)
    same, twice = head(maps, (2, 3)), head(maps, (4, 6))
    assert same.shape == (2, COLORS, 2, 3) and twice.shape == (2, COLORS, 4, 6)
    assert torch.allclose(twice[:, :, 0, 0], same[:, :, 0, 0])  # outside of all centres: the nearest
    mixed = 0.75 * same[:, :, 0] + 0.25 * same[:, :, 1]
    assert torch.allclose(twice[:, :, 1, 2], 0.75 * mixed[:, :, 1] + 0.25 * mixed[:, :, 0])


def test_the_heads_batch_norm_is_that_of_all_processes_under_the_names_of_pytorchs() -> None:
    """Its running variance is the biased one; in several processes see test_global_batch_norm.py."""
    torch.manual_seed(0)
    head, maps = ColorHead(4, 3).double(), torch.randn(2, 4, 2, 3, dtype=torch.float64)
    hidden = head.hidden(maps)
    head(maps, (4, 6))
    assert isinstance(head.norm, GlobalBatchNorm2d)
    assert torch.allclose(head.norm.running_var, 0.9 + 0.1 * hidden.var(dim=(0, 2, 3), correction=0))
    assert set(head.norm.state_dict()) == set(torch.nn.BatchNorm2d(3).state_dict())


@pytest.mark.slow
def test_a_network_of_lightness_tells_colors_better_than_the_best_guess_that_does_not_look() -> None:
    """The best guess is the mean of all labels' codes, each by its weight. 20 steps on 32 pieces of photographs."""
    torch.manual_seed(0)
    images = torch.from_numpy(places("train")[0][:32, ::2, ::2]).permute(0, 3, 1, 2) / 255
    f, head = ResNet(18, 0.125, stem="cifar", input="lightness"), ColorHead(64, 64)
    ab, weights = color_targets(images, 4), rebalancing_weights(imagenet_prior()).float()
    codes, counts = dense(ab.movedim(1, -1)), weights[soft_code(ab.movedim(1, -1))[0][..., 0]]
    counts *= are_colored(ab)[:, None, None]
    guess = (codes * counts[..., None]).sum(dim=(0, 1, 2)) / counts.sum()
    guessed = colorization_loss((guess + 1e-9).log().view(1, -1, 1, 1).expand(32, -1, 8, 8), ab, weights)
    optimizer = torch.optim.Adam([*f.parameters(), *head.parameters()], lr=0.01)
    for _ in range(20):
        told = colorization_loss(head(f.maps(images)["layer4"], (8, 8)), ab, weights)
        optimizer.zero_grad()
        told.loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert (told.loss - told.floor).item() < 0.75 * (guessed.loss - guessed.floor).item()
