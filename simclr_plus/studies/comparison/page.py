"""The comparison's report: a table of all methods at the rate that held-out images chose, bars, and Figure 1."""

from __future__ import annotations

import math
from typing import Any

from simclr_plus.studies.comparison.own_encoders import OwnEncoder, evaluated_on_imagenet
from simclr_plus.studies.comparison.plan import OWN_OPTIMIZER, RATES
from simclr_plus.studies.comparison.published import PUBLISHED
from simclr_plus.studies.drawing import COLORS, MARKERS, bars, floor_of
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import MISSING, Claim, Page, Picture, Table, decided

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
    ("instdist", "autoencoder"),
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
    own = evaluated_on_imagenet(f.runs) if f.runs is not None else ()
    names = sorted(rates, key=lambda method: -f.value("top1", method=method, rate=rates[method]))
    return Page(
        [_accuracies(f, rates, names), _budgets(f, rates, names), _rates(f, names)],
        [
            Picture(
                "methods", "Accuracy on frozen features (%) by method", lambda figure: _bars(figure, f, rates, names)
            ),
            Picture(
                "gain", "Linear accuracy over each method's own random encoder (points)", lambda x: _gains(x, f, rates)
            ),
            Picture(
                "figure-1",
                "ImageNet top-1 of linear classifiers by parameters: published figures, and runs evaluated there",
                lambda figure: _figure_1(figure, own),
                (7.5, 5.0),
            ),
        ],
        _claims(f, rates),
    )


def _accuracies(f: Findings, rates: dict[str, str], names: list[str]) -> Table:
    rows = []
    for method in names:
        at: dict[str, Any] = {"method": method, "rate": rates[method]}
        first: dict[str, Any] = {"method": method, "rate": "1"}
        task, chance = f.text("task", **at), f.value("task_chance", **at)
        rows.append(
            [
                method,
                *(f.text(figure, **at) for figure in FIGURES),
                task if math.isnan(chance) else f"{task} ({100 * chance:.2g})",
                f"{f.text('top1_start', **first)}, {f.text('top1_knn_start', **first)}",
                _beside(method),
            ]
        )
    for title, ending in (("random encoder", "start"), ("raw pixels", "pixels")):
        of_simclr: dict[str, Any] = {"method": "simclr", "rate": "1"}
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
        "the foot is SimCLR's. Published figures are of other networks, data, lengths and protocols.",
    )


def _beside(method: str) -> str:
    figures = PUBLISHED.get(method.removesuffix(OWN_OPTIMIZER))
    return f"{figures[0].top1:.1f}, {figures[0].network} ({figures[0].source})" if figures else "none known"


def _budgets(f: Findings, rates: dict[str, str], names: list[str]) -> Table:
    rows = []
    for method in names:
        at = {"method": method, "rate": rates[method]}
        epochs, pixels, seconds = (f.value(key, **at) for key in ("epochs", "pixels", "seconds"))
        rows.append(
            [method, f"{epochs:.3g}", f"{pixels:.3g}", f"{epochs * pixels:.3g}", f"{seconds:.0f}", rates[method]]
        )
    return Table(
        "What each cost",
        ["method", "epochs", "pixels through f an image (S²)", "pixels an image in all (S²)", "seconds", "rate chosen"],
        rows,
        "S is the side of a view. Decoders, discriminators, context networks and banks come on top; seconds count all.",
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


def _bars(figure: Any, f: Findings, rates: dict[str, str], names: list[str]) -> None:
    series = {
        title: [f.spread(key, method=m, rate=rates[m]) for m in names] for key, title in list(FIGURES.items())[:2]
    }
    bars(figure, names, series, xlabel="", ylabel="top-1 (%)", lowest=floor_of(series))
    (axes,) = figure.axes
    axes.tick_params(axis="x", rotation=60)


def _gains(figure: Any, f: Findings, rates: dict[str, str]) -> None:
    """With 95 % intervals."""
    axes, rows = figure.subplots(), []
    for method, rate in rates.items():
        gain = f.sum_of(_over_start(method, rate))
        if gain is not None:
            rows.append((gain.value, gain.half, method))
    rows.sort()
    axes.barh(
        [name for *_, name in rows],
        [100 * value for value, *_ in rows],
        xerr=[0 if math.isinf(half) else 100 * half for _, half, _ in rows],
        color=COLORS[0],
        capsize=3,
    )
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="points over its own random encoder, 95 % interval")
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)


def _over_start(method: str, rate: str) -> list[tuple[int, dict[str, Any], str]]:
    return [(1, {"method": method, "rate": rate}, "top1"), (-1, {"method": method, "rate": "1"}, "top1_start")]


def _figure_1(figure: Any, own: tuple[OwnEncoder, ...]) -> None:
    """A mark for each published network with its method's name; SimCLR's joined; stars for the user's."""
    axes, labelled = figure.subplots(), list[tuple[float, float]]()  # names to the right of their marks
    for number, (method, figures) in enumerate(PUBLISHED.items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[(number + number // len(COLORS)) % len(MARKERS)]
        ordered = sorted(figures, key=lambda one: one.parameters)
        x, y = [one.parameters for one in ordered], [one.top1 for one in ordered]
        axes.plot(x, y, color=color, marker=marker, linestyle="-" if method == "simclr" else "none", label=method)
        for one in ordered:
            near = [p for p, top1 in labelled if abs(one.top1 - top1) < 1.2 and abs(one.parameters / p - 1) < 0.3]
            left, below = any(one.parameters <= p for p in near), any(one.parameters > p for p in near)
            labelled += [] if near else [(one.parameters, one.top1)]
            axes.annotate(
                method,
                (one.parameters, one.top1),
                (-6 if left else 6, -11 if below else -2),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=6.5,
                color=color,
            )
    for encoder in own:
        axes.plot(encoder.parameters, encoder.top1, "k*", markersize=11)
        axes.annotate(encoder.name, (encoder.parameters, encoder.top1), (6, 5), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="parameters of the network (millions)", ylabel="ImageNet top-1 (%)", xlim=(9, 1100))
    axes.set_xticks([12, 25, 50, 100, 200, 400, 626], minor=False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(alpha=0.3)


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
        claims.append(decided(sentence, f.sum_of(_over_start(method, rate))))
    return claims or [Claim("methods can be compared", MISSING, "no method has been measured")]
