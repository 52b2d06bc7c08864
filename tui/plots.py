"""Which charts a run has, and their curves: the raw values faint, their moving average over them. No Textual."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from simclr_plus.recipe import Recipe
from simclr_plus.schedules import peak_learning_rate, warmup_cosine

from .feed import Feed, expected_figures
from .line_chart import Curve, Level
from .raster import Floats, smooth
from .ticks import percent, short

SMOOTHINGS = (20, 100, 1, 5)  # lines; 1: none
FUTURE_POINTS = 200
FEW = 4  # points, hardly seen as a line


@dataclass(frozen=True)
class Plot:
    """A chart: its title, the columns in it with their labels, how values are written."""

    key: str
    title: str
    columns: dict[str, str]
    form: Callable[..., str] = short
    smoothed: bool = True


PLOTS = (
    Plot("loss", "loss", {"loss": ""}),
    Plot("contrastive", "contrastive accuracy", {"contrastive_accuracy": ""}, percent),
    Plot("accuracy", "probe and kNN", {"probe_accuracy": "probe", "knn_accuracy": "kNN"}, percent),
    Plot("rate", "learning rate", {"learning_rate": ""}, short, smoothed=False),
    Plot("speed", "images/s", {"images_per_second": ""}),
    Plot("wait", "data wait", {"data_wait": ""}, percent),
    Plot("rank", "effective rank", {"effective_rank": ""}),
    Plot("spread", "feature deviation", {"feature_std": ""}),
)


def curves_of(
    plot: Plot, feed: Feed, axis: str, lines: float, *, color: int | None = None, prefix: str = ""
) -> list[Curve]:
    """The curves of a run in a chart; `color` says the run's own where several share it."""
    x = feed.axis(axis)
    found = []
    for i, (name, y) in enumerate(feed.columns(*plot.columns).items()):
        n = min(len(x), len(y))
        known = np.isfinite(y[:n])
        label = " ".join(part for part in (prefix, plot.columns[name] if len(plot.columns) > 1 else "") if part)
        hue = i if color is None else color
        sparse = known.sum() < n / 4 and name != "loss"  # kNN now and then: joined, for the rest is not missing
        xs, ys = (x[:n][known], y[:n][known]) if sparse else (x if n == len(x) else x[:n], y[:n])
        if plot.smoothed and not sparse and lines > 1 and len(ys) > 3:
            found.append(Curve("", xs, ys, hue, faint=True))
            ys = smooth(ys, min(lines, max(2.0, len(ys) / 8)))
        found.append(Curve(label, xs, ys, hue, dotted=sparse or len(ys) < FEW))
    return found


def discarded_curves(plot: Plot, feed: Feed, axis: str) -> list[Curve]:
    """What a run logged before it was resumed from an earlier step and went through the same steps again: faint."""
    found = []
    for stretch in feed.discarded(axis, *plot.columns):
        x = stretch.get(axis)
        if x is None or not np.isfinite(x).all():
            continue
        x = np.maximum.accumulate(feed.hours(x) if axis == "time" else x)
        for name in plot.columns:
            y = stretch.get(name)
            known = np.isfinite(y) if y is not None else np.empty(0, dtype=bool)
            if y is not None and known.any():
                sparse = known.sum() < len(y) / 4
                found.append(Curve("", *((x[known], y[known]) if sparse else (x, y)), "foreground", faint=True))
    return found


def levels_of(plot: Plot, recipe: Recipe | None) -> list[Level]:
    """The dashed lines of a chart: the chance level of a loss that has one, and the scores that the recipe states."""
    if recipe is None:
        return []
    if plot.key == "loss":
        return [] if recipe.chance_loss is None else [Level("chance", recipe.chance_loss)]
    if plot.key == "contrastive":
        return []
    if plot.key == "accuracy":
        stated = expected_figures(recipe.about.expected)
        return [Level(f"{whose} {kind}", share) for kind, (whose, share) in stated.items()]
    return []


def future_rate(recipe: Recipe, steps: int, feed: Feed, axis: str) -> Curve | None:
    """The learning rate still to come, by the recipe's schedule; None on the axis of time, or where all is done."""
    x, done = feed.axis(axis), feed.columns("step")["step"]
    last = int(done[-1]) if len(done) else 0
    if axis == "time" or last >= steps or (axis != "step" and not last):
        return None
    ahead: Floats = np.unique(np.linspace(last, steps, FUTURE_POINTS).astype(np.int64)).astype(np.float64)
    t, o = recipe.training, recipe.optimizer
    warmup = round(steps * t.warmup_epochs / t.epochs)
    peak = peak_learning_rate(o.learning_rate, t.batch_size, o.learning_rate_scaling)
    rates = [warmup_cosine(int(step), peak=peak, warmup_steps=warmup, total_steps=steps) for step in ahead]
    each = float(x[-1]) / last if len(x) and last else 1.0
    return Curve("", ahead * each, np.array(rates), 0, faint=True)
