"""What the features still tell of the transformation that an image went through (paper, Table 3).

Each image is shown once, its central crop transformed or not by a draw of its own; an MLP learns from the frozen
features which it was. The paper says no more than "an additional MLP". Chosen here: one hidden layer of 512 ReLU units
on standardised features (h and z differ in scale), Adam at 0.001 with cosine decay over 30 epochs, batches of 256, and
of all epochs the one of the least loss on a held-out tenth of the training images, so that features that tell nothing
are met with the chance level. B: images, S: side in pixels, F: features.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_plus.augmentations.draws import epoch_order
from simclr_plus.augmentations.further_operations import edges
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.operations import to_grayscale
from simclr_plus.datasets.images import Images, held_out_indices
from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import summary
from simclr_plus.schedules import warmup_cosine

RATE, BATCH = 0.001, 256
COLOURLESS = 0.5 / 255  # no image shows more between its channels: there is nothing to tell gray from


@dataclass(frozen=True)
class Task:
    """What an image may be, how likely each is, and (images [B, 3, S, S], classes [B], draws, law) -> what is shown."""

    classes: tuple[str, ...]
    shares: tuple[float, ...]
    shown: Callable[[Tensor, Tensor, Sequence[np.random.Generator], ViewLaw], Tensor]


def predict_transformation(
    subject: Subject,
    train: Images,
    test: Images,
    task: str,
    *,
    device: torch.device,
    seed: int = 0,
    hidden: int = 512,
    epochs: int = 30,
) -> dict[str, Any]:
    """top1 and mean_per_class on test images, and `chance`: the share of the commonest class among them.

    task: "color_or_gray" (gray with probability 0.2, as in pretraining), "rotation" (of 0, 90, 180, 270 degrees),
    "corrupted" (Gaussian noise or none), "sobel" (edges or the image). Labels of the images are not needed.
    """
    if task not in TASKS:
        raise RecipeError(f"task {task!r} is unknown; use {', '.join(TASKS)}")
    transformation = TASKS[task]
    features, labels = _of_transformed(subject, train, transformation, seed, 0, device)
    test_features, test_labels = _of_transformed(subject, test, transformation, seed, 1, device)
    mean, std = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
    held, kept = (torch.from_numpy(i) for i in held_out_indices(labels.cpu().numpy(), 0.1, seed))
    features = (features - mean) / std
    model, epoch = _trained(
        features[kept],
        labels[kept],
        features[held],
        labels[held],
        classes=len(transformation.classes),
        hidden=hidden,
        epochs=epochs,
        seed=seed,
    )
    with torch.no_grad():
        scores = model((test_features - mean) / std)
    return summary(scores, test_labels) | {
        "task": task,
        "classes": list(transformation.classes),
        "chance": int(torch.bincount(test_labels).max()) / len(test_labels),
        "train_images": len(labels),
        "test_images": len(test_labels),
        "protocol": f"MLP with {hidden} hidden units on standardised features, Adam, the epoch of least held-out loss",
        "hidden": hidden,
        "epochs": epochs,
        "chosen_epoch": epoch,
        "seed": seed,
    }


def _of_transformed(
    subject: Subject, images: Images, task: Task, seed: int, part: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Features [N, F] of the transformed images and what each was [N]; image i's draws depend on seed, part and i."""
    shares = np.random.Generator(np.random.Philox(key=[seed, 0], counter=[0, 0, 1, part])).random(len(images))
    drawn = np.searchsorted(np.cumsum(task.shares)[:-1], shares, side="right")
    most = 0.0

    def change(crops: Tensor, indices: NDArray[np.int64]) -> Tensor:
        nonlocal most
        most = max(most, float((crops.amax(dim=1) - crops.amin(dim=1)).max()))
        keys = ([seed, int(i)] for i in indices)
        draws = [np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, part])) for key in keys]
        return task.shown(crops, torch.from_numpy(drawn[indices]), draws, subject.law)

    labelled = replace(images, labels=drawn, classes=task.classes)
    features, seen = features_of(subject.encoder, labelled, subject.law, device=device, change=change)
    if task is TASKS["color_or_gray"] and most < COLOURLESS:
        raise SimclrPlusError(f"{images.name} holds gray images alone: colour or gray is no question; name another set")
    return features.to(device), labels_of(seen).to(device)


def _trained(
    features: Tensor,
    labels: Tensor,
    held_features: Tensor,
    held_labels: Tensor,
    *,
    classes: int,
    hidden: int,
    epochs: int,
    seed: int,
) -> tuple[nn.Module, int]:
    """The MLP after the epoch of the least loss on the held-out images, and which epoch that was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(features.shape[1], hidden), nn.ReLU(), nn.Linear(hidden, classes))
    model.to(features.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    steps = -(-len(features) // BATCH)
    best, least, chosen = model, float("inf"), 0
    for epoch in range(epochs):
        order = torch.from_numpy(epoch_order(seed, epoch, len(features))).to(features.device)
        for step, rows in enumerate(torch.split(order, BATCH), start=epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(step, peak=RATE, warmup_steps=0, total_steps=epochs * steps)
            loss = F.cross_entropy(model(features[rows]), labels[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            held = float(F.cross_entropy(model(held_features), held_labels))
        if held < least:
            best, least, chosen = copy.deepcopy(model), held, epoch + 1
    return best, chosen


def _color_or_gray(images: Tensor, classes: Tensor, _: Sequence[np.random.Generator], _law: ViewLaw) -> Tensor:
    return torch.where(_is(1, classes), to_grayscale(images), images)


def _rotated(images: Tensor, classes: Tensor, _: Sequence[np.random.Generator], _law: ViewLaw) -> Tensor:
    """By so many quarter turns, counter-clockwise."""
    turned = [images.rot90(turns, dims=(2, 3)) for turns in range(4)]
    return torch.stack(turned)[classes, torch.arange(len(images))]


def _corrupted(images: Tensor, classes: Tensor, draws: Sequence[np.random.Generator], law: ViewLaw) -> Tensor:
    noise = np.stack([generator.standard_normal(images.shape[1:], dtype=np.float32) for generator in draws])
    return torch.where(_is(1, classes), (images + law.noise_deviation * torch.from_numpy(noise)).clamp(0, 1), images)


def _edges(images: Tensor, classes: Tensor, _: Sequence[np.random.Generator], _law: ViewLaw) -> Tensor:
    return torch.where(_is(1, classes), edges(images), images)


def _is(number: int, classes: Tensor) -> Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return (classes == number)[:, None, None, None]


TASKS = {
    "color_or_gray": Task(("colour", "gray"), (0.8, 0.2), _color_or_gray),
    "rotation": Task(("0", "90", "180", "270"), (0.25,) * 4, _rotated),
    "corrupted": Task(("original", "noise"), (0.5, 0.5), _corrupted),
    "sobel": Task(("original", "sobel"), (0.5, 0.5), _edges),
}
