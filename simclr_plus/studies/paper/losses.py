"""Tables 2 and 4: NT-Xent against NT-Logistic and margin triplet, with and without semi-hard mining."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import bars, floor_of
from simclr_plus.studies.findings import Findings, Spread
from simclr_plus.studies.page import Page, Picture, Table, higher
from simclr_plus.studies.study import PAPER, Point, Study, linear

TEMPERATURES = (0.1, 0.2, 0.5, 1.0)
MARGINS = (0.0, 0.4, 0.8, 1.6)
# label: loss.name, semi-hard mining, the key that is searched and its values, the paper's figure
LOSSES: dict[str, tuple[str, bool, str, tuple[float, ...], float]] = {
    "Margin": ("margin", False, "loss.margin", MARGINS, 50.9),
    "NT-Logi.": ("nt_logistic", False, "loss.temperature", TEMPERATURES, 51.6),
    "Margin (sh)": ("margin", True, "loss.margin", MARGINS, 57.5),
    "NT-Logi.(sh)": ("nt_logistic", True, "loss.temperature", TEMPERATURES, 57.9),
    "NT-Xent": ("nt_xent", False, "loss.temperature", TEMPERATURES, 63.9),
}
RATES = {"small": (1.0,), PAPER: (0.01, 0.1, 0.3, 0.5, 1.0)}  # base rates; small: multiples of the recipe's


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Every loss with every learning rate and every temperature or margin."""
    for label, (name, semi_hard, key, values, _) in LOSSES.items():
        for rate in RATES[scale]:
            for value in values:
                yield Point(
                    {"loss": label, "searched": value, "rate": rate},
                    {
                        "loss.name": name,
                        "loss.semi_hard": semi_hard,
                        "loss.negatives": "other_view",
                        key: value,
                        "optimizer.learning_rate": rate if scale == PAPER else rate * recipe.optimizer.learning_rate,
                    },
                    (f"{linear(scale)}_validation", linear(scale)),
                )


def chosen(f: Findings, label: str) -> dict[str, Any]:
    """The place of the best searched setting of a loss on validation images; never on test images."""
    places = {(row.place["searched"], row.place["rate"]) for row in f.rows if row.place["loss"] == label}
    scored = {(s, r): f.value("validation_top1", loss=label, searched=s, rate=r) for s, r in sorted(places)}
    measured = {place: value for place, value in scored.items() if value == value}
    if not measured:
        return {"loss": label, "searched": None, "rate": None}
    searched, rate = max(measured, key=lambda place: measured[place])
    return {"loss": label, "searched": searched, "rate": rate}


def page(f: Findings) -> Page:
    """Table 4, and all that was searched."""
    best = {label: chosen(f, label) for label in LOSSES}
    row = [f.text("top1", **best[label]) for label in LOSSES]
    settings = [f"{key.partition('.')[2]} {best[label]['searched']}" for label, (_, _, key, _, _) in LOSSES.items()]
    paper = [f"{figure:.1f}" for *_, figure in LOSSES.values()]
    searched = [
        [label, f"{place['searched']}", f"{place['rate']}", f.text("validation_top1", **place), f.text("top1", **place)]
        for label in LOSSES
        for place in _places(f, label)
    ]
    claims = [
        higher(f, f"NT-Xent is better than {label}", best["NT-Xent"], best[label])
        for label in LOSSES
        if label != "NT-Xent"
    ]
    claims += [
        higher(
            f,
            f"semi-hard mining helps {label}",
            best[f"{label}(sh)" if label.endswith(".") else f"{label} (sh)"],
            best[label],
        )
        for label in ("Margin", "NT-Logi.")
    ]

    def draw(figure: Any) -> None:
        series: dict[str, list[Spread | None]] = {"top1": [f.spread("top1", **best[x]) for x in LOSSES]}
        bars(figure, list(LOSSES), series, xlabel="loss", ylabel="linear accuracy (%)", lowest=floor_of(series))

    return Page(
        [
            Table(
                "Linear accuracy (%) of each loss at its best setting, chosen on held-out training images",
                ["", *LOSSES],
                [["top-1", *row], ["setting", *settings], ["paper", *paper]],
            ),
            Table(
                "All settings", ["loss", "temperature or margin", "rate", "validation top-1", "test top-1"], searched
            ),
        ],
        [Picture("table-4", "Linear accuracy (%) by loss", draw)],
        claims,
    )


def _places(f: Findings, label: str) -> list[dict[str, Any]]:
    places = {(row.place["searched"], row.place["rate"]) for row in f.rows if row.place["loss"] == label}
    return [{"loss": label, "searched": searched, "rate": rate} for searched, rate in sorted(places)]


STUDY = Study(
    name="losses",
    title="Loss functions",
    source="paper, section 5.1, Tables 2 and 4, B.10",
    question="Is NT-Xent better than the logistic and the margin loss, also when these mine semi-hard negatives?",
    points=points,
    page=page,
    seeds={"small": 1, "paper": 1},
    choices=(
        "negatives come from the other view only, for every loss (as in the paper's Table 4)",
        "NT-Xent is searched over as many settings as the others: the paper does not say how it was set there",
        "NT-Logistic and margin: mean over a row's negatives, then over the rows; semi-hard: the one negative of a row "
        "that is closest and yet farther than the positive, the farthest where none is",
        "the learning rate is scaled with the batch as in the rest of the paper",
        "a setting is chosen on a held-out tenth of the training images; small scale keeps the recipe's learning rate",
    ),
)
