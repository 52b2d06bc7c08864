"""Table 1: how strong color distortion should be, for SimCLR and for supervised training of the same network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import lines
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Page, Picture, Table, higher
from simclr_plus.studies.study import PAPER as PAPER_SCALE
from simclr_plus.studies.study import SUPERVISED_EPOCHS, Point, Study, linear, training_changes

STRENGTHS = {"1/8": 0.125, "1/4": 0.25, "1/2": 0.5, "1": 1.0}
BLUR, AUTO = "1 (+blur)", "AutoAug"
COLUMNS = (*STRENGTHS, BLUR, AUTO)
METHODS = ("SimCLR", "supervised")
PAPER = {"SimCLR": (59.6, 61.0, 62.6, 63.2, 64.5, 61.1), "supervised": (77.0, 76.7, 76.5, 75.7, 75.4, 77.1)}


def points(_recipe: Recipe, scale: str) -> Iterator[Point]:
    """Six policies, each for both kinds of training."""
    for method in METHODS:
        for policy in COLUMNS:
            changes: dict[str, Any] = {
                "augmentation.strength": STRENGTHS.get(policy, 1.0),
                "augmentation.blur_prob": 0.5 if policy == BLUR else 0.0,
                **training_changes(method, scale),
            }
            if method == "supervised" and scale == PAPER_SCALE:
                changes["training.epochs"] = SUPERVISED_EPOCHS
            if policy == AUTO:
                changes |= {
                    "augmentation.jitter_prob": 0.0,
                    "augmentation.gray_prob": 0.0,
                    "augmentation.operations": ["autoaugment"],
                }
            yield Point(
                {"method": method, "policy": policy}, changes, (linear(scale) if method == "SimCLR" else "classifier",)
            )


def page(f: Findings) -> Page:
    """Table 1 with the paper's rows."""
    rows = [[m, *(f.text("top1", method=m, policy=p) for p in COLUMNS)] for m in METHODS]
    rows += [[f"{m}, paper", *(f"{v:.1f}" for v in PAPER[m])] for m in METHODS]
    weakest, strongest = {"policy": "1/8"}, {"policy": "1"}
    claims = [
        higher(
            f,
            "stronger color distortion is better for SimCLR (1 above 1/8)",
            {"method": "SimCLR", **strongest},
            {"method": "SimCLR", **weakest},
        ),
        higher(
            f,
            "it does not help supervised training (1/8 above 1)",
            {"method": "supervised", **weakest},
            {"method": "supervised", **strongest},
        ),
        higher(
            f,
            "AutoAugment, found for supervised training, is worse for SimCLR than color distortion with blur",
            {"method": "SimCLR", "policy": BLUR},
            {"method": "SimCLR", "policy": AUTO},
        ),
        higher(
            f,
            "blur adds to full color distortion for SimCLR",
            {"method": "SimCLR", "policy": BLUR},
            {"method": "SimCLR", "policy": "1"},
        ),
    ]

    def draw(figure: Any) -> None:
        series = {m: [f.spread("top1", method=m, policy=p) for p in COLUMNS] for m in METHODS}
        lines(figure, list(COLUMNS), series, xlabel="color distortion", ylabel="top-1 (%)")

    return Page(
        [Table("Top-1 (%) by strength of color distortion", ["", *COLUMNS], rows)],
        [Picture("table-1", "Top-1 on held-out images by strength of color distortion", draw)],
        claims,
    )


STUDY = Study(
    name="color-strength",
    title="Strength of color distortion",
    source="paper, section 3.2 and Table 1",
    question="How strong should color distortion be, and is it the same for supervised training?",
    points=points,
    page=page,
    asks_for_color=True,
    seeds={"small": 3, "paper": 1},
    choices=(
        "supervised training: cross entropy, one view an image; at small scale else the same recipe (learning rate and "
        "epochs too), at the paper's its 90 epochs, with SGD at 0.1 B/256 and weight decay 1e-4",
        "of a folder without train and val SimCLR sees all images, supervised training the four fifths not held out",
        "AutoAugment: torchvision's ImageNet policy in place of color distortion and blur",
    ),
)
