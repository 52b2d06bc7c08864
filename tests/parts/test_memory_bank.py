"""The memory bank and its losses against the authors' numbers, plain formulas, closed forms, Lightly and two processes.

torchrun starts this file itself as a program, whose two processes leave their losses and memories in a folder.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import in_processes
from places import GOLDEN_FOLDER
from torch import Tensor, nn
from torch.nn import functional as F

from simclr_plus import distributed
from simclr_plus.parts import memory_bank
from simclr_plus.parts.memory_bank import MemoryBank, NCEConstant, log_mean_exp, nce, proximal, softmax, unit

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_memory.npz")
CASES = [str(case) for case in GOLDEN["cases"]]


def golden(name: str) -> Tensor:
    return torch.from_numpy(GOLDEN[name])


def close(ours: Tensor, theirs: Tensor, error: float = 1e-5) -> bool:
    """Within a share of the largest value."""
    return float((ours.double() - theirs.double()).abs().max()) <= error * float(theirs.abs().max())


def bank_of(rows: Tensor) -> MemoryBank:
    bank = MemoryBank(*rows.shape).to(rows.dtype)
    bank.memory.copy_(rows)
    return bank


def scene(b: int = 5, n: int = 23, k: int = 9, d: int = 8, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows z [b, d], a memory [n, d], candidates [b, 1 + k], of which some are drawn twice or are the image."""
    generator = torch.Generator().manual_seed(seed)
    z, memory = (unit(torch.randn(rows, d, generator=generator, dtype=torch.float64)) for rows in (b, n))
    candidates = torch.randint(n, (b, 1 + k), generator=generator)
    candidates[:, -1] = candidates[:, 1]
    candidates[0, k // 2] = candidates[0, 0]
    return z, memory, candidates


# plain formulas, whose gradient autograd makes


def plain_softmax(z: Tensor, memory: Tensor, candidates: Tensor, temperature: float) -> Tensor:
    if candidates.ndim == 1:
        return F.cross_entropy(z @ memory.T / temperature, candidates)
    scores = torch.einsum("bd,bkd->bk", z, memory[candidates]) / temperature
    return F.cross_entropy(scores, torch.zeros(len(z), dtype=torch.int64))


def plain_nce(z: Tensor, memory: Tensor, candidates: Tensor, temperature: float, constant: float) -> Tensor:
    p = (torch.einsum("bd,bkd->bk", z, memory[candidates]) / temperature).exp() / constant
    q, epsilon = (candidates.shape[1] - 1) / len(memory), 1e-7
    own = (p[:, 0] / (p[:, 0] + q + epsilon)).log()
    noise = (q / (p[:, 1:] + q + epsilon)).log().sum(dim=1)
    return -(own + noise).mean()


def test_the_constant_is_not_rounded_under_autocast() -> None:
    bank, z = MemoryBank(2000, 32, seed=0), unit(torch.randn(8, 32, generator=torch.Generator().manual_seed(1)))
    candidates = torch.arange(8 * 401).reshape(8, 401) % 2000
    plain = log_mean_exp(z, bank.memory, candidates)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log_mean_exp(z, bank.memory, candidates), plain)


