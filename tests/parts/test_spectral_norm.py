"""Spectral norm against PyTorch's parametrization and NumPy's singular values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from simclr_plus.parts.spectral_norm import SpectralConv2d, SpectralLinear, divided

LAYERS = {
    "linear": (lambda: SpectralLinear(7, 5), lambda: nn.Linear(7, 5), (6, 7)),
    "conv": (lambda: SpectralConv2d(3, 4, 3, padding=1), lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 6)),
    "strided": (lambda: SpectralConv2d(2, 8, 4, stride=2), lambda: nn.Conv2d(2, 8, 4, stride=2), (2, 2, 8, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_output_gradient_and_vectors_are_pytorchs_step_by_step(name: str) -> None:
    make, plain, shape = LAYERS[name]
    ours, theirs = make().double(), plain().double()
    theirs.load_state_dict({k: v for k, v in ours.state_dict().items() if k in ("weight", "bias")})
    theirs = spectral_norm(theirs)
    norm = theirs.parametrizations["weight"][0]  # type: ignore[index]
    with torch.no_grad():
        ours.u.copy_(norm._u)
        ours.v.copy_(norm._v)
    weight = theirs.parametrizations["weight"].original  # type: ignore[union-attr]
    optimizers = [torch.optim.SGD(layer.parameters(), 0.1) for layer in (ours, theirs)]
    for step in range(4):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            layer(x).sin().sum().backward()
            optimizer.step()
        assert ours.weight.grad is not None and torch.allclose(ours.weight.grad, weight.grad, atol=1e-12)
        assert torch.allclose(ours.u, norm._u, atol=1e-12) and torch.allclose(ours.v, norm._v, atol=1e-12)
        assert torch.allclose(ours.weight, weight, atol=1e-12)


def largest(weight: Tensor) -> float:
    return float(np.linalg.svd(weight.detach().flatten(1).numpy(), compute_uv=False)[0])


@pytest.mark.parametrize("name", LAYERS)
def test_a_weight_is_divided_by_its_largest_singular_value(name: str) -> None:
    layer = LAYERS[name][0]()
    for _ in range(50):
        weight = divided(layer)
    assert largest(weight) == pytest.approx(1, rel=1e-4)
    assert torch.allclose(weight * largest(layer.weight), layer.weight, rtol=1e-3)


def test_vectors_move_by_a_pass_in_training_alone_and_travel_with_the_state() -> None:
    layer = SpectralLinear(6, 4)
    nn.init.normal_(layer.weight)
    before = copy.deepcopy(layer.state_dict())
    assert before.keys() == {"weight", "bias", "u", "v"}
    layer.eval()(torch.ones(2, 6))
    assert torch.equal(layer.u, before["u"])
    layer.train()(torch.ones(2, 6))
    assert not torch.equal(layer.u, before["u"]) and not torch.equal(layer.v, before["v"])
    other = SpectralLinear(6, 4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(torch.ones(2, 6)), layer(torch.ones(2, 6)))


def test_two_passes_before_one_backward_have_the_gradient_of_each() -> None:
    """The second pass moves the vectors; the first one's gradient must still be its own."""
    layer, x = SpectralLinear(6, 4).double(), torch.randn(2, 3, 6, dtype=torch.float64)
    apart = copy.deepcopy(layer)
    gradients = []
    for rows in x:
        apart.zero_grad()
        apart(rows).cos().sum().backward()
        assert apart.weight.grad is not None
        gradients.append(apart.weight.grad.clone())
    (layer(x[0]).cos().sum() + layer(x[1]).cos().sum()).backward()
    assert layer.weight.grad is not None and torch.allclose(layer.weight.grad, sum(gradients, torch.zeros(4, 6)))


def test_the_value_is_not_rounded_under_autocast() -> None:
    layer = SpectralLinear(64, 64)
    other = copy.deepcopy(layer)
    expected = divided(other)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(divided(layer), expected) and torch.equal(layer.u, other.u)
        assert layer(torch.ones(2, 64)).dtype == torch.bfloat16
