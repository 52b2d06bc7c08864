"""Random numbers of methods as pure functions of counters, so that processes, devices and resume cannot change a draw.

Each use has its own stream of Philox4x32-10, keyed by the seed, beside those of the views (draws.py). Two counters name
a row: as a rule the index of an image and the epoch, or a place in the global batch and the step. What comes out are
tensors on the CPU.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simclr_plus.augmentations.compiled_code import compiled
from simclr_plus.augmentations.draws import _below, _philox

_METHODS = 0x10000  # third counters from here on; those of views lie below
_WIDEST = 2**24  # of a whole number


class Stream(IntEnum):
    """What numbers are for. A number never changes: a run that goes on draws what it would have drawn."""

    PATCHES = 0  # where patches are cut
    PERMUTATIONS = 1  # orders of patches
    GRAY = 2  # which images become gray
    NEGATIVES = 3  # rows of a memory bank
    LATENTS = 4  # what a generator starts from
    NOISE = 5  # on images or features
    KEY_ORDER = 6  # the order in which keys go through a network
    BANK = 7  # where a memory bank or a queue starts
    PLACES = 8  # in feature maps
    PATCH_OPERATIONS = 9  # what is done to patches


def words(seed: int, stream: Stream, first: ArrayLike | Tensor, second: ArrayLike | Tensor, count: int) -> Tensor:
    """[B, count] whole numbers of 32 bits, int64; first and second are the counters, numbers or [B]."""
    a, b = _counters(first, second)
    out = np.empty((len(a), -(-count // 4) * 4), dtype=np.int64)
    _draw_words(np.uint64(int(seed) % 2**64), _METHODS + int(stream), a, b, out)
    return torch.from_numpy(out[:, :count])


def uniforms(seed: int, stream: Stream, first: ArrayLike | Tensor, second: ArrayLike | Tensor, count: int) -> Tensor:
    """[B, count] in [0, 1), float64; multiples of 2**-24, so that float32 holds them exactly."""
    return (words(seed, stream, first, second, count) >> 8).double() * 2.0**-24


def normals(seed: int, stream: Stream, first: ArrayLike | Tensor, second: ArrayLike | Tensor, count: int) -> Tensor:
    """[B, count] of mean 0 and deviation 1, float64, by the method of Box and Muller (1958)."""
    pairs = -(-count // 2)
    numbers = words(seed, stream, first, second, 2 * pairs).double()
    radius = torch.sqrt(-2 * torch.log((numbers[:, :pairs] + 0.5) * 2.0**-32))
    angle = numbers[:, pairs:] * (2 * torch.pi * 2.0**-32)
    return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :count]


def whole_numbers(
    seed: int, stream: Stream, first: ArrayLike | Tensor, second: ArrayLike | Tensor, count: int, *, below: int
) -> Tensor:
    """[B, count] from 0 to below - 1, int64, all as likely to 1 part in 2**32 / below."""
    if not 0 < below <= 2**31:
        raise ValueError(f"below = {below}: whole numbers are drawn from 1 to 2**31 of them")
    return words(seed, stream, first, second, count) * below >> 32


def permutations(seed: int, stream: Stream, first: ArrayLike | Tensor, second: ArrayLike | Tensor, n: int) -> Tensor:
    """[B, n]: in each row the numbers 0 to n - 1, in an order of which all are as likely (Fisher and Yates)."""
    if not 0 < n <= _WIDEST:
        raise ValueError(f"n = {n}: permutations are drawn of 1 to {_WIDEST} numbers")
    a, b = _counters(first, second)
    out = np.empty((len(a), n), dtype=np.int64)
    _draw_permutations(np.uint64(int(seed) % 2**64), _METHODS + int(stream), a, b, out)
    return torch.from_numpy(out)


def _counters(first: ArrayLike | Tensor, second: ArrayLike | Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    arrays = (x.cpu().numpy() if isinstance(x, Tensor) else np.asarray(x) for x in (first, second))
    a, b = np.broadcast_arrays(*(np.atleast_1d(x).astype(np.int64) for x in arrays))
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


@compiled(nogil=True)
def _draw_words(key, stream, first, second, out):  # type: ignore[no-untyped-def]
    for b in range(len(first)):
        for block in range(out.shape[1] // 4):
            drawn = _philox(first[b], second[b], stream, block, key)
            for i in range(4):
                out[b, 4 * block + i] = np.int64(drawn[i])


@compiled(nogil=True)
def _draw_permutations(key, stream, first, second, out):  # type: ignore[no-untyped-def]
    for b in range(len(first)):
        row = out[b]
        for i in range(len(row)):
            row[i] = i
        for i in range(len(row) - 1, 0, -1):
            w0, _, _, _ = _philox(first[b], second[b], stream, i, key)
            j = _below(w0, i + 1)
            row[i], row[j] = row[j], row[i]
