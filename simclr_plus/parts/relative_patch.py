"""Relative patch location: where does a patch lie from the centre? (Doersch, Gupta, Efros, ICCV 2015)

The form for ResNets of Kolesnikov, Zhai, Beyer 2019 (relative_patch_location.py of google/revisiting-self-supervised
at b530e3b). All eight neighbours of every image are asked for, so that labels are balanced in every batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simclr_plus.parts.patch_head import PatchHead, rows_of

PAIRS = ((0, 4), (1, 4), (2, 4), (3, 4), (5, 4), (6, 4), (7, 4), (8, 4))  # by label: the patch, then the centre


class RelativePatchHead(PatchHead):
    """h of nine patches of an image -> logits of the eight places, for each neighbour of the centre."""

    def __init__(
        self, feature_dim: int, *, embedding_dim: int = 1000, hidden_dim: int = 4096, dropout: float = 0.5
    ) -> None:
        super().__init__(
            feature_dim, 2, len(PAIRS), embedding_dim=embedding_dim, hidden_dim=hidden_dim, dropout=dropout
        )

    def forward(self, h: Tensor, keys: Tensor | None = None) -> Tensor:
        """[9 B, F], image by image and row by row -> [8 B, 8]; keys [8 B] decide what is dropped in training."""
        return self.logits(pairs(self.embedding(h).unflatten(0, (-1, 9))), keys)


def pairs(embeddings: Tensor) -> Tensor:
    """[B, 9, E] -> [8 B, 2 E]: each neighbour beside the centre, in the order of the labels 0 to 7."""
    return rows_of(embeddings, torch.tensor([PAIRS], device=embeddings.device))


def pair_labels(images: int, device: torch.device | None = None) -> Tensor:
    """Of the rows of `pairs`, [8 B]: 0 1 2 above, 3 and 4 beside, 5 6 7 below the centre."""
    return torch.arange(len(PAIRS), device=device).repeat(images)