def two_processes(folder: Path) -> list[dict[str, Any]]:
    in_processes(__file__, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def three_steps(rows: slice) -> dict[str, Any]:
    """Of the rows that a process has; the same image stands in both halves of a batch."""
    bank, constant, state = MemoryBank(20, 8, seed=3).double(), NCEConstant().double(), {}
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        z = unit(torch.randn(8, 8, generator=generator, dtype=torch.float64))[rows].requires_grad_()
        indices = torch.tensor([1, 2, 3, 4, 5, 2, 7, 8])[rows]
        candidates = bank.candidates(indices, 6, seed=3, step=step)
        log_z = constant(z, bank.memory, candidates, 0.2)
        loss = nce(z, bank.memory, candidates, log_z, temperature=0.2).loss
        loss.backward()
        bank.update(indices, z, 0.5)
        state[f"{step}"] = (loss.detach(), z.grad, candidates)
    return state | {"memory": bank.memory, "log_z": constant.log_z}


if __name__ == "__main__":
    distributed.start("cpu")
    torch.save(
        three_steps(slice(4 * distributed.rank(), 4 * distributed.rank() + 4)), f"{sys.argv[1]}/{distributed.rank()}.pt"
    )
    distributed.barrier()
    distributed.stop()


# the authors' numbers


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_the_memory_of_each_step_are_the_authors(case: str) -> None:
    bank, constant = bank_of(golden(f"{case}/memory0")), NCEConstant()
    temperature, steps = float(GOLDEN[f"{case}/T"]), len(GOLDEN[f"{case}/y"])
    for t in range(steps):
        raw, indices = golden(f"{case}/raw")[t].requires_grad_(), golden(f"{case}/y")[t]
        x = unit(raw)
        x.retain_grad()
        candidates = golden(f"{case}/idx")[t] if f"{case}/idx" in GOLDEN else indices
        if case.startswith("nce"):
            log_z = constant(x, bank.memory, candidates, temperature)
            assert float(log_z.exp()) == pytest.approx(float(GOLDEN[f"{case}/Z"]), rel=1e-5)
            loss, _ = nce(x, bank.memory, candidates, log_z, temperature=temperature)
        else:
            loss, _ = softmax(x, bank.memory, candidates, temperature=temperature)
        loss.backward()
        bank.update(indices, x, float(GOLDEN[f"{case}/momentum"]))
        assert float(loss.detach()) == pytest.approx(float(GOLDEN[f"{case}/loss/{t}"]), rel=2e-6)
        for name, ours in (("x", x.detach()), ("grad_x", x.grad), ("grad_raw", raw.grad), ("memory", bank.memory)):
            assert close(ours, golden(f"{case}/{name}/{t}")), (name, t)


# the gradient that is made in the forward pass


@pytest.mark.parametrize("chunk", [1, 60, 1 << 22])
@pytest.mark.parametrize("dense_from", [0.0, 2.0])
@pytest.mark.parametrize("kind", ["softmax", "all rows", "nce"])
def test_loss_and_gradient_are_those_of_the_plain_formula(
    monkeypatch: pytest.MonkeyPatch, kind: str, dense_from: float, chunk: int
) -> None:
    """By reading rows and by the whole product, in chunks of any size, with negatives that occur twice."""
    monkeypatch.setattr(memory_bank, "CHUNK_ELEMENTS", chunk)
    monkeypatch.setattr(memory_bank, "_DENSE_FROM", dense_from)
    z, memory, candidates = scene()
    candidates = candidates[:, 0] if kind == "all rows" else candidates
    ours, plain = z.clone().requires_grad_(), z.clone().requires_grad_()
    if kind == "nce":
        constant = NCEConstant().double()(ours, memory, candidates, 0.1)
        loss = nce(ours, memory, candidates, constant, temperature=0.1).loss
        expected = plain_nce(plain, memory, candidates, 0.1, float(constant.exp()))
    else:
        loss = softmax(ours, memory, candidates, temperature=0.1).loss
        expected = plain_softmax(plain, memory, candidates, 0.1)
    (3 * loss).backward()
    (3 * expected).backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert close(ours.grad, plain.grad, 1e-12)


def test_1e_7_is_added_to_each_divisor() -> None:
    """Where K / n is nearly as small as that: one negative among 20,000 images."""
    z, memory, candidates = scene(n=20_000, k=1)
    log_z = torch.tensor(math.log(20_000) + 9, dtype=torch.float64)
    ours = float(nce(z, memory, candidates, log_z, temperature=0.1).loss)
    assert ours == pytest.approx(float(plain_nce(z, memory, candidates, 0.1, float(log_z.exp()))), rel=1e-9)
    other = float(nce(z, memory, candidates, log_z, temperature=0.1, epsilon=1.01e-7).loss)
    assert abs(other - ours) > 1e-7 * ours


def test_a_memory_that_is_updated_before_the_backward_pass_does_not_change_the_gradient() -> None:
    z, memory, candidates = scene()
    bank = bank_of(memory)
    z.requires_grad_()
    loss = softmax(z, bank.memory, candidates[:, 0]).loss
    (expected,) = torch.autograd.grad(plain_softmax(z, memory, candidates[:, 0], 0.07), z)
    bank.update(candidates[:, 0], z)
    loss.backward()
    assert close(z.grad, expected, 1e-12) and bank.memory.grad is None


def test_second_derivatives_are_refused() -> None:
    z, memory, candidates = scene()
    z.requires_grad_()
    with pytest.raises(RuntimeError, match="first derivatives only"):
        torch.autograd.grad(softmax(z, memory, candidates).loss, z, create_graph=True)


def test_bfloat16_goes_in_and_scores_stay_in_the_precision_of_the_memory() -> None:
    z, memory, candidates = scene()
    z = z.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = softmax(z, memory.float(), candidates[:, 0]).loss
    loss.backward()
    expected = plain_softmax(z.detach().float(), memory.float(), candidates[:, 0], 0.07)
    assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-5) and z.grad.dtype == torch.bfloat16


