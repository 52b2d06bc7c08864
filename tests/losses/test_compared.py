"""The losses beside NT-Xent against loops over their words, the paper's gradients, closed forms and torch's own.

N: images, D: dimensions of z. Over two processes they are tested in test_distributed.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from simclr_plus.losses import nt_xent
from simclr_plus.losses.compared import NEGATIVES, margin_triplet, nt_logistic, nt_xent_other_view, semi_hard_negatives

Loss = Callable[..., Tensor]
SEEDS = st.integers(0, 2**31)
ALL: dict[str, Loss] = {
    "nt_xent_other_view": nt_xent_other_view,
    **{
        f"{name} {negatives} {semi_hard}": partial(function, negatives=negatives, semi_hard=semi_hard)
        for name, function in {"nt_logistic": nt_logistic, "margin": margin_triplet}.items()
        for negatives in NEGATIVES
        for semi_hard in (False, True)
    },
}


def random_views(n: int, d: int = 5, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z0, z1 = F.normalize(torch.randn(2, n, d, dtype=torch.float64, generator=generator), dim=-1).to(dtype)
    return z0, z1


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def negatives_of(row: int, n: int, negatives: str) -> list[int]:
    """Rows of [view 0; view 1] that are negatives of one of them."""
    others = [j for j in range(2 * n) if j % n != row % n]
    return others if negatives == "both_views" else [j for j in others if j // n != row // n]


def semi_hard_of(similar: list[float], positive: float) -> int:
    """The number of the closest negative that is farther than the positive; of the farthest where none is."""
    farther = [k for k in range(len(similar)) if similar[k] < positive]
    if farther:
        return max(farther, key=lambda k: similar[k])
    return min(range(len(similar)), key=lambda k: similar[k])


def by_loops(z0: Tensor, z1: Tensor, each: Callable[[float, float], float], negatives: str, semi_hard: bool) -> float:
    """`each` of (s+, s-), its mean over the negatives of a row and over the rows."""
    z = torch.cat([z0, z1])
    n, total = len(z0), 0.0
    for i in range(2 * n):
        positive = float(z[i] @ z[(i + n) % (2 * n)])
        similar = [float(z[i] @ z[j]) for j in negatives_of(i, n, negatives)]
        kept = [similar[semi_hard_of(similar, positive)]] if semi_hard else similar
        total += sum(each(positive, s) for s in kept) / len(kept)
    return total / (2 * n)


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("semi_hard", [False, True])
@given(n=st.integers(2, 7), temperature=st.floats(0.1, 2), margin=st.floats(0, 1.6), seed=SEEDS)
@settings(deadline=None, max_examples=25)
def test_logistic_and_margin_are_what_table_2_says_of_a_negative(
    negatives: str, semi_hard: bool, n: int, temperature: float, margin: float, seed: int
) -> None:
    z0, z1 = random_views(n, seed=seed)
    chosen = {"negatives": negatives, "semi_hard": semi_hard}

    def logistic(positive: float, negative: float) -> float:
        return -math.log(sigma(positive / temperature)) - math.log(sigma(-negative / temperature))

    def triplet(positive: float, negative: float) -> float:
        return max(negative - positive + margin, 0)

    found = nt_logistic(z0, z1, temperature=temperature, **chosen).item()
    assert found == pytest.approx(by_loops(z0, z1, logistic, negatives, semi_hard), rel=1e-9)
    found = margin_triplet(z0, z1, margin=margin, **chosen).item()
    assert found == pytest.approx(by_loops(z0, z1, triplet, negatives, semi_hard), rel=1e-9, abs=1e-12)


def xent_terms(positive: float, similar: list[float], t: float) -> tuple[float, list[float]]:
    z = math.exp(positive / t) + sum(math.exp(s / t) for s in similar)
    return (1 - math.exp(positive / t) / z) / t, [math.exp(s / t) / z / t for s in similar]


def logistic_terms(positive: float, similar: list[float], t: float) -> tuple[float, list[float]]:
    return sigma(-positive / t) / t, [sigma(s / t) / t / len(similar) for s in similar]


def margin_terms(positive: float, similar: list[float], margin: float) -> tuple[float, list[float]]:
    violated = [float(positive - s < margin) for s in similar]
    return sum(violated) / len(similar), [v / len(similar) for v in violated]


# Table 2: the gradient of what is maximised with respect to u is a v+ - sum b v-; here its a and b, negatives averaged
TABLE_2 = {
    "NT-Xent": (xent_terms, "temperature", {"both_views": nt_xent, "other_view": nt_xent_other_view}),
    "NT-Logistic": (logistic_terms, "temperature", {k: partial(nt_logistic, negatives=k) for k in NEGATIVES}),
    "margin triplet": (margin_terms, "margin", {k: partial(margin_triplet, negatives=k) for k in NEGATIVES}),
}


@pytest.mark.parametrize("negatives", NEGATIVES)
@pytest.mark.parametrize("name", TABLE_2)
def test_the_gradients_are_those_of_table_2(name: str, negatives: str) -> None:
    n, scale = 6, 0.3
    terms, reads, functions = TABLE_2[name]
    z = torch.cat(random_views(n, 4)).requires_grad_()
    functions[negatives](z[:n], z[n:], normalize=False, **{reads: scale}).backward()
    expected, values = torch.zeros_like(z), z.detach()
    for i in range(2 * n):  # u is row i; as v+ or v- of that row the others get u times the same factors
        j, others = (i + n) % (2 * n), negatives_of(i, n, negatives)
        a, b = terms(float(values[i] @ values[j]), [float(values[i] @ values[k]) for k in others], scale)
        expected[i] -= a * values[j]
        expected[j] -= a * values[i]
        for k, share in zip(others, b, strict=True):
            expected[i] += share * values[k]
            expected[k] += share * values[i]
    torch.testing.assert_close(z.grad, expected / (2 * n), rtol=1e-10, atol=1e-12)
    assert z.grad.abs().max() > 1e-3


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), seed=SEEDS)
@settings(deadline=None, max_examples=100)
def test_the_semi_hard_negative_is_that_of_a_loop(rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similar = torch.randint(-4, 5, (rows, columns), generator=generator) / 4  # ties, and rows where none is farther
    positive = torch.randint(-4, 5, (rows,), generator=generator) / 4
    counts = torch.rand(rows, columns, generator=generator) < 0.6
    counts[:, 0] = True
    for found, p, s, c in zip(semi_hard_negatives(positive, similar, counts), positive, similar, counts, strict=True):
        candidates = s[c].tolist()
        assert found == candidates[semi_hard_of(candidates, float(p))]


@given(n=st.integers(1, 9), temperature=st.floats(0.05, 3), normalize=st.booleans(), seed=SEEDS)
@settings(deadline=None, max_examples=30)
def test_nt_xent_of_the_other_view_is_torchs_cross_entropy(
    n: int, temperature: float, normalize: bool, seed: int
) -> None:
    ours = [(2 * z).requires_grad_() for z in random_views(n, seed=seed)]
    plain = [z.detach().clone().requires_grad_() for z in ours]
    u, v = (F.normalize(z, dim=1) if normalize else z for z in plain)
    expected = sum(F.cross_entropy(a @ b.T / temperature, torch.arange(n)) for a, b in ((u, v), (v, u))) / 2
    loss = nt_xent_other_view(*ours, temperature=temperature, normalize=normalize)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    for z, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(z.grad, reference.grad)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_projections_that_are_all_equal_give_closed_forms(n: int) -> None:
    z = torch.full((n, 4), 0.5, dtype=torch.float64)  # every similarity is 1
    assert nt_xent_other_view(z, z, temperature=0.3).item() == pytest.approx(math.log(n))
    for chosen in ({"negatives": k, "semi_hard": s} for k in NEGATIVES for s in (False, True)):
        assert margin_triplet(z, z, margin=0.4, **chosen).item() == pytest.approx(0.4)
        expected = -math.log(sigma(2)) - math.log(sigma(-2))
        assert nt_logistic(z, z, temperature=0.5, **chosen).item() == pytest.approx(expected)


@pytest.mark.parametrize("name", ALL)
def test_swapping_the_views_and_reordering_the_images_give_the_same_loss(name: str) -> None:
    z0, z1 = random_views(7)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    loss = ALL[name](z0, z1).item()
    assert ALL[name](z1, z0).item() == pytest.approx(loss, rel=1e-12)
    assert ALL[name](z0[order], z1[order]).item() == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_a_normalised_loss_does_not_see_the_lengths_and_an_unnormalised_one_does(name: str) -> None:
    z0, z1 = random_views(5)
    lengths = torch.linspace(0.1, 10, 5, dtype=torch.float64)[:, None]
    assert ALL[name](lengths * z0, z1).item() == pytest.approx(ALL[name](z0, z1).item(), rel=1e-12)
    raw, stretched = (ALL[name](z, z1, normalize=False).item() for z in (z0, lengths * z0))
    assert abs(raw - stretched) > 1e-2


@pytest.mark.parametrize("name", ALL)
def test_half_precision_changes_no_digit_of_the_loss_or_its_gradient(name: str) -> None:
    results = []
    for enabled in (False, True):
        z0, z1 = (z.requires_grad_() for z in random_views(16, 32, dtype=torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = ALL[name](z0, z1)
        loss.backward()
        results.append((loss.detach(), z0.grad, z1.grad))
    assert results[0][0].dtype == torch.float32
    assert all(torch.equal(without, within) for without, within in zip(*results, strict=True))
    half = random_views(16, 32, dtype=torch.bfloat16)
    assert torch.equal(ALL[name](*half), ALL[name](*(z.float() for z in half)))


@pytest.mark.parametrize("semi_hard", [False, True])
def test_extreme_similarities_stay_finite(semi_hard: bool) -> None:
    z0, z1 = random_views(6)
    z0 = (1e3 * z0).requires_grad_()
    loss = nt_logistic(z0, 1e3 * z1, temperature=0.01, normalize=False, semi_hard=semi_hard)
    loss.backward()
    assert loss.isfinite() and z0.grad.isfinite().all()


def test_what_makes_no_sense_is_refused_by_name() -> None:
    z0, z1 = random_views(4)
    for function in (nt_logistic, nt_xent_other_view):
        with pytest.raises(ValueError, match="temperature = 0"):
            function(z0, z1, temperature=0)
    with pytest.raises(ValueError, match=r"margin = -0.5"):
        margin_triplet(z0, z1, margin=-0.5)
    for function in (nt_logistic, margin_triplet):
        with pytest.raises(ValueError, match="negatives = 'all' is unknown; use 'both_views' or 'other_view'"):
            function(z0, z1, negatives="all")
        with pytest.raises(ValueError, match="one image has no negatives"):
            function(z0[:1], z1[:1])
        with pytest.raises(ValueError, match=r"two \[N, D\] tensors"):
            function(z0, z1[:3])
