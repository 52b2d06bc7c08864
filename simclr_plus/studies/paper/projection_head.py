"""Figure 8: projection heads (none, linear, nonlinear) by output dimension, and h against z = g(h)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import bars, floor_of
from simclr_plus.studies.findings import Findings, Spread
from simclr_plus.studies.page import Claim, Page, Picture, Table, higher
from simclr_plus.studies.study import PAPER, Point, Study, linear

LAYERS = {"none": 0, "linear": 1, "nonlinear": 2}
DIMENSIONS = {"small": (16, 32, 64, 128, 256), PAPER: (32, 64, 128, 256, 512, 1024, 2048)}


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Each head with each output dimension, that of h among them; no head has that one alone."""
    of_h = recipe.feature_dim
    measures = (linear(scale), f"{linear(scale)}_z")
    for head, layers in LAYERS.items():
        for dimension in sorted({*DIMENSIONS[scale], of_h}) if layers else (of_h,):
            yield Point(
                {"head": head, "dimension": dimension},
                {"head.num_layers": layers, "head.output_dim": dimension},
                measures,
            )


def page(f: Findings) -> Page:
    """Figure 8, and the same on z."""
    dimensions = sorted(f.axis("dimension"))
    on = {"h": "top1", "z = g(h)": "top1_z"}
    rows = [
        [f"{head}, on {name}", *(f.text(figure, head=head, dimension=d) for d in dimensions)]
        for head in LAYERS
        for name, figure in on.items()
    ]

    def series(figure: str) -> dict[str, list[Spread | None]]:
        return {head: [f.spread(figure, head=head, dimension=d) for d in dimensions] for head in LAYERS}

    def drawing(figure_name: str) -> Any:
        spreads = series(figure_name)
        return lambda figure: bars(
            figure,
            [str(d) for d in dimensions],
            spreads,
            xlabel="output dimension of the head",
            ylabel="top-1 (%)",
            lowest=floor_of(spreads),
        )

    return Page(
        [
            Table(
                "Linear accuracy (%) by head and output dimension",
                ["head", *map(str, dimensions)],
                rows,
                "The paper, ResNet-50: nonlinear about 3 points above linear, over 10 above none; h over 10 above z.",
            )
        ],
        [
            Picture(
                "figure-8", "Linear accuracy on h (%) by projection head and its output dimension", drawing("top1")
            ),
            Picture("figure-8-z", "The same on z = g(h)", drawing("top1_z")),
        ],
        _claims(f),
    )


def _claims(f: Findings) -> list[Claim]:
    of_h = next(iter(r.place["dimension"] for r in f.rows if r.place["head"] == "none"), None)
    of_both = f" (both of {of_h} dimensions)" if of_h else ""
    none, wide = {"head": "none", "dimension": of_h}, {"dimension": of_h}
    return [
        higher(f, "a nonlinear head is better than a linear one", {"head": "nonlinear"}, {"head": "linear"}),
        *(
            higher(f, f"a {head} head is better than none{of_both}", {"head": head, **wide}, none)
            for head in ("linear", "nonlinear")
        ),
        higher(
            f,
            "the layer before the head, h, is better than the layer after, z (nonlinear head)",
            {"head": "nonlinear"},
            {"head": "nonlinear"},
            other="top1_z",
        ),
    ]


STUDY = Study(
    name="projection-head",
    title="The projection head",
    source="paper, section 4.2 and Figure 8",
    question="Is a head needed, which one, how wide, and is h or z the better representation?",
    points=points,
    page=page,
    seeds={"small": 3, "paper": 1},
    choices=("without a head z is h, so that its dimension is that of the encoder's features",),
)
