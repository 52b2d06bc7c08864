from __future__ import annotations

import math

import pytest
import torch
from lightly.utils.benchmarking.knn import knn_predict

from simclr_plus.metrics import (
    effective_rank,
    feature_std,
    knn_scores,
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
def test_knn_votes_as_lightlys(k: int) -> None:
    torch.manual_seed(0)
    bank, labels, queries = torch.randn(300, 16), torch.randint(0, 7, (300,)), torch.randn(50, 16)
    ours = knn_scores(queries, bank, labels, 7, k=k, temperature=0.1).argmax(dim=1)
    unit = torch.nn.functional.normalize
    theirs = knn_predict(unit(queries), unit(bank).T, labels, num_classes=7, knn_k=k, knn_t=0.1)[:, 0]
    assert torch.equal(ours, theirs)


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
