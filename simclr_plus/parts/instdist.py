"""Instance discrimination: every image is a class of its own, compared by a memory (Wu, Xiong, Yu, Lin, CVPR 2018).

B: images of this process, n: images of the data set, F: dimensions of h, D: dimensions of z, K: negatives of an image.
The law is that of zhirongw/lemniscate.pytorch at f7cfe29; the bank and its losses are in memory_bank.py.
"""

from __future__ import annotations

from torch import Tensor, nn

from simclr_plus.parts.memory_bank import EPSILON, Compared, MemoryBank, NCEConstant, nce, proximal, softmax, unit

LOSSES = ("nce", "softmax")


class InstDistHead(nn.Module):
    """One linear layer with bias, PyTorch's start, and the division by the length: h [B, F] -> unit rows z [B, D]."""

    def __init__(self, input_dim: int = 2048, output_dim: int = 128) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, h: Tensor) -> Tensor:
        """z in float32 (or float64), whatever the autocast."""
        return unit(self.linear(h))


class InstDistLoss(nn.Module):
    """The memory of n images, and the loss of z against it.

    loss: "nce" with K negatives; "softmax" among the own row and K others, or with negatives = 0 among all n, which
    small sets and short runs want (then with temperature 0.1). proximal: weight of |z - v|^2, v the own row before the
    update. z_momentum: see NCEConstant. bank_number: of several banks by one seed. Raises ValueError for a loss of
    another name, and for "nce" without negatives.
    """

    # eleven parameters: the law has as many numbers
    def __init__(
        self,
        images: int,
        dim: int = 128,
        *,
        loss: str = "nce",
        negatives: int = 4096,
        temperature: float = 0.07,
        momentum: float = 0.5,
        proximal: float = 0.0,
        z_momentum: float = 1.0,
        seed: int = 0,
        epsilon: float = EPSILON,
        bank_number: int = 0,
    ) -> None:
        super().__init__()
        if loss not in LOSSES or (loss == "nce" and negatives < 1):
            raise ValueError(f"loss = {loss!r} with negatives = {negatives}: use one of {LOSSES}, nce with 1 or more")
        self.loss, self.negatives, self.temperature = loss, negatives, temperature
        self.momentum, self.proximal, self.seed, self.epsilon = momentum, proximal, seed, epsilon
        self.bank = MemoryBank(images, dim, seed, number=bank_number)
        self.constant = NCEConstant(z_momentum) if loss == "nce" else None

    def forward(self, z: Tensor, indices: Tensor, step: int) -> Tensor:
        """What is minimised: the mean over unit rows z [B, D] of images [B]; `step` counts the draws of negatives."""
        candidates = self.candidates(indices, step)
        loss = self.compare(z, candidates).loss
        return loss + self.proximal * self.distance(z, indices) if self.proximal else loss

    def candidates(self, indices: Tensor, step: int) -> Tensor:
        """[B, 1 + K], each image and its negatives; [B], the images, where all n are compared."""
        if not self.negatives:
            return indices
        return self.bank.candidates(indices, self.negatives, seed=self.seed, step=step)

    def compare(self, z: Tensor, candidates: Tensor) -> Compared:
        """The loss without the proximal term, and how many images are nearest to their own row."""
        memory = self.bank.memory
        if self.constant is None:
            return softmax(z, memory, candidates, temperature=self.temperature)
        log_z = self.constant(z, memory, candidates, self.temperature)
        return nce(z, memory, candidates, log_z, temperature=self.temperature, epsilon=self.epsilon)

    def distance(self, z: Tensor, indices: Tensor) -> Tensor:
        """The proximal term, not weighed."""
        return proximal(z, self.bank.rows(indices))

    def update(self, indices: Tensor, z: Tensor, *, equal_rows: bool = False) -> None:
        """Take a batch into the memory: after its loss, on all processes together, only in training."""
        self.bank.update(indices, z, self.momentum, equal_rows=equal_rows)
