"""Global batch norm in one process: the authors' numbers, numpy's formula, PyTorch's layers and their conversion.

Over two processes it is tested in test_distributed.py.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus.global_batch_norm import (
    GlobalBatchNorm,
    GlobalBatchNorm1d,
    GlobalBatchNorm2d,
    convert_global_batch_norm,
)

GOLDEN = np.load(GOLDEN_FOLDER / "syncbn.npz")


def channels_first(x: np.ndarray) -> Tensor:
    """[replicas, rows, H, W, C] -> [all rows, C, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(x.reshape(-1, *x.shape[2:]).transpose(0, 3, 1, 2)))


def test_the_concatenated_batch_gives_the_authors_two_replicas() -> None:
    norm = GlobalBatchNorm2d(5).train()
    x = channels_first(GOLDEN["x"]).requires_grad_()
    y = torch.relu(norm(x))
    (y.square().sum() / 100).backward()
    torch.testing.assert_close(y.detach(), channels_first(GOLDEN["y"]), rtol=0, atol=2e-6)
    torch.testing.assert_close(x.grad, channels_first(GOLDEN["grad_x"]), rtol=0, atol=1e-7)
    torch.testing.assert_close(norm.running_mean, torch.from_numpy(GOLDEN["moving_mean"]), rtol=0, atol=1e-6)
    torch.testing.assert_close(norm.running_var, torch.from_numpy(GOLDEN["moving_variance"]), rtol=0, atol=2e-6)


def batch_norm_in_numpy(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, grad_y: np.ndarray
) -> dict[str, np.ndarray]:
    """Forward and backward pass of channel axis 1, by the formulas of Ioffe and Szegedy (2015)."""
    rows = tuple(d for d in range(x.ndim) if d != 1)
    count = x.size // x.shape[1]

    def wide(v: np.ndarray) -> np.ndarray:
        return v.reshape(1, -1, *[1] * (x.ndim - 2))

    mean = x.sum(rows) / count
    variance = ((x - wide(mean)) ** 2).sum(rows) / count
    std = np.sqrt(variance + 1e-5)
    hat = (x - wide(mean)) / wide(std)
    d_hat = grad_y * wide(weight)
    d_variance = (d_hat * (x - wide(mean))).sum(rows) * -0.5 * std**-3
    d_mean = -(d_hat.sum(rows) / std)
    return {
        "y": hat * wide(weight) + wide(bias),
        "mean": mean,
        "variance": variance,
        "x": d_hat / wide(std) + wide(d_variance) * 2 * (x - wide(mean)) / count + wide(d_mean) / count,
        "weight": (grad_y * hat).sum(rows),
        "bias": grad_y.sum(rows),
    }


