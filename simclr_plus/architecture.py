"""What an encoder is, in numbers: depth, width, stem, flavor; its layers, parameters and memory in closed form. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

# depth: blocks a group, bottleneck or basic
BLOCKS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
STEMS = ("imagenet", "cifar")
FLAVORS = ("torchvision", "reference")


@dataclass(frozen=True)
class Architecture:
    """A ResNet: depth, width multiplier, stem ("imagenet", "cifar") and flavor ("torchvision", "reference")."""

    depth: int = 50
    width: float = 1
    stem: str = "imagenet"
    flavor: str = "torchvision"

    def __post_init__(self) -> None:
        if self.depth not in BLOCKS:
            raise ValueError(f"depth = {self.depth} is no ResNet of SimCLR; use one of {', '.join(map(str, BLOCKS))}")
        if self.stem not in STEMS:
            raise ValueError(f'stem = {self.stem!r} is unknown; use "imagenet" or "cifar"')
        if self.flavor not in FLAVORS:
            raise ValueError(f'flavor = {self.flavor!r} is unknown; use "torchvision" or "reference"')
        if self.channels(64) < 1:
            raise ValueError(f"width = {self.width} leaves no channel; use 1/64 or more")

    def channels(self, at_width_1: int) -> int:
        """Channels of a layer that has `at_width_1` of them at width 1."""
        return int(at_width_1 * self.width)

    @property
    def feature_dim(self) -> int:
        """Dimensions of h: 512 or 2048 times the width."""
        return self.channels(512) * (4 if BLOCKS[self.depth][1] else 1)

    def convolutions(self, image_size: int) -> Iterator[tuple[int, int, int, int]]:
        """(kernel side, channels in, channels out, side of the output) of each convolution; a batch norm follows each."""
        blocks, bottleneck = BLOCKS[self.depth]
        channels, side = self.channels(64), image_size
        if self.stem == "imagenet":
            side = (side + 1) // 2
            yield 7, 3, channels, side
            side = (side + 1) // 2
        else:
            yield 3, 3, channels, side
        for group, count in enumerate(blocks):
            inner = self.channels(64 * 2**group)
            outer = inner * 4 if bottleneck else inner
            for i in range(count):
                strides = group > 0 and i == 0
                side_in, side = side, (side + 1) // 2 if strides else side
                if i == 0 and (strides or channels != outer or self.flavor == "reference"):
                    yield 1, channels, outer, side
                if bottleneck:
                    yield 1, channels, inner, side_in
                    yield 3, inner, inner, side
                    yield 1, inner, outer, side
                else:
                    yield 3, channels, inner, side
                    yield 3, inner, inner, side
                channels = outer

    def parameter_count(self) -> int:
        """Trained numbers of the encoder: kernels, and scale and offset of each batch norm."""
        return sum(k * k * a * b + 2 * b for k, a, b, _ in self.convolutions(32))

    def activation_count(self, image_size: int) -> int:
        """Numbers an image leaves for the backward pass: the output of each convolution and of its batch norm."""
        return sum(2 * b * side * side for _, _, b, side in self.convolutions(image_size))

    def as_dict(self) -> dict[str, Any]:
        """The four values, for a file's header."""
        return asdict(self)


def head_parameter_count(input_dim: int, hidden_dim: int, output_dim: int, num_layers: int) -> int:
    """Trained numbers of the projection head; the last batch norm has no offset."""
    count = 0
    for i in range(num_layers):
        last = i == num_layers - 1
        a, b = input_dim if i == 0 else hidden_dim, output_dim if last else hidden_dim
        count += a * b + (b if last else 2 * b)
    return count
