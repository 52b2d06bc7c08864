"""The encoder f: ResNets as SimCLR trains them, with torchvision's parameter names and no classifier (paper, 2.1, B.6).

Flavor "torchvision" gives the features of torchvision and timm for the same weights. Flavor "reference" is the authors'
network (tf2/resnet.py): max-pool padded after the image only where its side is even, a projection shortcut in group 1
of ResNet-18 and 34 too, batch norms with a biased running variance. Both start from the authors' initial weights.

Selective kernels (SimCLR v2) come with the stem and the pooled shortcuts of ResNet-D. torchvision has none of these:
stem, shortcut and squeeze-excitation bear timm's names (`conv1.0`, `downsample.1`, `se.fc1`), the SK unit's are `sk.*`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simclr_plus.encoders.architecture import BLOCKS, Architecture
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.input_law import InputLaw
from simclr_plus.global_batch_norm import GlobalBatchNorm2d, running_statistics_held

Norm = Callable[[int], nn.Module]


class ResNet(Encoder):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim].

    depth: 18, 34, 50, 101, 152 or 200. width: multiplies every channel count, may be a fraction (1/16).
    stem: "imagenet" (7x7 convolution, max-pool) or "cifar" (3x3 convolution, for images up to 32 pixels).
    selective_kernels: SK units with ratio 0.0625 in bottlenecks, and ResNet-D. se_ratio: squeeze-excitation; 0: none.
    mean, std: of the images that the weights were trained on; the network subtracts and divides by itself.
    input: "rgb", "standardized" (each image to mean 0 and deviation 1) or "lightness" (L of CIELAB, three times).
    norm: "batch", "layer" (over channels and places of an image) or "none". in_channels: of the images.
    """

    architecture: Architecture

    def __init__(
        self,
        depth: int = 50,
        width: float = 1,
        *,
        stem: str = "imagenet",
        flavor: str = "torchvision",
        selective_kernels: bool = False,
        se_ratio: float = 0.0,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        input: str = "rgb",
        norm: str = "batch",
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        self.architecture = Architecture(
            depth, width, stem, flavor, selective_kernels, se_ratio, tuple(mean), tuple(std), input, norm, in_channels
        )
        self.feature_dim = self.architecture.feature_dim
        self.checkpoint_activations = False
        norm_of = _norm_of(self.architecture)
        blocks, bottleneck = BLOCKS[depth]
        block = _Bottleneck if bottleneck else _BasicBlock
        channels = self.architecture.channels(64)
        self.normalize = InputLaw(self.architecture) if self.architecture.normalizes else nn.Identity()
        self.conv1 = _stem_convolution(self.architecture, norm_of)
        self.bn1 = norm_of(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = _stem_pool(stem, flavor)
        for group, count in enumerate(blocks):
            inner = self.architecture.channels(64 * 2**group)
            layer = nn.Sequential()
            for i in range(count):
                stride = 2 if group > 0 and i == 0 else 1
                changes = stride > 1 or channels != inner * block.expansion
                project = i == 0 and (changes or flavor == "reference")
                layer.append(block(channels, inner, stride, project, norm_of, self.architecture))
                channels = inner * block.expansion
            setattr(self, f"layer{group + 1}", layer)
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> pooled features [B, feature_dim]."""
        x = self._stem(images)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = self._through(layer, x)  # type: ignore[arg-type]
        h: Tensor = x.mean(dim=(2, 3))
        return h

    def features_and_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """h, the mean of the last map, and what comes out of each of the four groups: "layer1" to "layer4"."""
        x, maps = self._stem(images), {}
        for name in ("layer1", "layer2", "layer3", "layer4"):
            x = maps[name] = self._through(getattr(self, name), x)
        return x.mean(dim=(2, 3)), maps

    @property
    def exempt(self) -> frozenset[str]:
        """Without norms: the scales of branches."""
        return frozenset(f"{name}.weight" for name, module in self.named_modules() if isinstance(module, _BranchScale))

    def _stem(self, images: Tensor) -> Tensor:
        _check_images(images, self.architecture.in_channels)
        x: Tensor = self.bn1(self.conv1(self.normalize(images)))
        return x if self.architecture.stem == "cifar_no_relu" else self.maxpool(self.relu(x))

    def _through(self, layer: nn.Module, x: Tensor) -> Tensor:
        if self.checkpoint_activations and self.training:
            for block in layer:  # type: ignore[attr-defined]
                x = _recomputed(block, x)
            return x
        return layer(x)  # type: ignore[no-any-return]

    def __prepare_scriptable__(self) -> NoReturn:
        """Called by torch.jit.script, which knows no activation checkpointing."""
        raise RuntimeError("torch.jit.script cannot compile ResNet; use torch.compile, torch.export or torch.jit.trace")

    def _initialise(self) -> None:
        """Truncated normal of variance 1/fan_in; the last batch norm of every residual branch starts at 0."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                std = fan_in**-0.5 / 0.87962566103423978  # the standard deviation lost by cutting at 2 std
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, _BasicBlock):
                nn.init.zeros_(module.bn2.weight)  # type: ignore[arg-type]
            elif isinstance(module, _Bottleneck):
                nn.init.zeros_(module.bn3.weight)  # type: ignore[arg-type]


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(
        self, width_in: int, width: int, stride: int, project: bool, norm: Norm, architecture: Architecture
    ) -> None:
        super().__init__()
        bias = architecture.norm == "none"
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=bias)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=bias)
        self.bn2 = _BranchScale() if architecture.norm == "none" else norm(width)
        self.se = _squeeze_excitation(width, width, architecture)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection_shortcut(width_in, width, stride, norm, architecture) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.se(self.bn2(self.conv2(x)))
        out: Tensor = self.relu(x + shortcut)
        return out


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(
        self, width_in: int, width: int, stride: int, project: bool, norm: Norm, architecture: Architecture
    ) -> None:
        super().__init__()
        streams, bias = 2 if architecture.selective_kernels else 1, architecture.norm == "none"
        self.conv1 = nn.Conv2d(width_in, width, 1, bias=bias)
        self.bn1 = norm(width)
        self.conv2 = nn.Conv2d(width, streams * width, 3, stride=stride, padding=1, bias=bias)
        self.bn2 = norm(streams * width)
        self.sk = _SelectiveKernels(width, norm, architecture) if architecture.selective_kernels else nn.Identity()
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=bias)
        self.bn3 = _BranchScale() if bias else norm(4 * width)
        self.se = _squeeze_excitation(4 * width, width, architecture)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection_shortcut(width_in, 4 * width, stride, norm, architecture) if project else None

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.sk(self.relu(self.bn2(self.conv2(x))))
        x = self.se(self.bn3(self.conv3(x)))
        out: Tensor = self.relu(x + shortcut)
        return out


