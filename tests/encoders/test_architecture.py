"""The closed forms of an architecture count what its modules hold and do; what there is not is refused."""

import re
from itertools import pairwise

import pytest
import torch
from parameters import pairs_quick
from resnet_layers import NORMS, SE, SK, blocks_of, layers_in_creation_order
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simclr_plus.encoders import ResNet
from simclr_plus.encoders.architecture import BLOCKS, Architecture
from simclr_plus.global_batch_norm import GlobalBatchNorm2d

FLAVORS = ["torchvision", "reference"]


@pytest.mark.parametrize(
    ("depth", "width", "stem", "flavor", "extras"),
    pairs_quick(list(BLOCKS), [1 / 16, 1, 3], ["imagenet", "cifar"], FLAVORS, [{}, SK, SE, SK | SE]),
)
def test_the_closed_form_counts_the_parameters(
    depth: int, width: float, stem: str, flavor: str, extras: dict[str, object]
) -> None:
    with torch.device("meta"):  # shapes without numbers
        encoder = ResNet(depth, width, stem=stem, flavor=flavor, **extras)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert encoder.architecture.parameter_count() == count
    assert encoder.architecture.feature_dim == encoder.feature_dim == int((2048 if depth >= 50 else 512) * width)


@pytest.mark.parametrize("width, count", [(1, 23_508_032), (4, 375_378_176)])
def test_resnet_50_has_the_papers_parameters(width: int, count: int) -> None:
    for flavor in ("torchvision", "reference"):
        assert Architecture(50, width, flavor=flavor).parameter_count() == count
    assert round(count / 1e6) == {1: 24, 4: 375}[width]  # paper, table 6


@pytest.mark.parametrize(
    "depth, width, millions, selective_millions",
    [
        (50, 1, 24, 35),
        (50, 2, 94, 140),
        (101, 1, 43, 65),
        (101, 2, 170, 257),
        (152, 1, 58, 89),
        (152, 2, 233, 354),
        (152, 3, None, 795),
    ],
)
def test_the_networks_of_v2_have_the_sizes_of_its_table(
    depth: int, width: int, millions: int | None, selective_millions: int
) -> None:
    """The table of the authors' README counts running statistics too: without them 152 (2x) is 232, with SK 353."""
    for selective, expected in ((False, millions), (True, selective_millions)):
        architecture = Architecture(depth, width, selective_kernels=selective)
        running = sum(2 * c.width_out for c in architecture.convolutions(32) if c.norm)
        assert expected in (round((architecture.parameter_count() + running) / 1e6), None)


@pytest.mark.parametrize(
    ("extras", "flavor", "stem", "depth_and_side"),
    pairs_quick([{}, SK, SE], FLAVORS, ["imagenet", "cifar"], [(18, 32), (18, 33), (50, 50)]),
)
def test_the_closed_forms_follow_the_maps_of_a_forward_pass(
    extras: dict[str, object], flavor: str, stem: str, depth_and_side: tuple[int, int]
) -> None:
    depth, side = depth_and_side
    encoder = ResNet(depth, 1 / 16, stem=stem, flavor=flavor, **extras)
    convolutions, block_inputs, made = [], [], [0]

    def enter(_block: nn.Module, inputs: tuple[Tensor]) -> None:
        block_inputs.append(inputs[0])
        made.append(0)

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        made[-1] += output.numel()
        if isinstance(module, nn.Conv2d):
            (width_in, side_in), (width_out, side_out) = inputs[0].shape[1:3], output.shape[1:3]
            if id(module) in shortcuts:
                side_in = block_inputs[-1].shape[-1]  # before the pool of ResNet-D
            place = (width_in, width_out, side_in, side_out, len(made) - 1)
            convolutions.append((module.kernel_size[0], *place, id(module) in normed, module.bias is not None))

    layers = [layer for layer in layers_in_creation_order(encoder) if isinstance(layer, (nn.Conv2d, *NORMS))]
    normed = {id(layer) for layer, after in pairwise(layers) if isinstance(after, NORMS)}
    shortcuts = set()
    for block in blocks_of(encoder):
        shortcuts |= {id(module) for module in block.downsample or []}
        block.register_forward_pre_hook(enter)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | GlobalBatchNorm2d):
            module.register_forward_hook(note)
    images = torch.rand(1, 3, side, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = list(encoder.eval().maps(images).values())
    shapes = [(x.shape[1], x.shape[2]) for x in maps]
    assert [encoder.architecture.map_shape(stage, side) for stage in (1, 2, 3, 4)] == shapes
    assert 2 * encoder.architecture.multiply_add_count(side) == sum(
        flops for kind, flops in counter.get_flop_counts()["Global"].items() if "conv" in f"{kind}"
    )
    assert [tuple(convolution) for convolution in encoder.architecture.convolutions(side)] == convolutions
    assert encoder.architecture.activation_count(side) == sum(made)
    left = images.numel() + made[0] + sum(x.numel() for x in block_inputs) + max(made[1:])
    assert encoder.architecture.activation_count(side, recompute_blocks=True) == left


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"depth": 42}, "depth = 42"),
        ({"stem": "patch"}, "stem = 'patch'"),
        ({"flavor": "vanilla"}, "flavor = 'vanilla'"),
        ({"width": 1 / 128}, "width = 0.0078125"),
        ({"width": 1 / 64, "selective_kernels": True}, "width = 0.015625"),
        ({"se_ratio": 2.0}, "se_ratio = 2.0"),
    ],
)
def test_an_unknown_architecture_is_refused_by_key_and_value(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        ResNet(**wrong)