# closed forms


@pytest.mark.parametrize("k", [1, 9, 100])
def test_scores_of_no_difference_have_the_loss_of_chance(k: int) -> None:
    """T -> infinity: NCE = ln(1 + K) + K ln(1 + 1 / K), softmax = ln(1 + K), or ln n among all."""
    z, memory, candidates = scene(k=k)
    constant = NCEConstant().double()(z, memory, candidates, 1e9)
    assert float(constant) == pytest.approx(math.log(len(memory)))
    found = nce(z, memory, candidates, constant, temperature=1e9, epsilon=0).loss
    assert float(found) == pytest.approx(math.log(1 + k) + k * math.log(1 + 1 / k), rel=1e-7)
    assert float(softmax(z, memory, candidates, temperature=1e9).loss) == pytest.approx(math.log(1 + k), rel=1e-7)
    assert float(softmax(z, memory, candidates[:, 0], temperature=1e9).loss) == pytest.approx(math.log(23), rel=1e-7)


def test_all_indices_once_as_candidates_are_the_full_softmax() -> None:
    z, memory, candidates = scene()
    every = torch.stack(
        [torch.tensor([int(own), *(j for j in range(23) if j != int(own))]) for own in candidates[:, 0]]
    )
    assert float(softmax(z, memory, every).loss) == pytest.approx(float(softmax(z, memory, candidates[:, 0]).loss))


def test_the_constant_of_a_fresh_bank_is_that_of_random_directions() -> None:
    """The authors' start: a product of sinh(t) / t; rows of length 1 have 2.209 n at D = 128 and T = 0.07."""
    d, n, t = 128, 20_000, 0.07
    z = unit(torch.randn(64, d, generator=torch.Generator().manual_seed(0)))
    every = torch.arange(n).expand(64, n)
    found = float(log_mean_exp(z, MemoryBank(n, d, seed=1).memory, every, t).exp())
    assert found == pytest.approx(2.209, rel=0.02)
    at_the_authors = float(log_mean_exp(z, MemoryBank(n, d, seed=1, normalized=False).memory, every, t).exp())
    arguments = math.sqrt(3 / d) * z.double() / t
    expected = float((arguments.sinh() / arguments).prod(dim=1).mean())
    assert at_the_authors == pytest.approx(expected, rel=0.02)


def test_a_sharp_temperature_leaves_no_infinity() -> None:
    """exp(1 / 0.005) is beyond float32; the logarithm of Z is not."""
    z, memory, candidates = (x.float() if x.is_floating_point() else x for x in scene())
    z.requires_grad_()
    constant = NCEConstant()
    compared = nce(z, memory, candidates, constant(z, memory, candidates, 0.005), temperature=0.005)
    compared.loss.backward()
    assert bool(torch.isfinite(compared.loss)) and bool(torch.isfinite(z.grad).all())


def test_the_share_of_images_that_are_nearest_to_their_own_row() -> None:
    memory = torch.eye(6)
    z = unit(torch.tensor([[1.0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0.5], [0, 0, 0.5, 0, 0, 1], [1.0] * 6]))
    own = torch.arange(4)
    assert float(softmax(z, memory, own).nearest) == 0.5  # the third is nearer to another's, the last to none
    drawn = torch.tensor([[0, 0, 1], [1, 1, 2], [2, 2, 3], [3, 3, 3]])  # where the own row is drawn, it is no rival
    assert float(softmax(z, memory, drawn).nearest) == 1.0
    assert float(nce(z, memory, drawn, torch.tensor(0.0)).nearest) == 1.0


