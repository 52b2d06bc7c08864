"""The parts of an encoder by what they are: groups, blocks, norms, layers in the order in which they were made."""

from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from simclr_plus.encoders import ResNet
from simclr_plus.global_batch_norm import GlobalBatchNorm2d

SK, SE = {"selective_kernels": True}, {"se_ratio": 0.25}
NORMS = (nn.BatchNorm2d, GlobalBatchNorm2d)


def groups_of(encoder: ResNet) -> list[nn.Sequential]:
    return [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]


def blocks_of(encoder: ResNet) -> list[nn.Module]:
    return [block for group in groups_of(encoder) for block in group]


def last_norm(block: nn.Module) -> nn.Module:
    return block.bn3 if hasattr(block, "bn3") else block.bn2


def error(got: Tensor, expected: np.ndarray) -> float:
    """The largest difference against the largest number."""
    assert got.shape == expected.shape
    return float(np.abs(got.detach().numpy() - expected).max() / np.abs(expected).max())


def layers_in_creation_order(encoder: ResNet) -> Iterator[nn.Module]:
    """Convolutions and batch norms as the authors' code makes them: in a block, the shortcut first."""
    yield from encoder.conv1.modules()
    yield encoder.bn1
    for block in blocks_of(encoder):
        if block.downsample is not None:
            yield from block.downsample
        for i in (1, 2, 3):
            if hasattr(block, f"conv{i}"):
                yield from (getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
            if i == 2 and hasattr(block, "sk"):
                yield from block.sk.children()
        yield from block.se.children()
