"""Table 3: what h keeps and z = g(h) loses: a small network predicts from each which transformation was applied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import bars
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Page, Picture, Table, higher
from simclr_plus.studies.study import Point, Study

# task: what pretraining adds to its policy, and the paper's figures (chance, h, g(h))
TASKS: dict[str, tuple[tuple[str, ...], tuple[float, float, float]]] = {
    "color_or_gray": ((), (80, 99.3, 97.4)),
    "rotation": (("rotate",), (25, 67.6, 25.6)),
    "corrupted": (("noise",), (50, 99.5, 59.6)),
    "sobel": (("sobel",), (50, 96.6, 56.3)),
}
TITLES = {
    "color_or_gray": "color or gray",
    "rotation": "rotation",
    "corrupted": "original or corrupted",
    "sobel": "original or Sobel",
}


def points(recipe: Recipe, _scale: str) -> Iterator[Point]:
    """One pretraining a task, for the paper's head of one hidden layer as wide as h, and z as wide as h."""
    width = recipe.feature_dim
    for task, (operations, _) in TASKS.items():
        yield Point(
            {"task": task},
            {
                "augmentation.operations": list(operations),
                "augmentation.operation_prob": 1.0 if task == "rotation" else 0.5,
                "head.num_layers": 2,
                "head.hidden_dim": width,
                "head.output_dim": width,
            },
            (f"keeps_{task}",),
            needs_color=task == "color_or_gray",
        )


def page(f: Findings) -> Page:
    """Table 3 with the paper's figures."""
    rows = []
    for task, (_, paper) in TASKS.items():
        figures = [f.text(figure, task=task) for figure in ("chance", "from_h", "from_z")]
        rows.append([TITLES[task], *figures, *(f"{v:g}" for v in paper)])
    claims = [
        higher(
            f,
            f"h tells more about {TITLES[task]} than z = g(h)",
            {"task": task},
            {"task": task},
            figure="from_h",
            other="from_z",
        )
        for task in TASKS
    ]
    claims.append(
        higher(
            f,
            "h tells the rotation better than chance",
            {"task": "rotation"},
            {"task": "rotation"},
            figure="from_h",
            other="chance",
        )
    )

    def draw(figure: Any) -> None:
        names = {"chance": "chance", "h": "from_h", "z = g(h)": "from_z"}
        bars(
            figure,
            [TITLES[task] for task in TASKS],
            {name: [f.spread(key, task=task) for task in TASKS] for name, key in names.items()},
            xlabel="what to predict",
            ylabel="accuracy (%)",
        )

    columns = ["what to predict", "chance", "h", "z = g(h)", "paper: chance", "h", "g(h)"]
    return Page(
        [Table("Accuracy (%) in telling the transformation", columns, rows)],
        [Picture("table-3", "Accuracy in telling the transformation that was applied", draw)],
        claims,
    )


STUDY = Study(
    name="what-h-keeps",
    title="What h keeps and z loses",
    source="paper, section 4.2 and Table 3",
    question="Which information about transformations does the projection head throw away?",
    points=points,
    page=page,
    seeds={"small": 3, "paper": 1},
    choices=(
        "the transformation is added to the pretraining policy of both branches: rotation always, the others with "
        "probability 0.5; the color row has the usual policy",
        "a network of one hidden layer of 512 units, Adam at 0.001 over 30 epochs, stopped by held-out training images",
    ),
)
