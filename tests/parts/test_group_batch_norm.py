"""Batch norm in groups is PyTorch's on each group by itself; its state dict is that of a batch norm."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from simclr_plus.encoders import ResNet
from simclr_plus.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d, convert_global_batch_norm
from simclr_plus.parts.group_batch_norm import average_running_statistics, group_batch_norm


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.2), nn.ReLU(), nn.Flatten())
    layers += nn.Sequential(nn.Linear(36, 5), nn.BatchNorm1d(5))
    return layers.double()


def test_each_group_is_what_a_network_of_its_own_makes_of_it() -> None:
    """Outputs and gradients of 12 rows in groups of 4; running statistics are the average of the three."""
    x = torch.randn(12, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    factor = torch.linspace(-1, 1, 60, dtype=torch.float64).view(12, 5)
    ours = group_batch_norm(net(), 4)
    y = ours(x)
    (y * factor).sum().backward()
    singles = []
    for part, weights in zip(x.split(4), factor.split(4), strict=True):
        single = net()
        out = single(part)
        (out * weights).sum().backward()
        singles.append((single, out))
    assert torch.allclose(y, torch.cat([out for _, out in singles]), atol=1e-12)
    for name, parameter in ours.named_parameters():
        expected = sum(single.get_parameter(name).grad for single, _ in singles)
        assert torch.allclose(parameter.grad, expected, atol=1e-12), name
    for place, count in ((1, 36), (5, 4)):
        means = torch.stack([single[place].running_mean for single, _ in singles])
        variances = torch.stack([single[place].running_var for single, _ in singles])
        momentum = ours[place].momentum
        biased = (variances - (1 - momentum)) * (count - 1) / count + (1 - momentum)
        assert torch.allclose(ours[place].running_mean, means.mean(0), atol=1e-12)
        assert torch.allclose(ours[place].running_var, biased.mean(0), atol=1e-12)
        assert int(ours[place].num_batches_tracked) == 1


def test_one_group_of_all_rows_is_the_norm_of_before_and_so_is_evaluation() -> None:
    x = torch.randn(8, 3, 5, 5, dtype=torch.float64)
    plain, grouped, switched_off = (
        convert_global_batch_norm(net()),
        group_batch_norm(net(), 8),
        group_batch_norm(net(), 0),
    )
    y = plain(x)
    assert torch.equal(grouped(x), y) and torch.equal(switched_off(x), y)
    for name, value in plain.state_dict().items():
        assert torch.equal(grouped.state_dict()[name], value) and torch.equal(switched_off.state_dict()[name], value)
    assert torch.equal(grouped.eval()(x[:3]), plain.eval()(x[:3]))


def test_the_state_dict_is_that_of_a_batch_norm_and_conversion_leaves_the_layers_alone() -> None:
    grouped = group_batch_norm(net(), 4)
    net().load_state_dict(grouped.state_dict(), strict=True)
    kinds = [type(layer) for layer in grouped]
    assert [type(layer) for layer in convert_global_batch_norm(grouped)] == kinds
    encoder = ResNet(18, 1 / 16, stem="cifar")
    assert group_batch_norm(encoder, 2).state_dict().keys() == ResNet(18, 1 / 16, stem="cifar").state_dict().keys()
    assert encoder(torch.rand(4, 3, 8, 8)).shape == (4, 32)


@pytest.mark.parametrize("rows", [6, 3, 0])
def test_rows_that_are_no_whole_groups_are_refused(rows: int) -> None:
    norm = group_batch_norm(GlobalBatchNorm1d(3), 4)
    with pytest.raises(ValueError, match=f"groups of 4 rows.*got {rows} rows"):
        norm(torch.ones(rows, 3))
    with pytest.raises(ValueError, match="takes"):
        norm(torch.ones(4, 3, 2, 2))  # its shape is still that of a norm of features
    with pytest.raises(ValueError, match="rows = -1"):
        group_batch_norm(norm, -1)


def test_half_precision_and_norms_without_running_statistics_work() -> None:
    norm = group_batch_norm(nn.BatchNorm2d(4), 2).to(memory_format=torch.channels_last)
    x = torch.randn(4, 4, 3, 3).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = norm(x.bfloat16())
    assert y.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32
    untracked = group_batch_norm(nn.BatchNorm2d(4, track_running_stats=False), 2)
    assert torch.allclose(untracked(x), norm(x), atol=1e-5)


def test_in_one_process_there_is_nothing_to_average() -> None:
    grouped = group_batch_norm(net(), 4)
    grouped(torch.randn(8, 3, 5, 5, dtype=torch.float64))
    before = {name: value.clone() for name, value in grouped.state_dict().items()}
    average_running_statistics(grouped)
    assert all(torch.equal(value, before[name]) for name, value in grouped.state_dict().items())


def test_a_norm_of_timm_that_activates_too_does_so_in_each_group() -> None:
    norm = group_batch_norm(timm.layers.BatchNormAct2d(4, act_layer=nn.SiLU), 2)
    x = torch.randn(4, 4, 3, 3)
    expected = torch.cat([nn.functional.silu(nn.BatchNorm2d(4)(part)) for part in x.split(2)])
    assert torch.allclose(norm(x), expected, atol=1e-6)
    running = norm.running_mean.clone()
    assert torch.allclose(running, 0.1 * x.mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(norm.eval()(x), nn.functional.silu(nn.functional.batch_norm(x, running, norm.running_var)))


class Doubled(GlobalBatchNorm2d):
    """Does more than a batch norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def test_a_norm_that_does_more_is_refused() -> None:
    with pytest.raises(ValueError, match="does more than a batch norm"):
        group_batch_norm(Doubled(4), 2)