@given(
    shape=st.one_of(
        st.tuples(st.integers(3, 12), st.integers(1, 4)),
        st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(2, 5)),
        st.tuples(st.integers(2, 4), st.integers(1, 4), st.integers(1, 4), st.integers(2, 4)),
    ),
    center=st.booleans(),
    momentum=st.sampled_from([0.1, 0.3]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_forward_backward_and_running_statistics_follow_the_formula(
    shape: tuple[int, ...], center: bool, momentum: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    kind = GlobalBatchNorm2d if len(shape) == 4 else GlobalBatchNorm1d
    norm = kind(shape[1], momentum=momentum, center=center).double().train()
    values, grad_y = 3 * random.standard_normal(shape) + 1, random.standard_normal(shape)
    weight = random.uniform(0.5, 2, shape[1])
    bias = random.standard_normal(shape[1]) if center else np.zeros(shape[1])
    with torch.no_grad():
        norm.weight.copy_(torch.from_numpy(weight))
        if center:
            norm.bias.copy_(torch.from_numpy(bias))
    expected = batch_norm_in_numpy(values, weight, bias, grad_y)
    x = torch.from_numpy(values.copy()).requires_grad_()
    y = norm(x)
    y.backward(torch.from_numpy(grad_y))
    np.testing.assert_allclose(y.detach().numpy(), expected["y"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(x.grad.numpy(), expected["x"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(norm.weight.grad.numpy(), expected["weight"], rtol=1e-8, atol=1e-8)
    if center:
        np.testing.assert_allclose(norm.bias.grad.numpy(), expected["bias"], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(norm.running_mean.numpy(), momentum * expected["mean"], rtol=1e-8, atol=1e-8)
    running = 1 - momentum + momentum * expected["variance"]
    np.testing.assert_allclose(norm.running_var.numpy(), running, rtol=1e-8, atol=1e-8)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("shape", [(7, 3), (4, 3, 5, 6)])
def test_it_is_pytorchs_layer_but_for_the_biased_running_variance(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theirs = (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(3)
    ours = (GlobalBatchNorm2d if len(shape) == 4 else GlobalBatchNorm1d)(3)
    nn.init.uniform_(theirs.weight)
    nn.init.uniform_(theirs.bias)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for _ in range(3):
        x = 2 * torch.randn(shape) + 1
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    rows = x.numel() // 3
    # of the running variance 0.9^3 is still the start, which nothing biases
    start = 0.9**3
    torch.testing.assert_close(ours.running_var - start, (theirs.running_var - start) * (rows - 1) / rows)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("training", [True, False])
def test_a_variance_as_small_as_epsilon_is_divided_by_both(training: bool) -> None:
    """epsilon is 1e-5: of a channel whose variance is 1e-5 too, a half is left, to a thousandth."""
    norm = GlobalBatchNorm1d(1).double().train(training)
    x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * 1e-5**0.5
    norm.running_var.fill_(1e-5)
    assert norm(x)[1].item() == pytest.approx(0.5**0.5, rel=1e-3)


def test_evaluation_reads_the_running_statistics_and_leaves_them_alone() -> None:
    norm = GlobalBatchNorm1d(2).eval()
    norm.running_mean.copy_(torch.tensor([1.0, -2.0]))
    norm.running_var.copy_(torch.tensor([4.0, 0.25]))
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    y = norm(torch.tensor([[3.0, -1.0]]))
    torch.testing.assert_close(y, torch.tensor([[1.0, 2.0]]), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_without_centre_there_is_no_offset_to_train_or_save() -> None:
    norm = GlobalBatchNorm1d(4, center=False)
    assert [name for name, _ in norm.named_parameters()] == ["weight"]
    assert set(norm.state_dict()) == {"weight", "running_mean", "running_var", "num_batches_tracked"}
    x = torch.randn(6, 4)
    torch.testing.assert_close(norm(x).mean(dim=0), torch.zeros(4), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "norm, shape", [(GlobalBatchNorm1d(3), (4, 3, 2, 2)), (GlobalBatchNorm2d(3), (4, 3)), (GlobalBatchNorm1d(3), (3,))]
)
def test_a_wrong_shape_is_refused_by_value(norm: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="takes") as error:
        norm(torch.ones(shape))
    assert str(shape) in str(error.value)


# conversion


def small_net() -> nn.Sequential:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=1e-3, momentum=0.2), nn.ReLU())
    net = nn.Sequential(inner, nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5))
    for _ in range(2):
        net(torch.randn(6, 3, 5, 5))
    return net


def test_conversion_keeps_weights_statistics_settings_and_the_parameters_themselves() -> None:
    net = small_net()
    parameters = list(net.parameters())
    state = {key: value.clone() for key, value in net.state_dict().items()}
    x = torch.randn(6, 3, 5, 5)
    expected = net.eval()(x)
    converted = convert_global_batch_norm(net)
    assert converted is net
    assert type(net[0][1]) is GlobalBatchNorm2d
    assert type(net[3]) is GlobalBatchNorm1d
    assert (net[0][1].eps, net[0][1].momentum) == (1e-3, 0.2)
    assert all(new is old for new, old in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert torch.equal(net(x), expected)


def test_conversion_changes_no_training_output_in_one_process() -> None:
    x = torch.randn(6, 3, 5, 5)
    torch.testing.assert_close(convert_global_batch_norm(small_net()).train()(x), small_net().train()(x))


def test_conversion_keeps_who_trains_and_who_evaluates() -> None:
    net = small_net().train()
    net[0].eval()
    convert_global_batch_norm(net)
    assert (net[0][1].training, net[3].training) == (False, True)


def test_conversion_takes_a_bare_layer_and_leaves_one_already_global() -> None:
    bare = nn.BatchNorm1d(3)
    assert type(convert_global_batch_norm(bare)) is GlobalBatchNorm1d
    already = GlobalBatchNorm1d(3, center=False)
    assert convert_global_batch_norm(nn.Sequential(already))[0] is already
    assert type(already) is GlobalBatchNorm1d


@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5), (4, 3, 2, 5), (4, 3, 2, 2, 5)])
def test_a_synchronised_layer_takes_after_conversion_what_it_took_before(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    expected = nn.SyncBatchNorm(3)(x)
    torch.testing.assert_close(convert_global_batch_norm(nn.Sequential(nn.SyncBatchNorm(3)))(x), expected)


def test_volumes_become_global_as_with_pytorchs_conversion() -> None:
    x = torch.randn(2, 3, 2, 4, 5)
    layer = convert_global_batch_norm(nn.BatchNorm3d(3))
    torch.testing.assert_close(layer(x), nn.BatchNorm3d(3)(x))
    assert isinstance(layer, GlobalBatchNorm)
    with pytest.raises(ValueError, match=re.escape("takes [rows, C, D, H, W]")):
        layer(x[..., 0])


def test_conversion_keeps_frozen_parameters_frozen_and_doubles_double() -> None:
    net = small_net().double()
    net[0][1].requires_grad_(False)
    convert_global_batch_norm(net)
    assert not net[0][1].weight.requires_grad
    assert net[3].weight.requires_grad
    assert {value.dtype for value in net.state_dict().values() if value.is_floating_point()} == {torch.float64}


@pytest.mark.parametrize(
    "settings",
    [
        {"affine": False},
        {"track_running_stats": False},
        {"momentum": None},
        {"affine": False, "track_running_stats": False, "momentum": None, "eps": 1e-2},
    ],
)
@pytest.mark.parametrize("way", ["converted", "built"])
def test_every_setting_of_pytorchs_layer_means_the_same(settings: dict[str, Any], way: str) -> None:
    """In three training batches, in evaluation, in its state dict and in what is printed."""
    torch.manual_seed(0)
    theirs = nn.BatchNorm2d(3, **settings)
    ours = convert_global_batch_norm(nn.BatchNorm2d(3, **settings)) if way == "converted" else None
    ours = ours or GlobalBatchNorm2d(3, **settings)
    for _ in range(3):
        x = 2 * torch.randn(5, 3, 4, 4) + 1
        torch.testing.assert_close(ours.train()(x), theirs.train()(x))
    if theirs.running_mean is not None:
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        kept = 0.0 if theirs.momentum is None else 0.9**3  # what is left of the first variance, 1
        biased = (theirs.running_var - kept) * 79 / 80 + kept
        torch.testing.assert_close(ours.running_var, biased)
        assert ours.num_batches_tracked == 3
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))
    assert repr(ours) == repr(theirs).replace("BatchNorm2d", "GlobalBatchNorm2d")


class Frozen(nn.BatchNorm2d):
    """Never trains: what this file says of itself and PyTorch's layer does not."""

    def train(self, mode: bool = True) -> Frozen:
        del mode
        return super().train(False)


class Renamed(nn.BatchNorm2d):
    """Other defaults alone."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, eps=1e-3, momentum=0.3)


def with_another_forward() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    layer.forward = lambda x: x  # type: ignore[method-assign]
    return layer


def of_a_group_of_its_own() -> nn.Module:
    layer = nn.SyncBatchNorm(4)
    layer.process_group = object()
    return layer


@pytest.mark.parametrize(
    "layer, name",
    [
        (Frozen(4), "Frozen"),
        (nn.LazyBatchNorm2d(), "LazyBatchNorm2d"),
        (nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4)), "ParametrizedBatchNorm2d"),
        (timm.layers.split_batchnorm.SplitBatchNorm2d(4), "SplitBatchNorm2d"),
        (with_another_forward(), "BatchNorm2d"),
        (of_a_group_of_its_own(), "SyncBatchNorm"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_layer_that_does_more_is_refused_by_name_and_place_and_nothing_is_changed(
    layer: nn.Module, name: str
) -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(layer))
    with pytest.raises(ValueError, match=re.escape(f"{name} (1.0) cannot become global")):
        convert_global_batch_norm(net)
    assert type(net[0]) is nn.BatchNorm2d and type(net[1][0]) is type(layer)


def test_what_is_no_batch_norm_stays_as_it_is() -> None:
    kinds = [nn.InstanceNorm2d(4, affine=True), nn.GroupNorm(2, 4), torchvision.ops.FrozenBatchNorm2d(4)]
    net = nn.Sequential(*kinds, Renamed(4))
    convert_global_batch_norm(net)
    assert list(net)[:3] == kinds
    assert type(net[3]) is GlobalBatchNorm2d and (net[3].eps, net[3].momentum) == (1e-3, 0.3)


def test_a_layer_in_two_places_stays_one_layer_in_two_places() -> None:
    shared = nn.BatchNorm1d(4)
    net = convert_global_batch_norm(nn.Sequential(shared, nn.ReLU(), shared, nn.ModuleDict({"again": shared})))
    assert type(net[0]) is GlobalBatchNorm1d
    assert net[0] is net[2] is net[3]["again"]


def test_hooks_and_marks_of_a_layer_live_on_after_conversion() -> None:
    seen: list[str] = []
    layer = nn.BatchNorm1d(3)
    layer.register_forward_hook(lambda *_: seen.append("forward"))
    layer.register_full_backward_hook(lambda *_: seen.append("backward"))
    layer.qconfig = "mine"
    converted = convert_global_batch_norm(nn.Sequential(layer))
    converted(torch.randn(4, 3, requires_grad=True)).sum().backward()
    assert seen == ["forward", "backward"] and converted[0].qconfig == "mine"


@pytest.mark.parametrize("name", ["regnety_002", "densenet121", "mobilenetv3_small_050", "resnet18"])
def test_a_converted_network_of_timm_computes_what_it_did(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    layers = sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    images, keys = torch.rand(2, 3, 32, 32), list(model.state_dict())
    with torch.no_grad():
        before = model.eval()(images)
        after = convert_global_batch_norm(model)(images)
    assert torch.equal(after, before)
    assert sum(isinstance(module, GlobalBatchNorm) for module in model.modules()) == layers > 0
    assert list(model.state_dict()) == keys


def test_timms_synchronised_norms_keep_their_activations() -> None:
    layer = timm.layers.convert_sync_batchnorm(timm.layers.BatchNormAct2d(3, act_layer=nn.SiLU))
    x = torch.randn(4, 3, 5, 5)
    expected = F.silu(nn.BatchNorm2d(3)(x))
    torch.testing.assert_close(convert_global_batch_norm(nn.Sequential(layer))(x), expected)


# one process, no rows or one


def test_an_empty_batch_changes_no_statistics_and_has_gradients_of_zero() -> None:
    for momentum in (0.1, None):
        norm = GlobalBatchNorm2d(4, momentum=momentum)
        norm(torch.randn(3, 4, 2, 2))
        before = {key: value.clone() for key, value in norm.state_dict().items()}
        x = torch.empty(0, 4, 2, 2, requires_grad=True)
        y = norm(x)
        y.sum().backward()
        assert y.shape == x.grad.shape == (0, 4, 2, 2)
        assert not norm.weight.grad.any() and not norm.bias.grad.any()
        assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())


def test_one_value_a_channel_is_refused_in_pytorchs_words() -> None:
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        GlobalBatchNorm1d(4)(torch.randn(1, 4))
    assert GlobalBatchNorm1d(4).eval()(torch.randn(1, 4)).shape == (1, 4)


def test_second_derivatives_in_one_process_are_right() -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((5, 3), (3,), (3,)))
    norm = GlobalBatchNorm1d(3).double()

    def of(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradgradcheck(of, (x, weight, bias))
