"""Two processes equal one: the loss, its gradient, batch norm and a training step of the whole network.

torchrun starts this file itself as a program; its two processes (gloo, CPU) do everything under "what each process
does" once and leave their results in a folder, which the tests then compare with one process.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import in_processes
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.encoders import ResNet
from simclr_plus.errors import SimclrPlusError
from simclr_plus.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d, convert_global_batch_norm
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.losses import NTXentLoss, contrastive_metrics, nt_xent
from simclr_plus.losses.compared import margin_triplet, nt_logistic, nt_xent_other_view

GOLDEN = np.load(GOLDEN_FOLDER / "syncbn.npz")
LOSSES = {"paper": (0.1, True), "warm": (1.0, True), "unnormalised": (10.0, False)}  # temperature, normalize
COMPARED = {
    "nt_xent, other view": nt_xent_other_view,
    "nt_logistic": nt_logistic,
    "nt_logistic, both views, semi-hard": partial(nt_logistic, negatives="both_views", semi_hard=True),
    "margin": partial(margin_triplet, negatives="both_views"),
    "margin, semi-hard": partial(margin_triplet, semi_hard=True),
}
NORMS = {"1d": (GlobalBatchNorm1d, (8, 5)), "2d": (GlobalBatchNorm2d, (8, 5, 3, 4))}
SHARES = {"even": [4, 4], "uneven": [6, 2]}  # rows of the two processes


# what both sides know


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loss_and_gradients(z0: Tensor, z1: Tensor, loss_of: Any = nt_xent, **named: Any) -> list[Tensor]:
    z0, z1 = z0.clone().requires_grad_(), z1.clone().requires_grad_()
    loss = loss_of(z0, z1, **named)
    loss.backward()
    return [loss.detach(), z0.grad, z1.grad]


def normalised(kind: type[nn.Module], x: Tensor, factor: Tensor, *, over_processes: bool = True) -> dict[str, Tensor]:
    """y, gradients of sum(factor y), running statistics; two steps, so that both enter the running ones."""
    norm = kind(x.shape[1])
    norm.over_processes = over_processes
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, x.shape[1]))
        norm.bias.copy_(torch.linspace(-1, 1, x.shape[1]))
    norm.to(x.dtype if x.dtype == torch.float64 else torch.float32)
    norm(2 * x)
    x = x.clone().requires_grad_()
    y = norm(x)
    (factor * y).sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
    }


def network(recompute: bool) -> nn.Module:
    """The reference encoder and the paper's head, tiny; and layers of PyTorch made global."""
    torch.manual_seed(0)
    encoder = ResNet(18, 1 / 8, stem="cifar", flavor="reference")
    encoder.checkpoint_activations = recompute
    for name, parameter in encoder.named_parameters():
        if name.endswith("bn2.weight"):
            nn.init.ones_(parameter)
    between = convert_global_batch_norm(nn.Sequential(nn.Linear(64, 32, bias=False), nn.BatchNorm1d(32)))
    return nn.Sequential(encoder, between, SimCLRProjectionHead(32, 32, 16)).train()


def step(model: nn.Module, view0: Tensor, view1: Tensor) -> Tensor:
    loss = NTXentLoss(temperature=0.5)(*model(torch.cat([view0, view1])).chunk(2))
    loss.backward()
    return loss.detach()


def views() -> tuple[Tensor, Tensor]:
    return torch.sigmoid(numbers(16, 3, 16, 16, seed=1)), torch.sigmoid(numbers(16, 3, 16, 16, seed=2))


# what each process does


