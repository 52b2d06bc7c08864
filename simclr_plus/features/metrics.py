"""Numbers about features and predictions: kNN, top-k, mean per class, spread, effective rank. Pure functions."""

from __future__ import annotations

import torch
from torch import Tensor

from simclr_plus import lightly_parts
from simclr_plus.errors import NotFiniteError, UnlabelledError

VOTES = 1 << 25  # numbers that knn_predict may hold at a time: 128 MiB


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
    """top1, mean_per_class, and top5 where there are five classes or more; raises NotFiniteError.

    NaN would count as the highest score, so that a classifier that diverged had the accuracy of one class.
    """
    require_finite_scores(scores)
    metrics = {"top1": top_k_accuracy(scores, labels, 1), "mean_per_class": mean_per_class_accuracy(scores, labels)}
    if scores.shape[1] >= 5:
        metrics["top5"] = top_k_accuracy(scores, labels, 5)
    return metrics


def require_finite_scores(scores: Tensor) -> None:
    """Raises NotFiniteError where a score is NaN or infinite."""
    if not bool(scores.isfinite().all()):
        raise NotFiniteError(
            "the classifier's scores are not finite (NaN or infinite), so that they have no accuracy: its training "
            "diverged (a smaller learning rate), or the weights did"
        )


def knn_scores(
    features: Tensor, bank: Tensor, bank_labels: Tensor, classes: int, *, k: int = 200, temperature: float = 0.1
) -> Tensor:
    """Scores [B, classes] by rank: classes for the likeliest class, 1 for the least likely.

    Each of the k nearest of bank [M, D] by cosine similarity votes with weight exp(similarity / temperature) (Wu et al.
    2018), by Lightly's knn_predict; k above M means all of the bank. Raises UnlabelledError.
    """
    if not temperature >= 0.0125:  # exp(1 / temperature) leaves float32
        raise ValueError(f"temperature = {temperature} of kNN; use 0.0125 or more (the usual value is 0.1)")
    k = min(k, len(bank))
    has_label = (bank_labels >= 0) & (bank_labels < classes)
    if not k or not bool(has_label.all()):
        raise UnlabelledError(
            f"{len(bank) - int(has_label.sum())} of the {len(bank)} images that vote in kNN have no label of {classes} "
            "classes; take labelled images alone"
        )
    unit = torch.nn.functional.normalize
    bank, scores = unit(bank.float(), dim=1), torch.empty(len(features), classes, device=features.device)
    ranks = torch.arange(classes, 0, -1, dtype=scores.dtype, device=features.device)
    rows = max(1, min(1024, VOTES // (k * classes)))
    for part, out in zip(unit(features.float(), dim=1).split(rows), scores.split(rows), strict=True):  # type: ignore[no-untyped-call]
        ranking = lightly_parts.knn_ranking(part, bank, bank_labels, classes, k=k, temperature=temperature)
        out.scatter_(1, ranking, ranks.expand(len(part), -1))
    return scores


def feature_std(h: Tensor) -> float:
    """Mean standard deviation of l2-normalised features [B, D], times sqrt(D): near 1 when spread, 0 when collapsed."""
    unit = torch.nn.functional.normalize(h.float(), dim=1)
    return float(unit.std(dim=0).mean() * h.shape[1] ** 0.5)


def effective_rank(h: Tensor) -> float:
    """exp of the entropy of the normalised singular values of centred features [B, D] (Roy and Vetterli 2007).

    From the eigenvalues of the smaller Gram matrix, in float64 on the CPU. NaN for features that are not finite: a
    figure for people must not end the training.
    """
    h = h.detach().to("cpu", torch.float64)
    centred = h - h.mean(dim=0)
    gram = centred @ centred.T if h.shape[0] <= h.shape[1] else centred.T @ centred
    try:
        values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt()
    except RuntimeError:  # torch.linalg.LinAlgError is one
        return torch.nan
    p = values / values.sum().clamp_min(1e-12)
    return float(torch.exp(-(p * (p + 1e-12).log()).sum()))


def average_precision_11(scores: Tensor, labels: Tensor) -> Tensor:
    """11-point average precision of each class [C] (VOC 2007): mean over recalls 0, 0.1 .. 1 of the best precision.

    scores and labels [N, C]; labels are 1 (present), 0 (absent) or -1 (left out of that class). NaN without positives.
    """
    precisions = []
    for score, label in zip(scores.T, labels.T, strict=True):
        counted = label >= 0
        right = (label[counted] > 0)[score[counted].argsort(descending=True, stable=True)].double()
        hits = right.cumsum(0)
        positives = right.sum()
        precision = hits / torch.arange(1, len(right) + 1, device=right.device)
        best = precision.flip(0).cummax(0).values.flip(0)  # at this recall or a higher one
        needed = (positives * torch.arange(11, device=right.device) / 10).clamp_min(1e-9)
        first = torch.searchsorted(hits, needed - 1e-9)
        precisions.append(best[first.clamp_max(len(best) - 1)].mean() if positives else right.new_tensor(torch.nan))
    return torch.stack(precisions)


def mean_average_precision_11(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of `average_precision_11`; raises NotFiniteError."""
    require_finite_scores(scores)
    return float(average_precision_11(scores, labels).nanmean())
