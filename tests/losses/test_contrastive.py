"""NT-Xent against the authors' numbers, the paper's Algorithm 1 in two loops, closed forms and plain autograd.

N: images, D: dimensions of z. Over two processes it is tested in test_distributed.py.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightly.loss import NTXentLoss as LightlyNTXentLoss
from places import GOLDEN_FOLDER
from torch import Tensor
from torch.nn import functional as F

from simclr_plus.losses import NTXentLoss, contrastive, contrastive_metrics, nt_xent

GOLDEN = np.load(GOLDEN_FOLDER / "ntxent.npz")
CASES = [str(case) for case in GOLDEN["cases"]]


def algorithm_1(z0: np.ndarray, z1: np.ndarray, temperature: float) -> float:
    """The paper's pseudo-code, its rows in its order (2k-1 and 2k are the views of image k), similarity its cosine."""
    z = np.stack([z0, z1], axis=1).reshape(-1, z0.shape[1]).astype(np.float64)
    n = len(z)
    s = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            s[i, j] = z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j]))

    def pair_loss(i: int, j: int) -> float:
        others = [s[i, k] / temperature for k in range(n) if k != i]
        top = max(others)
        return -(s[i, j] / temperature) + top + math.log(sum(math.exp(other - top) for other in others))

    return sum(pair_loss(2 * k, 2 * k + 1) + pair_loss(2 * k + 1, 2 * k) for k in range(n // 2)) / n


def plain_nt_xent(z0: Tensor, z1: Tensor, temperature: float, normalize: bool) -> Tensor:
    """Cross entropy over the whole matrix of logits, differentiated by autograd."""
    z = torch.cat([z0, z1])
    if normalize:
        z = z / z.norm(dim=1, keepdim=True)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(z0)))