def share(x: Tensor, sizes: list[int] | None = None) -> Tensor:
    return x.split(sizes or [len(x) // 2] * 2)[distributed.rank()]


def message_of(function: Any, *arguments: Any) -> str:
    try:
        function(*arguments, gather=True)
    except SimclrPlusError as error:
        return str(error)
    return "no error"


def work() -> dict[str, Any]:
    rank = distributed.rank()
    found: dict[str, Any] = {"world": (rank, distributed.world_size())}
    z0, z1 = numbers(6, 8, seed=3, dtype=torch.float64), numbers(6, 8, seed=4, dtype=torch.float64)
    for name, (temperature, normalize) in LOSSES.items():
        settings = {"temperature": temperature, "normalize": normalize, "gather": True}
        found[f"loss {name}"] = loss_and_gradients(share(z0), share(z1), **settings)
        metrics = contrastive_metrics(share(z0), share(z1), temperature=temperature, normalize=normalize, gather=True)
        found[f"metrics {name}"] = torch.stack(metrics)
    for name, loss_of in COMPARED.items():
        found[f"loss {name}"] = loss_and_gradients(share(z0), share(z1), loss_of, gather=True)
    found["local loss"] = nt_xent(share(z0), share(z1))
    with pytest.MonkeyPatch.context() as patch:  # the loss asks for rows through all_gather alone
        patch.setattr(distributed, "all_gather", lambda x: pytest.fail("asked for the number of rows"))
        found["unasked loss"] = nt_xent(share(z0), share(z1), gather=True, equal_rows=True)
    too_many = numbers(3 + rank, 8)
    found["uneven loss"] = message_of(nt_xent, too_many, too_many)
    found["uneven metrics"] = message_of(contrastive_metrics, too_many, too_many)

    for name, (kind, shape) in NORMS.items():
        x, factor = 3 * numbers(*shape, seed=5) + 1, numbers(*shape, seed=6)
        for how, sizes in SHARES.items():
            found[f"norm {name} {how}"] = normalised(kind, share(x, sizes), share(factor, sizes))
        found[f"norm {name} alone"] = normalised(kind, share(x), share(factor), over_processes=False)
        found[f"norm {name} half"] = normalised(kind, share(x.bfloat16()), share(factor))
    x = torch.from_numpy(GOLDEN["x"][rank]).permute(0, 3, 1, 2).contiguous().requires_grad_()
    norm = GlobalBatchNorm2d(5).train()
    y = torch.relu(norm(x))
    (y.square().sum() / 100).backward()
    found["authors"] = [t.detach() for t in (y, x.grad, norm.running_mean, norm.running_var)]

    for recompute in (False, True):
        model = network(recompute)
        loss = step(nn.parallel.DistributedDataParallel(model), *map(share, views()))
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        found[f"step {recompute}"] = (loss, gradients, dict(model.named_buffers()))

    mine = torch.tensor([float(rank), 10.0])
    found["sum"] = (distributed.sum_over_processes(mine), mine)
    found["gathered"] = distributed.all_gather(mine)
    flags = [(False, False), (False, True), (True, True)]
    found["any"] = [distributed.any_process(flag[rank], torch.device("cpu")) for flag in flags]
    found["norm double"] = double_precision_norm()
    return found


def double_precision_norm() -> dict[str, Tensor] | str:
    x, factor = numbers(8, 5, seed=5, dtype=torch.float64), numbers(8, 5, seed=6, dtype=torch.float64)
    try:
        return normalised(GlobalBatchNorm1d, share(x), share(factor))
    except RuntimeError as error:
        return str(error)


if __name__ == "__main__":
    distributed.start("cpu")
    torch.save(work(), Path(sys.argv[1]) / f"{distributed.rank()}.pt")
    distributed.barrier()
    distributed.stop()


# what one process finds


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The results of process 0 and of process 1."""
    folder = tmp_path_factory.mktemp("processes")
    in_processes(__file__, folder)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_each_process_knows_its_number(both: list[dict[str, Any]]) -> None:
    assert [found["world"] for found in both] == [(0, 2), (1, 2)]


@pytest.mark.parametrize("name", [*LOSSES, *COMPARED])
def test_the_mean_of_the_losses_and_of_their_gradients_is_that_of_the_whole_batch(
    both: list[dict[str, Any]], name: str
) -> None:
    z0, z1 = numbers(6, 8, seed=3, dtype=torch.float64), numbers(6, 8, seed=4, dtype=torch.float64)
    if name in COMPARED:
        loss, *gradients = loss_and_gradients(z0, z1, COMPARED[name])
    else:
        loss, *gradients = loss_and_gradients(
            z0, z1, **dict(zip(("temperature", "normalize"), LOSSES[name], strict=True))
        )
    (loss0, *gradients0), (loss1, *gradients1) = (found[f"loss {name}"] for found in both)
    assert abs(loss0 - loss1) > 1e-3  # each has its own rows
    torch.testing.assert_close((loss0 + loss1) / 2, loss)
    for gradient, *parts in zip(gradients, gradients0, gradients1, strict=True):
        torch.testing.assert_close(torch.cat(parts) / 2, gradient)


def test_known_equal_rows_give_the_same_loss_without_asking(both: list[dict[str, Any]]) -> None:
    for found in both:
        assert torch.equal(found["unasked loss"], found["loss paper"][0])


def test_without_gather_a_process_sees_its_own_images_only(both: list[dict[str, Any]]) -> None:
    z0, z1 = numbers(6, 8, seed=3, dtype=torch.float64), numbers(6, 8, seed=4, dtype=torch.float64)
    for found, own in zip(both, (slice(0, 3), slice(3, 6)), strict=True):
        torch.testing.assert_close(found["local loss"], nt_xent(z0[own], z1[own]))


@pytest.mark.parametrize("name", LOSSES)
def test_both_processes_report_the_metrics_of_the_whole_batch(both: list[dict[str, Any]], name: str) -> None:
    z0, z1 = numbers(6, 8, seed=3, dtype=torch.float64), numbers(6, 8, seed=4, dtype=torch.float64)
    temperature, normalize = LOSSES[name]
    expected = torch.stack(contrastive_metrics(z0, z1, temperature=temperature, normalize=normalize))
    for found in both:
        torch.testing.assert_close(found[f"metrics {name}"], expected)


@pytest.mark.parametrize("what", ["loss", "metrics"])
def test_uneven_batches_are_refused_on_both_processes_with_their_sizes(both: list[dict[str, Any]], what: str) -> None:
    for found in both:
        assert "[3, 4]" in found[f"uneven {what}"]
        assert "drop_last=True" in found[f"uneven {what}"]


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("how", [*SHARES, "half"])
def test_batch_norm_of_two_processes_is_that_of_all_their_rows(both: list[dict[str, Any]], name: str, how: str) -> None:
    kind, shape = NORMS[name]
    x, factor = 3 * numbers(*shape, seed=5) + 1, numbers(*shape, seed=6)
    expected = normalised(kind, x.bfloat16() if how == "half" else x, factor)
    first, second = (found[f"norm {name} {how}"] for found in both)
    within = {"rtol": 2e-2, "atol": 2e-2} if how == "half" else {"rtol": 2e-5, "atol": 2e-5}
    for rows in ("y", "x"):
        assert first[rows].dtype == expected[rows].dtype
        torch.testing.assert_close(torch.cat([first[rows], second[rows]]), expected[rows], **within)
    for weights in ("weight", "bias"):
        torch.testing.assert_close(first[weights] + second[weights], expected[weights], **within)
    for running in ("running_mean", "running_var"):
        assert torch.equal(first[running], second[running])
        torch.testing.assert_close(first[running], expected[running], rtol=1e-5, atol=1e-5)


def test_batch_norm_keeps_double_precision(both: list[dict[str, Any]]) -> None:
    x, factor = numbers(8, 5, seed=5, dtype=torch.float64), numbers(8, 5, seed=6, dtype=torch.float64)
    expected = normalised(GlobalBatchNorm1d, x, factor)
    first, second = (found["norm double"] for found in both)
    assert not isinstance(first, str), first
    torch.testing.assert_close(torch.cat([first["x"], second["x"]]), expected["x"])
    torch.testing.assert_close(first["running_var"], expected["running_var"])


@pytest.mark.parametrize("name", NORMS)
def test_batch_norm_can_stay_within_its_process(both: list[dict[str, Any]], name: str) -> None:
    kind, shape = NORMS[name]
    x, factor = 3 * numbers(*shape, seed=5) + 1, numbers(*shape, seed=6)
    for found, rows, factors in zip(both, x.chunk(2), factor.chunk(2), strict=True):
        for key, expected in normalised(kind, rows, factors).items():
            torch.testing.assert_close(found[f"norm {name} alone"][key], expected)


def test_batch_norm_over_two_processes_gives_the_authors_two_replicas(both: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(both):
        y, grad_x, mean, variance = found["authors"]
        torch.testing.assert_close(y.permute(0, 2, 3, 1), torch.from_numpy(GOLDEN["y"][rank]), rtol=0, atol=2e-6)
        expected = torch.from_numpy(GOLDEN["grad_x"][rank])
        torch.testing.assert_close(grad_x.permute(0, 2, 3, 1), expected, rtol=0, atol=1e-7)
        torch.testing.assert_close(mean, torch.from_numpy(GOLDEN["moving_mean"]), rtol=0, atol=1e-6)
        torch.testing.assert_close(variance, torch.from_numpy(GOLDEN["moving_variance"]), rtol=0, atol=2e-6)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_training_step_of_two_processes_is_that_of_one_with_the_whole_batch(
    both: list[dict[str, Any]], recompute: bool
) -> None:
    model = network(recompute=False)
    loss = step(model, *views())
    (loss0, gradients0, buffers0), (loss1, gradients1, buffers1) = (found[f"step {recompute}"] for found in both)
    torch.testing.assert_close((loss0 + loss1) / 2, loss)
    for name, parameter in model.named_parameters():
        assert torch.equal(gradients0[name], gradients1[name]), name
        difference = (gradients0[name] - parameter.grad).norm() / parameter.grad.norm().clamp_min(1e-4)
        assert difference < 1e-3, name
    for name, buffer in model.named_buffers():
        if "running" in name:
            assert torch.equal(buffers0[name], buffers1[name]), name
            torch.testing.assert_close(buffers0[name], buffer, rtol=1e-4, atol=1e-5)


def test_sums_and_gatherings_are_over_both_processes(both: list[dict[str, Any]]) -> None:
    for rank, found in enumerate(both):
        total, mine = found["sum"]
        assert total.tolist() == [1, 20]
        assert mine.tolist() == [rank, 10]
        assert found["gathered"].tolist() == [[0, 10], [1, 10]]
        assert found["any"] == [False, True, True]


def test_one_process_needs_no_group() -> None:
    x = torch.ones(3)
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.sum_over_processes(x) is x
    assert distributed.any_process(True, x.device)
    assert not distributed.any_process(False, x.device)
    z0, z1 = numbers(6, 8, seed=3), numbers(6, 8, seed=4)
    for loss_of in (nt_xent, *COMPARED.values()):
        assert torch.equal(loss_of(z0, z1, gather=True), loss_of(z0, z1, gather=False))
