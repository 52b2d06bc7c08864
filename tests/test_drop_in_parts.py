"""Our parts where PyTorch's are expected: built without memory, averaged, traced, compiled, in other precisions.

PyTorch's and Lightly's own parts are the oracle. Three processes are started once: drop_in_processes.py.
"""

from __future__ import annotations

import copy
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import drop_in_processes
import pytest
import torch
from drop_in_processes import NORMS, ROWS, data, two_batches
from lightly.models.modules import SimCLRProjectionHead as LightlyHead
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from simclr_plus import (
    GlobalBatchNorm,
    GlobalBatchNorm1d,
    GlobalBatchNorm2d,
    NTXentLoss,
    ResNet,
    SimCLRProjectionHead,
    convert_global_batch_norm,
)
from simclr_plus.losses import nt_xent

SEEN = {"mean": (0.5, 0.4, 0.3), "std": (0.3, 0.2, 0.1)}
PARTS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "head": (lambda: SimCLRProjectionHead(16, 16, 8), (6, 16)),
    "norm": (lambda: GlobalBatchNorm2d(3, momentum=None), (4, 3, 5, 5)),
    "encoder": (lambda: ResNet(18, 1 / 8, stem="cifar", flavor="reference", **SEEN), (3, 3, 16, 16)),
    "SK encoder": (lambda: ResNet(50, 1 / 32, selective_kernels=True, se_ratio=0.25, **SEEN), (2, 3, 33, 33)),
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest) -> tuple[Callable[[], nn.Module], Tensor]:
    torch.manual_seed(0)
    build, shape = PARTS[request.param]
    return build, torch.rand(shape)


def used(module: nn.Module, x: Tensor) -> nn.Module:
    """With running statistics of its own."""
    module.train()(x)
    return module


