"""Permutations that are far from each other, chosen greedily by whole numbers. No torch."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import permutations

import numpy as np
from numpy.typing import NDArray


def permutation_set(count: int = 100, patches: int = 9) -> NDArray[np.uint8]:
    """[count, patches], 0-based: from the identity on, always the one farthest from those chosen.

    Farthest: the largest sum of Hamming distances (algorithm 1 of Noroozi and Favaro 2016), of equals the largest
    smallest distance, of these the first in lexicographic order. About a second for 100 of 9!, five for 1000.
    """
    if not 1 <= count <= math.factorial(patches):
        raise ValueError(f"count = {count}: {patches} patches have {math.factorial(patches)} permutations")
    if patches > 9:
        raise ValueError(f"patches = {patches}: the permutations of more than 9 are too many to be compared")
    return _greedy_set(count, patches).copy()


@lru_cache(maxsize=4)
def _greedy_set(count: int, patches: int) -> NDArray[np.uint8]:
    every = np.array(list(permutations(range(patches))), dtype=np.uint8).T.copy()  # in lexicographic order
    sums = np.zeros(every.shape[1], dtype=np.int32)
    smallest = np.full(every.shape[1], patches, dtype=np.uint8)
    chosen = [0]
    while len(chosen) < count:
        distances = np.zeros(every.shape[1], dtype=np.uint8)
        for place in every:
            distances += place != place[chosen[-1]]
        sums += distances
        np.minimum(smallest, distances, out=smallest)
        sums[chosen[-1]] = -1 - count * patches  # never again
        chosen.append(int(np.argmax(sums * (patches + 1) + smallest)))  # the first of equals
    return every[:, chosen].T


def largest_mean_distance(count: int, patches: int) -> float:
    """What no set of permutations exceeds: its bound is reached where every place shows each patch as often."""
    often, rest = divmod(count, patches)
    same = rest * math.comb(often + 1, 2) + (patches - rest) * math.comb(often, 2)
    return patches - patches * same / math.comb(count, 2)


def checked_permutations(rows: NDArray[np.integer], count: int, patches: int) -> NDArray[np.uint8]:
    """A set of one's own [count, patches], numbered from 0 or from 1; ValueError says what is wrong with it."""
    if rows.ndim != 2 or rows.shape[1] != patches or not np.issubdtype(rows.dtype, np.integer):
        raise ValueError(f"holds {rows.dtype} of shape {rows.shape}, not whole numbers [{count}, {patches}]")
    if len(rows) != count:
        raise ValueError(f"holds {len(rows)} permutations, not {count}")
    rows = rows.astype(np.int64)
    if rows.min() not in (0, 1):
        raise ValueError(f"numbers patches from {rows.min()}, not from 0 or from 1")
    rows = rows - rows.min()
    wrong = (np.sort(rows, axis=1) != np.arange(patches)).any(axis=1)
    if wrong.any():
        raise ValueError(f"has in row {int(wrong.argmax())} no permutation of {patches} patches")
    if len(np.unique(rows, axis=0)) < count:
        raise ValueError("has a permutation twice")
    return rows.astype(np.uint8)
