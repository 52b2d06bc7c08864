"""Numbers about features and predictions: kNN, top-k, mean per class, spread, effective rank. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor


def top_k_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of rows [B, C] whose label [B] is among the k highest scores."""
    hits = (scores.topk(k, dim=1).indices == labels[:, None]).any(dim=1)
    return float(hits.float().mean())


def mean_per_class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the top-1 accuracy in each."""
    right = (scores.argmax(dim=1) == labels).double()
    count = torch.bincount(labels, minlength=scores.shape[1]).double()
    hits = torch.bincount(labels, weights=right, minlength=scores.shape[1])
    return float((hits[count > 0] / count[count > 0]).mean())


def summary(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """top1, mean_per_class, and top5 where there are five classes or more."""
    found = {"top1": top_k_accuracy(scores, labels, 1), "mean_per_class": mean_per_class_accuracy(scores, labels)}
    if scores.shape[1] >= 5:
        found["top5"] = top_k_accuracy(scores, labels, 5)
    return found


def knn_scores(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, *, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Votes [B, classes] of the k nearest of bank [M, D] by cosine similarity, weighted exp(similarity / temperature).

    The weighting is Wu et al.'s (2018), as in Lightly's knn_predict; k above M means all of the bank.
    """
    from torch.nn.functional import normalize

    bank = normalize(bank.float(), dim=1)
    votes = []
    for part in normalize(features.float(), dim=1).split(1024):  # type: ignore[no-untyped-call]
        similarity, nearest = (part @ bank.T).topk(min(k, len(bank)), dim=1)
        weights = ((similarity - 1) / temperature).exp()
        one_hot = torch.zeros(len(part), classes, device=part.device)
        votes.append(one_hot.scatter_add_(1, bank_labels[nearest], weights))
    return torch.cat(votes)


def feature_std(h: Tensor) -> float:
    """Mean standard deviation of l2-normalised features [B, D], times sqrt(D): near 1 when spread, 0 when collapsed."""
    unit = torch.nn.functional.normalize(h.float(), dim=1)
    return float(unit.std(dim=0).mean() * h.shape[1] ** 0.5)


def effective_rank(h: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features [B, D] (Roy and Vetterli 2007)."""
    h = h.float()
    values = torch.linalg.svdvals(h - h.mean(dim=0))
    p = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(p * (p + 1e-12).log()).sum()))
