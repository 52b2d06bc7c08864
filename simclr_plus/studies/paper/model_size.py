"""Figure 7: depth and width of the encoder, against supervised training of the same network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import COLORS, MARKERS, legend
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import MISSING, Claim, Page, Picture, Table, decided, higher
from simclr_plus.studies.study import PAPER, SUPERVISED_EPOCHS, Point, Study, linear, training_changes

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
# "ordinary data augmentation" of the paper's supervised networks: crops and flips (section B.8, He et al. 2016)
ORDINARY_VIEWS = {"augmentation.jitter_prob": 0.0, "augmentation.gray_prob": 0.0, "augmentation.blur_prob": 0.0}
LINE_OF_DEPTH = {18: "-", 34: "--", 50: "-.", 101: ":", 152: (0, (5, 1, 1, 1, 1, 1))}
# linear accuracy after 1000 epochs, the paper's Table 6: ResNet-50 1x, 2x, 4x
RELEASED = {(50, 1): 69.3, (50, 2): 74.2, (50, 4): 76.5}


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Every size by SimCLR; supervised for every size at small scale, for ResNet-50 with 90 epochs at the paper's."""
    lengths = {(depth, width): [recipe.training.epochs] for depth, width in SIZES[scale]}
    supervised = dict(lengths)
    if scale == PAPER:
        for size in RELEASED:
            lengths[size] = [*lengths[size], LONG]
        supervised = {size: [SUPERVISED_EPOCHS] for size in RELEASED}
    for method, sizes in zip(METHODS, (lengths, supervised), strict=True):
        for (depth, width), all_epochs in sizes.items():
            for epochs in all_epochs:
                yield Point(
                    {"method": method, "depth": depth, "width": width, "epochs": epochs},
                    {
                        "encoder.depth": depth,
                        "encoder.width": width,
                        "training.epochs": epochs,
                        **(ORDINARY_VIEWS if method == "supervised" and scale == PAPER else {}),
                        **training_changes(method, scale),
                    },
                    (linear(scale) if method == "SimCLR" else "classifier",),
                )


def page(f: Findings) -> Page:
    """Accuracy against the number of parameters, a column and a mark for each kind of training and its length."""
    sizes = list(dict.fromkeys((r.place["depth"], r.place["width"]) for r in f.rows))
    kinds = list(dict.fromkeys((r.place["method"], r.place["epochs"]) for r in f.rows))
    rows = []
    for depth, width in sizes:
        texts = [f.text("top1", method=m, epochs=e, depth=depth, width=width) for m, e in kinds]
        paper = RELEASED.get((depth, width))
        name, size = f"ResNet-{depth} ({width:g}x)", f"{_parameters(depth, width) / 1e6:.2f}"
        rows.append([name, size, *texts, f"{paper}" if paper else ""])

    def draw(figure: Any) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter

        axes = figure.subplots()
        for number, (method, epochs) in enumerate(kinds):
            for depth in dict.fromkeys(d for d, _ in sizes):
                there = [(w, f.spread("top1", method=method, epochs=epochs, depth=depth, width=w)) for _, w in sizes]
                spread_by_size = {_parameters(depth, w) / 1e6: s for w, s in there if s is not None}
                if spread_by_size:
                    axes.errorbar(
                        list(spread_by_size),
                        [100 * s.mean for s in spread_by_size.values()],
                        yerr=[s.bar for s in spread_by_size.values()],
                        color=COLORS[number],
                        marker=MARKERS[number],
                        linestyle=LINE_OF_DEPTH.get(depth, "-"),
                        capsize=3,
                        label=f"{method}, {epochs:g} epochs, ResNet-{depth}",
                    )
        axes.set(xscale="log", xlabel="parameters of the encoder (millions)", ylabel="top-1 (%)")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3)
        legend(axes)

    return Page(
        [
            Table(
                "Top-1 (%) by network",
                [
                    "network",
                    "parameters (M)",
                    *(f"{method}, {epochs:g} epochs" for method, epochs in kinds),
                    "paper, SimCLR, 1000 epochs",
                ],
                rows,
                "SimCLR: linear accuracy on frozen features; supervised: the trained classifier.",
            )
        ],
        [Picture("figure-7", "Accuracy by number of parameters", draw)],
        _claims(f),
    )


def _claims(f: Findings) -> list[Claim]:
    """Between the smallest and the biggest network, for the lead among those that both methods trained."""
    shortest = {m: min((r.place["epochs"] for r in f.rows if r.place["method"] == m), default=0.0) for m in METHODS}
    trained = {m: {(r.place["depth"], r.place["width"]) for r in f.rows if r.place["method"] == m} for m in METHODS}

    def at(method: str, size: tuple[int, float]) -> dict[str, Any]:
        return {"method": method, "epochs": shortest[method], "depth": size[0], "width": size[1]}

    sizes_of_simclr = sorted(trained["SimCLR"], key=lambda size: _parameters(*size))
    both = sorted(trained["SimCLR"] & trained["supervised"], key=lambda size: _parameters(*size))
    grows, shrinks = "bigger networks are better for SimCLR", "the lead of supervised training shrinks as networks grow"
    claims = [Claim(grows, MISSING, "fewer than two networks have been measured")]
    if len(sizes_of_simclr) > 1:
        claims = [higher(f, grows, at("SimCLR", sizes_of_simclr[-1]), at("SimCLR", sizes_of_simclr[0]))]
    if len(both) < 2:
        return [*claims, Claim(shrinks, MISSING, "fewer than two networks have been trained both ways")]
    low, high = both[0], both[-1]
    signed = ((1, "supervised", low), (-1, "SimCLR", low), (-1, "supervised", high), (1, "SimCLR", high))
    return [*claims, decided(shrinks, f.sum_of([(sign, at(method, size), "top1") for sign, method, size in signed]))]


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
    choices=(
        "the list of networks of the full-scale plan is read off the figure's labels by memory",
        "supervised training: at small scale on the same views; at the paper's on crops and flips alone, 90 epochs, "
        "with SGD at 0.1 B/256 and weight decay 1e-4",
        "of a folder without train and val SimCLR sees all images, supervised training the four fifths not held out",
    ),
)