def test_the_proximal_term_is_twice_what_a_cosine_lacks() -> None:
    z, memory, candidates = scene()
    rows = memory[candidates[:, 0]]
    assert float(proximal(z, rows)) == pytest.approx(float(2 * (1 - (z * rows).sum(dim=1)).mean()))


# the memory


def test_rows_begin_as_random_directions_that_depend_on_seed_and_bank_alone() -> None:
    bank = MemoryBank(5000, 16, seed=4)
    assert torch.allclose(bank.memory.norm(dim=1), torch.ones(5000), atol=1e-6)
    assert float(bank.memory.mean(dim=0).abs().max()) < 4 / math.sqrt(5000 * 16)
    assert torch.equal(MemoryBank(50, 16, seed=4).memory, bank.memory[:50])
    for other in (MemoryBank(50, 16, seed=5), MemoryBank(50, 16, seed=4, number=1)):
        assert float((other.memory * bank.memory[:50]).sum(dim=1).abs().mean()) < 0.35
    plain = MemoryBank(5000, 16, seed=4, normalized=False).memory
    assert float(plain.abs().max()) <= math.sqrt(3 / 16) and torch.allclose(unit(plain), bank.memory[:5000], atol=1e-6)
    assert float(plain.square().sum(dim=1).mean()) == pytest.approx(1, abs=0.02)


