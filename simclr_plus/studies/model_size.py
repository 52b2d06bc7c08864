"""Figure 7: depth and width of the encoder, against supervised training of the same network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simclr_plus.architecture import Architecture
from simclr_plus.recipe import Recipe
from simclr_plus.studies.drawing import COLORS, legend
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Page, Picture, Table, higher, stated
from simclr_plus.studies.study import PAPER, Point, Study, linear, training_changes

METHODS = ("SimCLR", "supervised")
# (depth, width): of the paper's figure those with 100 epochs; small: fractions of the width
SIZES: dict[str, tuple[tuple[int, float], ...]] = {
    "small": ((18, 0.125), (18, 0.25), (18, 0.5), (34, 0.125), (34, 0.25), (34, 0.5)),
    PAPER: (
        *((depth, width) for depth in (18, 34, 50) for width in (1, 2, 4)),
        *((depth, width) for depth in (101, 152) for width in (1, 2)),
    ),
}
LONG = 1000.0  # epochs of the paper's starred models
# README's released models (1000 epochs) and the supervised baselines of the paper's Figure 1: ResNet-50 1x, 2x, 4x
RELEASED = {(50, 1): 69.3, (50, 2): 74.2, (50, 4): 76.5}


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Every size by SimCLR; supervised for every size at small scale, for ResNet-50 with 90 epochs at the paper's."""
    lengths = {(depth, width): [recipe.training.epochs] for depth, width in SIZES[scale]}
    supervised = dict(lengths)
    if scale == PAPER:
        for size in RELEASED:
            lengths[size] = [*lengths[size], LONG]
        supervised = {size: [90.0] for size in RELEASED}
    for method, sizes in zip(METHODS, (lengths, supervised), strict=True):
        for (depth, width), all_epochs in sizes.items():
            for epochs in all_epochs:
                yield Point(
                    {"method": method, "depth": depth, "width": width, "epochs": epochs},
                    {
                        "encoder.depth": depth,
                        "encoder.width": width,
                        "training.epochs": epochs,
                        **training_changes(method, scale),
                    },
                    (linear(scale) if method == "SimCLR" else "classifier",),
                )


def page(f: Findings) -> Page:
    """Accuracy against the number of parameters."""
    sizes = list(dict.fromkeys((r.place["depth"], r.place["width"]) for r in f.rows))
    shortest = {m: min((r.place["epochs"] for r in f.rows if r.place["method"] == m), default=0.0) for m in METHODS}
    rows = []
    for depth, width in sizes:
        at = {"depth": depth, "width": width}
        texts = [f.text("top1", method=m, epochs=shortest[m], **at) for m in METHODS]
        paper = RELEASED.get((depth, width))
        rows.append(
            [
                f"ResNet-{depth} ({width:g}x)",
                f"{_parameters(depth, width) / 1e6:.2f}",
                *texts,
                f"{paper}" if paper else "",
            ]
        )
    claims = []
    if sizes:
        order = sorted(sizes, key=lambda size: _parameters(*size))
        small, big = order[0], order[-1]
        of = {m: {"method": m, "epochs": shortest[m]} for m in METHODS}
        low, high = ({"depth": s[0], "width": s[1]} for s in (small, big))
        claims = [
            higher(f, "bigger networks are better for SimCLR", {**of["SimCLR"], **high}, {**of["SimCLR"], **low}),
            _shrinking_gap(f, low, high, of),
        ]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        for number, method in enumerate(METHODS):
            for depth in dict.fromkeys(d for d, _ in sizes):
                there = [
                    (
                        _parameters(d, w) / 1e6,
                        f.spread("top1", method=method, depth=d, width=w, epochs=shortest[method]),
                    )
                    for d, w in sizes
                    if d == depth
                ]
                known = [(x, s) for x, s in there if s is not None]
                if not known:
                    continue
                axes.errorbar(
                    [x for x, _ in known],
                    [100 * s.mean for _, s in known],
                    yerr=[100 * s.deviation for _, s in known],
                    color=COLORS[number],
                    marker="o" if method == "SimCLR" else "x",
                    linestyle="-" if depth == sizes[0][0] else "--",
                    capsize=3,
                    label=f"{method}, ResNet-{depth}",
                )
        axes.set(xscale="log", xlabel="parameters of the encoder (millions)", ylabel="top-1 (%)")
        axes.grid(alpha=0.3)
        legend(axes)

    return Page(
        [
            Table(
                "Top-1 (%) by network",
                ["network", "parameters (M)", *METHODS, "paper, SimCLR, 1000 epochs"],
                rows,
                "SimCLR: linear accuracy on frozen features; supervised: the trained classifier.",
            )
        ],
        [Picture("figure-7", "Accuracy by number of parameters", draw)],
        claims,
    )


def _shrinking_gap(f: Findings, low: dict[str, Any], high: dict[str, Any], of: dict[str, dict[str, Any]]) -> Any:
    gaps = [f.value("top1", **of["supervised"], **at) - f.value("top1", **of["SimCLR"], **at) for at in (low, high)]
    known = all(g == g for g in gaps)
    return stated(
        "the lead of supervised training shrinks as networks grow",
        gaps[1] < gaps[0] if known else None,
        f"{100 * gaps[0]:+.1f} points at the smallest, {100 * gaps[1]:+.1f} at the biggest" if known else "",
    )


def _parameters(depth: int, width: float) -> int:
    return replace(Architecture(), depth=depth, width=width).parameter_count()


STUDY = Study(
    name="model-size",
    title="Depth and width",
    source="paper, section 4.1 and Figure 7",
    question="Does unsupervised learning gain more from bigger networks than supervised learning does?",
    points=points,
    page=page,
    seeds={"small": 3, "paper": 1},
    choices=("the list of networks of the full-scale plan is read off the figure's labels by memory",),
)
