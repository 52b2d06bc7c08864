"""Dropout whose choices are a function of counters: the same after a resume and however many processes there are."""

from __future__ import annotations

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from simclr_plus.augmentations.streams import Stream, words

_LOW = 0xFFFFFFFF


def dropout_keys(seed: int, indices: ArrayLike | Tensor, epochs: ArrayLike | Tensor, rows: int) -> Tensor:
    """[B, rows] numbers, one for each row of features that an image has."""
    return words(seed, Stream.NOISE, indices, epochs, rows)


def counted_dropout(x: Tensor, keys: Tensor, probability: float) -> Tensor:
    """x [R, D] with zeros where the key of the row [R] and the column say so, the rest over 1 - probability."""
    columns = torch.arange(x.shape[1], device=x.device)
    mixed = _mixed(keys[:, None] ^ _mixed(columns + 1))
    kept = (mixed >> 8) >= int(probability * 2**24)
    return torch.where(kept, x / (1 - probability), 0)


def _mixed(numbers: Tensor) -> Tensor:
    """Numbers of 32 bits in int64, well stirred: what MurmurHash3 ends with (Appleby 2011, public domain)."""
    numbers = numbers & _LOW
    numbers = (numbers ^ numbers >> 16) * 0x85EBCA6B & _LOW
    numbers = (numbers ^ numbers >> 13) * 0xC2B2AE35 & _LOW
    return numbers ^ numbers >> 16
