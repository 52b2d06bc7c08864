"""MoCo's parts against the numbers of the authors' code, closed forms, and Lightly's loss with a memory bank."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus.parts.group_batch_norm import GroupBatchNorm, group_batch_norm
from simclr_plus.parts.moco import (
    KeyQueue,
    in_batch_order,
    key_copy,
    key_orders,
    moco_head,
    moco_logits,
    moco_loss,
    shuffled,
    update_momentum,
)

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "contrastive_moco.npz")


def golden(name: str) -> Tensor:
    array = torch.from_numpy(GOLDEN[name])
    return array.double() if array.dtype == torch.float32 else array


def close(ours: Tensor, name: str, tolerance: float = 1e-9) -> bool:
    expected = golden(name)
    return bool(((ours - expected).abs() <= tolerance * expected.abs().clamp_min(1)).all())


def queue_from(name: str) -> KeyQueue:
    columns = golden(name)
    queue = KeyQueue(columns.shape[1], columns.shape[0]).double()
    queue.keys.copy_(columns.T)
    return queue


@pytest.mark.parametrize("case", GOLDEN["functions"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_logits_loss_gradient_and_queue_are_the_authors(case: str, dtype: torch.dtype, tolerance: float) -> None:
    q = golden(f"{case}/q").to(dtype).requires_grad_()
    keys = F.normalize(golden(f"{case}/k").to(dtype))
    queue, temperature = queue_from(f"{case}/queue").to(dtype), float(GOLDEN[f"{case}/temperature"])
    logits = moco_logits(F.normalize(q), keys, queue.keys, temperature)
    loss = moco_loss(F.normalize(q), keys, queue.keys, temperature)
    loss.backward()
    queue.update(keys)
    assert close(logits, f"{case}/logits", tolerance) and close(loss, f"{case}/loss", tolerance)
    assert q.grad is not None and close(q.grad, f"{case}/grad_q", tolerance)
    assert close(queue.keys.T, f"{case}/queue_after", tolerance)
    assert int(queue.pointer) == int(GOLDEN[f"{case}/pointer_after"])


class SmallNetwork(nn.Module):
    """The network of the golden runs."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        head = moco_head(8, 8, dim, layers)
        self.fc = head if layers > 1 else head[0]

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(images)))
        return self.fc(torch.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def network_from(prefix: str, dim: int, layers: int) -> SmallNetwork:
    network = SmallNetwork(dim, layers).double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(golden(f"{prefix}/{name}"))
    return network


def statistics_of_first_groups(network: SmallNetwork, groups: int) -> dict[str, Tensor]:
    """Running statistics as process 0 of the authors keeps them: of its group alone, the variance unbiased."""
    kept: dict[str, Tensor] = {}

    def note(name: str, inputs: tuple[Tensor]) -> None:
        first = inputs[0].detach()[: len(inputs[0]) // groups]
        kept[f"{name}.running_mean"].lerp_(first.mean((0, 2, 3)), 0.1)
        kept[f"{name}.running_var"].lerp_(first.var((0, 2, 3)), 0.1)

    for name, layer in network.named_modules():
        if isinstance(layer, GroupBatchNorm):
            kept[f"{name}.running_mean"], kept[f"{name}.running_var"] = torch.zeros(8).double(), torch.ones(8).double()
            layer.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs))
    return kept


