"""CMC: lightness and colors of an image find each other in memories (Tian, Krishnan, Isola, ECCV 2020).

The law is that of HobbitLong/CMC at 7b227be (NCE/NCEAverage.py, train_CMC.py). The pair of networks is
`simclr_plus.encoders.lab_pair.LabPair`; banks and their losses are in memory_bank.py.

B: images of this process, n: images of the data set, F: dimensions of h, D: dimensions of z, K: negatives of an image.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from simclr_plus.parts.instdist import InstDistHead, InstDistLoss
from simclr_plus.parts.memory_bank import Compared


class CMCHead(nn.Module):
    """A linear layer for each half of h [B, F], each z divided by its length: z of lightness, z of colors [B, D]."""

    def __init__(self, input_dim: int = 2048, output_dim: int = 128) -> None:
        super().__init__()
        self.lightness, self.colors = (InstDistHead(input_dim // 2, output_dim) for _ in range(2))

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """Both in float32 (or float64), whatever the autocast."""
        light, colors = h.chunk(2, dim=1)
        return self.lightness(light), self.colors(colors)


class CMCCompared(NamedTuple):
    """z of lightness against the memory of colors, and z of colors against the memory of lightness."""

    lightness: Compared
    colors: Compared

    @property
    def loss(self) -> Tensor:
        """The sum of both."""
        return self.lightness.loss + self.colors.loss

    @property
    def nearest(self) -> Tensor:
        """The mean of both."""
        return (self.lightness.nearest + self.colors.nearest) / 2


class CMCLoss(nn.Module):
    """Two memories of n images, and the loss of each z against the other one's.

    lightness, colors: an InstDistLoss for each memory, whose rows follow the z of its own name. Arguments and errors
    are those of InstDistLoss.
    """

    def __init__(
        self,
        images: int,
        dim: int = 128,
        *,
        loss: str = "nce",
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        z_momentum: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.lightness, self.colors = (
            InstDistLoss(
                images,
                dim,
                loss=loss,
                negatives=negatives,
                temperature=temperature,
                momentum=momentum,
                z_momentum=z_momentum,
                seed=seed,
                bank_number=number,
            )
            for number in (0, 1)
        )

    def forward(self, z_lightness: Tensor, z_colors: Tensor, indices: Tensor, step: int) -> Tensor:
        """The sum of both losses, of unit rows [B, D] of images [B]; `step` counts the draws of negatives."""
        return self.compare(z_lightness, z_colors, self.candidates(indices, step)).loss

    def candidates(self, indices: Tensor, step: int) -> Tensor:
        """[B, 1 + K], each image and its negatives, for both memories; [B], the images, where all n are compared."""
        return self.lightness.candidates(indices, step)

    def compare(self, z_lightness: Tensor, z_colors: Tensor, candidates: Tensor) -> CMCCompared:
        """Each z against the other's memory, as that is before the step."""
        return CMCCompared(self.colors.compare(z_lightness, candidates), self.lightness.compare(z_colors, candidates))

    def update(self, indices: Tensor, z_lightness: Tensor, z_colors: Tensor, *, equal_rows: bool = False) -> None:
        """Take a batch into the memories, each z into its own: after the loss, on all processes, only in training."""
        self.lightness.update(indices, z_lightness, equal_rows=equal_rows)
        self.colors.update(indices, z_colors, equal_rows=equal_rows)
