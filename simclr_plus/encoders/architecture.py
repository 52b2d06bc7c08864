"""What an encoder is, in numbers: depth, width, stem, flavor, SK and SE; layers, parameters, activations. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

# depth: blocks a group, bottleneck or basic
BLOCKS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
STEMS = ("imagenet", "cifar", "cifar_pad2", "cifar_no_relu")
FLAVORS = ("torchvision", "reference")
INPUTS = ("rgb", "standardized", "lightness")
NORMS = ("batch", "layer", "none")
_LATER = {"input": "rgb", "norm": "batch", "in_channels": 3}  # left out of headers: earlier versions read the file
SK_RATIO, SK_MIN_DIM = 0.0625, 32  # of SimCLR v2: channels between the two layers that weigh the streams


class Convolution(NamedTuple):
    """Kernel side, channels in and out, sides of the square maps in and out, number of the block (0: the stem).

    `norm`: a norm follows; `bias`: it has an offset of its own. The pool in a shortcut counts as part of it.
    """

    kernel: int
    width_in: int
    width_out: int
    side_in: int
    side_out: int
    block: int
    norm: bool = True
    bias: bool = False


@dataclass(frozen=True)
class Architecture:
    """A ResNet: depth, width multiplier, stem ("imagenet", "cifar") and flavor ("torchvision", "reference").

    Two stems are for files of others. "cifar_pad2" is solo-learn's: its 3x3 convolution is padded by 2 and enlarges the
    image by 2 pixels. "cifar_no_relu" is what a Sequential of Lightly's ResNetGenerator has: the ReLU is lost.
    selective_kernels: SimCLR v2's networks: SK units in bottlenecks, and the stem and shortcuts of ResNet-D.
    se_ratio: squeeze-excitation after each block, to that share of the block's width; 0: none.
    mean, std: subtracted from each channel of the images in [0, 1], and divided by; the authors do neither.
    input: what is done to images first: nothing, each image to mean 0 and deviation 1, or three times its lightness.
    norm: batch norm; layer norm over channels and places; or none, with offsets in convolutions and branches that begin
    at 0. in_channels: of images, 3 unless this is a part of a network.
    """

    depth: int = 50
    width: float = 1
    stem: str = "imagenet"
    flavor: str = "torchvision"
    selective_kernels: bool = False
    se_ratio: float = 0.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    input: str = "rgb"
    norm: str = "batch"
    in_channels: int = 3

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # lists where they come from TOML or JSON
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        if self.depth not in BLOCKS:
            raise ValueError(f"depth = {self.depth} is no ResNet of SimCLR; use one of {', '.join(map(str, BLOCKS))}")
        if self.stem not in STEMS:
            raise ValueError(f'stem = {self.stem!r} is unknown; use "imagenet" or "cifar"')
        if not len(self.mean) == len(self.std) == 3 or min(self.std) <= 0:
            raise ValueError(f"mean = {self.mean}, std = {self.std}: give three numbers each, those of std above 0")
        for name, choices in (("input", INPUTS), ("norm", NORMS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} = {getattr(self, name)!r} is unknown; use one of {', '.join(choices)}")
        if self.in_channels < 1 or (self.in_channels != 3 and self.normalizes):
            raise ValueError(
                f"in_channels = {self.in_channels}: only RGB is standardized, turned to lightness or scaled"
            )
        if self.flavor not in FLAVORS:
            raise ValueError(f'flavor = {self.flavor!r} is unknown; use "torchvision" or "reference"')
        if self.channels(64) < 1:
            raise ValueError(f"width = {self.width} leaves no channel; use 1/64 or more")
        if self.selective_kernels and self.channels(64) < 2:
            raise ValueError(
                f"width = {self.width} leaves no channel in the stem of selective kernels; use 1/32 or more"
            )
        if not 0 <= self.se_ratio <= 1:
            raise ValueError(f"se_ratio = {self.se_ratio} is no share of the channels; use 0 (none) to 1, e.g. 0.25")

    def channels(self, at_width_1: int) -> int:
        """Channels of a layer that has `at_width_1` of them at width 1."""
        return int(at_width_1 * self.width)

    @property
    def feature_dim(self) -> int:
        """Dimensions of h: 512 or 2048 times the width."""
        return self.channels(512) * (4 if BLOCKS[self.depth][1] else 1)

    @property
    def title(self) -> str:
        """For people: ResNet-50 (1x), imagenet stem, selective kernels."""
        extras = (", selective kernels" if self.selective_kernels else "") + (", SE" if self.se_ratio else "")
        extras += {"batch": "", "layer": ", layer norm", "none": ", no norm"}[self.norm]
        extras += "" if self.input == "rgb" else f", {self.input} input"
        return f"ResNet-{self.depth} ({self.width:g}x), {self.stem} stem{extras}"

    @property
    def normalizes(self) -> bool:
        """Whether images are changed before the first convolution."""
        return (self.mean, self.std, self.input) != ((0, 0, 0), (1, 1, 1), "rgb")

    @staticmethod
    def selection_dim(width: int) -> int:
        """Channels between the two layers of an SK unit whose streams have `width` each."""
        return max(int(width * SK_RATIO), SK_MIN_DIM)

    def squeezed_dim(self, width: int) -> int:
        """Channels between the two layers of squeeze-excitation in a block of that base width."""
        return max(int(width * self.se_ratio), 1)

    def convolutions(self, image_size: int) -> Iterator[Convolution]:
        """Every convolution in the order of the authors' code, for square images of that side."""
        for c in self._convolutions(image_size):
            yield c._replace(norm=False, bias=True) if self.norm == "none" and c.norm else c

    def _convolutions(self, image_size: int) -> Iterator[Convolution]:
        """With a norm behind each that has one."""
        blocks, bottleneck = BLOCKS[self.depth]
        channels, side, number = self.channels(64), image_size, 0
        if self.stem == "imagenet":
            half = (side + 1) // 2
            if self.selective_kernels:
                yield Convolution(3, self.in_channels, channels // 2, side, half, 0)
                yield Convolution(3, channels // 2, channels // 2, half, half, 0)
                yield Convolution(3, channels // 2, channels, half, half, 0)
            else:
                yield Convolution(7, self.in_channels, channels, side, half, 0)
            side = (side + 3) // 4
        else:
            grown = side + 2 * (self.stem == "cifar_pad2")
            yield Convolution(3, self.in_channels, channels, side, grown, 0)
            side = grown
        for group, count in enumerate(blocks):
            inner = self.channels(64 * 2**group)
            outer = inner * 4 if bottleneck else inner
            for i in range(count):
                number += 1
                strides = group > 0 and i == 0
                before, side = side, (side + 1) // 2 if strides else side
                if i == 0 and (strides or channels != outer or self.flavor == "reference"):
                    yield Convolution(1, channels, outer, before, side, number)
                if bottleneck:
                    yield Convolution(1, channels, inner, before, before, number)
                    if self.selective_kernels:
                        between = self.selection_dim(inner)
                        yield Convolution(3, inner, 2 * inner, before, side, number)
                        yield Convolution(1, inner, between, 1, 1, number)
                        yield Convolution(1, between, 2 * inner, 1, 1, number, norm=False)
                    else:
                        yield Convolution(3, inner, inner, before, side, number)
                    yield Convolution(1, inner, outer, side, side, number)
                else:
                    yield Convolution(3, channels, inner, before, side, number)
                    yield Convolution(3, inner, inner, side, side, number)
                if self.se_ratio:
                    squeezed = self.squeezed_dim(inner)
                    yield Convolution(1, outer, squeezed, 1, 1, number, norm=False, bias=True)
                    yield Convolution(1, squeezed, outer, 1, 1, number, norm=False, bias=True)
                channels = outer

    def map_shape(self, stage: int, image_size: int) -> tuple[int, int]:
        """Channels and side of what comes out of group 1 to 4, for square images of that side."""
        outer = self.channels(64 * 2 ** (stage - 1)) * (4 if BLOCKS[self.depth][1] else 1)
        last = sum(BLOCKS[self.depth][0][:stage])
        return outer, max(c.side_out for c in self.convolutions(image_size) if c.block == last)

    def parameter_count(self) -> int:
        """Trained numbers of the encoder: kernels and their offsets, scale and offset of each norm; without norms a
        scale of each branch.
        """
        scales = sum(BLOCKS[self.depth][0]) if self.norm == "none" else 0
        return scales + sum(
            c.width_out * (c.kernel**2 * c.width_in + 2 * c.norm + c.bias) for c in self.convolutions(image_size=32)
        )

    def multiply_add_count(self, image_size: int) -> int:
        """Multiplications, each with its addition, of all convolutions for one image forward."""
        return sum(c.kernel**2 * c.width_in * c.width_out * c.side_out**2 for c in self.convolutions(image_size))

    def activation_count(self, image_size: int, recompute_blocks: bool = False) -> int:
        """Numbers an image leaves for the backward pass: the output of each convolution and of its norm.

        With `recompute_blocks` (activation checkpointing) each block leaves its input, one block at a time the rest.
        """
        of_block: dict[int, int] = {}
        inputs: dict[int, int] = {}
        for c in self.convolutions(image_size):
            of_block[c.block] = of_block.get(c.block, 0) + (1 + c.norm) * c.width_out * c.side_out**2
            inputs.setdefault(c.block, c.width_in * c.side_in**2)
        if not recompute_blocks:
            return sum(of_block.values())
        return of_block.pop(0) + sum(inputs.values()) + max(of_block.values())

    def as_dict(self) -> dict[str, Any]:
        """The values by name, for a file's header; `ResNet(**as_dict())` builds the network."""
        return {name: value for name, value in asdict(self).items() if _LATER.get(name) != value}


def head_parameter_count(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> int:
    """Trained numbers of the projection head; the last batch norm has no offset."""
    count = 0
    for i in range(num_layers):
        last = i == num_layers - 1
        a, b = input_dim if i == 0 else hidden_dim, output_dim if last else hidden_dim
        count += a * b + (b if last else 2 * b)
    return count
