from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binomtest

from simclr_plus.errors import SimclrPlusError
from simclr_plus.evaluators.significance import compare, exact_mcnemar, interval, right_answers, strata_of, weights_of


@pytest.mark.parametrize("wins, losses", [(0, 0), (3, 1), (10, 10), (0, 7), (40, 61), (1500, 1400), (700, 300)])
def test_exact_mcnemar_is_the_binomial_test(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert exact_mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)


def swaps_by_brute_force(a: np.ndarray, b: np.ndarray, labels: np.ndarray, metric: str) -> float:
    """Every one of the 2^N ways to swap, the metric computed anew each time."""

    def value(right: np.ndarray) -> float:
        if metric == "top1":
            return float(right.mean())
        return float(np.mean([right[labels == c].mean() for c in np.unique(labels)]))

    observed = abs(value(a) - value(b))
    more = 0
    for swap in itertools.product((False, True), repeat=len(a)):
        first, second = np.where(swap, b, a), np.where(swap, a, b)
        more += abs(value(first) - value(second)) >= observed - 1e-12
    return more / 2 ** len(a)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_permutation_test_is_that_of_all_swaps(metric: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2])
    a, b = generator.integers(0, 2, (2, len(labels)))
    found = compare(a, b, weights_of(labels, metric))
    exact = swaps_by_brute_force(a, b, labels, metric)
    assert found.p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 100_000) + 1e-9)
    if metric == "top1":
        assert found.p_mcnemar == pytest.approx(exact, rel=1e-9)
    else:
        assert found.p_mcnemar is None


def test_several_labels_are_tested_by_the_answers_that_are_right() -> None:
    labels = np.array([[1, 0, -1], [0, 0, 1], [1, 1, 0]])
    said = np.array([[1, 1, 0], [0, 0, 1], [0, 1, 0]])
    right = right_answers(labels, said)
    assert right.tolist() == [1, 3, 2]
    weights = weights_of(labels, "map11")
    assert float((right * weights).sum()) == pytest.approx(6 / 8)
    assert compare(right, right, weights).p == 1.0


def test_intervals_are_those_of_the_normal_law_when_there_are_many_examples() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 20_000)
    right = (generator.random(20_000) < 0.7).astype(np.int64)
    low, high = interval(right, weights_of(labels, "top1"))
    half = 1.96 * math.sqrt(0.7 * 0.3 / 20_000)
    assert low == pytest.approx(right.mean() - half, abs=5e-4) and high == pytest.approx(right.mean() + half, abs=5e-4)
    per_class = [right[labels == c].mean() for c in range(4)]
    low, high = interval(right, weights_of(labels, "mean_per_class"), strata_of(labels, "mean_per_class"))
    assert low < np.mean(per_class) < high and high - low == pytest.approx(2 * half, rel=0.1)


def test_a_real_difference_is_significant_and_its_interval_leaves_zero_out() -> None:
    generator = np.random.default_rng(0)
    a, b = (generator.random(2000) < 0.8).astype(int), (generator.random(2000) < 0.7).astype(int)
    found = compare(a, b, np.full(2000, 1 / 2000))
    assert found.significant and 0 < found.low < found.difference < found.high
    assert not compare(a, a, np.full(2000, 1 / 2000)).significant


def test_predictions_of_other_images_cannot_be_paired() -> None:
    with pytest.raises(SimclrPlusError, match="2 and 3 images"):
        compare(np.ones(2, dtype=np.int64), np.ones(3, dtype=np.int64), np.ones(2))


def test_p_of_samples_is_never_zero() -> None:
    """Of 100,000 random swaps none is as uneven as 2,000 wins to 0: p is then 1 / 100,001."""
    a, b = np.ones(2000, dtype=np.int64), np.zeros(2000, dtype=np.int64)
    found = compare(a, b, np.full(2000, 1 / 2000))
    assert found.p == pytest.approx(1 / 100_001) and found.significant


def bootstrap_by_class(right: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """The slow formula: each class drawn anew from itself, the mean over the classes taken."""
    generator = np.random.default_rng(0)
    classes = [right[labels == c] for c in np.unique(labels)]
    means = [np.mean([generator.choice(own, len(own)).mean() for own in classes]) for _ in range(4000)]
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


@pytest.mark.parametrize("sizes", [(50, 50, 50), (50, 51, 52)])
def test_the_interval_of_a_mean_over_classes_does_not_depend_on_ties_of_their_sizes(sizes: tuple[int, ...]) -> None:
    labels = np.repeat(np.arange(3), sizes)
    right = np.concatenate([np.arange(size) < share * size for size, share in zip(sizes, (0.0, 0.5, 1.0), strict=True)])
    low, high = interval(
        right.astype(np.int64), weights_of(labels, "mean_per_class"), strata_of(labels, "mean_per_class")
    )
    slow_low, slow_high = bootstrap_by_class(right, labels)
    assert low == pytest.approx(slow_low, abs=0.01) and high == pytest.approx(slow_high, abs=0.01)
