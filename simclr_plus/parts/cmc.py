"""CMC: lightness and colors of an image find each other in memories (Tian, Krishnan, Isola, ECCV 2020).

The law is that of HobbitLong/CMC at 7b227be (NCE/NCEAverage.py, train_CMC.py). The pair of networks is
`simclr_plus.encoders.lab_pair.LabPair`; banks and their losses are in memory_bank.py.

B: images of this process, n: images of the data set, F: dimensions of h, D: dimensions of z, K: negatives of an image.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from simclr_plus.parts.instdist import InstDistHead
from simclr_plus.parts.memory_bank import Compared, MemoryBank, NCEConstant, nce, softmax

LOSSES = ("nce", "softmax")


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

    loss: "nce" with K negatives; "softmax" among the own row and K others, or with negatives = 0 among all n, which
    small sets and short runs want (then with temperature 0.1). z_momentum: see NCEConstant. Raises ValueError for a
    loss of another name, and for "nce" without negatives.
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
        if loss not in LOSSES or (loss == "nce" and negatives < 1):
            raise ValueError(f"loss = {loss!r} with negatives = {negatives}: use one of {LOSSES}, nce with 1 or more")
        self.negatives, self.temperature, self.momentum, self.seed = negatives, temperature, momentum, seed
        self.lightness, self.colors = (MemoryBank(images, dim, seed, number=number) for number in (0, 1))
        constants = [NCEConstant(z_momentum) if loss == "nce" else None for _ in range(2)]
        self.constant_of_lightness, self.constant_of_colors = constants

    def forward(self, z_lightness: Tensor, z_colors: Tensor, indices: Tensor, step: int) -> Tensor:
        """The sum of both losses, of unit rows [B, D] of images [B]; `step` counts the draws of negatives."""
        return self.compare(z_lightness, z_colors, self.candidates(indices, step)).loss

    def candidates(self, indices: Tensor, step: int) -> Tensor:
        """[B, 1 + K], each image and its negatives, for both memories; [B], the images, where all n are compared."""
        if not self.negatives:
            return indices
        return self.lightness.candidates(indices, self.negatives, seed=self.seed, step=step)

    def compare(self, z_lightness: Tensor, z_colors: Tensor, candidates: Tensor) -> CMCCompared:
        """Each z against the other's memory, as that is before the step."""
        return CMCCompared(
            self._against(self.colors, z_lightness, candidates, self.constant_of_lightness),
            self._against(self.lightness, z_colors, candidates, self.constant_of_colors),
        )

    def update(self, indices: Tensor, z_lightness: Tensor, z_colors: Tensor, *, equal_rows: bool = False) -> None:
        """Take a batch into the memories, each z into its own: after the loss, on all processes, only in training."""
        for bank, z in ((self.lightness, z_lightness), (self.colors, z_colors)):
            bank.update(indices, z, self.momentum, equal_rows=equal_rows)

    def _against(self, bank: MemoryBank, z: Tensor, candidates: Tensor, constant: NCEConstant | None) -> Compared:
        if constant is None:
            return softmax(z, bank.memory, candidates, temperature=self.temperature)
        log_z = constant(z, bank.memory, candidates, self.temperature)
        return nce(z, bank.memory, candidates, log_z, temperature=self.temperature)
