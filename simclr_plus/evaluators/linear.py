"""Linear evaluation: a linear classifier on a frozen encoder in eval mode (paper, B.6).

Nesterov momentum 0.9, learning rate 0.1 B/256 with cosine decay and no warm-up, no regularisation, weights from zero;
the last epoch is reported, never the best one on the test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus.augmentations.draws import epoch_order
from simclr_plus.datasets.images import Images, held_out_indices, require_labels
from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.evaluators.classifier import Classifier, State, Steps, batch_within, build_optimizer, train_classifier
from simclr_plus.evaluators.pace import Pace
from simclr_plus.evaluators.span import spanning
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.cache import cached_features
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import summary
from simclr_plus.schedules import peak_learning_rate, step_count, warmup_cosine

MOMENTUM = 0.9
LARS_DECAY = 1e-6  # of pretraining, which LARS here repeats (paper, B.6)
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # base rates to choose from on cached features


def evaluate_linear(
    subject: Subject,
    train: Images,
    test: Images,
    *,
    device: torch.device,
    epochs: float = 90,
    batch_size: int = 256,
    learning_rate: float = 0.1,
    optimizer: str = "nesterov",
    seed: int = 0,
    state: State | None = None,
    keep: Callable[[nn.Linear], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:  # the options of the command, and how a training of hours is kept
    """The paper's protocol: every epoch sees new crops and flips; "nesterov", or "lars" as in pretraining.

    Several processes share each batch; with a state a training that was cut off goes on where it was saved. keep:
    takes the trained classifier.
    """
    require_labels(train), require_labels(test)
    if optimizer not in ("nesterov", "lars"):
        raise RecipeError(f'optimizer {optimizer!r} is unknown here; use "nesterov" or "lars"')
    batch_size = batch_within(batch_size, len(train))
    model = Classifier(subject.encoder, len(train.classes), size=subject.law.size, frozen=True).to(device)
    steps = Steps(
        batch_size,
        step_count(epochs, len(train), batch_size),
        peak_learning_rate(learning_rate, batch_size, "linear"),
        seed,
    )
    decay = LARS_DECAY if optimizer == "lars" else 0.0
    trained = build_optimizer(model, optimizer, weight_decay=decay)
    train_classifier(model, trained, train, subject.law, steps, device=device, state=state, say=say)
    keep(model.linear)
    scores, seen = cached_features(model, test, subject.law, None, device=device)
    return summary(scores, labels_of(seen)) | {
        "protocol": f"crop and flip, frozen encoder, {'LARS' if optimizer == 'lars' else 'Nesterov SGD'}",
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "optimizer": optimizer,
    }


def evaluate_linear_fast(
    subject: Subject,
    train: Images,
    test: Images,
    *,
    device: torch.device,
    epochs: int = 90,
    batch_size: int = 256,
    learning_rate: float = 0.0,
    seed: int = 0,
    keep: Callable[[nn.Linear], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The same classifier on features of the central crops, extracted once: seconds instead of hours.

    Features differ in scale, so that no one learning rate is fair to all: with learning_rate = 0 the base rate is
    chosen from RATES by the loss on a held-out tenth of the training images (accuracy is too coarse on a few hundred),
    then the classifier is trained on all of them.
    """
    require_labels(train)
    features, train = features_of(subject.encoder, train, subject.law, device=device)
    weights, learning_rate = linear_on_features(
        features,
        labels_of(train),
        len(train.classes),
        device=device,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seed=seed,
        name=subject.name,
        say=say,
    )
    keep(_as_layer(weights))
    return _tested(weights, subject, test, device) | {
        "protocol": "cached features, Nesterov SGD",
        "epochs": epochs,
        "batch_size": min(batch_size, len(train)),
        "learning_rate": learning_rate,
    }


def linear_on_features(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    device: torch.device,
    epochs: int = 90,
    batch_size: int = 256,
    learning_rate: float = 0.0,
    seed: int = 0,
    name: str = "features",
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Tensor, float]:  # the options of evaluate_linear_fast
    """h [N, F] and labels [N] -> weights [F + 1, classes], the last row added to every image; and the base rate."""
    basis = spanning(features)
    h = (features if basis is None else (features.double() @ basis).float()).to(device)
    labels = labels.to(device)

    def fit(rows: Tensor, rates: Sequence[float]) -> Tensor:
        size = min(batch_size, len(rows))
        peaks = [peak_learning_rate(rate, size, "linear") for rate in rates]
        steps = step_count(epochs, len(rows), size)
        pace = Pace(f"{name}, steps at {len(rates)} learning rates", steps, say)
        return _fit(_batches_of(h[rows], labels[rows], steps, size, seed), steps, classes, peaks, pace)

    if not learning_rate:
        held, kept = (torch.from_numpy(i) for i in held_out_indices(labels.cpu().numpy(), 0.1))
        losses = [float(F.cross_entropy(linear_scores(h[held], w), labels[held])) for w in fit(kept, RATES)]
        if not np.isfinite(losses).any():
            raise SimclrPlusError(f"{name}: every learning rate diverged; its features may be huge or not finite")
        learning_rate = RATES[int(np.nanargmin(losses))]
    (weights,) = fit(torch.arange(len(h)), [learning_rate])
    if basis is not None:
        turned = basis.to(weights) @ weights[:-1]
        weights = torch.cat([turned, weights[-1:]])
    return weights, learning_rate


def _batches_of(h: Tensor, labels: Tensor, steps: int, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`steps` batches of rows, epoch after epoch, each in a new order."""
    epochs = range(-(-steps * size // len(h)))
    order = torch.from_numpy(np.concatenate([epoch_order(seed, epoch, len(h)) for epoch in epochs])).to(h.device)
    for rows in order[: steps * size].view(steps, size):
        yield h[rows], labels[rows]


def _fit(
    batches: Iterator[tuple[Tensor, Tensor]], steps: int, classes: int, peaks: Sequence[float], pace: Pace | None = None
) -> Tensor:
    """One classifier a peak learning rate, all from zero and on the same batches -> weights [rates, F + 1, classes]."""
    weights = velocity = torch.empty(0)
    for step, (h, labels) in enumerate(batches):
        h = torch.cat([h, h.new_ones(len(h), 1)], dim=1)
        if step == 0:
            weights = h.new_zeros(len(peaks), h.shape[1], classes)
            velocity = torch.zeros_like(weights)
        error = (h @ weights).softmax(dim=-1) - F.one_hot(labels, classes)
        gradient = h.T @ error / len(h)  # of the mean cross entropy
        rates = [warmup_cosine(step, peak=peak, warmup_steps=0, total_steps=steps) for peak in peaks]
        velocity.mul_(MOMENTUM).add_(gradient)
        weights -= h.new_tensor(rates).view(-1, 1, 1) * (gradient + MOMENTUM * velocity)
        if pace:
            pace.at(step + 1)
    return weights


def linear_scores(h: Tensor, weights: Tensor) -> Tensor:
    """h [N, F] and weights [F + 1, classes] -> scores [N, classes]."""
    return h @ weights[:-1] + weights[-1]


def _as_layer(weights: Tensor) -> nn.Linear:
    linear = nn.Linear(len(weights) - 1, weights.shape[1])
    linear.load_state_dict({"weight": weights[:-1].T, "bias": weights[-1]})
    return linear


def _tested(weights: Tensor, subject: Subject, test: Images, device: torch.device) -> dict[str, float]:
    require_labels(test)
    features, test = features_of(subject.encoder, test, subject.law, device=device)
    return summary(linear_scores(features, weights.cpu()), labels_of(test))