def spoilt(module: nn.Module) -> nn.Module:
    """As memory's leftovers may be."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(float("nan") if tensor.is_floating_point() else 77)
    return module


@pytest.mark.parametrize("way", ["to_empty", "assign"])
def test_a_module_built_without_memory_gives_the_numbers_of_the_saved_one(
    part: tuple[Callable[[], nn.Module], Tensor], way: str
) -> None:
    build, x = part
    saved = used(build(), x).eval()
    with torch.device("meta"):
        module = build()
    if way == "to_empty":
        spoilt(module.to_empty(device="cpu"))
    module.load_state_dict(saved.state_dict(), assign=way == "assign")
    assert not {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} - {"cpu"}
    assert torch.equal(module.eval()(x), saved(x))


@pytest.mark.parametrize("way", ["deepcopy", "saved whole", "functional_call", "fx", "jit.trace"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", ["head", "norm", "encoder"])
def test_a_copy_or_trace_computes_the_same_and_changes_the_same_statistics(name: str, way: str, training: bool) -> None:
    torch.manual_seed(0)
    build, shape = PARTS[name]
    x = torch.rand(shape)
    module = used(build(), x).train(training)
    reference = copy.deepcopy(module)
    if way == "saved whole":
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    elif way == "fx":
        other = torch.fx.symbolic_trace(copy.deepcopy(module))
    elif way == "jit.trace":
        other = traced(copy.deepcopy(module), x)
    else:
        other = copy.deepcopy(module)
    if way == "functional_call":
        state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        y = torch.func.functional_call(spoilt(other), state, (x,))
    else:
        y, state = other(x), other.state_dict()
    assert torch.equal(y, reference(x))
    if way != "jit.trace":  # tracing is a pass of its own
        expected = reference.state_dict()
        assert state.keys() <= expected.keys()  # without counters of batches, where none is read
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


def traced(module: nn.Module, x: Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; shapes become constants
        return torch.jit.trace(module, x, check_trace=False)


def test_a_head_in_training_compiles_and_exports_as_one_graph() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 16)
    module = used(SimCLRProjectionHead(16, 16, 8), x)
    plain, compiled, exported = (copy.deepcopy(module) for _ in range(3))
    for model in (plain, torch.compile(compiled, backend="aot_eager", fullgraph=True)):
        model(x).square().sum().backward()
    torch.testing.assert_close(compiled.state_dict(), plain.state_dict())
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    torch.testing.assert_close(torch.export.export(exported, (x,)).module()(x), module(x))


def test_the_loss_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    z0, z1 = (torch.randn(6, 5, requires_grad=True) for _ in range(2))
    criterion = NTXentLoss(0.2)
    loss = criterion(z0, z1)
    compiled = torch.compile(criterion, backend="aot_eager", fullgraph=True)(z0, z1)
    torch.testing.assert_close(compiled, loss)
    torch.testing.assert_close(torch.autograd.grad(compiled, z0), torch.autograd.grad(loss, z0))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["head", "encoder"])
def test_torch_jit_script_is_refused_with_what_to_use_instead(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"torch\.compile"):
        torch.jit.script(PARTS[name][0]())


# precisions


@pytest.mark.parametrize("name", ["head", "encoder"])
@pytest.mark.parametrize(
    "dtype, within, autocast",
    [
        (torch.float64, 1e-5, False),
        (torch.float16, 1e-2, False),
        (torch.bfloat16, 5e-2, False),
        (torch.bfloat16, 5e-2, True),
        (torch.float32, 5e-2, True),
    ],
)
def test_modules_in_another_precision_compute_the_same_in_it(
    name: str, dtype: torch.dtype, within: float, autocast: bool
) -> None:
    torch.manual_seed(0)
    build, shape = PARTS[name]
    x = torch.rand(shape)
    expected = used(build(), x).eval()
    module = copy.deepcopy(expected).to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        y, right = module.eval()(x.to(dtype)), expected(x)
        assert torch.isfinite(module.train()(x.to(dtype))).all()
    assert float((y.double() - right.double()).abs().max()) < within * float(right.abs().max())
    assert {t.dtype for t in module.state_dict().values() if t.is_floating_point()} == {dtype}


# averages of weights


def batches() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(16, 4) * 3 + i for i in range(5)]


def test_update_bn_measures_plain_averages_and_puts_the_momentum_back() -> None:
    ours, theirs = GlobalBatchNorm1d(4), nn.BatchNorm1d(4)
    for norm in (ours, theirs):
        norm(torch.randn(8, 4))
        update_bn(batches(), nn.Sequential(norm))
        assert norm.momentum == 0.1
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var * 15 / 16)
    assert ours.num_batches_tracked == theirs.num_batches_tracked == 5


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("ema", [False, True])
def test_averaged_models_hold_the_averages_of_a_head_as_of_lightlys(use_buffers: bool, ema: bool) -> None:
    def averaged(head: nn.Module) -> dict[str, Tensor]:
        named = {"multi_avg_fn": get_ema_multi_avg_fn(0.9)} if ema else {}
        average = AveragedModel(head, use_buffers=use_buffers, **named)
        for i, batch in enumerate(batches()):
            head(batch)
            with torch.no_grad():
                head.layers[0].weight.copy_(torch.full((4, 4), float(i)))
            average.update_parameters(head)
        update_bn([torch.randn(8, 4, generator=torch.Generator().manual_seed(1))], average)
        return {name: tensor for name, tensor in average.state_dict().items() if "running_var" not in name}

    torch.manual_seed(0)
    theirs = LightlyHead(4, 4, 2)
    ours = SimCLRProjectionHead(4, 4, 2)
    assert ours.load_state_dict(theirs.state_dict(), strict=False).unexpected_keys == ["layers.4.bias"]
    ours, theirs = averaged(ours), averaged(theirs)
    assert ours.keys() == theirs.keys() - {"module.layers.4.bias"}
    torch.testing.assert_close(ours, {name: theirs[name] for name in ours})


def test_pytorchs_synchronised_norms_take_the_place_of_a_heads_own() -> None:
    """What Lightning's sync_batchnorm=True does to a module."""
    torch.manual_seed(0)
    h = torch.randn(6, 16)
    head = used(SimCLRProjectionHead(16, 16, 8), torch.randn(6, 16)).eval()
    before, parameters = head(h), list(head.parameters())
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(head).eval()
    torch.testing.assert_close(synchronised(h), before)
    assert all(a is b for a, b in zip(synchronised.parameters(), parameters, strict=True))
    back = convert_global_batch_norm(synchronised)
    assert isinstance(back.layers[1], GlobalBatchNorm)
    torch.testing.assert_close(back(h), before)


def test_torch_func_differentiates_a_head_and_the_loss() -> None:
    torch.manual_seed(0)
    head = SimCLRProjectionHead(5, 5, 4).double().eval()
    h = torch.randn(8, 5, dtype=torch.float64)
    weights = dict(head.named_parameters())

    def loss_of(weights: dict[str, Tensor]) -> Tensor:
        return NTXentLoss(0.2)(*torch.func.functional_call(head, weights, (h,)).chunk(2))

    found = torch.func.grad(loss_of)(weights)
    loss_of(weights).backward()
    torch.testing.assert_close(found, {name: weight.grad for name, weight in weights.items()})
    batched = torch.vmap(lambda rows: head(rows))(h.view(2, 4, 5))
    torch.testing.assert_close(batched.flatten(0, 1), head(h))


# images that an encoder takes


