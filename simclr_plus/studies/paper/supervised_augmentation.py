"""Table B.3: supervised training with SimCLR's stronger augmentation: crop, + color, + blur, by training length."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import bars, floor_of
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Claim, Page, Picture, Table, higher
from simclr_plus.studies.study import PAPER, Point, Study, training_changes, widths_of

POLICIES = ("crop", "crop + color", "crop + color + blur")
LENGTHS = {"small": (1, 3), PAPER: (90, 500, 1000)}  # small: multiples of the recipe's epochs
WIDTHS = (1.0, 4.0)  # at the paper's scale; at small scale that of the recipe
# (width, epochs): crop, + color, + blur
TABLE: dict[tuple[int, int], tuple[float, float, float]] = {
    (1, 90): (76.5, 75.6, 75.3),
    (1, 500): (76.2, 76.5, 76.7),
    (1, 1000): (75.8, 75.2, 76.4),
    (4, 90): (78.4, 78.9, 78.7),
    (4, 500): (78.3, 78.4, 78.5),
    (4, 1000): (77.9, 78.2, 78.3),
}


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Every width, length and policy."""
    for width, of_width in widths_of(recipe, scale, WIDTHS):
        for length in LENGTHS[scale]:
            epochs = float(length) if scale == PAPER else length * recipe.training.epochs
            for policy in POLICIES:
                yield Point(
                    {"width": width, "epochs": epochs, "policy": policy},
                    {
                        **of_width,
                        "training.epochs": epochs,
                        "augmentation.jitter_prob": 0.8 if "color" in policy else 0.0,
                        "augmentation.gray_prob": 0.2 if "color" in policy else 0.0,
                        "augmentation.blur_prob": 0.5 if "blur" in policy else 0.0,
                        **training_changes("supervised", scale),
                    },
                    ("classifier",),
                )


def page(f: Findings) -> Page:
    """Table B.3 with the paper's figures."""
    groups = [(w, e) for w in f.axis("width") for e in f.axis("epochs")]
    rows = [[f"{w:g}x", f"{e:g}", *(f.text("top1", width=w, epochs=e, policy=p) for p in POLICIES)] for w, e in groups]
    paper = [[f"ResNet-50 ({w}x)", str(e), *(f"{v}" for v in row)] for (w, e), row in TABLE.items()]

    def draw(figure: Any) -> None:
        series = {p: [f.spread("top1", width=w, epochs=e, policy=p) for w, e in groups] for p in POLICIES}
        names = [f"{w:g}x, {e:g} epochs" for w, e in groups]
        bars(figure, names, series, xlabel="network and length", ylabel="top-1 (%)", lowest=floor_of(series))

    columns = ["width", "epochs", *POLICIES]
    return Page(
        [Table("Top-1 (%) of supervised training", columns, rows), Table("The paper", columns, paper)],
        [Picture("table-b3", "Supervised top-1 by augmentation", draw)],
        _claims(f),
    )


def _claims(f: Findings) -> list[Claim]:
    """Of the narrowest network, and of the widest where there are several: the paper's claims differ by width."""
    widths, lengths = sorted(f.axis("width")), sorted(f.axis("epochs"))
    if not widths:
        return []
    crop, color, strongest = POLICIES

    def at(policy: str, width: float, epochs: float) -> dict[str, Any]:
        return {"policy": policy, "width": width, "epochs": epochs}

    short, long, narrow, wide = lengths[0], lengths[-1], widths[0], widths[-1]
    claims = [
        higher(
            f,
            f"with few epochs color distortion does not help supervised training ({narrow:g}x, {short:g} epochs)",
            at(crop, narrow, short),
            at(color, narrow, short),
        )
    ]
    if long > short:
        claims += [
            higher(
                f,
                f"with long training the strongest policy is better than crop alone ({width:g}x, {long:g} epochs)",
                at(strongest, width, long),
                at(crop, width, long),
            )
            for width in dict.fromkeys((narrow, wide))
        ]
        claims.append(
            higher(
                f,
                f"with crop alone longer training does not help ({narrow:g}x, {short:g} against {long:g} epochs)",
                at(crop, narrow, short),
                at(crop, narrow, long),
            )
        )
    return claims


STUDY = Study(
    name="supervised-augmentation",
    title="Supervised training with stronger augmentation",
    source="paper, section B.3 and Table B.3",
    question="Does supervised training gain from the augmentation that SimCLR needs?",
    points=points,
    page=page,
    seeds={"small": 3, "paper": 1},
    choices=(
        "supervised training: cross entropy, one view an image; at small scale with the recipe's optimiser and "
        "schedule, at the paper's with SGD at 0.1 B/256 and weight decay 1e-4",
    ),
)
