from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import precision_recall_curve

from simclr_plus.features.metrics import (
    average_precision_11,
    effective_rank,
    feature_std,
    knn_scores,
    mean_average_precision_11,
    mean_per_class_accuracy,
    summary,
    top_k_accuracy,
)


def test_top_k_counts_labels_among_the_k_highest() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.5, 0.9, 0.1]])
    labels = torch.tensor([0, 1, 2])
    assert [top_k_accuracy(scores, labels, k) for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_mean_per_class_weighs_classes_alike_and_leaves_absent_ones_out() -> None:
    scores = torch.eye(4)[torch.tensor([0, 0, 0, 1])]
    assert mean_per_class_accuracy(scores, torch.tensor([0, 0, 0, 0])) == pytest.approx(0.75)
    assert mean_per_class_accuracy(scores, torch.tensor([0, 0, 0, 2])) == pytest.approx(0.5)


def test_top5_is_there_from_five_classes_on() -> None:
    assert "top5" not in summary(torch.rand(6, 4), torch.zeros(6, dtype=torch.long))
    assert summary(torch.rand(6, 5), torch.zeros(6, dtype=torch.long))["top5"] == 1


@pytest.mark.parametrize("k", [1, 5, 40])
@pytest.mark.parametrize("votes", [1, 7 * 40 * 3, 1 << 25])
def test_knn_ranks_the_classes_by_weighted_votes(monkeypatch: pytest.MonkeyPatch, k: int, votes: int) -> None:
    monkeypatch.setattr("simclr_plus.features.metrics.VOTES", votes)  # queries at a time
    rng = np.random.default_rng(0)
    bank, labels, queries = rng.normal(size=(300, 16)), rng.integers(0, 7, 300), rng.normal(size=(50, 16))
    scores = knn_scores(*map(torch.from_numpy, (queries, bank, labels)), 7, k=k, temperature=0.1).numpy()
    for query, got in zip(queries, scores, strict=True):
        similarity = bank @ query / np.linalg.norm(bank, axis=1) / np.linalg.norm(query)
        votes_of = np.zeros(7)
        for i in np.argsort(-similarity)[:k]:
            votes_of[labels[i]] += np.exp(similarity[i] / 0.1)
        voted = np.flatnonzero(votes_of)
        expected = sorted(voted, key=lambda c: -votes_of[c])
        assert np.argsort(-got)[: len(voted)].tolist() == expected
        assert sorted(got) == [1, 2, 3, 4, 5, 6, 7]


def test_a_knn_temperature_that_leaves_float32_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature = 0.01 .*0.0125 or more"):
        knn_scores(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 2]), 3, temperature=0.01)


def test_knn_takes_all_of_a_small_bank() -> None:
    scores = knn_scores(torch.eye(3), torch.eye(3), torch.tensor([0, 1, 2]), 3, k=200)
    assert scores.argmax(dim=1).tolist() == [0, 1, 2]


def test_spread_and_rank_tell_collapse_from_health() -> None:
    torch.manual_seed(0)
    healthy, collapsed = torch.randn(4096, 64), torch.ones(4096, 64) + 1e-4 * torch.randn(4096, 64)
    line = torch.randn(4096, 1) * torch.randn(1, 64)
    assert feature_std(healthy) == pytest.approx(1, abs=0.02) and feature_std(collapsed) < 1e-3
    assert effective_rank(healthy) > 60 and effective_rank(line) == pytest.approx(1, abs=0.01)


def test_the_effective_rank_of_equal_directions_is_their_number() -> None:
    x = torch.cat([torch.eye(8), -torch.eye(8)])
    assert effective_rank(x) == pytest.approx(8, rel=1e-4) and math.isfinite(effective_rank(torch.zeros(4, 3)))


def test_eleven_point_average_precision_is_the_best_precision_at_eleven_recalls() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        n = int(generator.integers(5, 60))
        scores, labels = generator.random((n, 2)), generator.integers(-1, 2, (n, 2))
        labels[:2] = 1
        found = average_precision_11(torch.from_numpy(scores), torch.from_numpy(labels)).tolist()
        for c in range(2):
            kept = labels[:, c] >= 0
            precision, recall, _ = precision_recall_curve(labels[kept, c], scores[kept, c])
            precision, recall = precision[:-1], recall[:-1]  # without the point (1, 0) that no example gives
            best = [precision[recall >= t - 1e-12].max() for t in np.arange(11) / 10]
            assert found[c] == pytest.approx(float(np.mean(best)), abs=1e-9)


def test_a_class_that_never_occurs_is_left_out_of_the_mean() -> None:
    scores, labels = torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[1, 0], [0, -1]])
    assert mean_average_precision_11(scores, labels) == 1.0


@pytest.mark.parametrize("shape", [(256, 64), (64, 256), (32, 32)])
def test_the_effective_rank_is_that_of_the_singular_values(shape: tuple[int, int]) -> None:
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.linalg.svdvals(h - h.mean(dim=0))
    p = values[values > 1e-9] / values.sum()
    assert effective_rank(h.float()) == pytest.approx(math.exp(-float((p * p.log()).sum())), rel=1e-4)


def test_the_effective_rank_of_features_that_are_not_finite_is_no_number_and_no_error() -> None:
    assert math.isnan(effective_rank(torch.full((8, 4), torch.nan)))
    assert math.isnan(effective_rank(torch.full((8, 4), torch.inf)))
