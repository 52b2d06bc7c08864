"""From a code z [B, D] to pictures [B, C, S, S] in [0, 1]: the autoencoder's decoder and BiGAN's generator.

The form is `deconvnet_64` of jeffdonahue/bigan at 06342ee: a linear layer to a small map, then transposed convolutions
5x5 that double its side, each with batch norm and ReLU. The original's further linear layer of z before every norm is
left out.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.full_precision import in_full
from simclr_plus.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d
from simclr_plus.parts.generative_shapes import doublings, widths

DEVIATION = 0.02  # of weights at the start (bigan, as DCGAN)


class Decoder(nn.Module):
    """z [B, input_dim] -> pictures [B, channels, image_size, image_size] in [0, 1], float32 under autocast too.

    width: of the last map; the maps before are 2, 4 and at most 8 times as wide. Raises ValueError for a side below 8.
    """

    def __init__(self, input_dim: int, image_size: int, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        if image_size < 8:
            raise ValueError(f"image_size = {image_size}: pictures have a side of 8 pixels or more")
        self.image_size, (self.doublings, self.first_side) = image_size, doublings(image_size)
        maps = widths(image_size, width)[::-1]
        values = maps[0] * self.first_side**2
        self.linear = nn.Linear(input_dim, values, bias=False)
        self.norm = GlobalBatchNorm1d(values)  # over each value, not over each channel
        self.up = nn.Sequential()
        for a, b in pairwise(maps):
            self.up += nn.Sequential(_doubling(a, b, bias=False), GlobalBatchNorm2d(b), nn.ReLU())
        self.up.append(_doubling(maps[-1], channels, bias=True))
        start_small(self)

    def forward(self, z: Tensor) -> Tensor:
        """Pictures; of a side that no doubling reaches, the upper left part of the next larger one."""
        first = torch.relu(self.norm(self.linear(z)))
        pixels = self.up(torch.unflatten(first, 1, (-1, self.first_side, self.first_side)))
        pixels = pixels[:, :, : self.image_size, : self.image_size]
        return torch.sigmoid(in_full(pixels))


def _doubling(a: int, b: int, *, bias: bool) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(a, b, 5, stride=2, padding=2, output_padding=1, bias=bias)


def start_small(network: nn.Module) -> None:
    """Weights of linear and convolutional layers from N(0, 0.02), their biases 0."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=DEVIATION)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def in_unit_range(images: Tensor) -> Tensor:
    """Clamped to [0, 1]: a bicubic crop overshoots, a sigmoid cannot."""
    return images.clamp(0, 1)


def averaged(images: Tensor, side: int) -> Tensor:
    """Images [B, C, S, S] as pictures [B, C, side, side]: the mean of each one's area."""
    return images if images.shape[-1] == side else F.adaptive_avg_pool2d(images, side)


@torch.no_grad()
def reconstructed_share(made: Tensor, images: Tensor) -> float:
    """1 - squared error to the own image / squared error to another one: 0 tells nothing of an image, 1 all.

    made, images: [B, ...], of this process. Both errors are means over the global batch, the second over all pairs of
    different places. Every process must call it.
    """
    x, y = images.double().flatten(1), made.double().flatten(1)
    means = torch.cat([x.mean(0), y.mean(0), _mean_square(x), _mean_square(y), _mean_square(x - y)])
    processes, values = distributed.world_size(), x.shape[1]
    rows = len(x) * processes
    mean_x, mean_y, rest = torch.split(distributed.sum_over_processes(means) / processes, [values, values, 3])
    to_any = rest[0] + rest[1] - 2 * (mean_x * mean_y).mean()
    to_other = (rows * to_any - rest[2]) / max(1, rows - 1)
    return float(1 - rest[2] / to_other) if to_other > 0 else 0.0


def _mean_square(x: Tensor) -> Tensor:
    return x.square().mean().reshape(1)
