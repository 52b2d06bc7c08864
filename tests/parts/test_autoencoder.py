"""The autoencoder's losses against golden numbers and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER

from simclr_plus.parts.autoencoder import (
    active_dimensions,
    corrupted,
    kl_divergence,
    reconstruction_loss,
    sampled,
    variational_loss,
)

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_losses.npz")


def golden(name: str) -> torch.Tensor:
    return torch.from_numpy(GOLDEN[f"vae/{name}"]).clone()


def test_divergence_loss_and_gradients_are_the_golden_ones() -> None:
    mean, log_variance, made = (golden(name).requires_grad_() for name in ("mu", "logvar", "x_hat"))
    images = golden("x")
    assert torch.allclose(kl_divergence(mean, log_variance), golden("kl"), rtol=1e-6)
    assert float(reconstruction_loss(made, images).detach()) == pytest.approx(float(GOLDEN["vae/mse"]), rel=1e-6)
    loss = variational_loss(made, images, mean, log_variance, kl_weight=1)
    assert float(loss.detach()) == pytest.approx(float(GOLDEN["vae/loss_weight_1"]), rel=1e-6)
    loss.backward()
    for tensor, name in ((mean, "mu_weight_1"), (log_variance, "logvar_weight_1"), (made, "x_hat")):
        assert tensor.grad is not None and torch.allclose(tensor.grad, golden(f"grad_{name}"), rtol=1e-6, atol=1e-12)


def test_a_code_that_is_the_prior_has_no_divergence_and_the_gradient_is_the_closed_form() -> None:
    zero = torch.zeros(3, 4, dtype=torch.float64)
    assert not kl_divergence(zero, zero).any()
    mean, log_variance = torch.randn(2, 3, 4, dtype=torch.float64).requires_grad_().unbind(0)
    gradients = torch.autograd.grad(kl_divergence(mean, log_variance).sum(), (mean, log_variance))
    assert torch.allclose(gradients[0], mean) and torch.allclose(gradients[1], (log_variance.exp() - 1) / 2)


def test_the_divergence_is_what_a_library_of_distributions_gives() -> None:
    mean, log_variance = torch.randn(2, 5, 6, dtype=torch.float64).unbind(0)
    ours = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    theirs = torch.distributions.kl_divergence(ours, prior).sum(1)
    assert torch.allclose(kl_divergence(mean, log_variance), theirs, atol=1e-12)


def test_the_gradient_of_a_pixel_is_twice_its_error_over_their_count() -> None:
    made, images = torch.rand(2, 3, 3, 5, 5, dtype=torch.float64).unbind(0)
    made.requires_grad_()
    (gradient,) = torch.autograd.grad(reconstruction_loss(made, images), made)
    assert torch.allclose(gradient, 2 * (made - images) / made.numel(), atol=1e-15)


def test_samples_have_the_mean_and_deviation_of_their_code_and_give_both_a_gradient() -> None:
    mean, log_variance = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.0, 2.0]])
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0))
    z = sampled(mean, log_variance, noise)
    assert torch.allclose(z.mean(0), mean[0], atol=0.06) and torch.allclose(z.std(0), torch.tensor([1, torch.e]), 0.03)
    assert torch.equal(sampled(mean, log_variance, torch.zeros(1, 2)), mean)


def test_noise_of_no_deviation_changes_no_bit_and_noise_stays_in_range() -> None:
    images, noise = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
    assert corrupted(images, noise, 0) is images
    noisy = corrupted(images, noise, 0.3)
    inside = (noisy > 0) & (noisy < 1)
    assert float(noisy.min()) == 0 and float(noisy.max()) == 1
    assert torch.allclose((noisy - images)[inside], (0.3 * noise)[inside], atol=1e-6)


def test_a_dimension_is_active_where_its_mean_varies_by_more_than_a_hundredth() -> None:
    rows = torch.tensor([[-1.0], [1.0]]).expand(2, 4).repeat(8, 1)
    means = rows * torch.tensor([0.0, 0.09, 0.11, 2.0]) + 5
    assert active_dimensions(means) == 2


def test_the_divergence_is_computed_in_full_where_moments_are_halves() -> None:
    mean, log_variance = torch.randn(2, 4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    of_halves = kl_divergence(mean, log_variance)
    assert of_halves.dtype == torch.float32 and torch.equal(
        of_halves, kl_divergence(mean.float(), log_variance.float())
    )
