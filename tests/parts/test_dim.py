"""DIM's parts against the authors' numbers, sums in loops, closed forms, derivatives by PyTorch, and two processes.

torchrun starts this file itself as a program, whose two processes leave their losses and gradients in a folder.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import in_processes
from places import GOLDEN_FOLDER
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.parts import dim
from simclr_plus.parts.dim import DIMHeads, DIMLoss, PlaceScorer, PriorDiscriminator, prior_terms

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "contrastive_dim.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
# name of the loss and of its gradients in the file, objective, exact mask
LOSSES = {
    "jsd": ("jsd", "jsd_grad", DIMLoss("jsd")),
    "nce": ("nce", "nce_grad", DIMLoss("nce")),
    "nce_exact": ("nce_exact_mask", "nce_exact_mask_grad", DIMLoss("nce", exact_mask=True)),
    "dv": ("dv_formula", "dv_grad", DIMLoss("dv")),
}
ALL = [loss for _, _, loss in LOSSES.values()]


def features(n: int, units: int = 5, length: int = 4, vectors: int = 1, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (n, units, vectors), (n, units, length)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)  # type: ignore[return-value]


def loss_and_gradients(loss: DIMLoss, whole: Tensor, places: Tensor) -> list[Tensor]:
    leaves = [x.clone().requires_grad_() for x in (whole, places)]
    value = loss(*leaves)
    value.backward()
    return [value.detach(), *(leaf.grad for leaf in leaves)]


if __name__ == "__main__":
    distributed.start("cpu")
    here = slice(3 * distributed.rank(), 3 * distributed.rank() + 3)
    whole, places = features(6, vectors=2)
    results = [loss_and_gradients(loss, whole[here], places[here]) for loss in ALL]
    torch.save(results, Path(sys.argv[1]) / f"{distributed.rank()}.pt")
    distributed.barrier()
    distributed.stop()


# the authors' numbers


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("case", CASES)
def test_each_loss_and_its_gradient_are_the_authors(case: str, name: str, dtype: torch.dtype, error: float) -> None:
    value, gradient, loss = LOSSES[name]
    leaves = [torch.from_numpy(GOLDEN[f"{case}/{x}"]).to(dtype).requires_grad_() for x in ("global", "local")]
    ours = loss(*leaves)
    ours.backward()
    assert float(ours.detach()) == pytest.approx(float(GOLDEN[f"{case}/{value}"]), rel=error, abs=error)
    for leaf, which in zip(leaves, ("global", "local"), strict=True):
        expected = torch.from_numpy(GOLDEN[f"{case}/{gradient}_{which}"]).to(dtype)
        assert torch.allclose(leaf.grad, expected, rtol=error, atol=error), which


def test_the_network_of_places_is_the_authors() -> None:
    names = {"block_nonlinear.0": "conv1", "block_nonlinear.1": "bn", "block_nonlinear.3": "conv2"}
    names |= {"block_ln.1": "norm", "linear_shortcut": "shortcut"}

    def part(folder: str) -> dict[str, Tensor]:
        found = {}
        for name in (name for name in GOLDEN.files if name.startswith(f"net/{folder}/")):
            layer, _, what = name.removeprefix(f"net/{folder}/").rpartition(".")
            found[f"{names[layer]}.{what}"] = torch.from_numpy(GOLDEN[name]).double()
        return found

    ours = PlaceScorer(5, 12).double()
    ours.load_state_dict(part("before"))
    x = torch.from_numpy(GOLDEN["net/x"]).double().requires_grad_()
    y = ours(x)
    (y * torch.from_numpy(GOLDEN["net/grad_of"])).sum().backward()
    assert torch.allclose(y, torch.from_numpy(GOLDEN["net/y"]), atol=1e-9)
    assert torch.allclose(x.grad, torch.from_numpy(GOLDEN["net/grad_x"]), atol=1e-9)
    gradients = part("grad")
    for name, parameter in ours.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name], atol=1e-9), name
    after, rows = part("after"), 6 * 9  # ours keeps the biased variance, PyTorch's own layers the unbiased one
    assert torch.allclose(ours.bn.running_mean, after["bn.running_mean"], atol=1e-9)
    start = part("before")["bn.running_var"] * 0.9
    assert torch.allclose((ours.bn.running_var - start) * rows / (rows - 1) + start, after["bn.running_var"], atol=1e-9)


@pytest.mark.parametrize(("input_dim", "units"), [(4, 4), (3, 8)])
def test_its_shortcut_starts_as_nearly_the_identity(input_dim: int, units: int) -> None:
    weight = PlaceScorer(input_dim, units).shortcut.weight[:, :, 0, 0]
    assert torch.equal(weight.diag(), torch.ones(input_dim))
    off = weight[~torch.eye(units, input_dim, dtype=torch.bool)]
    assert 0 < off.abs().max() <= 0.01
    narrow = PlaceScorer(8, 3).shortcut.weight[:, :, 0, 0]
    assert not torch.equal(narrow.diag(), torch.ones(3))


def test_factors_of_scores_are_normalised_so_that_scores_have_a_bound() -> None:
    """At the start: each has mean 0 and mean square 1 over U units, and a score is U at most."""
    heads = DIMHeads(6, 5, units=32, global_dim=7)
    with torch.no_grad():
        vector, whole, places = heads(100 * torch.randn(8, 6), 100 * torch.randn(8, 5, 3, 3))
    assert vector.shape == (8, 7) and whole.shape == (8, 32) and places.shape == (8, 32, 3, 3)
    for x in (whole, places):
        assert float(x.mean(1).abs().max()) < 1e-5 and torch.allclose(x.square().mean(1), torch.ones(()), atol=1e-4)
    names = {name for name, p in heads.named_parameters() if p is not None}
    assert {"vector.bias", "whole.conv1.weight", "places.conv1.weight"} <= names


# a slow sum, closed forms


def slow_losses(whole: Tensor, places: Tensor) -> dict[str, float]:
    """The law in loops over images, vectors and places."""
    n, length, vectors = len(whole), places.shape[2], whole.shape[2]
    s = torch.einsum("iuk,jul->ikjl", whole, places).tolist()
    own = [s[i][k][i][p] for i in range(n) for k in range(vectors) for p in range(length)]
    other = [s[i][k][j][p] for i in range(n) for k in range(vectors) for j in range(n) if j != i for p in range(length)]

    def softplus(x: float) -> float:
        return math.log1p(math.exp(-abs(x))) + max(x, 0)

    jsd = sum(softplus(x) - math.log(2) for x in other) / len(other)
    jsd -= sum(math.log(2) - softplus(-x) for x in own) / len(own)
    dv = math.log(sum(map(math.exp, other)) / len(other)) - sum(own) / len(own)
    nce = []
    for more in (length * math.exp(-10), 0.0):
        total = 0.0
        for i in range(n):
            for k in range(vectors):
                rest = sum(math.exp(s[i][k][j][p]) for j in range(n) if j != i for p in range(length)) + more
                total -= sum(x - math.log(math.exp(x) + rest) for x in s[i][k][i])
        nce.append(total / len(own))
    return {"jsd": jsd, "nce": nce[0], "nce_exact": nce[1], "dv": dv}


@given(n=st.integers(2, 4), length=st.integers(1, 3), vectors=st.integers(1, 2), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=25)
def test_it_is_the_mean_over_images_and_places(n: int, length: int, vectors: int, seed: int) -> None:
    whole, places = features(n, 5, length, vectors, seed=seed)
    for name, expected in slow_losses(whole, places).items():
        assert float(LOSSES[name][2](whole, places)) == pytest.approx(expected, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("n", [2, 3, 9])
def test_features_of_zeros_have_the_loss_of_chance(n: int) -> None:
    whole, places = torch.zeros(n, 6, dtype=torch.float64), torch.zeros(n, 6, 2, 4, dtype=torch.float64)
    values = [float(loss(whole, places)) for loss in ALL]
    nce, exact = math.log(1 + 8 * (n - 1) + 8 * math.exp(-10)), math.log(1 + 8 * (n - 1))
    assert values == pytest.approx([0, nce, exact, 0], rel=1e-12, abs=1e-12)


def test_a_constant_on_all_scores_leaves_dv_and_the_exact_cross_entropy() -> None:
    """A further unit of 1 in all places, and of 3 in all images."""
    whole, places = features(4)
    more = torch.cat([whole, torch.full((4, 1, 1), 3.0)], 1), torch.cat([places, torch.ones(4, 1, 4)], 1)
    for name, same in (("dv", True), ("nce_exact", True), ("nce", False), ("jsd", False)):
        loss = LOSSES[name][2]
        assert (float(loss(*more)) == pytest.approx(float(loss(whole, places)), rel=1e-9)) == same, name


def test_images_may_come_in_any_order_and_so_may_places() -> None:
    whole, places = features(5)
    order = torch.tensor([3, 1, 4, 0, 2])
    for loss in ALL:
        expected = float(loss(whole, places))
        assert float(loss(whole[order], places[order])) == pytest.approx(expected, rel=1e-12)
        assert float(loss(whole, places[:, :, [2, 0, 3, 1]])) == pytest.approx(expected, rel=1e-12)
        assert float(loss(whole[order], places)) != pytest.approx(expected, rel=1e-3)


def test_a_loss_falls_where_images_are_like_their_own_places() -> None:
    """The sign: what is minimised is the negative estimate, which is bounded by -2 log 2 of Jensen-Shannon."""
    whole = 8 * torch.eye(4, dtype=torch.float64) - 4 * torch.ones(4, 4, dtype=torch.float64)
    places = whole[:, :, None].expand(-1, -1, 3)
    alike, apart = ([float(loss(sign * whole, places)) for loss in ALL] for sign in (1, -1))
    assert all(a < b for a, b in zip(alike, apart, strict=True))
    aligned = torch.eye(3, dtype=torch.float64)[:, :, None] * 60 - 30
    assert float(DIMLoss("jsd")(aligned, torch.eye(3, dtype=torch.float64)[:, :, None])) == pytest.approx(
        -2 * math.log(2), rel=1e-9
    )


def test_its_gradient_is_that_of_differences_and_tensors_stay_as_they_are() -> None:
    whole, places = (x.requires_grad_() for x in features(3, 4, 2, 2))
    before = whole.detach().clone(), places.detach().clone()
    for loss in ALL:
        assert torch.autograd.gradcheck(loss, (whole, places))
    assert torch.equal(whole, before[0]) and torch.equal(places, before[1])


def test_scores_held_a_part_at_a_time_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, places = features(7, vectors=2)
    expected = [loss_and_gradients(loss, whole, places) for loss in ALL]
    monkeypatch.setattr(dim, "CHUNK_ELEMENTS", 2 * 2 * 7 * 4)
    for loss, numbers in zip(ALL, expected, strict=True):
        for ours, at_once in zip(loss_and_gradients(loss, whole, places), numbers, strict=True):
            assert torch.allclose(ours, at_once, rtol=1e-12, atol=1e-14), loss.objective


def test_halves_are_scored_in_float32() -> None:
    halves = [x.bfloat16() for x in features(4)]
    for loss in ALL:
        with torch.autocast("cpu", torch.bfloat16):
            value = loss(*halves)
        exact = float(loss(*(x.double() for x in halves)))
        assert value.dtype == torch.float32 and float(value) == pytest.approx(exact, rel=1e-5, abs=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    whole, places = features(4)
    with pytest.raises(ValueError, match=r"\(4, 5, 1\) and \(3, 5, 4\)"):
        DIMLoss()(whole, places[:3])
    with pytest.raises(ValueError, match="two images or more"):
        DIMLoss()(whole[:1], places[:1])
    with pytest.raises(ValueError, match="mine"):
        DIMLoss("mine")  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_processes(__file__, tmp_path)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for loss, first, second in zip(ALL, *both, strict=True):
        whole = loss_and_gradients(loss, *features(6, vectors=2))
        assert float((first[0] + second[0]) / 2) == pytest.approx(float(whole[0]), rel=1e-12), loss.objective
        for ours, expected in zip(zip(first[1:], second[1:], strict=True), whole[1:], strict=True):
            assert torch.allclose(torch.cat(ours) / 2, expected, rtol=1e-10, atol=1e-14), loss.objective


# the prior


def prior_of(n: int = 6, size: int = 3) -> tuple[PriorDiscriminator, Tensor, Tensor]:
    torch.manual_seed(0)
    return PriorDiscriminator(size, (8, 5)).double(), torch.randn(n, size).double(), torch.rand(n, size).double()


def test_the_terms_of_the_prior_are_those_of_pytorchs_derivatives() -> None:
    """The penalty by torch.autograd.grad, as the authors take it; value and gradient for the weights."""
    discriminator, vectors, samples = prior_of()
    terms = prior_terms(discriminator, vectors, samples)
    penalty = vectors.new_zeros(())
    for x in (samples, torch.sigmoid(vectors)):
        x = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(discriminator(x).sum(), x, create_graph=True)
        penalty = penalty + slope.square().sum(1).mean() / 2
    assert terms.penalty.item() == pytest.approx(penalty.item(), rel=1e-12)
    weights = list(discriminator.parameters())
    ours, expected = (torch.autograd.grad(x, weights, allow_unused=True) for x in (terms.penalty, penalty))
    for a, b in zip(ours, expected, strict=True):
        a, b = (torch.zeros(1).double() if x is None else x for x in (a, b))
        assert torch.allclose(a, b, atol=1e-12)
    scores = discriminator(samples), discriminator(torch.sigmoid(vectors))
    expected_loss = F.softplus(-scores[0]).mean() + F.softplus(scores[1]).mean()
    assert terms.discriminator.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    assert terms.encoder.item() == pytest.approx(F.softplus(-scores[1]).mean().item(), rel=1e-12)


def test_each_side_of_the_prior_is_minimised_by_its_own_network_alone() -> None:
    discriminator, vectors, samples = prior_of()
    vectors.requires_grad_()
    terms = prior_terms(discriminator, vectors, samples)
    weights = list(discriminator.parameters())
    assert torch.autograd.grad(terms.encoder, vectors, retain_graph=True)[0].any()
    of_encoder = torch.autograd.grad(terms.encoder + 0 * discriminator.layer3.bias.sum(), weights, allow_unused=True)
    assert not any(g is not None and g.any() for g in of_encoder)
    both = terms.discriminator + terms.penalty
    assert torch.autograd.grad(both, vectors, allow_unused=True, retain_graph=True)[0] is None
    assert all(g is not None and g.any() for g in torch.autograd.grad(both, weights))


def test_a_discriminator_that_knows_nothing_has_the_loss_of_chance() -> None:
    discriminator, vectors, samples = prior_of()
    torch.nn.init.zeros_(discriminator.layer3.weight)
    torch.nn.init.zeros_(discriminator.layer3.bias)
    terms = [x.item() for x in prior_terms(discriminator, vectors, samples)]
    assert terms == pytest.approx([math.log(2), 2 * math.log(2), 0.0])