def test_only_shown_rows_change_and_have_length_1() -> None:
    bank, before = MemoryBank(30, 8), MemoryBank(30, 8).memory
    indices, z = torch.tensor([3, 7, 29]), unit(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    bank.update(indices, z, 0.5)
    unseen = [i for i in range(30) if i not in indices.tolist()]
    assert torch.equal(bank.memory[unseen], before[unseen])
    assert torch.allclose(bank.memory[indices], unit(0.5 * before[indices] + 0.5 * z), atol=1e-7)
    assert torch.allclose(bank.rows(indices).norm(dim=1), torch.ones(3), atol=1e-6)


def test_momentum_1_leaves_the_bank_momentum_0_replaces_rows_and_a_row_that_is_met_stays() -> None:
    bank, before = MemoryBank(30, 8).double(), MemoryBank(30, 8).double().memory
    bank.memory.copy_(unit(before))
    before, indices = bank.memory.clone(), torch.arange(4)
    z = unit(torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    bank.update(indices, z, 1.0)
    assert torch.allclose(bank.memory, before, atol=1e-15)
    bank.update(indices, before[indices], 0.5)
    assert torch.allclose(bank.memory, before, atol=1e-15)
    bank.update(indices, z, 0.0)
    assert torch.allclose(bank.memory[:4], z, atol=1e-15)


def test_of_an_image_that_stands_twice_the_last_place_counts_from_the_row_before() -> None:
    bank, before = MemoryBank(10, 8), MemoryBank(10, 8).memory
    z = unit(torch.randn(6, 8, generator=torch.Generator().manual_seed(0)))
    bank.update(torch.tensor([4, 1, 4, 9, 1, 4]), z, 0.5)
    for index, place in ((4, 5), (1, 4), (9, 3)):
        assert torch.allclose(bank.memory[index], unit(0.5 * before[index] + 0.5 * z[place : place + 1])[0], atol=1e-6)


def test_negatives_follow_from_seed_step_and_place_and_may_be_the_image_itself() -> None:
    bank, indices = MemoryBank(40, 8), torch.arange(6)
    whole = bank.candidates(indices, 300, seed=2, step=5)
    assert torch.equal(whole[:, 0], indices) and whole.shape == (6, 301)
    half = bank.candidates(indices[3:], 300, seed=2, step=5, places=torch.arange(3, 6))
    assert torch.equal(whole[3:], half)
    others = [bank.candidates(indices, 300, seed=seed, step=step) for seed, step in ((3, 5), (2, 6))]
    assert all(not torch.equal(whole, other) for other in others)
    counts = whole[:, 1:].flatten().bincount(minlength=40)
    assert len(counts) == 40 and float(((counts - 45) ** 2 / 45).sum()) < 73  # 39 degrees: p = 0.0008
    assert bool((whole[:, 1:] == whole[:, :1]).any())


# Z


def test_the_constant_is_that_of_the_first_batch_and_is_saved() -> None:
    z, memory, candidates = scene()
    constant = NCEConstant().double()
    first = float(constant(z, memory, candidates, 0.1))
    assert float(constant(-z, memory, candidates, 0.1)) == first
    other = NCEConstant().double()
    assert float(other(-z, memory, candidates, 0.1)) != first
    other.load_state_dict(constant.state_dict())
    assert float(other(-z, memory, candidates, 0.1)) == first


def test_with_a_momentum_the_constant_follows_but_not_in_evaluation() -> None:
    z, memory, candidates = scene()
    constant = NCEConstant(0.9).double()
    first, other = (float(NCEConstant().double()(x, memory, candidates, 0.1).exp()) for x in (z, -z))
    constant(z, memory, candidates, 0.1)
    assert float(constant(-z, memory, candidates, 0.1).exp()) == pytest.approx(0.9 * first + 0.1 * other)
    before = constant.log_z.clone()
    constant.eval()(z, memory, candidates, 0.1)
    unset = NCEConstant().double().eval()
    assert float(unset(z, memory, candidates, 0.1).exp()) == pytest.approx(first)
    assert torch.equal(constant.log_z, before) and float(unset.log_z) == -math.inf


# errors


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda z, m, c: softmax(z[:, :3], m, c), r"\(5, 3\).*\(23, 8\)"),
        (lambda z, m, c: softmax(z, m, c[:2]), r"\(2, 10\).*B = 5"),
        (lambda z, m, c: softmax(z, m[:0], c), r"\(0, 8\)"),
        (lambda z, m, c: softmax(z, m, c, temperature=0), "temperature"),
        (lambda z, m, c: nce(z, m, c[:, :1], torch.tensor(0.0)), r"\(5, 1\).*1 or more"),
        (lambda z, m, c: nce(z, m, c[:, 0], torch.tensor(0.0)), r"\(5,\).*1 or more"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        call(*scene())


# several processes, and Lightly


@pytest.mark.slow
def test_two_processes_have_the_losses_the_memory_and_the_constant_of_one(tmp_path: Path) -> None:
    whole, halves = three_steps(slice(None)), two_processes(tmp_path)
    assert torch.equal(halves[0]["memory"], halves[1]["memory"])
    for part in halves:
        assert close(part["memory"], whole["memory"], 1e-12) and close(part["log_z"], whole["log_z"], 1e-12)
    for step in ("0", "1", "2"):
        loss, gradient, candidates = (
            torch.stack([part[step][0] for part in halves]).mean(),
            torch.cat([part[step][1] for part in halves]) / 2,  # as DistributedDataParallel means
            torch.cat([part[step][2] for part in halves]),
        )
        assert torch.equal(candidates, whole[step][2])
        assert float(loss) == pytest.approx(float(whole[step][0]), rel=1e-12) and close(gradient, whole[step][1], 1e-12)


def test_lightlys_memory_is_a_queue_that_knows_no_images_and_is_not_saved() -> None:
    """Ours has a row an image, is in the state dict, and a batch over its end loses nothing."""
    from lightly.models.modules.memory_bank import MemoryBankModule

    theirs, ours = MemoryBankModule(size=(10, 8)), MemoryBank(10, 8)
    z = unit(torch.randn(12, 8, generator=torch.Generator().manual_seed(0)))
    for start in (0, 4, 8):
        theirs(z[start : start + 4], update=True)
    assert not theirs.state_dict() and ours.state_dict().keys() == {"memory"}
    assert not any(bool(torch.isclose(theirs.bank, row, atol=1e-6).all(dim=1).any()) for row in z[10:])  # dropped
    ours.update(torch.arange(8, 12) % 10, z[8:], 0.0)
    assert torch.allclose(ours.memory[[8, 9, 0, 1]], z[8:], atol=1e-6)
    assert isinstance(ours, nn.Module) and torch.equal(ours.memory[2:8], MemoryBank(10, 8).memory[2:8])