class _SelectiveKernels(nn.Module):
    """Two streams, the halves of the channels [B, 2C, H, W], weighed channel by channel for each image -> [B, C, H, W].

    Both streams have 3x3 kernels in SimCLR v2 (the original unit has a 5x5 one).
    """

    def __init__(self, width: int, norm: Norm, architecture: Architecture) -> None:
        super().__init__()
        between = architecture.selection_dim(width)
        self.fc1 = nn.Conv2d(width, between, 1, bias=architecture.norm == "none")
        self.bn = norm(between)
        self.fc2 = nn.Conv2d(between, 2 * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        pooled = (first + second).mean(dim=(2, 3), keepdim=True)
        weights = self.fc2(F.relu(self.bn(self.fc1(pooled)))).unflatten(1, (2, -1)).softmax(dim=1)
        mixed: Tensor = first * weights[:, 0] + second * weights[:, 1]
        return mixed


class _SqueezeExcitation(nn.Module):
    """Every channel times a factor in (0, 1) that the means of all channels decide."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gated: Tensor = x * self.fc2(F.relu(self.fc1(x.mean(dim=(2, 3), keepdim=True)))).sigmoid()
        return gated


def _squeeze_excitation(width: int, base_width: int, architecture: Architecture) -> nn.Module:
    if not architecture.se_ratio:
        return nn.Identity()
    return _SqueezeExcitation(width, architecture.squeezed_dim(base_width))


def _projection_shortcut(
    width_in: int, width: int, stride: int, norm: Norm, architecture: Architecture
) -> nn.Sequential:
    bias = architecture.norm == "none"
    if architecture.selective_kernels:
        return nn.Sequential(_ShortcutPool(stride), nn.Conv2d(width_in, width, 1, bias=bias), norm(width))
    return nn.Sequential(nn.Conv2d(width_in, width, 1, stride=stride, bias=bias), norm(width))


class _ShortcutPool(nn.Module):
    """Average of 2x2 pixels. Stride 2 pads an odd side with zeros; stride 1 keeps the size and averages real pixels."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            # the last row and column twice: the mean of the real pixels alone
            return F.avg_pool2d(F.pad(x, (0, 1, 0, 1), mode="replicate"), 2, stride=1)
        return F.avg_pool2d(_even(x), 2, stride=2)


# wrapped, so that torch.fx.symbolic_trace takes it as one step


@torch.fx.wrap
def _even(x: Tensor) -> Tensor:
    """With a row or column of zeros at the end of an odd side; the same tensor where both are even.

    avg_pool2d's divisor_override would need no copy, but torch.onnx leaves it out of the graph without a word.
    """
    height, width = x.shape[-2] % 2, x.shape[-1] % 2
    return F.pad(x, (0, width, 0, height)) if height or width else x


class _BranchScale(nn.Module):
    """In place of the last norm of a branch where there are no norms: one number, which begins at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def _norm_of(architecture: Architecture) -> Norm:
    """From a number of channels to the norm behind a convolution."""
    if architecture.norm == "layer":
        return lambda channels: nn.GroupNorm(1, channels)  # one group: all channels and places of an image
    if architecture.norm == "none":
        return lambda channels: nn.Identity()
    return GlobalBatchNorm2d if architecture.flavor == "reference" else nn.BatchNorm2d


@torch.fx.wrap
def _check_images(images: Tensor, channels: int) -> None:
    """Raises ValueError for what the network would take for something else, or not at all."""
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise ValueError(f"the encoder takes images [B, {channels}, H, W], got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"the encoder takes images of real numbers in [0, 1], got {images.dtype}; divide bytes by 255")


def _stem_convolution(architecture: Architecture, norm: Norm) -> nn.Module:
    width, channels, bias = architecture.channels(64), architecture.in_channels, architecture.norm == "none"
    if architecture.stem != "imagenet":
        return nn.Conv2d(channels, width, 3, padding=2 if architecture.stem == "cifar_pad2" else 1, bias=bias)
    if not architecture.selective_kernels:
        return nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=bias)
    half = width // 2
    return nn.Sequential(
        nn.Conv2d(channels, half, 3, stride=2, padding=1, bias=bias),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, half, 3, padding=1, bias=bias),
        norm(half),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, width, 3, padding=1, bias=bias),
    )


def _stem_pool(stem: str, flavor: str) -> nn.Module:
    if stem != "imagenet":
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
        return nullcontext(), running_statistics_held(block)

    out: Tensor = checkpoint(block, x, use_reentrant=False, context_fn=contexts)
    return out
