"""k nearest neighbours on frozen features, by cosine similarity; nothing is trained."""

from __future__ import annotations

from typing import Any

import torch

from simclr_plus.datasets.images import Images, require_same_classes
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import knn_scores, summary


def evaluate_knn(
    subject: Subject, train: Images, test: Images, *, device: torch.device, k: int = 20, temperature: float = 0.1
) -> dict[str, Any]:
    """top-1, top-5 and mean per class of the k nearest training images, weighted exp(similarity / temperature).

    k: with fewer training images all of them vote; the number in the result is that of the votes.
    """
    require_same_classes(train, test)
    bank, train = features_of(subject.encoder, train, subject.law, device=device)
    h, test = features_of(subject.encoder, test, subject.law, device=device)
    labels = labels_of(train).to(device)
    scores = knn_scores(h.to(device), bank.to(device), labels, len(train.classes), k=k, temperature=temperature)
    return {**summary(scores.cpu(), labels_of(test)), "k": min(k, len(train)), "temperature": temperature}
