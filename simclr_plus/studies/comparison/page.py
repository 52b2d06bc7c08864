"""The comparison's report: tables of all methods at the rate that held-out images chose, and published orderings."""

from __future__ import annotations

import math
from typing import Any

from simclr_plus.studies.comparison.own_encoders import evaluated_on_imagenet
from simclr_plus.studies.comparison.pictures import baselines, over_start, pictures
from simclr_plus.studies.comparison.plan import OWN_OPTIMIZER, RATES
from simclr_plus.studies.comparison.published import PUBLISHED
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import MISSING, Claim, Page, Table, decided

FIGURES = {"top1": "linear", "top1_knn": "kNN", "top1_1pct": "1 % of labels", "top1_10pct": "10 %"}
# (above, below) as published figures order them on ImageNet
ORDER = (
    ("simclr", "moco"),
    ("simclr", "pirl"),
    ("simclr", "cpc"),
    ("simclr", "instdist"),
    ("simclr", "rotation"),
    ("moco", "instdist"),
    ("pirl", "instdist"),
    ("cpc", "instdist"),
    ("instdist", "rotation"),
    ("instdist", "exemplar"),
    ("rotation", "relative_patch"),
    ("jigsaw", "relative_patch"),
    ("rotation", "colorization"),
    ("cmc", "colorization"),
    ("simclr", "cmc"),
    ("supervised", "simclr"),
)


def chosen_rates(f: Findings) -> dict[str, str]:
    """For each method the rate with the best accuracy on held-out training images in the first seed."""
    rates = {}
    first = min((row.seed for row in f.rows), default=0)
    for method in f.axis("method"):
        values = {rate: f.of_seeds("validation_top1", method=method, rate=rate) for rate in RATES}
        there = {rate: of_seeds[first] for rate, of_seeds in values.items() if first in of_seeds}
        if there:
            rates[method] = max(there, key=lambda rate: there[rate])
    return rates


def page(f: Findings) -> Page:
    """Everything at the chosen rates."""
    rates = chosen_rates(f)
    names = sorted(rates, key=lambda method: -f.value("top1", method=method, rate=rates[method]))
    return Page(
        [_accuracies(f, rates, names), _budgets(f, rates, names), _rates(f, names)],
        pictures(f, rates, names, evaluated_on_imagenet(f.runs) if f.runs is not None else ()),
        _claims(f, rates),
    )


def _accuracies(f: Findings, rates: dict[str, str], names: list[str]) -> Table:
    rows = []
    for method in names:
        at: dict[str, Any] = {"method": method, "rate": rates[method]}
        task, chance = f.text("task", **at), f.value("task_chance", **at)
        rows.append(
            [
                method,
                *(f.text(figure, **at) for figure in FIGURES),
                task if math.isnan(chance) else f"{task} ({100 * chance:.2g})",
                f"{f.text('top1_start', **at)}, {f.text('top1_knn_start', **at)}",
                _beside(method),
            ]
        )
    for title, (ending, rate) in baselines(rates).items():
        of_simclr: dict[str, Any] = {"method": "simclr", "rate": rate}
        rows.append([title, *(f.text(f"{figure}_{ending}", **of_simclr) for figure in FIGURES), "–", "–", ""])
    return Table(
        "Test accuracy (%) of frozen features, by linear accuracy",
        [
            "method",
            *FIGURES.values(),
            "own task (chance)",
            "its random encoder: linear, kNN",
            "published, ImageNet linear",
        ],
        rows,
        "Mean and standard deviation over seeds, each method at the rate that held-out training images chose. Methods "
        "with other input or norm begin from another random encoder, whose figures stand beside. The random encoder at "
        "the foot is SimCLR's. Published figures are of other networks, data, lengths and protocols. dim and amdim "
        "train this f, not the networks of their papers: the objective is theirs. Methods with a memory of all images "
        "(instdist, cmc, pirl) renew its rows once an epoch: with less than some 20 epochs they are shown too low.",
    )


def _beside(method: str) -> str:
    figures = PUBLISHED.get(method.removesuffix(OWN_OPTIMIZER))
    return f"{figures[0].top1:.1f}, {figures[0].network} ({figures[0].source})" if figures else "none known"


def _budgets(f: Findings, rates: dict[str, str], names: list[str]) -> Table:
    rows = []
    side_of_simclr = f.value("side", method="simclr")
    for method in names:
        at = {"method": method, "rate": rates[method]}
        epochs, pixels, seconds, side = (f.value(key, **at) for key in ("epochs", "pixels", "seconds", "side"))
        if side > 0 and side_of_simclr > 0:
            pixels *= (side / side_of_simclr) ** 2
        rows.append(
            [method, f"{epochs:.3g}", f"{pixels:.3g}", f"{epochs * pixels:.3g}", f"{seconds:.0f}", rates[method]]
        )
    return Table(
        "What each cost",
        ["method", "epochs", "pixels through f an image (S²)", "pixels an image in all (S²)", "seconds", "rate chosen"],
        rows,
        "S is the side of SimCLR's views. Decoders, discriminators, context networks and banks come on top; seconds "
        "count all.",
    )


def _rates(f: Findings, names: list[str]) -> Table:
    rows = [[m, *(f.text("validation_top1", method=m, rate=rate) for rate in RATES)] for m in names]
    columns = ["method", *(f"{rate} x" for rate in RATES)]
    return Table(
        "Linear accuracy (%) on held-out training images, by learning rate",
        columns,
        rows,
        "The first seed chooses; other seeds are run at the rate chosen.",
    )


def _claims(f: Findings, rates: dict[str, str]) -> list[Claim]:
    """Orderings of the published figures, and that each method is better than its own random encoder."""
    claims = []
    for above, below in ORDER:
        if above in rates and below in rates:
            a, b = ({"method": m, "rate": rates[m]} for m in (above, below))
            difference = f.sum_of([(1, a, "top1"), (-1, b, "top1")])
            claims.append(decided(f"{above} is above {below}, as published on ImageNet", difference))
    for method, rate in rates.items():
        sentence = f"{method} is better than its own random encoder"
        claims.append(decided(sentence, f.sum_of(over_start(method, rate))))
    return claims or [Claim("methods can be compared", MISSING, "no method has been measured")]