def random_views(n: int, d: int, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z0, z1 = torch.randn(2, n, d, dtype=torch.float64, generator=generator).to(dtype)
    return z0, z1


def settings_of(case: str) -> tuple[Tensor, float, bool]:
    hidden = torch.from_numpy(GOLDEN[f"{case}/hidden"].astype(np.float32))
    return hidden, float(GOLDEN[f"{case}/temperature"]), bool(GOLDEN[f"{case}/hidden_norm"])


@pytest.mark.parametrize("case", CASES)
def test_the_authors_loss_and_gradient_are_twice_ours(case: str) -> None:
    hidden, temperature, normalize = settings_of(case)
    hidden.requires_grad_()
    loss = nt_xent(*hidden.chunk(2), temperature=temperature, normalize=normalize)
    loss.backward()
    assert 2 * loss.item() == pytest.approx(float(GOLDEN[f"{case}/loss"]), rel=3e-6, abs=1e-12)
    expected = GOLDEN[f"{case}/grad"]
    # a row of zeros is divided by the floor of the norm, 1e-6: its gradient is a million times that of the others
    largest, zeros = np.abs(expected).max(axis=1, keepdims=True), ~hidden.detach().any(dim=1).numpy()
    scale = np.maximum(largest, largest[~zeros].max()) + 1e-12
    np.testing.assert_allclose(2 * hidden.grad.numpy() / scale, expected / scale, rtol=0, atol=5e-5)


@pytest.mark.parametrize("case", CASES)
def test_contrastive_accuracy_and_entropy_are_those_of_the_authors(case: str) -> None:
    hidden, temperature, normalize = settings_of(case)
    accuracy, entropy = contrastive_metrics(*hidden.chunk(2), temperature=temperature, normalize=normalize)
    assert accuracy.item() == pytest.approx(float(GOLDEN[f"{case}/contrast_acc"]), abs=1e-6)
    assert entropy.item() == pytest.approx(float(GOLDEN[f"{case}/contrast_entropy"]), rel=2e-6, abs=2e-6)


@pytest.mark.parametrize("case", CASES)
def test_the_plain_forms_give_the_authors_logits_targets_and_loss(case: str) -> None:
    """So that a failure above tells which side moved."""
    hidden, temperature, normalize = settings_of(case)
    z = hidden.numpy().astype(np.float64)
    if normalize:
        z = z / np.sqrt(np.maximum((z * z).sum(axis=1, keepdims=True), 1e-12))
    z0, z1 = np.split(z, 2)
    n, logits = len(z0), z0 @ z1.T / temperature
    np.testing.assert_allclose(logits, GOLDEN[f"{case}/logits_ab"], rtol=1e-5, atol=1e-5)
    assert np.array_equal(GOLDEN[f"{case}/labels"], np.eye(n, 2 * n))
    plain = 2 * plain_nt_xent(torch.from_numpy(z0), torch.from_numpy(z1), temperature, normalize=False).item()
    assert plain == pytest.approx(float(GOLDEN[f"{case}/loss"]), rel=3e-6, abs=1e-8)


def test_the_squared_norm_of_a_row_counts_at_least_1e_12() -> None:
    """A row shorter than 1e-6 is multiplied by a million: its products with the others, and so the loss, tell."""
    tiny = torch.tensor([[5e-7, 0.0]], dtype=torch.float64)
    z0, z1 = torch.cat([tiny, tiny.flip(1)]), torch.eye(2, dtype=torch.float64)
    logits = torch.tensor([[0, 0.5, 0], [0, 0.5, 0], [0.5, 0, 0], [0.5, 0, 0]], dtype=torch.float64)  # positive second
    expected = float((logits.logsumexp(dim=1) - logits[torch.arange(4), torch.tensor([1, 1, 0, 0])]).mean())
    assert nt_xent(z0, z1, temperature=1.0).item() == pytest.approx(expected, rel=1e-6)


def test_the_entropy_takes_the_logarithm_of_p_plus_1e_8() -> None:
    """Of a candidate with p near 1e-8 the term is -p log(2e-8): far below what a batch of usual ones shows."""
    z0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(2, 1)
    gap = -math.log(1e-8)
    z1 = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    _, entropy = contrastive_metrics(z0, z1, temperature=1 / gap, normalize=True)
    p = [1 / (1 + 1e-8), 1e-8 / (1 + 1e-8)]
    expected = -sum(q * math.log(q + 1e-8) for q in p)
    assert abs(float(entropy) - expected) < 1e-11


@given(n=st.integers(1, 9), d=st.integers(2, 8), temperature=st.floats(0.05, 3), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_contrastive_accuracy_and_entropy_are_sums_over_the_candidates(
    n: int, d: int, temperature: float, seed: int
) -> None:
    z0, z1 = random_views(n, d, seed=seed)
    hits, entropy = 0, 0.0
    for i in range(n):
        similarity = [float(z0[i] @ z1[j] / z0[i].norm() / z1[j].norm()) / temperature for j in range(n)]
        hits += max(range(n), key=lambda j: similarity[j]) == i
        weights = [math.exp(s - max(similarity)) for s in similarity]
        p = [w / sum(weights) for w in weights]
        entropy -= sum(q * math.log(q + 1e-8) for q in p)
    accuracy, found = contrastive_metrics(z0, z1, temperature=temperature)
    assert accuracy.item() == pytest.approx(hits / n, abs=1e-6)
    assert found.item() == pytest.approx(entropy / n, rel=1e-5, abs=1e-6)


@given(n=st.integers(1, 9), d=st.integers(2, 8), temperature=st.floats(0.02, 5), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_it_is_algorithm_1_of_the_paper(n: int, d: int, temperature: float, seed: int) -> None:
    z0, z1 = random_views(n, d, seed=seed)
    expected = algorithm_1(z0.numpy(), z1.numpy(), temperature)
    assert nt_xent(z0, z1, temperature=temperature).item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    in_float32 = nt_xent(z0.float(), z1.float(), temperature=temperature).item()
    assert in_float32 == pytest.approx(expected, rel=1e-5, abs=1e-5 / temperature)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 33])
def test_projections_that_are_all_equal_give_the_log_of_the_candidates(n: int) -> None:
    z = torch.full((n, 4), 0.7, dtype=torch.float64)
    assert nt_xent(z, z, temperature=0.3).item() == pytest.approx(math.log(2 * n - 1), abs=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_orthogonal_images_with_equal_views_give_a_closed_form(temperature: float) -> None:
    n = 6
    z = torch.eye(n, dtype=torch.float64)
    expected = math.log(1 + (2 * n - 2) * math.exp(-1 / temperature))
    assert nt_xent(z, z, temperature=temperature).item() == pytest.approx(expected, rel=1e-12)


@given(n=st.integers(1, 12), temperature=st.floats(0.05, 3), seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_swapping_the_views_and_reordering_the_images_give_the_same_loss(n: int, temperature: float, seed: int) -> None:
    z0, z1 = random_views(n, 5, seed=seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    loss = nt_xent(z0, z1, temperature=temperature).item()
    assert nt_xent(z1, z0, temperature=temperature).item() == pytest.approx(loss, rel=1e-12, abs=1e-12)
    assert nt_xent(z0[order], z1[order], temperature=temperature).item() == pytest.approx(loss, rel=1e-12, abs=1e-12)


def test_a_normalised_loss_does_not_see_the_lengths_and_an_unnormalised_one_does() -> None:
    z0, z1 = random_views(5, 4)
    lengths = torch.linspace(0.1, 10, 5, dtype=torch.float64)[:, None]
    assert nt_xent(lengths * z0, z1).item() == pytest.approx(nt_xent(z0, z1).item(), rel=1e-12)
    raw, stretched = (nt_xent(z, z1, temperature=10, normalize=False).item() for z in (z0, lengths * z0))
    assert abs(raw - stretched) > 1e-2


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("n, temperature", [(1, 0.1), (2, 1.0), (7, 0.1), (16, 0.5)])
@pytest.mark.parametrize("chunk_elements", [1, 3 * 2 * 7, 1 << 24])
def test_the_gradient_is_that_of_autograd_however_the_rows_are_cut(
    n: int, temperature: float, normalize: bool, chunk_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrastive, "CHUNK_ELEMENTS", chunk_elements)
    ours = [z.requires_grad_() for z in random_views(n, 6)]
    plain = [z.detach().clone().requires_grad_() for z in ours]
    loss = nt_xent(*ours, temperature=temperature, normalize=normalize)
    expected = plain_nt_xent(*plain, temperature=temperature, normalize=normalize)
    torch.testing.assert_close(loss, expected, rtol=1e-11, atol=1e-11)
    (3 * loss).backward()
    (3 * expected).backward()
    for z, reference in zip(ours, plain, strict=True):
        torch.testing.assert_close(z.grad, reference.grad, rtol=1e-10, atol=1e-11)


def test_one_view_may_be_without_gradient() -> None:
    z0, z1 = random_views(4, 3)
    plain = z0.clone().requires_grad_()
    nt_xent(z0.requires_grad_(), z1).backward()
    plain_nt_xent(plain, z1, temperature=0.1, normalize=True).backward()
    torch.testing.assert_close(z0.grad, plain.grad)
    assert z1.grad is None


def test_half_precision_autocast_changes_no_digit_of_the_loss_or_its_gradient() -> None:
    results = []
    for enabled in (False, True):
        z0, z1 = (z.requires_grad_() for z in random_views(16, 32, dtype=torch.float32))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            loss = nt_xent(z0, z1)
        loss.backward()
        results.append((loss.detach(), z0.grad, z1.grad))
    assert results[0][0].dtype == results[1][0].dtype == torch.float32
    for without, within in zip(*results, strict=True):
        assert torch.equal(without, within)


def test_half_precision_autocast_changes_no_digit_of_the_metrics() -> None:
    z0, z1 = random_views(64, 32, dtype=torch.float32)
    expected = contrastive_metrics(z0, z1 + z0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = contrastive_metrics(z0, z1 + z0)
    assert torch.equal(torch.stack(got), torch.stack(expected))


def test_half_precision_projections_are_compared_in_float32() -> None:
    z0, z1 = random_views(16, 32, dtype=torch.bfloat16)
    loss = nt_xent(z0.requires_grad_(), z1)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nt_xent(z0.float(), z1.float()))
    loss.backward()
    assert z0.grad.dtype == torch.bfloat16


def test_extreme_logits_stay_finite_and_exact() -> None:
    z0, z1 = random_views(6, 4)
    z0, z1 = (1e3 * z0).requires_grad_(), 1e3 * z1
    loss = nt_xent(z0, z1, temperature=0.01, normalize=False)
    loss.backward()
    expected = plain_nt_xent(z0.detach(), z1, temperature=0.01, normalize=False)
    torch.testing.assert_close(loss.detach(), expected)
    assert z0.grad.isfinite().all()


def test_a_row_never_competes_with_itself_however_unlike_all_others_are() -> None:
    z = torch.tensor([[1e3, 0.0]])
    assert nt_xent(z, -z, normalize=False).item() == 0  # the only candidate is the positive, at a logit of -1e7


def test_the_metrics_follow_their_words() -> None:
    # three images, two of which find their own other view; uniform similarities have the entropy of a fair die
    z0 = torch.eye(3)
    z1 = torch.eye(3)[[0, 1, 0]]
    accuracy, _ = contrastive_metrics(z0, z1)
    assert accuracy.item() == pytest.approx(2 / 3)
    same = torch.ones(6, 4)
    _, entropy = contrastive_metrics(same, same)
    assert entropy.item() == pytest.approx(math.log(6), abs=1e-6)


def test_the_metrics_carry_no_gradient() -> None:
    z0, z1 = (z.requires_grad_() for z in random_views(4, 3))
    assert not any(metric.requires_grad for metric in contrastive_metrics(z0, z1))


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_module_is_the_function_and_equals_lightlys(temperature: float) -> None:
    z0, z1 = random_views(12, 16)
    loss = NTXentLoss(temperature=temperature)(z0, z1)
    assert torch.equal(loss, nt_xent(z0, z1, temperature=temperature))
    torch.testing.assert_close(loss, LightlyNTXentLoss(temperature=temperature)(z0, z1))
    raw = NTXentLoss(temperature=temperature, normalize=False)(z0, z1)
    assert torch.equal(raw, nt_xent(z0, z1, temperature=temperature, normalize=False))


@pytest.mark.parametrize("temperature", [0, 0.0, -0.1])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    z0, z1 = random_views(2, 3)
    with pytest.raises(ValueError, match=f"temperature = {temperature}"):
        nt_xent(z0, z1, temperature=temperature)
    with pytest.raises(ValueError, match=f"temperature = {temperature}"):
        NTXentLoss(temperature=temperature)


@pytest.mark.parametrize("shapes", [((4, 3), (5, 3)), ((4, 3), (4, 2)), ((4, 3, 1), (4, 3, 1)), ((3,), (3,))])
def test_shapes_that_are_no_pair_of_matrices_are_refused_by_name(shapes: tuple[tuple[int, ...], ...]) -> None:
    views = [torch.ones(shape) for shape in shapes]
    for function in (nt_xent, contrastive_metrics):
        with pytest.raises(ValueError, match=r"two \[N, D\] tensors") as error:
            function(*views)
        assert all(str(shape) in str(error.value) for shape in shapes)


@pytest.mark.parametrize("shapes", [((0, 3), (0, 3)), ((0, 0), (0, 0))])
def test_no_images_at_all_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match="N > 0"):
        nt_xent(*(torch.ones(shape) for shape in shapes))


def test_whole_numbers_are_refused_by_type() -> None:
    with pytest.raises(ValueError, match=r"torch\.int64"):
        nt_xent(torch.ones(3, 2), torch.ones(3, 2, dtype=torch.int64))


@pytest.mark.parametrize("temperature", [math.nan, math.inf, torch.tensor(0.0), torch.tensor(math.nan), torch.ones(2)])
def test_a_temperature_that_is_no_number_above_zero_is_refused(temperature: float | Tensor) -> None:
    for call in (lambda: nt_xent(*random_views(3, 2), temperature=temperature), lambda: NTXentLoss(temperature)):
        with pytest.raises(ValueError, match="temperature"):
            call()


@pytest.mark.parametrize("place", [0, 5])
def test_a_number_that_is_none_is_never_hidden(place: int) -> None:
    z0, z1 = random_views(6, 4)
    z0[place, 1] = math.nan
    assert nt_xent(z0, z1).isnan() and nt_xent(z1, z0, normalize=False).isnan()


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("chunk", [1 << 22, 5])
def test_first_and_second_derivatives_are_lightlys(n: int, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Along a direction, of both views and of a learned temperature; with the logits in one piece and in many."""
    monkeypatch.setattr(contrastive, "CHUNK_ELEMENTS", chunk)
    directions = [*random_views(n, 3, seed=1), torch.tensor(1.0, dtype=torch.float64)]
    found = []
    for kind in (NTXentLoss, LightlyNTXentLoss):
        temperature = torch.nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        variables = [*(z.requires_grad_() for z in random_views(n, 3)), temperature]
        criterion = kind(temperature=temperature)
        assert list(criterion.parameters()) == [temperature]
        loss = criterion(*variables[:2])
        first = torch.autograd.grad(loss, variables, create_graph=True)
        along = sum((g * d).sum() for g, d in zip(first, directions, strict=True))
        found.append([loss.detach(), *first, *torch.autograd.grad(along, variables)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_gradients_gradient_stands_the_test_of_differences() -> None:
    views = [z.requires_grad_() for z in random_views(4, 3)]
    assert torch.autograd.gradgradcheck(lambda z0, z1: nt_xent(z0, z1, temperature=0.5), views)
    assert torch.autograd.gradgradcheck(lambda z0, z1: nt_xent(z0, z1, normalize=False, temperature=2.0), views)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # of forward mode's own making
@pytest.mark.parametrize("transform", ["hessian", "jvp", "vmap"])
def test_torch_func_finds_what_it_finds_of_lightlys_plain_operations(transform: str) -> None:
    z0, z1 = random_views(4, 3)
    if transform == "vmap":
        batch = random_views(5 * 4, 3, seed=2)[0].view(5, 4, 3)
        found = torch.vmap(nt_xent, (0, None))(batch, z1)
        torch.testing.assert_close(found, torch.stack([nt_xent(rows, z1) for rows in batch]))
        return
    ours, theirs = NTXentLoss(0.5), LightlyNTXentLoss(0.5)
    if transform == "hessian":
        found = [torch.func.hessian(loss)(z0, z1) for loss in (ours, theirs)]
    else:
        found = [torch.func.jvp(loss, (z0, z1), random_views(4, 3, seed=1)) for loss in (ours, theirs)]
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # of forward mode's own making
def test_forward_mode_outside_torch_func_is_refused() -> None:
    forward = torch.autograd.forward_ad
    z0, z1 = random_views(4, 3)
    with forward.dual_level(), pytest.raises(RuntimeError, match="jvp"):
        nt_xent(forward.make_dual(z0, z1), z1)


def test_rows_that_lie_apart_in_memory_or_are_one_row_give_the_same() -> None:
    z0, z1 = random_views(6, 4)
    apart = torch.stack([z0, z0], dim=2)[..., 0].T.contiguous().T
    assert not apart.is_contiguous()
    torch.testing.assert_close(nt_xent(apart, z1), nt_xent(z0, z1))
    one = z0[:1].expand(6, 4)
    torch.testing.assert_close(nt_xent(one, z1), nt_xent(one.contiguous(), z1))


def test_lightlys_memory_bank_is_an_argument_of_one_value() -> None:
    z0, z1 = random_views(4, 3)
    expected = NTXentLoss(0.5)(z0, z1)
    for nothing in (0, (0, 128), [0, 128]):
        assert torch.equal(NTXentLoss(0.5, nothing, False)(z0, z1), expected)
    for size in (4096, (4096, 128)):
        with pytest.raises(ValueError, match="memory_bank_size = ") as error:
            NTXentLoss(memory_bank_size=size)
        assert str(size) in str(error.value)
