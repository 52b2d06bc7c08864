"""Fine-tuning a whole network: on few labels (paper, B.5; SimCLR v2), and the grid of the transfer table (B.8).

Learning rates and decays are chosen on validation images alone; the test images are met once, by the chosen setting.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simclr_plus.datasets.images import Images, held_out_indices, require_labels
from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.distributed import barrier, from_main, rank
from simclr_plus.errors import NotFiniteError, RecipeError, SimclrPlusError
from simclr_plus.evaluators.classifier import (
    Classifier,
    State,
    Steps,
    batch_within,
    build_optimizer,
    train_classifier,
)
from simclr_plus.evaluators.outcomes import Outcome, main_number, outcome_of
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.cache import cached_features, decoded_digest
from simclr_plus.features.extraction import labels_of
from simclr_plus.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d, convert_global_batch_norm
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.schedules import peak_learning_rate, step_count


@dataclass(frozen=True)
class Protocol:
    """A way to fine-tune. rate: base learning rate, scaled by `scaling`; steps, or epochs where it is 0.

    from_layer: 0 puts the classifier on h, k on the k-th layer of the projection head. norm_momentum: "kept", or
    "by_epoch": running statistics keep max(1 - 10/s, 0.9), s steps an epoch (paper, B.8). decay_over_rate: the decay
    given is divided by the learning rate (B.8). layer_decay: factor of the rate from layer to layer, from the top down.
    """

    optimizer: str = "nesterov"
    rate: float = 0.05
    scaling: str = "linear"
    batch_size: int = 4096
    epochs: float = 60
    steps: int = 0
    weight_decay: float = 0.0
    decay_over_rate: bool = False
    from_layer: int = 0
    norm_momentum: str = "kept"
    seed: int = 0
    layer_decay: float = 1.0

    def facts(self) -> dict[str, Any]:
        """What tells it from others; that no layer decays is not said, as before there was such a thing."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("layer_decay", 1.0)}


def few_labels_protocol(name: str, share: float) -> Protocol:
    """ "paper" (B.5) or "simclr_v2" (its 1 % command; 10 % from memory of the v2 paper), by the share of labels."""
    few = share <= 0.05
    if name == "paper":
        return Protocol(epochs=60 if few else 30)
    if name == "simclr_v2":
        return Protocol("lars", 0.005, "sqrt", 1024, 60 if few else 30, from_layer=0 if share >= 1 else 1)
    raise RecipeError(f'--protocol {name!r} is unknown; use "paper" or "simclr_v2"')


ADAMW_RATE = 5e-4  # at 256 images: MAE's base rate of fine-tuning a ViT-B (He et al. 2022, Table 9)
ADAMW_DECAY = 0.05  # of the same
TRANSFER = Protocol(
    scaling="none", batch_size=256, steps=20_000, decay_over_rate=True, norm_momentum="by_epoch"
)  # the rest of a cell is its rate and decay


def grid(name: str, *, random_start: bool = False, adamw: bool = False) -> list[Protocol]:
    """The cells of "paper": 7 rates x 8 decays, other ranges and 40,000 steps from random weights; "small": 3 x 2.

    With AdamW: 7 rates around MAE's for 256 images, ten times higher from random weights, x 2 decays; "small": 3 x 1.
    """
    if name not in ("paper", "small"):
        raise RecipeError(f'--grid {name!r} is unknown; use "paper" (56 cells, with AdamW 14) or "small" (6; 3)')
    if adamw:
        rates = np.logspace(-4, -2, 7) if random_start else np.logspace(-5, -3, 7)
        decays, fewer = np.array([0.0, ADAMW_DECAY]), [1]
    else:
        rates = np.logspace(-3, 0, 7) if random_start else np.logspace(-4, -1, 7)
        decays = np.logspace(-5, -1.5, 8) if random_start else np.array([0.0, *np.logspace(-6, -3, 7)])
        fewer = [0, 5]
    if name == "small":
        rates, decays = rates[[2, 4, 6]], decays[fewer]
    base = replace(TRANSFER, steps=40_000) if random_start else TRANSFER
    base = replace(base, optimizer="adamw", decay_over_rate=False) if adamw else base
    return [replace(base, rate=float(r), weight_decay=float(d)) for r in rates for d in decays]


