"""Linear evaluation: a linear classifier on a frozen encoder in eval mode (paper, B.6).

Nesterov momentum 0.9, learning rate 0.1 B/256 with cosine decay and no warm-up, no regularisation, weights from zero;
the last epoch is reported, never the best one on the test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus.augmentations.draws import epoch_order
from simclr_plus.datasets import Images, require_labels
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features import features_of, labels_of
from simclr_plus.loading import ViewBatches
from simclr_plus.metrics import summary
from simclr_plus.schedules import peak_learning_rate, step_count, warmup_cosine


def evaluate_linear(
    subject: Subject,
    train: Images,
    test: Images,
    *,
    device: torch.device,
    epochs: int = 90,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """The paper's protocol: every epoch sees new crops and flips of the training images."""
    require_labels(train)
    steps = step_count(epochs, len(train), batch_size)
    views = ViewBatches(
        train, subject.law.crop_and_flip_only(), batch_size=min(batch_size, len(train)), seed=seed, views=1
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for batch in views.batches(0, steps):
            with torch.no_grad():
                yield subject.encoder(batch.views.to(device)).flatten(1).float(), batch.labels.to(device)

    subject.encoder.eval()
    peak = peak_learning_rate(learning_rate, batch_size, "linear")
    classifier = _fit(batches(), steps, len(train.classes), peak)
    return _tested(classifier, subject, test, device) | {
        "protocol": "crop and flip, frozen encoder, Nesterov SGD",
        "epochs": epochs,
        "batch_size": batch_size,
        "peak_learning_rate": peak,
    }


def evaluate_linear_fast(
    subject: Subject,
    train: Images,
    test: Images,
    *,
    device: torch.device,
    epochs: int = 90,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> dict[str, Any]:
    """The same classifier on features of the central crops, extracted once: seconds instead of hours."""
    labels = torch.from_numpy(require_labels(train)).to(device)
    features = features_of(subject.encoder, train, subject.law, device=device).to(device)
    steps, size = step_count(epochs, len(train), batch_size), min(batch_size, len(train))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        orders: dict[int, np.ndarray[Any, np.dtype[np.int64]]] = {}
        for step in range(steps):
            stream = np.arange(step * size, (step + 1) * size)
            for epoch in np.unique(stream // len(train)).tolist():
                orders.setdefault(epoch, epoch_order(seed, epoch, len(train)))
            rows = torch.from_numpy(np.array([orders[p // len(train)][p % len(train)] for p in stream.tolist()]))
            yield features[rows], labels[rows]

    peak = peak_learning_rate(learning_rate, batch_size, "linear")
    classifier = _fit(batches(), steps, len(train.classes), peak)
    return _tested(classifier, subject, test, device) | {
        "protocol": "cached features, Nesterov SGD",
        "epochs": epochs,
        "batch_size": batch_size,
        "peak_learning_rate": peak,
    }


def _fit(batches: Iterator[tuple[Tensor, Tensor]], steps: int, classes: int, peak: float) -> nn.Linear:
    """A linear classifier from zero, `steps` updates."""
    classifier: nn.Linear | None = None
    for step, (h, labels) in enumerate(batches):
        if classifier is None:
            classifier = nn.Linear(h.shape[1], classes).to(h.device)
            nn.init.zeros_(classifier.weight)
            nn.init.zeros_(classifier.bias)
            optimizer = torch.optim.SGD(classifier.parameters(), lr=0.0, momentum=0.9, nesterov=True)
        for group in optimizer.param_groups:
            group["lr"] = warmup_cosine(step, peak=peak, warmup_steps=0, total_steps=steps)
        optimizer.zero_grad()
        F.cross_entropy(classifier(h), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert classifier is not None
    return classifier


@torch.no_grad()
def _tested(classifier: nn.Linear, subject: Subject, test: Images, device: torch.device) -> dict[str, float]:
    require_labels(test)
    features = features_of(subject.encoder, test, subject.law, device=device).to(device)
    return summary(classifier(features).cpu(), labels_of(test))
