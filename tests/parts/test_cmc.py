"""CMC's parts against the authors' numbers over steps, each half by itself, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from torch import Tensor

from simclr_plus.parts.cmc import CMCHead, CMCLoss
from simclr_plus.parts.memory_bank import unit

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_cmc.npz")


def golden(name: str) -> Tensor:
    array = torch.from_numpy(GOLDEN[name])
    return array.double() if array.is_floating_point() else array


def authors_loss(case: str) -> CMCLoss:
    """With the memories that the authors' began with."""
    negatives = golden(f"{case}/idx").shape[-1] - 1
    n, dim = golden(f"{case}/memory0_l").shape
    temperature, momentum = float(golden(f"{case}/T")), float(golden(f"{case}/momentum"))
    criterion = CMCLoss(n, dim, loss=case, negatives=negatives, temperature=temperature, momentum=momentum).double()
    criterion.lightness.bank.memory.copy_(golden(f"{case}/memory0_l"))
    criterion.colors.bank.memory.copy_(golden(f"{case}/memory0_ab"))
    return criterion


@pytest.mark.parametrize("case", ["nce", "softmax"])
def test_losses_gradients_memories_and_constants_are_the_authors_step_after_step(case: str) -> None:
    criterion = authors_loss(case)
    for step in range(len(golden(f"{case}/raw_l"))):
        raw = [golden(f"{case}/raw_{half}")[step].requires_grad_() for half in ("l", "ab")]
        z, indices = [unit(x) for x in raw], golden(f"{case}/y")[step]
        told = criterion.compare(*z, golden(f"{case}/idx")[step])
        for compared, half in ((told.lightness, "l"), (told.colors, "ab")):
            assert float(compared.loss.detach()) == pytest.approx(float(golden(f"{case}/loss_{half}/{step}")), rel=2e-6)
        told.loss.backward()  # type: ignore[no-untyped-call]
        criterion.update(indices, *(x.detach() for x in z))
        for half, x, bank in (("l", raw[0], criterion.lightness.bank), ("ab", raw[1], criterion.colors.bank)):
            for found, name in ((x.grad, "grad_raw"), (bank.memory, "memory")):
                expected = golden(f"{case}/{name}_{half}/{step}")
                assert found is not None
                assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max()), (step, name, half)
    if case == "nce":
        for constant, half in ((criterion.colors.constant, "l"), (criterion.lightness.constant, "ab")):
            assert constant is not None and float(constant.log_z.exp()) == pytest.approx(
                float(golden(f"nce/Z_{half}")), rel=1e-5
            )


@pytest.mark.parametrize("loss", ["nce", "softmax"])
def test_each_half_is_compared_with_the_other_ones_memory_and_has_its_own_gradient(loss: str) -> None:
    torch.manual_seed(0)
    criterion = CMCLoss(40, 8, loss=loss, negatives=10).double()
    raw = [torch.randn(6, 8, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    indices = torch.arange(6)
    candidates = criterion.candidates(indices, 3)
    told = criterion.compare(*map(unit, raw), candidates)
    told.lightness.loss.backward()  # type: ignore[no-untyped-call]
    assert raw[0].grad is not None and raw[0].grad.any() and raw[1].grad is None
    criterion.lightness.bank.memory.mul_(-1)  # of which the loss of lightness knows nothing
    again = criterion.compare(*map(unit, raw), candidates)
    assert torch.equal(again.lightness.loss, told.lightness.loss)
    assert not torch.equal(again.colors.loss, told.colors.loss)


def test_both_memories_begin_differently_and_both_are_compared_at_the_same_images() -> None:
    criterion = CMCLoss(40, 8, negatives=10, seed=5)
    assert not torch.equal(criterion.lightness.bank.memory, criterion.colors.bank.memory)
    again = CMCLoss(40, 8, negatives=10, seed=5)
    assert torch.equal(criterion.colors.bank.memory, again.colors.bank.memory)
    candidates = criterion.candidates(torch.tensor([7, 9]), 2)
    assert candidates.shape == (2, 11) and candidates[:, 0].tolist() == [7, 9]
    z = unit(torch.randn(2, 8))
    same_memory = criterion.colors.bank.memory.clone()
    criterion.lightness.bank.memory.copy_(same_memory)
    told = criterion.compare(z, z, candidates)
    assert torch.equal(told.lightness.loss, told.colors.loss) and torch.equal(told.loss, 2 * told.lightness.loss)


def test_scores_that_are_all_equal_leave_twice_the_loss_of_chance() -> None:
    z, indices = unit(torch.randn(4, 8)), torch.arange(4)
    nce = CMCLoss(40, 8, negatives=10, temperature=1e6)(z, z, indices, 0)
    assert float(nce) == pytest.approx(2 * (math.log(11) + 10 * math.log(1.1)), rel=1e-5)
    few = CMCLoss(40, 8, loss="softmax", negatives=10, temperature=1e6)(z, z, indices, 0)
    assert float(few) == pytest.approx(2 * math.log(11), rel=1e-5)
    every = CMCLoss(40, 8, loss="softmax", negatives=0, temperature=1e6)(z, z, indices, 0)
    assert float(every) == pytest.approx(2 * math.log(40), rel=1e-5)


def test_each_z_goes_into_its_own_memory() -> None:
    criterion = CMCLoss(10, 4, negatives=3, momentum=0)
    before = criterion.lightness.bank.memory.clone(), criterion.colors.bank.memory.clone()
    z = [unit(torch.randn(3, 4)) for _ in range(2)]
    rows = torch.tensor([1, 4, 8])
    criterion.update(rows, *z)
    for bank, new, old in zip((criterion.lightness.bank, criterion.colors.bank), z, before, strict=True):
        assert torch.allclose(bank.memory[rows], new, atol=1e-6)
        others = [i for i in range(10) if i not in rows]
        assert torch.equal(bank.memory[others], old[others])


def test_the_head_has_a_layer_for_each_half_of_h() -> None:
    torch.manual_seed(0)
    head, h = CMCHead(12, 5), torch.randn(3, 12)
    light, colors = head(h)
    for z, layer, half in ((light, head.lightness.linear, h[:, :6]), (colors, head.colors.linear, h[:, 6:])):
        plain = half @ layer.weight.T + layer.bias
        assert torch.allclose(z, plain / plain.norm(dim=1, keepdim=True), atol=1e-6)


def test_a_loss_of_another_name_or_nce_without_negatives_is_refused() -> None:
    with pytest.raises(ValueError, match="loss = 'nce' with negatives = 0"):
        CMCLoss(10, negatives=0)
    with pytest.raises(ValueError, match="loss = 'margin'"):
        CMCLoss(10, loss="margin")
