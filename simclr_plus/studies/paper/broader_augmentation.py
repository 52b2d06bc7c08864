"""Table B.2: a broader policy for SimCLR: Sobel, equalize, solarize and motion blur added; linear and few labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import bars, floor_of
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Page, Picture, Table, higher
from simclr_plus.studies.study import BASES, PAPER, Point, Study, linear, widths_of

ADDED = ("sobel", "equalize", "solarize", "motion_blur")
PROBABILITY = 0.1  # of each added operation; unpublished
WIDTHS = (1.0, 2.0, 4.0)  # at the paper's scale; at small scale that of the recipe
POLICIES = ("default", "broader")
FIGURES = {"top1_1pct": "1 % of labels", "top1_10pct": "10 %", "top1_100pct": "100 %", "top1": "linear"}
# (policy, width): 1 %, 10 %, 100 % of labels, linear
TABLE: dict[tuple[str, float], tuple[str, ...]] = {
    ("default", 1): ("48.3", "65.6", "–", "69.3"),
    ("default", 2): ("58.5", "71.7", "–", "74.2"),
    ("default", 4): ("63.0", "74.4", "–", "76.5"),
    ("broader", 1): ("49.4", "66.1", "76.0", "70.0"),
    ("broader", 2): ("59.4", "71.8", "79.1", "74.4"),
    ("broader", 4): ("64.1", "74.8", "80.4", "76.8"),
}


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Both policies for every width, evaluated in four ways."""
    for width, of_width in widths_of(recipe, scale, WIDTHS):
        for policy in POLICIES:
            broader = {"augmentation.operations": list(ADDED), "augmentation.operation_prob": PROBABILITY}
            yield Point(
                {"width": width, "policy": policy},
                {**of_width, **(broader if policy == "broader" else {})},
                (linear(scale), "few_labels_1pct", "few_labels_10pct", "few_labels_100pct"),
            )


def page(f: Findings) -> Page:
    """Table B.2."""
    widths = f.axis("width")
    rows = [
        [f"{w:g}x", p, *(f.text(figure, width=w, policy=p) for figure in FIGURES)] for w in widths for p in POLICIES
    ]
    paper = [[f"ResNet-50 ({w:g}x)", p, *row] for (p, w), row in TABLE.items()]
    claims = [
        higher(
            f,
            f"the broader policy is better, {label}",
            {"policy": "broader"},
            {"policy": "default"},
            figure=figure,
        )
        for figure, label in FIGURES.items()
    ]

    def draw(figure: Any) -> None:
        series = {p: [f.spread(key, policy=p) for key in FIGURES] for p in POLICIES}
        bars(figure, list(FIGURES.values()), series, xlabel="evaluation", ylabel="top-1 (%)", lowest=floor_of(series))

    columns = ["width", "policy", *FIGURES.values()]
    return Page(
        [Table("Top-1 (%) by pretraining policy", columns, rows), Table("The paper", columns, paper)],
        [Picture("table-b2", "Top-1 by pretraining policy", draw)],
        claims,
    )


STUDY = Study(
    name="broader-augmentation",
    title="A broader augmentation policy",
    source="paper, section B.2 and Table B.2",
    question="Does adding Sobel, equalize, solarize and motion blur to the policy help further?",
    points=points,
    page=page,
    seeds={"small": 3, "paper": 1},
    choices=(
        f"each added operation is applied to a view with probability {PROBABILITY}, after the default policy",
        "paper scale trains 1000 epochs, as the models of its Table 6",
    ),
    bases={**BASES, PAPER: ("r50_1x", ())},
)