@pytest.mark.parametrize("seen", [{}, SEEN])
@pytest.mark.parametrize(
    "images", [torch.zeros(2, 1, 16, 16), torch.zeros(3, 16, 16), torch.zeros(2, 3, 0, 16), torch.zeros(2, 16, 16, 3)]
)
def test_images_of_another_shape_are_refused(images: Tensor, seen: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got") as error:
        ResNet(18, 1 / 16, **seen).eval()(images)
    assert str(tuple(images.shape)) in str(error.value)


@pytest.mark.parametrize("seen", [{}, SEEN])
def test_bytes_are_refused(seen: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="divide bytes by 255"):
        ResNet(18, 1 / 16, **seen).eval()(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def test_an_encoder_subtracts_and_divides_by_what_it_was_given() -> None:
    torch.manual_seed(0)
    encoder = ResNet(18, 1 / 16, stem="cifar", **SEEN).eval()
    plain = ResNet(18, 1 / 16, stem="cifar").eval()
    plain.load_state_dict(encoder.state_dict(), strict=True)
    images = torch.rand(2, 3, 8, 8)
    mean, std = (torch.tensor(SEEN[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(encoder(images), plain((images - mean) / std), rtol=0, atol=0)


# several processes


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each process found, of two and of three."""
    folder = tmp_path_factory.mktemp("processes")
    command = [sys.executable, drop_in_processes.__file__, str(folder)]
    running = [subprocess.Popen([*command, str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(3)]
    for process in running:
        errors = process.communicate(timeout=400)[1]
        assert process.returncode == 0, errors
    return {count: [torch.load(folder / f"{rank}of{count}.pt") for rank in range(count)] for count in ROWS}


def of_rows() -> Iterator[tuple[int, list[int], str]]:
    for count, several in ROWS.items():
        for sizes in several:
            for path in ("", " kernels", " kernels last"):
                yield count, sizes, path


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("count, sizes, path", list(of_rows()))
def test_batch_norm_is_that_of_all_rows_however_they_lie(
    processes: dict[int, list[dict[str, Any]]], name: str, count: int, sizes: list[int], path: str
) -> None:
    """A process without rows among them too; `kernels` is the path of GPUs."""
    settings, shape = NORMS[name]
    expected = two_batches(settings, data(shape, 1), data(shape, 2))
    found = [of_one[f"{name} {sizes}{path}"] for of_one in processes[count]]
    for key, value in expected.items():
        values = [of_one[key] for of_one in found]
        if key in ("y", "x"):
            torch.testing.assert_close(torch.cat(values), value)
        elif key.startswith("of "):  # gradients of weights are summed by DistributedDataParallel
            torch.testing.assert_close(sum(values[1:], values[0]), value)
        else:
            for own in values:
                torch.testing.assert_close(own, value)


@pytest.mark.parametrize("count", ROWS)
def test_without_any_rows_nothing_changes(processes: dict[int, list[dict[str, Any]]], count: int) -> None:
    for found in processes[count]:
        for momentum in (0.1, None):
            state = found[f"nobody {momentum}"]
            assert not state["gradient"].any() and not state["running_mean"].any() and not state["num_batches_tracked"]
            assert state["running_var"].eq(1).all()


@pytest.mark.parametrize("count", ROWS)
def test_a_norm_in_bfloat16_runs_over_processes(processes: dict[int, list[dict[str, Any]]], count: int) -> None:
    mean = 0.1 * torch.cat([data((3, 4), rank) for rank in range(count)]).mean(0)
    for found in processes[count]:
        running, gradient = found["bfloat16"]
        assert running.dtype == gradient.dtype == torch.bfloat16
        torch.testing.assert_close(running.double(), mean, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("count", ROWS)
@pytest.mark.parametrize("what", ["norm", "nt_xent", "nt_logistic"])
def test_second_derivatives_over_processes_are_refused(
    processes: dict[int, list[dict[str, Any]]], count: int, what: str
) -> None:
    for found in processes[count]:
        assert found[f"twice {what}"].startswith("RuntimeError") and "create_graph" in found[f"twice {what}"]


@pytest.mark.parametrize("count", ROWS)
@pytest.mark.parametrize("name", ["nt_xent", "nt_logistic"])
def test_a_process_without_rows_is_told_as_the_others_are(
    processes: dict[int, list[dict[str, Any]]], count: int, name: str
) -> None:
    for found in processes[count]:
        assert found[f"uneven {name}"].startswith("SimclrPlusError")
        assert str([0, *[2] * (count - 1)]) in found[f"uneven {name}"]
        assert found[f"nobody {name}"] != "no error"


@pytest.mark.parametrize("count", ROWS)
def test_loss_gradients_and_the_temperatures_gradient_are_those_of_one_process(
    processes: dict[int, list[dict[str, Any]]], count: int
) -> None:
    z0, z1 = (data((6, 5), seed).requires_grad_() for seed in (4, 5))
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = nt_xent(z0, z1, temperature=temperature)
    loss.backward()
    losses, *gradients, learned = zip(*(found["loss"] for found in processes[count]), strict=True)
    torch.testing.assert_close(torch.stack(losses).mean(), loss.detach())
    torch.testing.assert_close(torch.stack(learned).mean(), temperature.grad)
    for of_processes, expected in zip(gradients, (z0.grad, z1.grad), strict=True):
        torch.testing.assert_close(torch.cat(of_processes) / count, expected)
