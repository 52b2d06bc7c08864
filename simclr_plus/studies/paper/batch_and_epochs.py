"""Figure 9 and Table B.1: batch size by epochs, with linear and with square-root scaling of the learning rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.drawing import bars, floor_of
from simclr_plus.studies.findings import Findings, Spread
from simclr_plus.studies.page import Page, Picture, Table, decided, higher
from simclr_plus.studies.study import PAPER, Point, Study, linear

BATCHES = {"small": (64, 128, 256, 512), PAPER: (256, 512, 1024, 2048, 4096, 8192)}
LENGTHS = {"small": (1, 2, 4), PAPER: (100, 200, 400, 800)}  # small: multiples of the recipe's epochs
RULES = ("linear", "sqrt")
# by batch: linear / square-root scaling at 100, 200, 400, 800 epochs
TABLE_B1: dict[int, tuple[tuple[float, float], ...]] = {
    256: ((57.5, 62.8), (61.9, 64.3), (64.7, 65.7), (66.6, 66.5)),
    512: ((60.7, 63.8), (64.0, 65.6), (66.2, 66.7), (67.8, 67.4)),
    1024: ((62.8, 64.3), (65.3, 66.1), (67.2, 67.2), (68.5, 68.3)),
    2048: ((64.0, 64.7), (66.1, 66.8), (68.1, 67.9), (68.9, 68.8)),
    4096: ((64.6, 64.5), (66.5, 66.8), (68.2, 68.0), (68.9, 69.1)),
    8192: ((64.8, 64.8), (66.6, 67.0), (67.8, 68.3), (69.0, 69.1)),
}


def points(recipe: Recipe, scale: str) -> Iterator[Point]:
    """Every batch, length and rule; at small scale both rules meet at the recipe's rate for its own batch."""
    o, own_batch = recipe.optimizer, recipe.training.batch_size
    # base rates that give the recipe's peak at its own batch
    peak = {"linear": o.learning_rate * own_batch / 256, "sqrt": o.learning_rate * own_batch**0.5}.get(
        o.learning_rate_scaling, o.learning_rate
    )
    bases = {"linear": peak * 256 / own_batch, "sqrt": peak / own_batch**0.5}
    for rule in RULES:
        for batch in BATCHES[scale]:
            for length in LENGTHS[scale]:
                epochs = float(length) if scale == PAPER else length * recipe.training.epochs
                yield Point(
                    {"rule": rule, "batch": batch, "epochs": epochs},
                    {
                        "training.batch_size": batch,
                        "training.epochs": epochs,
                        "optimizer.learning_rate_scaling": rule,
                        "optimizer.learning_rate": bases[rule],
                    },
                    (linear(scale),),
                )


def page(f: Findings) -> Page:
    """Figure 9 for each rule, and Table B.1."""
    batches, lengths = sorted(f.axis("batch")), sorted(f.axis("epochs"))
    rows = [
        [str(b), *(" / ".join(f.text("top1", rule=r, batch=b, epochs=e) for r in RULES) for e in lengths)]
        for b in batches
    ]
    paper = [[str(b), *(f"{x:.1f} / {y:.1f}" for x, y in row)] for b, row in TABLE_B1.items()]
    pictures = []
    for rule in RULES:
        spreads: dict[str, list[Spread | None]] = {
            f"batch {b}": [f.spread("top1", rule=rule, batch=b, epochs=e) for e in lengths] for b in batches
        }
        pictures.append(Picture(f"figure-9-{rule}", f"Linear accuracy (%), {_words(rule)}", _drawing(spreads, lengths)))
    claims = []
    if batches and lengths:
        short, long, low, high = lengths[0], lengths[-1], batches[0], batches[-1]
        claims = [
            higher(
                f, f"longer training is better ({long:g} against {short:g} epochs)", {"epochs": long}, {"epochs": short}
            ),
            higher(
                f,
                f"with few epochs large batches are better (linear rule, {high} against {low})",
                {"rule": "linear", "batch": high, "epochs": short},
                {"rule": "linear", "batch": low, "epochs": short},
            ),
            higher(
                f,
                f"square-root scaling is better for small batches and few epochs (batch {low}, {short:g} epochs)",
                {"rule": "sqrt", "batch": low, "epochs": short},
                {"rule": "linear", "batch": low, "epochs": short},
            ),
        ]
        lead = [
            (sign, {"batch": batch, "epochs": epochs}, "top1")
            for sign, batch, epochs in ((1, high, short), (-1, low, short), (-1, high, long), (1, low, long))
        ]
        sentence = f"the lead of large batches ({high} against {low}) shrinks with longer training"
        claims.append(decided(sentence, f.sum_of(lead)))
    return Page(
        [
            Table(
                "Linear accuracy (%), linear / square-root scaling, by batch (row) and epochs (column)",
                ["batch", *(f"{e:g}" for e in lengths)],
                rows,
            ),
            Table("The paper, Table B.1", ["batch", "100", "200", "400", "800"], paper),
        ],
        pictures,
        claims,
    )


def _words(rule: str) -> str:
    return "learning rate proportional to the batch" if rule == "linear" else "rate proportional to the batch's root"


def _drawing(spreads: dict[str, list[Spread | None]], lengths: list[float]) -> Any:
    return lambda figure: bars(
        figure,
        [f"{e:g}" for e in lengths],
        spreads,
        xlabel="training epochs",
        ylabel="linear accuracy (%)",
        lowest=floor_of(spreads),
    )


STUDY = Study(
    name="batch-and-epochs",
    title="Batch size and training length",
    source="paper, sections 5.2 and B.1, Figure 9 and Table B.1",
    question="Do large batches and long training help, and which rule should scale the learning rate?",
    points=points,
    page=page,
    seeds={"small": 1, "paper": 1},
    choices=(
        "both rules give the recipe's learning rate at the recipe's batch size",
        "the lengths of Table B.1; Figure 9 itself goes on to 1000 epochs",
    ),
)
