"""Jigsaw puzzles: in which order do patches stand? (Noroozi, Favaro, ECCV 2016)

The form for ResNets of Kolesnikov, Zhai, Beyer 2019 (jigsaw.py of google/revisiting-self-supervised at b530e3b): each
patch goes through f once, and its embeddings are put in several orders. Unlike there, orders are drawn for each image.
"""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from simclr_plus.augmentations.streams import Stream, words
from simclr_plus.parts.patch_head import PatchHead, rows_of


class JigsawHead(PatchHead):
    """h of the M patches of an image and orders -> logits of the permutations."""

    def __init__(
        self,
        feature_dim: int,
        *,
        patches: int = 9,
        permutations: int = 100,
        embedding_dim: int = 1000,
        hidden_dim: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__(
            feature_dim, patches, permutations, embedding_dim=embedding_dim, hidden_dim=hidden_dim, dropout=dropout
        )

    def forward(self, h: Tensor, orders: Tensor, keys: Tensor | None = None) -> Tensor:
        """[M B, F], image by image; orders [B, K, M]: patch orders[b, k, t] at place t -> logits [B K, permutations].

        keys [B K] decide what is dropped in training.
        """
        embeddings = self.embedding(h).unflatten(0, (-1, orders.shape[-1]))
        return self.logits(rows_of(embeddings, orders), keys)


def drawn_labels(
    seed: int, indices: ArrayLike | Tensor, epochs: ArrayLike | Tensor, count: int, permutations: int
) -> Tensor:
    """[B, count] different numbers below `permutations`, each set and order as likely: which orders an image shows."""
    if not 1 <= count <= permutations:
        raise ValueError(f"count = {count}: different permutations are drawn from {permutations}")
    drawn = words(seed, Stream.PERMUTATIONS, indices, epochs, count)
    ranks = drawn * (permutations - torch.arange(count)) >> 32  # among those that are left
    taken: list[Tensor] = []
    for k in range(count):
        label = ranks[:, k]
        for other in torch.stack(taken).sort(dim=0).values if taken else ():
            label = label + (label >= other)
        taken.append(label)
    return torch.stack(taken, dim=1)
