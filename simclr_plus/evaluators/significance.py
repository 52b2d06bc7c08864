"""Is one encoder better than another on the same test images? The paper's permutation test (B.8) and exact McNemar.

Both compare paired predictions and know nothing of what another training would have given. Random swaps of one
example's two predictions only matter where one of them is right and the other wrong, and examples that weigh the same
can be drawn together: the number of swaps among n of them is binomial, so that 100,000 samples take milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simclr_plus.errors import SimclrPlusError

SAMPLES = 100_000  # the paper's
LEVEL = 0.05  # a difference of smaller p is significant
RESAMPLES = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Comparison:
    """Metric of a, of b, a - b with its 95 % interval, p of the permutation test, p of exact McNemar (top-1 only)."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    p_mcnemar: float | None

    @property
    def significant(self) -> bool:
        """Whether p < 0.05."""
        return self.p < LEVEL


def compare(
    right_a: NDArray[np.int64],
    right_b: NDArray[np.int64],
    weights: NDArray[np.float64],
    strata: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> Comparison:
    """Two encoders whose metric is the sum over examples of weight times right [N] (`weights_of` gives the weights).

    `right` is 0 or 1, or for several labels an image the number of them that are right. strata: see `interval`.
    p is (1 + samples as uneven as what was observed) / (1 + samples), never 0 (Phipson and Smyth 2010).
    """
    if not len(right_a) == len(right_b) == len(weights):
        raise SimclrPlusError(
            f"predictions of {len(right_a)} and {len(right_b)} images cannot be paired: evaluate both encoders on the "
            "same test images"
        )
    change = (right_a - right_b) * weights
    observed = float(change.sum())
    generator = np.random.Generator(np.random.Philox(seed))
    sizes, counts = np.unique(np.abs(change[change != 0]), return_counts=True)
    swapped = np.zeros(SAMPLES)
    for size, count in zip(sizes, counts, strict=True):
        swapped += size * (2.0 * generator.binomial(count, 0.5, SAMPLES) - count)
    as_uneven = int((np.abs(swapped) >= abs(observed) * (1 - 1e-9)).sum())
    p = (as_uneven + 1) / (SAMPLES + 1)
    low, high = _interval_of_sum(change, strata, generator)
    ones = right_a.max(initial=0) <= 1 and right_b.max(initial=0) <= 1
    plain = bool(ones and len(weights) and np.ptp(weights) == 0)
    a, b = float((right_a * weights).sum()), float((right_b * weights).sum())
    wins, losses = int((change > 0).sum()), int((change < 0).sum())
    return Comparison(a, b, observed, low, high, p, exact_mcnemar(wins, losses) if plain else None)


def weights_of(labels: NDArray[np.int64], metric: str) -> NDArray[np.float64]:
    """What each example adds to the metric when it is right: "top1", "mean_per_class"; for labels [N, C] accuracy.

    The paper tests VOC 2007 by accuracy, not by its mean average precision: here the share of right yes-or-no answers.
    """
    if labels.ndim == 2:
        return np.full(len(labels), 1 / max(1, int((labels >= 0).sum())))
    if metric == "mean_per_class":
        classes, of_class, counts = np.unique(labels, return_inverse=True, return_counts=True)
        return 1 / (len(classes) * counts[of_class])
    return np.full(len(labels), 1 / max(1, len(labels)))


def strata_of(labels: NDArray[np.int64], metric: str) -> NDArray[np.int64] | None:
    """What is resampled in itself: the classes where the metric is the mean over them, else all examples together."""
    return labels if metric == "mean_per_class" and labels.ndim == 1 else None


def right_answers(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> NDArray[np.int64]:
    """1 where the class is right; of labels [N, C] how many of an image's answers (1: yes, 0: no) are."""
    same = np.asarray(labels == predictions, dtype=np.int64)
    return np.asarray(same.sum(axis=1)) if labels.ndim == 2 else same


def exact_mcnemar(wins: int, losses: int) -> float:
    """Two-sided p that a fair coin divides wins + losses as unevenly or more so."""
    n, term, tail = wins + losses, 1, 0
    for k in range(min(wins, losses) + 1):
        tail += term
        term = term * (n - k) // (k + 1)
    return min(1.0, 2 * tail / 2**n) if n <= 1000 else min(1.0, float(_ratio(2 * tail, n)))


def _ratio(number: int, power: int) -> float:
    """number / 2^power where both leave the range of floats."""
    spare = max(0, number.bit_length() - 64)
    return float(np.ldexp(float(number >> spare), spare - power))


def interval(
    right: NDArray[np.int64],
    weights: NDArray[np.float64],
    strata: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of a metric; the examples of each of the `strata` [N] are resampled among themselves."""
    return _interval_of_sum(right * weights, strata, np.random.Generator(np.random.Philox(seed)))


def _interval_of_sum(
    values: NDArray[np.float64], strata: NDArray[np.int64] | None, generator: np.random.Generator
) -> tuple[float, float]:
    """2.5 % and 97.5 % of the sum of values when those of each stratum are drawn anew from among themselves."""
    total = np.zeros(RESAMPLES)
    strata = np.zeros(len(values), dtype=np.int64) if strata is None else strata
    order = np.argsort(strata, kind="stable")
    edges = np.flatnonzero(np.diff(strata[order])) + 1
    for part in np.split(values[order], edges) if len(values) else ():
        sizes, counts = np.unique(part, return_counts=True)
        drawn = generator.multinomial(counts.sum(), counts / counts.sum(), RESAMPLES)
        total += drawn @ sizes
    low, high = np.percentile(total, (2.5, 97.5))
    return float(low), float(high)
