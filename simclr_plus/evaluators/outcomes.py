"""What an evaluation on a labelled set gives: numbers, and for every test image what was predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simclr_plus.evaluators.significance import interval, right_answers, strata_of, weights_of
from simclr_plus.features.metrics import mean_average_precision_11, summary


@dataclass(frozen=True)
class Outcome:
    """`numbers` go to the result file; labels and predictions [N] (of several labels [N, C], 1 for yes) beside it."""

    numbers: dict[str, Any]
    labels: NDArray[np.int64]
    predictions: NDArray[np.int64]


def outcome_of(scores: Tensor, labels: Tensor, metric: str, **numbers: Any) -> Outcome:
    """Scores [N, C] against labels [N], or [N, C] of 1, 0, -1: metrics, the set's own one with a 95 % interval."""
    if labels.ndim == 2:
        predictions = (scores > 0).long()
        metrics = {"map11": mean_average_precision_11(scores, labels)}
        metrics["accuracy"] = float((predictions == labels)[labels >= 0].double().mean())
    else:
        predictions, metrics = scores.argmax(dim=1), summary(scores, labels)
    truth, predicted = labels.cpu().numpy(), predictions.cpu().numpy()
    low, high = interval(right_answers(truth, predicted), weights_of(truth, metric), strata_of(truth, metric))
    of = "accuracy" if labels.ndim == 2 else metric
    return Outcome({**metrics, "metric": metric, f"{of}_interval_95": [low, high], **numbers}, truth, predicted)


def main_number(scores: Tensor, labels: Tensor, metric: str) -> float:
    """The set's own metric alone."""
    return mean_average_precision_11(scores, labels) if labels.ndim == 2 else summary(scores, labels)[metric]
