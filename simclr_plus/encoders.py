"""The encoder f: ResNets as SimCLR trains them, with torchvision's parameter names and no classifier (paper, 2.1, B.6).

Flavor "torchvision" gives the features of torchvision and timm for the same weights. Flavor "reference" is the authors'
network (tf2/resnet.py): max-pool padded after the image only where its side is even, a projection shortcut in group 1
of ResNet-18 and 34 too, batch norms with a biased running variance. Both start from the authors' initial weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from simclr_plus.architecture import BLOCKS, Architecture
from simclr_plus.global_batch_norm import GlobalBatchNorm2d


class ResNet(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim].

    depth: 18, 34, 50, 101, 152 or 200. width: multiplies every channel count, may be a fraction (1/16).
    stem: "imagenet" (7x7 convolution, max-pool) or "cifar" (3x3 convolution, for images up to 32 pixels).
    """

    def __init__(
        self, depth: int = 50, width: float = 1, *, stem: str = "imagenet", flavor: str = "torchvision"
    ) -> None:
        super().__init__()
        self.architecture = Architecture(depth=depth, width=width, stem=stem, flavor=flavor)
        self.feature_dim = self.architecture.feature_dim
        self.checkpoint_activations = False
        norm: Callable[[int], nn.Module] = GlobalBatchNorm2d if flavor == "reference" else nn.BatchNorm2d
        blocks, bottleneck = BLOCKS[depth]
        block = _Bottleneck if bottleneck else _BasicBlock
        channels = self.architecture.channels(64)
        if stem == "imagenet":
            self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        else:
            self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = norm(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pool(stem, flavor)
        for group, count in enumerate(blocks):
            inner = self.architecture.channels(64 * 2**group)
            layer = nn.Sequential()
            for i in range(count):
                stride = 2 if group > 0 and i == 0 else 1
                changes = stride > 1 or channels != inner * block.expansion
                project = i == 0 and (changes or flavor == "reference")
                layer.append(block(channels, inner, stride, project, norm))
                channels = inner * block.expansion
            setattr(self, f"layer{group + 1}", layer)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> pooled features [B, feature_dim]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            if self.checkpoint_activations and self.training:
                for block in layer:  # type: ignore[union-attr]
                    x = _recomputed(block, x)
            else:
                x = layer(x)  # type: ignore[operator]
        h: Tensor = x.mean(dim=(2, 3))
        return h

    def _initialise(self) -> None:
        """Truncated normal of variance 1/fan_in; the last batch norm of every residual branch starts at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                std = fan_in**-0.5 / 0.87962566103423978  # the standard deviation lost by cutting at 2 std
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            elif isinstance(module, _BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # type: ignore[arg-type]
            elif isinstance(module, _Bottleneck):
                nn.init.zeros_(module.bn3.weight)  # type: ignore[arg-type]


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, width_in: int, width: int, stride: int, project: bool, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = norm(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection_shortcut(width_in, width, stride, norm) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        out: Tensor = self.relu(x + shortcut)
        return out


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, width_in: int, width: int, stride: int, project: bool, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=False)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = norm(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = norm(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection_shortcut(width_in, 4 * width, stride, norm) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        out: Tensor = self.relu(x + shortcut)
        return out


def _projection_shortcut(width_in: int, width: int, stride: int, norm: Callable[[int], nn.Module]) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(width_in, width, 1, stride=stride, bias=False), norm(width))


def _stem_pool(stem: str, flavor: str) -> nn.Module:
    if stem == "cifar":
        return nn.Identity()
    return _SamePool() if flavor == "reference" else nn.MaxPool2d(3, stride=2, padding=1)


class _SamePool(nn.Module):
    """TensorFlow's SAME max-pool 3x3/2: an even side is padded after the image only, an odd one on both ends."""

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2] % 2, x.shape[-1] % 2
        return F.max_pool2d(F.pad(x, (width, 1, height, 1)), 3, stride=2)  # x >= 0, so that zeros never win


def _recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """The block without its inner activations, which the backward pass makes again, running statistics held."""

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _running_statistics_held(block)

    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out


@contextmanager
def _running_statistics_held(block: nn.Module) -> Iterator[None]:
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, torch.zeros(())
    try:
        yield
    finally:
        for norm, momentum, batches in kept:
            norm.momentum, norm.num_batches_tracked = momentum, batches
