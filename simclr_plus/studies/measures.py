"""What is measured at a cell of a study: a trained run folder in, figures in [0, 1] (entropy in nats) out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import mean

import torch

from simclr_plus.datasets.few_labels import share_indices
from simclr_plus.datasets.images import Images, held_out_indices, require_labels
from simclr_plus.errors import SimclrPlusError
from simclr_plus.evaluators.classifier import Classifier, State
from simclr_plus.evaluators.fine_tuning import evaluate_few_labels, few_labels_protocol
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.linear import evaluate_linear, evaluate_linear_fast
from simclr_plus.evaluators.subjects import Subject, projected
from simclr_plus.evaluators.what_h_keeps import predict_transformation
from simclr_plus.features.cache import decoded_digest
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import summary
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.runs.folder import Run
from simclr_plus.studies.comparison.measures import (
    VALIDATION,
    frozen,
    frozen_at_start,
    frozen_pixels,
    images_of,
    task,
)
from simclr_plus.studies.study import PAPER
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.head_files import load_head

Figures = dict[str, float]
Measure = Callable[[Run, str, torch.device], Figures]
STATE = "measure_"  # begins the name of a state of a measure


def measured(run: Run, name: str, scale: str, device: torch.device) -> Figures:
    """The figures of one measure of a trained run."""
    return MEASURES[name](run, scale, device)


def forget_states(run: Run) -> None:
    """Remove what long measures kept while they went on; what else a user evaluates there keeps its own."""
    for state in run.results.glob(f".{STATE}*.safetensors"):
        state.unlink()


def _linear(run: Run, scale: str, device: torch.device, *, of: str = "h", choosing: bool = False) -> Figures:
    """Linear evaluation on h or z: the paper's protocol at its scale, else on cached features.

    choosing=True: fit on nine tenths of the training images, score the held-out tenth, never the test images.
    """
    train, test = images_of(run)
    if choosing:
        held, kept = held_out_indices(require_labels(train), VALIDATION)
        train, test = train.subset(kept), train.subset(held)
    subject = _subject(run, device)
    if of == "z":
        subject = projected(subject, _head(run, device))
    if scale == PAPER:
        state = _state(run, f"linear_{of}{'_validation' if choosing else ''}", subject, train)
        scores = evaluate_linear(subject, train, test, device=device, batch_size=4096, state=state)
    else:
        scores = evaluate_linear_fast(subject, train, test, device=device)
    name = {("h", False): "top1", ("z", False): "top1_z", ("h", True): "validation_top1"}[of, choosing]
    return {name: float(scores["top1"])} | ({} if choosing else {"test_images": float(len(test))})


def _knn(run: Run, _scale: str, device: torch.device) -> Figures:
    """Of the 20 nearest training images."""
    train, test = images_of(run)
    return {"top1_knn": float(evaluate_knn(_subject(run, device), train, test, device=device, k=20)["top1"])}


def _classifier(run: Run, _scale: str, device: torch.device) -> Figures:
    """Of supervised training: the trained classifier on the test images."""
    _, test = images_of(run)
    subject = _subject(run, device)
    probe = load_checkpoint(run.latest_checkpoint()).part("probe")
    model = Classifier(subject.encoder, len(test.classes), size=subject.law.size, frozen=True).to(device)
    model.linear.load_state_dict(probe)
    scores, seen = features_of(model.eval(), test, subject.law, device=device)
    return {"top1": summary(scores, labels_of(seen))["top1"], "test_images": float(len(test))}


def _contrastive(run: Run, _scale: str, _device: torch.device) -> Figures:
    """Accuracy and entropy of the contrastive task, means over the last epoch of training."""
    lines = [line for line in run.metrics() if "contrastive_accuracy" in line]
    if not lines:
        raise SimclrPlusError(f"{run.metrics_file} tells no contrastive accuracy")
    last = [line for line in lines if line["epoch"] > lines[-1]["epoch"] - 1]
    return {key: mean(line[key] for line in last) for key in ("contrastive_accuracy", "contrastive_entropy")}


def _keeps(run: Run, _scale: str, device: torch.device, *, task: str) -> Figures:
    """How well a small network tells from h, and from z, which transformation an image went through."""
    train, test = images_of(run)
    subject = _subject(run, device)
    head = _head(run, device)
    seed = run.recipe().training.seed
    from_h = predict_transformation(subject, train, test, task, device=device, seed=seed)
    from_z = predict_transformation(projected(subject, head), train, test, task, device=device, seed=seed)
    figures = {"from_h": from_h["top1"], "from_z": from_z["top1"], "chance": from_h["chance"]}
    return figures | {"test_images": float(len(test))}


def _few_labels(run: Run, scale: str, device: torch.device, *, percent: int) -> Figures:
    """Fine-tuning on a share of the labels: the paper's protocol, at small scale with batches of 128."""
    train, test = images_of(run)
    labelled = train.subset(share_indices(train, percent / 100, run.recipe().training.seed))
    protocol = few_labels_protocol("paper", percent / 100)
    if scale != PAPER:
        epochs = {1: 60.0, 10: 30.0, 100: 5.0}[percent]
        protocol = replace(protocol, batch_size=128, epochs=epochs, seed=run.recipe().training.seed)
    subject = _subject(run, device)
    state = _state(run, f"few_labels_{percent}pct", subject, labelled, protocol)
    outcome = evaluate_few_labels(subject, labelled, test, protocol, device=device, state=state)
    return {f"top1_{percent}pct": float(outcome.numbers["top1"])}


def _state(run: Run, name: str, subject: Subject, images: Images, *facts: object) -> State:
    """Where a long measure is kept while it goes on; its key says what it depends on."""
    depends_on = [subject.digest, repr(subject.law), decoded_digest(images), *map(repr, facts)]
    return State(run.results / f".{STATE}{name}.safetensors", json.dumps([name, *depends_on]))


def _head(run: Run, device: torch.device) -> SimCLRProjectionHead:
    head = load_head(run.latest_checkpoint(), "projection").to(device)
    assert isinstance(head, SimCLRProjectionHead)
    return head


def _subject(run: Run, device: torch.device) -> Subject:
    return Subject("encoder", load_encoder(run.latest_checkpoint()).to(device), run.recipe().law)


MEASURES: dict[str, Measure] = {
    "linear": _linear,
    "linear_fast": _linear,
    "linear_z": partial(_linear, of="z"),
    "linear_fast_z": partial(_linear, of="z"),
    "linear_validation": partial(_linear, choosing=True),
    "linear_fast_validation": partial(_linear, choosing=True),
    "knn": _knn,
    "classifier": _classifier,
    "contrastive": _contrastive,
    "keeps_color_or_gray": partial(_keeps, task="color_or_gray"),
    "keeps_rotation": partial(_keeps, task="rotation"),
    "keeps_corrupted": partial(_keeps, task="corrupted"),
    "keeps_sobel": partial(_keeps, task="sobel"),
    "few_labels_1pct": partial(_few_labels, percent=1),
    "few_labels_10pct": partial(_few_labels, percent=10),
    "few_labels_100pct": partial(_few_labels, percent=100),
    "frozen": frozen,
    "frozen_at_start": frozen_at_start,
    "frozen_pixels": frozen_pixels,
    "task": task,
}
# several processes share each batch; the others read all images, so that one process does them
SHARED = frozenset(name for name in MEASURES if name.startswith(("linear", "few_labels")) and "fast" not in name)
