"""What patch tasks have on f: an embedding of each patch, rows of several embeddings side by side, a classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus.global_batch_norm import GlobalBatchNorm1d
from simclr_plus.parts.counted_dropout import counted_dropout


class PatchHead(nn.Module):
    """h of a patch -> its embedding; rows of `patches` embeddings -> logits of `classes`.

    Linear F -> E without norm or ReLU; concatenation; Linear -> hidden, batch norm, ReLU, dropout; Linear -> classes
    (patch_utils.py of google/revisiting-self-supervised at b530e3b, with its initial values; the embedding's own are
    not fixed there).
    """

    def __init__(
        self,
        feature_dim: int,
        patches: int,
        classes: int,
        *,
        embedding_dim: int = 1000,
        hidden_dim: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout = {dropout} is no share of the hidden numbers; use 0 (none) to below 1")
        self.dropout = dropout
        self.embedding = nn.Linear(feature_dim, embedding_dim)
        self.hidden = nn.Linear(patches * embedding_dim, hidden_dim)
        self.norm = GlobalBatchNorm1d(hidden_dim)
        self.classifier = nn.Linear(hidden_dim, classes)
        for layer, bias in ((self.hidden, 0.1), (self.classifier, 0.0)):
            nn.init.trunc_normal_(layer.weight, std=0.005, a=-0.01, b=0.01)
            nn.init.constant_(layer.bias, bias)

    def logits(self, rows: Tensor, keys: Tensor | None = None) -> Tensor:
        """Rows of embeddings [R, patches E] -> [R, classes].

        keys [R] (`dropout_keys`) decide what is dropped in training; without them torch's generator does.
        """
        x = F.relu(self.norm(self.hidden(rows)))
        if self.training and self.dropout:
            x = F.dropout(x, self.dropout) if keys is None else counted_dropout(x, keys, self.dropout)
        logits: Tensor = self.classifier(x)
        return logits


def rows_of(embeddings: Tensor, orders: Tensor) -> Tensor:
    """Embeddings [B, M, E], orders [B or 1, K, m] of patches -> [B K, m E]: in row k, place t, patch orders[k, t]."""
    count, _, width = embeddings.shape
    chosen = orders.expand(count, -1, -1).flatten(1)[..., None].expand(-1, -1, width)
    return torch.gather(embeddings, 1, chosen).reshape(-1, orders.shape[-1] * width)
