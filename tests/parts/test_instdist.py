"""InstDist's head and criterion: what they are made of, and that a loop of one's own learns with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from simclr_plus.parts.instdist import InstDistHead, InstDistLoss
from simclr_plus.parts.memory_bank import nce, softmax


def test_z_has_length_1_and_a_bias_under_it_whatever_the_autocast() -> None:
    head, h = InstDistHead(12, 6), torch.rand(5, 12)
    z = head(h)
    plain = h @ head.linear.weight.T + head.linear.bias
    assert torch.allclose(z, plain / plain.square().sum(dim=1, keepdim=True).sqrt(), atol=1e-6)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = head(h)
    assert rounded.dtype == torch.float32 and torch.allclose(rounded.norm(dim=1), torch.ones(5), atol=1e-6)
    assert sum(p.numel() for p in head.parameters()) == 13 * 6


@pytest.mark.parametrize(("loss", "negatives"), [("nce", 7), ("softmax", 7), ("softmax", 0)])
def test_the_criterion_is_its_loss_and_the_proximal_term(loss: str, negatives: int) -> None:
    z = InstDistHead(12, 6)(torch.rand(4, 12)).detach()
    indices = torch.tensor([3, 1, 19, 4])
    criterion = InstDistLoss(20, 6, loss=loss, negatives=negatives, temperature=0.2, proximal=0.3, seed=5)
    candidates, bank = criterion.candidates(indices, 11), criterion.bank
    if loss == "nce":
        assert criterion.constant is not None
        expected = nce(z, bank.memory, candidates, criterion.constant(z, bank.memory, candidates, 0.2), temperature=0.2)
    else:
        expected = softmax(z, bank.memory, candidates, temperature=0.2)
    cosines = (z * bank.memory[indices]).sum(dim=1)
    with_proximal = float(expected.loss) + 0.3 * float(2 * (1 - cosines).mean())
    assert float(criterion(z, indices, 11)) == pytest.approx(with_proximal, rel=1e-5)
    assert criterion.candidates(indices, 11).shape == ((4, 1 + negatives) if negatives else (4,))


def test_the_loss_leaves_the_memory_and_an_update_follows_the_momentum() -> None:
    criterion, indices = InstDistLoss(20, 6, momentum=0.0), torch.tensor([3, 1])
    before, z = criterion.bank.memory.clone(), InstDistHead(12, 6)(torch.rand(2, 12)).detach()
    criterion(z, indices, 0)
    assert torch.equal(criterion.bank.memory, before)
    criterion.update(indices, z)
    assert torch.allclose(criterion.bank.memory[indices], z, atol=1e-6)


def test_its_state_is_the_memory_and_the_logarithm_of_z() -> None:
    assert InstDistLoss(20, 6).state_dict().keys() == {"bank.memory", "constant.log_z"}
    assert InstDistLoss(20, 6, loss="softmax").state_dict().keys() == {"bank.memory"}


@pytest.mark.parametrize("settings", [{"loss": "hinge"}, {"loss": "nce", "negatives": 0}])
def test_a_loss_of_no_sense_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"loss = .*negatives = "):
        InstDistLoss(20, 6, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("loss", "negatives"), [("nce", 40), ("softmax", 40), ("softmax", 0)])
def test_a_loop_of_ones_own_comes_to_tell_every_image(loss: str, negatives: int) -> None:
    """Points with noise as views; at the end each is the nearest to its own row."""
    torch.manual_seed(0)
    points, f, head = torch.randn(60, 16), nn.Sequential(nn.Linear(16, 32), nn.ReLU()), InstDistHead(32, 16)
    criterion = InstDistLoss(60, 16, loss=loss, negatives=negatives, temperature=0.2)
    optimizer = torch.optim.Adam([*f.parameters(), *head.parameters()], lr=0.01)
    indices, nearest = torch.arange(60), []
    for step in range(80):
        z = head(f(points + 0.1 * torch.randn(60, 16)))
        optimizer.zero_grad()
        criterion(z, indices, step).backward()
        optimizer.step()
        nearest.append(float(criterion.compare(z.detach(), criterion.candidates(indices, step)).nearest))
        criterion.update(indices, z)
    assert nearest[0] < 0.3 and nearest[-1] > 0.95 and not math.isnan(nearest[-1])