def fine_tuned(
    subject: Subject,
    images: Images,
    protocol: Protocol,
    *,
    device: torch.device,
    head: SimCLRProjectionHead | None = None,
    state: State | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Classifier:
    """A copy of the subject's encoder with a linear classifier, trained on the images; the subject stays as it is."""
    if protocol.from_layer and head is None:
        raise RecipeError(
            f"this protocol starts from layer {protocol.from_layer} of the projection head, which {subject.name} does "
            "not have: evaluate a run or a checkpoint, or give its head with --head FILE"
        )
    size = batch_within(protocol.batch_size, len(images))
    count = protocol.steps or step_count(protocol.epochs, len(images), size)
    model = Classifier(
        copy.deepcopy(subject.encoder),
        len(images.classes),
        size=subject.law.size,
        head=copy.deepcopy(head),
        from_layer=protocol.from_layer,
    )
    convert_global_batch_norm(model.to(device))
    _set_norm_momentum(model, protocol.norm_momentum, len(images) / size)
    peak = peak_learning_rate(protocol.rate, size, protocol.scaling)
    decay = protocol.weight_decay / peak if protocol.decay_over_rate else protocol.weight_decay
    optimizer = build_optimizer(model, protocol.optimizer, weight_decay=decay, layer_decay=protocol.layer_decay)
    steps = Steps(size, count, peak, protocol.seed)
    train_classifier(model, optimizer, images, subject.law, steps, device=device, state=state, say=say)
    return model


def _set_norm_momentum(model: nn.Module, rule: str, steps_per_epoch: float) -> None:
    if rule == "kept":
        return
    assert rule == "by_epoch", rule
    for module in model.modules():
        if isinstance(module, GlobalBatchNorm1d | GlobalBatchNorm2d | nn.modules.batchnorm._BatchNorm):
            module.momentum = 1 - max(1 - 10 / steps_per_epoch, 0.9)  # PyTorch's momentum is the share of the new


def evaluate_few_labels(
    subject: Subject,
    labelled: Images,
    test: Images,
    protocol: Protocol,
    *,
    device: torch.device,
    head: SimCLRProjectionHead | None = None,
    rates: Sequence[float] = (),
    state: State | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Fine-tune on the labelled images, test once. Of several `rates` that of the smallest loss on a held-out fifth of
    them is taken: accuracy is too coarse on a few hundred images.
    """
    losses: dict[str, float | None] = {}
    if rates:
        losses = _losses_of(rates, subject, labelled, protocol, device, head, state, say)
        finite = {rate: loss for rate in rates if (loss := losses[f"{rate:g}"]) is not None and math.isfinite(loss)}
        if not finite:
            raise SimclrPlusError(f"every rate of {', '.join(losses)} diverged; give smaller ones")
        protocol = replace(protocol, rate=min(finite, key=lambda rate: finite[rate]))
    model = fine_tuned(subject, labelled, protocol, device=device, head=head, state=state, say=say)
    scores, seen = cached_features(model, test, subject.law, None, device=device)
    if state and rank() == 0:
        state.file.with_suffix(".tried").unlink(missing_ok=True)
    return outcome_of(
        scores, labels_of(seen), "top1", **asdict(protocol), labelled_images=len(labelled), held_out_loss=losses
    )


def _losses_of(
    rates: Sequence[float],
    subject: Subject,
    labelled: Images,
    protocol: Protocol,
    device: torch.device,
    head: SimCLRProjectionHead | None,
    state: State | None,
    say: Callable[[str], None],
) -> dict[str, float | None]:
    """The loss on a held-out fifth after training at each rate, None where that diverged; kept beside the state."""
    held, kept = held_out_indices(require_labels(labelled), 0.2, protocol.seed)
    tried = None if state is None else state.file.with_suffix(".tried")
    losses: dict[str, float | None] = from_main(_tried(tried, state) if rank() == 0 else {}) if tried and state else {}
    for rate in rates:
        if f"{rate:g}" in losses:
            continue
        rate_state = state and State(state.file.with_suffix(".try.safetensors"), f"{state.key} rate {rate:g}")
        try:
            tuned = replace(protocol, rate=rate)
            model = fine_tuned(
                subject, labelled.subset(kept), tuned, device=device, head=head, state=rate_state, say=say
            )
            scores, seen = cached_features(model, labelled.subset(held), subject.law, None, device=device)
            losses[f"{rate:g}"] = from_main(float(F.cross_entropy(scores, labels_of(seen))))
        except NotFiniteError as error:  # a rate that diverges is a bad rate, not the end
            say(f"rate {rate:g}: {error}")
            losses[f"{rate:g}"] = None
        if tried and state and rate_state and rank() == 0:
            write_text_whole(tried, json.dumps({"key": state.key, "found": losses}))
            rate_state.file.unlink(missing_ok=True)
    return losses


def _tried(file: Path, state: State) -> dict[str, float | None]:
    """What rates gave that were tried before this training was cut off."""
    saved = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return dict(saved["found"]) if saved.get("key") == state.key else {}


def _score(model: Classifier, subject: Subject, images: Images, metric: str, device: torch.device) -> float:
    scores, seen = cached_features(model, images, subject.law, None, device=device)
    return from_main(main_number(scores, labels_of(seen), metric))


def evaluate_grid(
    subject: Subject,
    data: LabelledSet,
    cells: Sequence[Protocol],
    folder: Path,
    *,
    device: torch.device,
    part: tuple[int, int] = (0, 1),
    say: Callable[[str], None] = lambda _: None,
) -> Outcome | None:
    """Train each cell on the training images, choose on validation, train again on both, test once.

    Each cell is a file in `folder` and is never trained twice. part (i, n): do only every n-th cell from the i-th, for
    n machines that share the folder; None is returned while cells are missing.
    """
    digests = [decoded_digest(images) for images in (data.train, data.validation)]
    files = [folder / f"{_key(cell, subject, data.metric, *digests)}.json" for cell in cells]
    for number, (cell, file) in enumerate(zip(cells, files, strict=True)):
        if number % part[1] != part[0] or from_main(file.exists()):
            continue
        say(f"{data.name}: cell {number + 1} of {len(cells)}, rate {cell.rate:.3g}, decay {cell.weight_decay:.3g}")
        _train_cell(cell, file, subject, data, device, say)
        barrier()
    values = from_main(_values(files) if rank() == 0 else [])
    missing = values.count(MISSING)
    if missing:
        say(f"{data.name}: {missing} of {len(cells)} cells are missing; whichever part ends last chooses")
        return None
    if all(value is None for value in values):
        raise SimclrPlusError(f"{data.name}: every cell of the grid diverged")
    best = cells[max(range(len(cells)), key=lambda i: (values[i] is not None, values[i] or 0.0, -i))]
    scores, labels = _scores_of_best(best, folder, subject, data, device, say)
    warnings = _edges(best, cells, data.name)
    for warning in warnings:
        say(f"warning: {warning}")
    return outcome_of(
        scores,
        labels,
        data.metric,
        **asdict(best),
        protocol="fine-tuning of the whole network, rate and decay chosen on validation images",
        cells=len(cells),
        validation=[
            {"rate": c.rate, "weight_decay": c.weight_decay, "value": v} for c, v in zip(cells, values, strict=True)
        ],
        warnings=warnings,
    )


def _train_cell(
    cell: Protocol,
    file: Path,
    subject: Subject,
    data: LabelledSet,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """Train on the training images and write what that gave on the validation images: None where it diverged."""
    state = State(file.with_suffix(".state.safetensors"), file.stem)
    try:
        model = fine_tuned(subject, data.train, cell, device=device, state=state, say=say)
        value: float | None = _score(model, subject, data.validation, data.metric, device)
    except NotFiniteError as error:
        say(f"diverged: {error}")
        value = None
    if rank() == 0:
        write_text_whole(file, json.dumps({"validation": value, **asdict(cell)}, indent=2) + "\n")
        state.file.unlink(missing_ok=True)


def _scores_of_best(
    best: Protocol,
    folder: Path,
    subject: Subject,
    data: LabelledSet,
    device: torch.device,
    say: Callable[[str], None],
) -> tuple[Tensor, Tensor]:
    """Train again on training and validation images; scores and labels of the test images."""
    both = data.train_and_validation
    key = _key(best, subject, decoded_digest(both), "final")
    state = State(folder / f"{key}.state.safetensors", key)
    model = fine_tuned(subject, both, best, device=device, state=state, say=say)
    scores, seen = cached_features(model, data.test, subject.law, None, device=device)
    if rank() == 0:
        state.file.unlink(missing_ok=True)
    return scores, labels_of(seen)


MISSING = "missing"


def _values(files: Sequence[Path]) -> list[Any]:
    """What each cell gave on the validation images; None where it diverged, MISSING where it has not been trained."""
    return [json.loads(file.read_text(encoding="utf-8"))["validation"] if file.exists() else MISSING for file in files]


def _edges(best: Protocol, cells: Sequence[Protocol], name: str) -> list[str]:
    """A warning for each of rate and decay that might do better beyond the grid."""
    return [
        f"{name}: the chosen {setting} is at the edge of the grid"
        for setting in ("rate", "weight_decay")
        if _at_edge(getattr(best, setting), [getattr(cell, setting) for cell in cells])
    ]


def _at_edge(value: float, values: list[float]) -> bool:
    """Whether a larger or smaller value might do better; no decay at all is no edge."""
    return value > 0 and value in (min(values), max(values)) and min(values) < max(values)


def _key(cell: Protocol, subject: Subject, *parts: str) -> str:
    parts_of_key = [cell.facts(), repr(subject.law), subject.digest, *parts]
    return hashlib.sha256(json.dumps(parts_of_key).encode()).hexdigest()[:24]
