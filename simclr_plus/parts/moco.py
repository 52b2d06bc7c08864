"""MoCo's parts (He et al. 2019; Chen, Fan et al. 2020): a queue of keys, heads, the loss, keys in a shuffled order.

After facebookresearch/moco `7397dfe`, moco/builder.py. The key network is a copy that follows by `update_momentum`.

B: images of the global batch, b of this process, D: dimensions, K: keys in the queue.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.augmentations.streams import Stream, normals, permutations
from simclr_plus.lightly_parts import update_momentum

__all__ = [
    "KeyQueue",
    "in_batch_order",
    "key_copy",
    "key_orders",
    "moco_head",
    "moco_logits",
    "moco_loss",
    "shuffled",
    "update_momentum",
]
AnyModule = TypeVar("AnyModule", bound=nn.Module)


class KeyQueue(nn.Module):
    """The last K keys [K, D], first in, first out; it starts with random unit vectors that depend on the seed alone.

    keys, written (how many were ever stored): buffers of the state dict, so that a run goes on with its queue.
    """

    keys: Tensor
    written: Tensor

    def __init__(self, size: int = 65536, dim: int = 128, seed: int = 0) -> None:
        super().__init__()
        start = normals(seed, Stream.BANK, torch.arange(size), 0, dim)
        self.register_buffer("keys", F.normalize(start).float())
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))

    @property
    def pointer(self) -> Tensor:
        """The row that is written next."""
        return self.written % len(self.keys)

    @torch.no_grad()
    def update(self, keys: Tensor) -> None:
        """Store keys [n, D], of all processes and in one order on all, in place of the oldest n.

        Not between a loss and its backward pass, which needs the keys as they were: after it, with the update.
        Raises ValueError where K is no multiple of n, as the authors' code: the queue would forget in steps that vary.
        """
        if not len(keys) or len(self.keys) % len(keys):
            raise ValueError(f"a queue of {len(self.keys)} keys is no multiple of the {len(keys)} keys of a step")
        places = (self.written + torch.arange(len(keys), device=self.written.device)) % len(self.keys)
        self.keys.index_copy_(0, places, keys.to(self.keys.dtype))
        self.written += len(keys)


def moco_head(input_dim: int, hidden_dim: int, output_dim: int = 128, num_layers: int = 2) -> nn.Sequential:
    """Linear layers with biases and without batch norm, ReLU between: one layer for MoCo v1, two for v2.

    Weights start as torch.nn.Linear's do.
    """
    if num_layers < 1:
        raise ValueError(f"num_layers = {num_layers}; MoCo's head has 1 layer (v1), 2 (v2) or more")
    widths = [input_dim, *[hidden_dim] * (num_layers - 1), output_dim]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers += [nn.Linear(widths[i], widths[i + 1]), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


def key_copy(module: AnyModule) -> AnyModule:
    """A copy that no gradient reaches, to follow by `update_momentum(module, copy, m)`."""
    return copy.deepcopy(module).requires_grad_(False)


def moco_logits(z: Tensor, positives: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """[b, 1 + K]: similarities of unit rows z [b, D] with their keys [b, D], then the queue [K, D], by temperature.

    Neither keys nor queue get a gradient.
    """
    own = (z * positives.detach()).sum(1, keepdim=True)
    return torch.cat([own, z @ queue.detach().T], dim=1) / temperature


def moco_loss(z: Tensor, positives: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """The mean cross entropy of `moco_logits`, of which the first column is right (InfoNCE)."""
    return own_key_loss(moco_logits(z, positives, queue, temperature))


def own_key_loss(logits: Tensor) -> Tensor:
    """The mean cross entropy of logits whose first column is right."""
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def key_orders(seed: int, step: int, images: int, count: int = 1) -> Tensor:
    """[count, B]: orders of the images of the global batch, a function of seed and step, the same on all processes."""
    return permutations(seed, Stream.KEY_ORDER, torch.arange(count), step, images)


@torch.no_grad()
def shuffled(images: Tensor, order: Tensor) -> Tensor:
    """This process's share [b, ...] of the global batch in that order [B]; images [b, ...] are its share as it was."""
    count = distributed.world_size()
    everywhere = images if count == 1 else distributed.all_gather(images).flatten(0, 1)
    return everywhere[order.to(images.device).view(count, -1)[distributed.rank()]]


@torch.no_grad()
def in_batch_order(keys: Tensor, order: Tensor | None = None) -> Tensor:
    """Keys of all processes [B, D] in the order of the global batch, from shares [b, D] of a shuffled one."""
    everywhere = keys if distributed.world_size() == 1 else distributed.all_gather(keys).flatten(0, 1)
    if order is None:
        return everywhere
    return torch.empty_like(everywhere).index_copy_(0, order.to(keys.device), everywhere)
