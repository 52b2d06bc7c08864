"""The comparison's pictures: accuracies and gains by method with intervals, and Figure 1 of published figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from simclr_plus.studies.comparison.own_encoders import OwnEncoder
from simclr_plus.studies.comparison.plan import OWN_OPTIMIZER
from simclr_plus.studies.comparison.published import PUBLISHED
from simclr_plus.studies.drawing import COLORS, MARKERS
from simclr_plus.studies.findings import Difference, Findings, Term
from simclr_plus.studies.page import Picture

Bars = Mapping[str, Mapping[str, Difference | None]]  # by color, by method
SHARED, OWN = "optimizer and rate as all", OWN_OPTIMIZER.removeprefix(" with ")
DRAWN = {"top1": "linear", "top1_knn": "kNN"}


def pictures(f: Findings, rates: Mapping[str, str], names: Sequence[str], own: tuple[OwnEncoder, ...]) -> list[Picture]:
    """names: of the rows measured, the best first; own: encoders of the user for Figure 1."""
    methods = list(dict.fromkeys(name.removesuffix(OWN_OPTIMIZER) for name in names))
    size = (7.5, 1.3 + 0.34 * (len(methods) + len(baselines(rates))))
    return [
        Picture(
            "methods",
            "Accuracy on frozen features (%) by method, with 95 % intervals",
            lambda figure: _accuracies(figure, f, rates, methods),
            size,
        ),
        Picture(
            "gain",
            "Linear accuracy over each method's own random encoder (points), with 95 % intervals",
            lambda figure: _gains(figure, f, rates, methods),
            size,
        ),
        Picture(
            "figure-1",
            "ImageNet top-1 of linear classifiers by parameters: published figures, and runs evaluated there",
            lambda figure: _figure_1(figure, own),
            (7.5, 5.0),
        ),
    ]


def baselines(rates: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What stands beside all methods: what its figures end in, and at which of SimCLR's rates they were measured."""
    return {"raw pixels": ("pixels", "1"), "random encoder": ("start", rates.get("simclr", "1"))}


def over_start(method: str, rate: str) -> list[Term]:
    """What a method gained over the encoder that it began with."""
    place = {"method": method, "rate": rate}
    return [(1, place, "top1"), (-1, place, "top1_start")]


def _accuracies(figure: Any, f: Findings, rates: Mapping[str, str], methods: list[str]) -> None:
    """Linear beside kNN; the baselines below."""
    rows = [*methods, *baselines(rates)]
    for axes, (key, title) in zip(figure.subplots(1, 2, sharey=True), DRAWN.items(), strict=True):
        found: dict[str, dict[str, Difference | None]] = {}
        for color, ending in ((SHARED, ""), (OWN, OWN_OPTIMIZER)):
            found[color] = {
                m: f.sum_of([(1, {"method": m + ending, "rate": rates[m + ending]}, key)])
                for m in methods
                if m + ending in rates
            }
        for baseline, (ending, rate) in baselines(rates).items():
            found[SHARED][baseline] = f.sum_of([(1, {"method": "simclr", "rate": rate}, f"{key}_{ending}")])
        _bars(axes, rows, found, _lowest(found))
        axes.set(xlabel=f"{title}, top-1 (%)")
    _legend(figure)


def _gains(figure: Any, f: Findings, rates: Mapping[str, str], methods: list[str]) -> None:
    axes = figure.subplots()
    found = {
        color: {m: f.sum_of(over_start(m + ending, rates[m + ending])) for m in methods if m + ending in rates}
        for color, ending in ((SHARED, ""), (OWN, OWN_OPTIMIZER))
    }
    best = sorted(methods, key=lambda m: -max((x.value for c in found.values() if (x := c.get(m))), default=0.0))
    _bars(axes, best, found, 0.0)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel="points of linear accuracy over its own random encoder")
    _legend(figure)


def _bars(axes: Any, rows: Sequence[str], bars: Bars, lowest: float) -> None:
    """Lying bars that start at `lowest` percent, the first row on top; two to a row where it has two colors."""
    for number, (color, of_methods) in enumerate(bars.items()):
        there = [(i, x) for i, row in enumerate(rows) if (x := of_methods.get(row)) is not None]
        if not there:
            continue
        alone = [all(other.get(rows[i]) is None for name, other in bars.items() if name != color) for i, _ in there]
        axes.barh(
            [i + (0 if single else 0.4 * number - 0.2) for (i, _), single in zip(there, alone, strict=True)],
            [100 * x.value - lowest for _, x in there],
            0.38,
            left=lowest,
            xerr=[0 if math.isinf(x.half) else 100 * x.half for _, x in there],
            label=color,
            color=COLORS[number],
            capsize=2,
            error_kw={"linewidth": 1},
        )
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.set_ylim(max(1, len(rows)) - 0.5, -0.5)
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)


def _lowest(bars: Bars) -> float:
    """A round percentage a little under every bar and its interval."""
    ends = [100 * (x.value - (0 if math.isinf(x.half) else x.half)) for c in bars.values() for x in c.values() if x]
    return max(0.0, (min(ends, default=0.0) - 5) // 10 * 10)


def _legend(figure: Any) -> None:
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)


def _figure_1(figure: Any, own: tuple[OwnEncoder, ...]) -> None:
    """A mark for each published network with its method's name; SimCLR's joined; stars for the user's."""
    axes, labelled = figure.subplots(), list[tuple[float, float]]()  # names to the right of their marks
    marks = [(one.parameters, one.top1) for figures in PUBLISHED.values() for one in figures]
    for number, (method, figures) in enumerate(PUBLISHED.items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[(number + number // len(COLORS)) % len(MARKERS)]
        ordered = sorted(figures, key=lambda one: one.parameters)
        x, y = [one.parameters for one in ordered], [one.top1 for one in ordered]
        axes.plot(x, y, color=color, marker=marker, linestyle="-" if method == "simclr" else "none", label=method)
        for one in ordered:
            near = [p for p, top1 in labelled if abs(one.top1 - top1) < 1.2 and abs(one.parameters / p - 1) < 0.3]
            beside = any(1.05 < x / one.parameters < 1.3 and abs(y - one.top1) < 1.2 for x, y in marks)  # on its right
            left, below = beside or any(one.parameters <= p for p in near), any(one.parameters > p for p in near)
            labelled += [] if near or left else [(one.parameters, one.top1)]
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
