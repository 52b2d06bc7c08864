"""Transfer to a labelled set by logistic regression on frozen features (paper, B.8; Kornblith et al. 2019).

No augmentation: the whole shorter side, the middle square. The penalty is chosen among 45 on the validation images, the
classifier is fitted again on training and validation images and meets the test images once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.evaluators.logistic import fit_path
from simclr_plus.evaluators.outcomes import Outcome, main_number, outcome_of
from simclr_plus.evaluators.span import spanning
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.features.cache import cached_features
from simclr_plus.features.extraction import labels_of

PENALTIES = tuple(float(v) for v in np.logspace(-6, 5, 45))
RELATIVE_TO = ("sum", "mean")


def evaluate_transfer(
    subject: Subject,
    data: LabelledSet,
    *,
    device: torch.device,
    cache: Path | None = None,
    relative_to: str = "sum",
    say: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """relative_to: the penalty l2/2 |W|^2 is added to the "sum" of the examples' losses (Kornblith et al.) or their
    "mean"; the paper does not say which.
    """
    law = replace(subject.law, evaluation_crop=1.0)

    def features(part: str) -> tuple[Tensor, Tensor]:
        h, images = cached_features(subject.encoder, getattr(data, part), law, cache, device=device)
        return h.to(device), labels_of(images).to(device)

    (h, labels), (h_validation, labels_validation) = features("train"), features("validation")
    classes, scale = len(data.classes), 1 if relative_to == "sum" else len(h)
    basis = spanning(h)
    path = fit_path(_turned(h, basis), labels, classes, [l2 * scale for l2 in PENALTIES])
    turned = _turned(h_validation, basis)
    values = [main_number(path.scores(turned, i), labels_validation, data.metric) for i in range(len(PENALTIES))]
    best = chosen_penalty(values)
    h_all, labels_all = torch.cat([h, h_validation]), torch.cat([labels, labels_validation])
    scale = 1 if relative_to == "sum" else len(h_all)
    basis = spanning(h_all)
    last = fit_path(_turned(h_all, basis), labels_all, classes, [PENALTIES[best] * scale])
    warnings = []
    if best in (0, len(PENALTIES) - 1):
        warnings.append(
            f"{data.name}: the chosen penalty {PENALTIES[best]:g} is at the edge of the range; a value outside of it "
            f'may do better (relative_to = "{"mean" if relative_to == "sum" else "sum"}" shifts the range)'
        )
    short = sum(not done for done in (*path.converged, *last.converged))
    if short:
        warnings.append(f"{data.name}: {short} of {len(PENALTIES) + 1} fits did not converge")
    for warning in warnings:
        say(f"warning: {warning}")
    h_test, labels_test = features("test")
    return outcome_of(
        last.scores(_turned(h_test, basis), 0),
        labels_test,
        data.metric,
        protocol="logistic regression by L-BFGS on frozen features of central squares",
        l2=PENALTIES[best],
        l2_relative_to=relative_to,
        validation={f"{l2:.6g}": value for l2, value in zip(PENALTIES, values, strict=True)},
        converged=short == 0,
        warnings=warnings,
    )


def _turned(h: Tensor, basis: Tensor | None) -> Tensor:
    return h if basis is None else h.double() @ basis


def chosen_penalty(values: list[float]) -> int:
    """The number of the best value; among equals the strongest penalty, which is the last."""
    best = max(values)
    return max(i for i, value in enumerate(values) if value == best)
