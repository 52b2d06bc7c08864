"""What is measured of a method: on its frozen features, on those of the encoder that it began with, of its own task."""

from __future__ import annotations

from statistics import mean

import torch
from torch import Tensor, nn

from simclr_plus.datasets.few_labels import share_indices
from simclr_plus.datasets.images import TEST, TRAIN, Images, held_out_indices, open_images, require_labels
from simclr_plus.evaluators.linear import linear_on_features, linear_scores
from simclr_plus.evaluators.subjects import RawPixels
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import knn_scores, top_k_accuracy
from simclr_plus.runs.folder import Run
from simclr_plus.runs.time_spent import seconds_of_training
from simclr_plus.training.model import build_encoder
from simclr_plus.weights.encoder_files import load_encoder

Figures = dict[str, float]
NEIGHBOURS = 20
SHARES = {"1pct": 0.01, "10pct": 0.1}  # of the labels
VALIDATION = 0.1  # of each class of the training images, where something is chosen


def frozen(run: Run, _scale: str, device: torch.device) -> Figures:
    """Of the trained encoder; `validation_top1` fits on nine tenths of the training images and scores the rest."""
    train, test = images_of(run)
    encoder = load_encoder(run.latest_checkpoint())
    h, train = features_of(encoder.to(device), train, run.recipe().law, device=device)
    held, kept = (torch.from_numpy(i) for i in held_out_indices(require_labels(train), VALIDATION))
    labels, classes = labels_of(train), len(train.classes)
    weights, _ = linear_on_features(h[kept], labels[kept], classes, device=device)
    chosen_by = top_k_accuracy(linear_scores(h[held], weights.cpu()), labels[held], 1)
    on_test = _on_test(h, train, encoder, test, run, device)
    return {**on_test, "validation_top1": chosen_by, "test_images": float(len(test))}


def frozen_at_start(run: Run, _scale: str, device: torch.device) -> Figures:
    """Of the encoder that the run began with: the same network, input law and norm, not trained."""
    return _of(build_encoder(run.recipe()), "start", run, device)


def frozen_pixels(run: Run, _scale: str, device: torch.device) -> Figures:
    """Of raw pixels."""
    return _of(RawPixels(), "pixels", run, device)


def task(run: Run, _scale: str, _device: torch.device) -> Figures:
    """The share that the method itself logs, over the last epoch, with its chance; what training took."""
    recipe, lines = run.recipe(), [line for line in run.metrics() if "loss" in line]
    last = [line for line in lines if line["epoch"] > lines[-1]["epoch"] - 1]
    figures = {
        "epochs": recipe.training.epochs,
        "pixels": recipe.method.pixels(recipe),
        "side": recipe.augmentation.image_size,
        "seconds": seconds_of_training(run),
        "loss": mean(line["loss"] for line in last),
    }
    share = next((f for f in recipe.method.figures(recipe) if f.share and f.chance is not None), None)
    if share is not None:
        figures |= {"task": mean(line[share.column] for line in last), "task_chance": share.chance or 0.0}
    elif recipe.method.learns_labels:
        classes = len(open_images(recipe.data, TRAIN).classes)
        figures |= {"task": mean(line["probe_accuracy"] for line in last), "task_chance": 1 / classes}
    return figures


def _of(encoder: nn.Module, name: str, run: Run, device: torch.device) -> Figures:
    train, test = images_of(run)
    h, train = features_of(encoder.to(device), train, run.recipe().law, device=device)
    return {f"{key}_{name}": value for key, value in _on_test(h, train, encoder, test, run, device).items()}


def _on_test(h: Tensor, train: Images, encoder: nn.Module, test: Images, run: Run, device: torch.device) -> Figures:
    """Test accuracy of a linear classifier with all labels and with shares of them, and of the nearest neighbours."""
    recipe = run.recipe()
    of_test, test = features_of(encoder, test, recipe.law, device=device)
    labels, classes, right = labels_of(train), len(train.classes), labels_of(test)
    figures = {}
    rows = {"": torch.arange(len(train))}
    rows |= {
        f"_{name}": torch.from_numpy(share_indices(train, share, recipe.training.seed))
        for name, share in SHARES.items()
    }
    for name, some in rows.items():
        rate = 0.0 if len(some) >= 10 * classes else 1.0  # too few to hold some out and choose one
        weights, _ = linear_on_features(h[some], labels[some], classes, device=device, learning_rate=rate)
        figures[f"top1{name}"] = top_k_accuracy(linear_scores(of_test, weights.cpu()), right, 1)
    scores = knn_scores(of_test, h, labels, classes, k=NEIGHBOURS)
    return figures | {"top1_knn": top_k_accuracy(scores, right, 1)}


def images_of(run: Run) -> tuple[Images, Images]:
    """To fit on, and to test on."""
    data = run.recipe().data
    return open_images(data, TRAIN), open_images(data, TEST)
