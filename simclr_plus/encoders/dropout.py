"""What a network drops at random while it is trained: units, tokens, whole layers."""

from __future__ import annotations

import torch

from simclr_plus import distributed


def seed_dropout(seed: int, step: int) -> None:
    """PyTorch's generators, for what is dropped in that step: a function of seed, step and process, as all else.

    So a resumed training drops what an unbroken one does, and two processes drop different units.
    """
    place = step * distributed.world_size() + distributed.rank()
    torch.manual_seed((seed + place * 2**20) % 2**63)
