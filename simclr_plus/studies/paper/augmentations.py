"""Figure 5: which augmentations, alone and in ordered pairs, make features that a linear classifier can use."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import NOT_SEEN, SEEN, UNDECIDED, Claim, Page, Picture, Table, group_ahead
from simclr_plus.studies.study import Point, Study, linear

OPERATIONS = ("crop", "cutout", "color", "sobel", "noise", "blur", "rotate")
# read off the figure's labels by memory, not from a table: rows are the first operation, columns the second
PAPER = (
    (33.1, 33.9, 56.3, 46.0, 39.9, 35.0, 30.2),
    (32.2, 25.6, 33.9, 40.0, 26.5, 25.2, 22.4),
    (55.8, 35.5, 18.8, 21.0, 11.4, 16.5, 20.8),
    (46.2, 40.6, 20.9, 4.0, 9.3, 6.2, 4.2),
    (38.8, 25.8, 7.5, 7.6, 9.8, 9.8, 9.6),
    (35.1, 25.2, 16.6, 5.8, 9.7, 2.6, 6.7),
    (30.0, 22.5, 20.7, 4.3, 9.7, 6.5, 2.6),
)


def points(_recipe: Recipe, scale: str) -> Iterator[Point]:
    """49 runs: a single operation on the diagonal, elsewhere the row's operation and then the column's."""
    plain = {
        "augmentation.jitter_prob": 0.0,
        "augmentation.gray_prob": 0.0,
        "augmentation.blur_prob": 0.0,
        "augmentation.same_crop": True,
        "augmentation.operations_on": "first",
    }
    for first in OPERATIONS:
        for second in OPERATIONS:
            operations = [first] if first == second else [first, second]
            yield Point(
                {"first": first, "second": second}, {**plain, "augmentation.operations": operations}, (linear(scale),)
            )


def page(f: Findings) -> Page:
    """The heat map with row means, ours and the paper's."""
    ours = [[100 * f.value("top1", first=a, second=b) for b in OPERATIONS] for a in OPERATIONS]
    rows = [[a, *(_shown(v) for v in [*row, _mean(row)])] for a, row in zip(OPERATIONS, ours, strict=True)]
    paper = [[a, *(_shown(v) for v in [*row, _mean(row)])] for a, row in zip(OPERATIONS, PAPER, strict=True)]
    columns = ["first \\ second", *OPERATIONS, "mean of row"]
    return Page(
        [
            Table("Linear accuracy (%), by first operation (row) and second (column)", columns, rows),
            Table("The paper, ImageNet, ResNet-50 (figures recalled from the picture)", columns, paper),
        ],
        [
            Picture("figure-5", "Linear accuracy (%) by augmentation of one branch", lambda g: _heat(g, ours), (8, 6)),
            Picture("figure-5-paper", "The paper's Figure 5, same colours", lambda g: _heat(g, PAPER), (8, 6)),
        ],
        _claims(f, ours),
    )


def _claims(f: Findings, ours: list[list[float]]) -> list[Claim]:
    places = [{"first": a, "second": b} for a in OPERATIONS for b in OPERATIONS]
    pairs = [p for p in places if p["first"] != p["second"]]
    singles = [p for p in places if p["first"] == p["second"]]
    crop_and_color = [p for p in pairs if set(p.values()) == {"crop", "color"}]
    claims = [
        group_ahead(
            f,
            "random crop and random color distortion together are the best pair",
            crop_and_color,
            [p for p in pairs if p not in crop_and_color],
        ),
        group_ahead(f, "the best pair is better than any single operation", pairs, singles),
    ]
    if all(math.isfinite(value) for row in ours for value in row):
        claims.append(_ordering(ours))
    return claims


def _ordering(ours: list[list[float]]) -> Claim:
    """Whether rank correlation with the paper's table is more than chance.

    Cells share rows and columns, so that chance is what the same table gives with its operations' names shuffled.
    """
    import numpy as np

    def ranks(table: Sequence[Sequence[float]]) -> Any:
        order = np.argsort(np.argsort(np.array(table).ravel())).astype(float).reshape(7, 7)
        return (order - order.mean()) / order.std()

    theirs, mine = ranks(PAPER), ranks(ours)
    shuffled = [float((theirs * mine[np.ix_(p, p)]).mean()) for p in permutations(range(7))]
    correlation = shuffled[0]
    as_high = float(np.mean([value >= correlation - 1e-12 for value in shuffled]))
    as_low = float(np.mean([value <= correlation + 1e-12 for value in shuffled]))
    verdict = SEEN if as_high <= 0.025 else NOT_SEEN if as_low <= 0.025 else UNDECIDED
    text = f"rank correlation {correlation:.2f} of 49 cells; {as_high:.1%} of all ways to swap the names reach it"
    return Claim("the cells order as the paper's do", verdict, text)


def _mean(row: Sequence[float]) -> float:
    return sum(row) / len(row)


def _shown(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "–"


def _heat(figure: Any, values: Any) -> None:
    """Rows and columns of the figure and beside them the row's mean, in the paper's form."""
    import numpy as np

    table = np.array([[*row, _mean(row)] for row in values], dtype=float)
    finite = table[np.isfinite(table)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    axes = figure.subplots()
    cells = axes.imshow(table, cmap="viridis", vmin=low, vmax=high)
    figure.colorbar(cells, label="linear accuracy (%)", shrink=0.8)
    names = [name.capitalize() for name in OPERATIONS]
    axes.set_xticks(range(len(names) + 1), [*names, "Average"], rotation=40, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="second operation", ylabel="first operation")
    axes.axvline(len(names) - 0.5, color="white", linewidth=3)
    middle = low + 0.6 * (high - low)
    for (i, j), value in np.ndenumerate(table):
        if np.isfinite(value):
            axes.text(j, i, f"{value:.1f}", ha="center", va="center", color="black" if value > middle else "white")


STUDY = Study(
    name="augmentations",
    title="Augmentations, alone and in pairs",
    source="paper, section 3.1 and Figure 5",
    question="Which augmentations of one branch, alone and in ordered pairs, make good features?",
    points=points,
    page=page,
    asks_for_color=True,
    seeds={"small": 1, "paper": 1},
    choices=(
        "both branches start from one random crop to the standard size; the other branch is that crop (paper, 3.1)",
        "both branches share one flip; crop, when it is studied, is followed by a flip of its own",
        "an operation is always applied; color keeps its own probabilities inside (0.8 jitter, 0.2 gray)",
        "sizes are recipe keys: augmentation.cutout_side (a square of half the side), noise_deviation (0.1); rotation "
        "by 0, 90, 180 or 270 degrees; Sobel: length of each channel's gradient",
    ),
)
