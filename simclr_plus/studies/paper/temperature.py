"""Table 5: temperature, with l2 normalisation and without; contrastive accuracy does not follow linear accuracy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import COLORS, MARKERS, legend
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import (
    MISSING,
    NOT_SEEN,
    UNDECIDED,
    Claim,
    Page,
    Picture,
    Table,
    best_of,
    decided,
    group_ahead,
    higher,
)
from simclr_plus.studies.study import Point, Study, linear

# (l2 normalised, temperature): the paper's entropy, contrastive accuracy and top-1
PAPER: dict[tuple[bool, float], tuple[float, float, float]] = {
    (True, 0.05): (1.0, 90.5, 59.7),
    (True, 0.1): (4.5, 87.8, 64.4),
    (True, 0.5): (8.2, 68.2, 60.7),
    (True, 1.0): (8.3, 59.1, 58.0),
    (False, 10.0): (0.5, 91.7, 57.2),
    (False, 100.0): (0.5, 92.1, 57.0),
}


def points(_recipe: Recipe, scale: str) -> Iterator[Point]:
    """Six settings."""
    for normalize, temperature in PAPER:
        yield Point(
            {"l2": "yes" if normalize else "no", "temperature": temperature},
            {"loss.normalize": normalize, "loss.temperature": temperature},
            (linear(scale), "contrastive"),
        )


def page(f: Findings) -> Page:
    """Table 5 with the paper's figures, and both accuracies against each other."""
    rows: list[list[str]] = []
    accuracies: list[tuple[dict[str, Any], float, float]] = []
    for (normalize, temperature), paper in PAPER.items():
        place: dict[str, Any] = {"l2": "yes" if normalize else "no", "temperature": temperature}
        accuracies.append((place, f.value("contrastive_accuracy", **place), f.value("top1", **place)))
        rows.append(
            [
                place["l2"],
                f"{temperature:g}",
                f.text("contrastive_entropy", percent=False, **place),
                f.text("contrastive_accuracy", **place),
                f.text("top1", **place),
                *(f"{v:g}" for v in paper),
            ]
        )
    measured = [(place, c, t) for place, c, t in accuracies if c == c and t == t]
    columns = ["l2 norm", "τ", "entropy", "contrastive acc.", "top-1", "paper: entropy", "contrastive acc.", "top-1"]
    return Page(
        [Table("Temperature and normalisation", columns, rows, "Entropy in nats; accuracies in %.")],
        [
            Picture(
                "table-5",
                "Contrastive against linear accuracy, by temperature",
                lambda figure: _draw(figure, f, measured),
            )
        ],
        _claims(f, [place for place, _, _ in accuracies]),
    )


def _claims(f: Findings, places: list[dict[str, Any]]) -> list[Claim]:
    inner, outer = ([{"l2": "yes", "temperature": t} for t in some] for some in ((0.1, 0.5), (0.05, 1.0)))
    without = [{"l2": "no", "temperature": t} for t in (10.0, 100.0)]
    return [
        _disagreement(f, places),
        group_ahead(f, "with normalisation a temperature between the extremes is best", inner, outer),
        group_ahead(f, "l2 normalisation with a good temperature is better than none", [*inner, *outer], without),
        higher(
            f,
            "without normalisation contrastive accuracy is higher (τ = 100) than with it (τ = 0.1)",
            without[1],
            inner[0],
            figure="contrastive_accuracy",
        ),
    ]


def _draw(figure: Any, f: Findings, measured: list[tuple[dict[str, Any], float, float]]) -> None:
    """Contrastive against linear accuracy, a mark for each setting."""
    axes = figure.subplots()
    for number, (place, contrastive, top1) in enumerate(measured):
        spreads = [f.spread(key, **place) for key in ("contrastive_accuracy", "top1")]
        dx, dy = (spread.bar if spread else math.nan for spread in spreads)
        axes.errorbar(
            100 * contrastive,
            100 * top1,
            xerr=dx,
            yerr=dy,
            label=f"τ = {place['temperature']:g}" + ("" if place["l2"] == "yes" else ", not normalised"),
            color=COLORS[number],
            marker=MARKERS[number],
            linestyle="",
            capsize=2,
        )
    legend(axes)
    axes.set(xlabel="contrastive accuracy, last epoch (%)", ylabel="linear accuracy (%)")
    axes.grid(alpha=0.3)


def _disagreement(f: Findings, places: list[dict[str, Any]]) -> Claim:
    """The best setting by linear accuracy against the best by contrastive accuracy."""
    sentence = "the setting with the best contrastive accuracy is not the one with the best linear accuracy"
    linear, contrastive = best_of(f, places), best_of(f, places, "contrastive_accuracy")
    if linear is None or contrastive is None:
        return Claim(sentence, MISSING, "not all settings have been measured")
    if linear == contrastive:
        second = best_of(f, [place for place in places if place != linear])
        lead = f.difference(linear, second) if second else None
        if second is None or lead is None:
            return Claim(sentence, MISSING, "one setting has been measured")
        verdict = NOT_SEEN if lead.is_above else UNDECIDED
        evidence = f"{_setting(linear)} is best by both, before {_setting(second)}: {lead.text()}"
        return Claim(sentence, verdict, evidence)
    evidence = f"linear accuracy of {_setting(linear)} against {_setting(contrastive)}"
    return decided(sentence, f.difference(linear, contrastive), evidence)


def _setting(place: Mapping[str, Any]) -> str:
    return f"τ = {place['temperature']:g} {'with' if place['l2'] == 'yes' else 'without'} l2"


STUDY = Study(
    name="temperature",
    title="Temperature and normalisation",
    source="paper, section 5.1 and Table 5",
    question="Which temperature, with and without l2 normalisation, and does contrastive accuracy tell?",
    points=points,
    page=page,
    seeds={"small": 3, "paper": 1},
    choices=("entropy and contrastive accuracy are means over the last epoch of training",),
)