@pytest.mark.parametrize("run", GOLDEN["runs"])
def test_three_steps_of_training_are_the_authors_with_one_process_and_with_two(run: str) -> None:
    """Two processes of theirs, each with batch norm of its own, are one of ours with groups of half the batch."""
    setting = {key: float(GOLDEN[f"{run}/setting/{key}"]) for key in ("m", "T", "lr", "wd", "mlp", "dim", "processes")}
    processes = int(setting["processes"])
    q = group_batch_norm(network_from(f"{run}/init", int(setting["dim"]), 1 + int(setting["mlp"])), 8 // processes)
    k, queue = key_copy(q), queue_from(f"{run}/queue_before")
    kept = {"q": statistics_of_first_groups(q, processes), "k": statistics_of_first_groups(k, processes)}
    optimizer = torch.optim.SGD(q.parameters(), setting["lr"], momentum=0.9, weight_decay=setting["wd"])
    for step in range(3):
        at = f"{run}/step{step}"
        images_q, images_k, order = (golden(f"{run}/{x}")[step] for x in ("images_q", "images_k", "permutation"))
        update_momentum(q, k, setting["m"])
        z = F.normalize(q(images_q))
        with torch.no_grad():
            keys = in_batch_order(F.normalize(k(shuffled(images_k, order))), order)
        logits = moco_logits(z, keys, queue.keys, setting["T"])
        loss = moco_loss(z, keys, queue.keys, setting["T"])
        assert close(logits, f"{at}/logits") and close(loss, f"{at}/loss")
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            assert all(close(p.grad, f"{run}/grad0/{name}") for name, p in q.named_parameters() if p.grad is not None)
        optimizer.step()
        queue.update(keys)
        assert close(queue.keys.T, f"{at}/queue") and int(queue.pointer) == int(GOLDEN[f"{at}/pointer"])
        for part, network in (("q", q), ("k", k)):
            assert all(close(p, f"{at}/{part}/{name}") for name, p in network.named_parameters())
            assert len(kept[part]) == 4 and all(close(x, f"{at}/{part}/{name}") for name, x in kept[part].items())
    assert all(p.grad is None for p in k.parameters())


def test_a_symmetric_step_is_that_of_the_authors_notebook() -> None:
    """The sum of both directions against the old queue; then the keys of view 1 and of view 2 are stored."""
    dim = golden("symmetric/queue_before").shape[0]
    q, k = (network_from(f"symmetric/before/{part}", dim, 1) for part in ("q", "k"))
    k, queue, temperature = key_copy(k), queue_from("symmetric/queue_before"), float(GOLDEN["symmetric/T"])
    first, second = golden("symmetric/image_1"), golden("symmetric/image_2")
    update_momentum(q, k, float(GOLDEN["symmetric/m"]))
    with torch.no_grad():
        key_first, key_second = (F.normalize(k(x)) for x in (first, second))
    one = moco_loss(F.normalize(q(first)), key_second, queue.keys, temperature)
    two = moco_loss(F.normalize(q(second)), key_first, queue.keys, temperature)
    (one + two).backward()
    queue.update(torch.cat([key_first, key_second]))
    assert close(one + two, "symmetric/loss") and close(queue.keys.T, "symmetric/queue")
    assert int(queue.pointer) == int(GOLDEN["symmetric/pointer"])
    assert all(close(p.grad, f"symmetric/grad/{name}") for name, p in q.named_parameters() if p.grad is not None)
    assert all(close(p, f"symmetric/after/k/{name}") for name, p in k.named_parameters())


# the queue


def batches(count: int, rows: int, dim: int = 5) -> Iterator[Tensor]:
    random = torch.Generator().manual_seed(7)
    for _ in range(count):
        yield F.normalize(torch.randn(rows, dim, generator=random))


def test_the_queue_starts_with_unit_vectors_of_its_seed_and_its_state_is_saved() -> None:
    queue = KeyQueue(512, 16, seed=3)
    assert torch.allclose(queue.keys.norm(dim=1), torch.ones(512)) and queue.keys.mean(0).abs().max() < 0.05
    assert torch.equal(queue.keys, KeyQueue(512, 16, seed=3).keys) and not torch.equal(
        queue.keys, KeyQueue(512, 16).keys
    )
    queue.update(next(batches(1, 128, 16)))
    other = KeyQueue(512, 16)
    other.load_state_dict(queue.state_dict(), strict=True)
    assert torch.equal(other.keys, queue.keys) and int(other.pointer) == 128


def test_after_k_over_b_steps_no_key_of_the_start_is_left_and_the_oldest_go_first() -> None:
    queue, stored = KeyQueue(12, 5), list(batches(6, 4))
    start = queue.keys.clone()
    for step, keys in enumerate(stored):
        queue.update(keys)
        expected = [*stored[: step + 1][-3:]]
        assert all((queue.keys == row).all(1).any() for row in torch.cat(expected))
        if step < 3:
            assert torch.equal(queue.keys[4 * (step + 1) :], start[4 * (step + 1) :])
    assert torch.equal(queue.keys, torch.cat(stored[3:]))


def test_a_queue_of_one_batch_is_the_last_batch() -> None:
    queue = KeyQueue(4, 5)
    for keys in batches(3, 4):
        queue.update(keys)
        assert torch.equal(queue.keys, keys)


@pytest.mark.parametrize("rows", [5, 24, 0])
def test_a_batch_that_would_reach_over_the_end_is_refused(rows: int) -> None:
    queue = KeyQueue(12, 5)
    with pytest.raises(ValueError, match=f"12 keys is no multiple of the {rows} keys"):
        queue.update(torch.ones(rows, 5))


# the loss


def test_a_queue_of_equal_keys_across_z_has_a_loss_in_closed_form() -> None:
    z, other = torch.eye(4, dtype=torch.float64)[:2]
    loss = moco_loss(z.expand(3, 4), z.expand(3, 4), other.expand(10, 4), 0.2)
    assert float(loss) == pytest.approx(math.log(1 + 10 * math.exp(-1 / 0.2)), rel=1e-12)


def test_the_order_of_the_queue_does_not_matter_and_no_gradient_reaches_keys() -> None:
    z, keys, queue = (x.double().requires_grad_() for x in batches(3, 6))
    loss = moco_loss(z, keys, queue, 0.2)
    loss.backward()
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(moco_loss(z, keys, queue[order], 0.2), loss, rtol=1e-12, atol=0)
    assert z.grad is not None and keys.grad is None and queue.grad is None


# the network that follows


def test_a_momentum_of_one_leaves_the_copy_alone_and_zero_copies_parameters_but_no_statistics() -> None:
    network = SmallNetwork(5, 2)
    follower = key_copy(network)
    assert not any(p.requires_grad for p in follower.parameters())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    network(torch.rand(4, 3, 6, 6))
    before = {name: value.clone() for name, value in follower.state_dict().items()}
    update_momentum(network, follower, 1.0)
    assert all(torch.equal(value, before[name]) for name, value in follower.state_dict().items())
    update_momentum(network, follower, 0.0)
    assert all(map(torch.equal, follower.parameters(), network.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in follower.named_buffers())


def test_orders_are_permutations_that_seed_step_and_view_decide() -> None:
    orders = key_orders(1, 5, 64, count=2)
    assert torch.equal(orders.sort(dim=1).values, torch.arange(64).expand(2, 64))
    assert torch.equal(orders, key_orders(1, 5, 64, count=2)) and not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders, key_orders(1, 6, 64, 2)) and not torch.equal(orders, key_orders(2, 5, 64, 2))
    rows = torch.arange(64.0)[:, None]
    assert not torch.equal(shuffled(rows, orders[0]), rows)
    assert torch.equal(in_batch_order(shuffled(rows, orders[0]), orders[0]), rows) and in_batch_order(rows) is rows


def test_the_heads_are_linear_and_lightlys_mlp() -> None:
    theirs, ours = MoCoProjectionHead(8, 6, 4), moco_head(8, 6, 4)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    h = torch.randn(3, 8)
    assert torch.equal(ours(h), theirs(h))
    assert [type(layer) for layer in moco_head(8, 6, 4, num_layers=1)] == [nn.Linear]
    with pytest.raises(ValueError, match="num_layers = 0"):
        moco_head(8, 6, 4, num_layers=0)


# Lightly's loss with a memory bank, in one process


def test_lightlys_loss_with_a_memory_bank_is_ours_as_long_as_batches_fit() -> None:
    theirs, queue = NTXentLoss(temperature=0.2, memory_bank_size=(12, 5)), KeyQueue(12, 5)
    theirs(torch.randn(4, 5), torch.randn(4, 5))  # makes its bank; stores nothing without a gradient
    theirs.memory_bank.bank.copy_(queue.keys)
    for step in range(5):
        q, keys = (torch.randn(4, 5, generator=torch.Generator().manual_seed(2 * step + i)) for i in (0, 1))
        one, two = q.clone().requires_grad_(), q.clone().requires_grad_()
        loss = moco_loss(F.normalize(one), F.normalize(keys), queue.keys, 0.2)
        loss.backward()
        queue.update(F.normalize(keys))
        expected = theirs(two, keys)
        expected.backward()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(one.grad, two.grad)
        torch.testing.assert_close(queue.keys, theirs.memory_bank.bank)


def test_lightlys_bank_is_not_saved_and_cuts_a_batch_that_reaches_over_its_end() -> None:
    theirs = NTXentLoss(temperature=0.2, memory_bank_size=(10, 5))
    for _ in range(3):
        theirs(torch.randn(4, 5, requires_grad=True), torch.randn(4, 5))
    assert int(theirs.memory_bank.bank_ptr) == 0  # 12 keys into 10: two of them are dropped
    assert not theirs.state_dict() and set(KeyQueue(10, 5).state_dict()) == {"keys", "written"}
