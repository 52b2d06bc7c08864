"""Which charts a run has, and their curves: the raw values as a band, their average over it. No Textual."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from simclr_plus.recipe.method_keys import Figure
from simclr_plus.recipe.recipe import Recipe

from ..charts.average import centred
from ..charts.line_chart import Curve, Level
from ..charts.raster import Floats
from ..charts.ticks import percent, short
from ..reading.alarms import HIGHER_TEMPERATURE, LOWER_RATE, OF_FEATURES, alarms, thresholds
from ..reading.feed import Feed, expected_figures

# widths of the average (a standard deviation of its weights), in shares of the x that is shown
SMOOTHINGS = {"light": 0.01, "strong": 0.03, "none": 0.0}
FUTURE_POINTS = 200
EVALUATED = 2  # place in the palette
FEW = 4  # points, hardly seen as a line
RANK_ROWS = 256  # features of a process that effective_rank looks at
RECENT = 2000  # lines that alarms look at
ALARM_COLUMNS = ("step", "epoch", "time", "loss", "feature_std", "effective_rank", "data_wait")
# keys that say where, how watched and from which seed a run trains; a stated score holds whatever they are
NO_MATTER = {
    *("data.root", "data.download", "data.threads", "data.on_bad_image", "data.expected_images", "training.seed"),
    *("training.device", "training.compile", "augmentation.augment_on", "augmentation.device_crops"),
    "encoder.download",
}
NO_MATTER_SECTIONS = ("about", "monitor", "checkpoints", "variant")


@dataclass(frozen=True)
class Plot:
    """A chart: its title, the columns in it with their labels, how values are written, how far its axis goes.

    Without `low` the axis begins near the least value; it reaches up to `high` at the least.
    """

    key: str
    title: str
    columns: dict[str, str]
    form: Callable[..., str] = short
    smoothed: bool = True
    low: float | None = None
    high: float | None = None
    logarithmic: bool = True  # whether it may be


TASK = Plot("task", "task accuracy", {}, percent, low=0.0, high=0.1, logarithmic=False)  # columns: see plots_of
PLOTS = (
    Plot("loss", "loss", {"loss": ""}),
    TASK,
    Plot(
        "accuracy",
        "probe and kNN",
        {"probe_accuracy": "probe", "knn_accuracy": "kNN"},
        percent,
        low=0.0,
        high=1.0,
        logarithmic=False,
    ),
    Plot("rate", "learning rate", {"learning_rate": ""}, short, smoothed=False, low=0.0),
    Plot("speed", "images/s", {"images_per_second": ""}, low=0.0),
    Plot("wait", "data wait", {"data_wait": ""}, percent, low=0.0, high=0.1, logarithmic=False),
    Plot("rank", "effective rank", {"effective_rank": ""}, low=0.0),
    Plot("spread", "feature deviation", {"feature_std": ""}, low=0.0),
)
BEFORE_OWN = 3  # charts that stand before those of a method's own numbers


def figures_of(feed: Feed) -> tuple[Figure, ...]:
    """What a run's method logs beside the loss; by the names of columns where the recipe cannot be read."""
    recipe = feed.facts.recipe
    if recipe is not None:
        return recipe.method.figures(recipe)
    others = {column for plot in PLOTS for column in plot.columns}
    shares = [name for name in feed.names() if name.endswith("_accuracy") and name not in others]
    return tuple(Figure(name, name.replace("_", " "), None) for name in shares)


def plots_of(feeds: Sequence[Feed]) -> tuple[Plot, ...]:
    """The charts of runs: the shares of their methods stand in one, each other number of theirs in one of its own."""
    titles: dict[str, set[str]] = {}
    shares: list[str] = []
    for figure in (figure for feed in feeds for figure in figures_of(feed)):
        titles.setdefault(figure.column, set()).add(figure.title)
        shares += [figure.column] if figure.share else []
    names = {column: found.pop() if len(found) == 1 else column.replace("_", " ") for column, found in titles.items()}
    own = [Plot(f"own-{column}", name, {column: ""}) for column, name in names.items() if column not in shares]
    task = replace(TASK, columns={column: names[column] for column in names if column in shares})
    if len(task.columns) == 1:
        task = replace(task, title=next(iter(task.columns.values())))
    return (*(task if plot is TASK else plot for plot in PLOTS[:BEFORE_OWN]), *own, *PLOTS[BEFORE_OWN:])


def by_digit(plots: Sequence[Plot], digit: int, now: str) -> str:
    """The key of the chart that a digit from 1 chooses: those that all runs have, then 9 for a method's own in turn."""
    if digit <= len(PLOTS):
        return PLOTS[digit - 1].key
    own = [plot.key for plot in plots if plot.key.startswith("own-")]
    if now in own:
        return own[own.index(now) + 1] if own.index(now) + 1 < len(own) else now
    return own[0] if own else ""


def curves_of(
    plot: Plot,
    feed: Feed,
    axis: str,
    width: float,
    *,
    span: tuple[float, float] | None = None,
    color: int | None = None,
    prefix: str = "",
) -> list[Curve]:
    """The curves of a run in a chart: raw values, and over them their average of a width in x.

    `span`: the x that is shown; the average is worked out there. `color`: the run's own where several share a chart.
    """
    x = feed.axis(axis)
    curves = []
    for name, y in feed.columns(*plot.columns).items():
        n = min(len(x), len(y))
        finite = np.isfinite(y[:n])
        label = " ".join(part for part in (prefix, plot.columns[name] if len(plot.columns) > 1 else "") if part)
        hue = list(plot.columns).index(name) if color is None else color
        if not finite.any():
            continue
        if is_sparse(name, finite):
            curves.append(_measured(Curve(label, x[:n][finite], y[:n][finite], hue, dotted=True), name, feed))
            continue
        raw = Curve(label, x if n == len(x) else x[:n], y[:n], hue, dotted=n < FEW)
        if plot.smoothed and width > 0 and n >= FEW:
            inside = _around(raw.x, span, width)
            at, average = centred(raw.x[inside], raw.y[inside], width)
            curves.append(Curve("", raw.x, raw.y, hue, faint=True, band=True))
            curves.append(Curve(label, at, average, hue, of=raw))
        else:
            curves.append(raw)
    if plot.key == "accuracy" and feed.facts.knn_results:
        curves.append(_evaluated(feed, axis, prefix, color))
    return [curve for curve in curves if len(curve.x)]


def is_sparse(name: str, finite: np.ndarray) -> bool:
    """Whether a column is measured now and then: its points are joined, for the rest is not missing."""
    return name == "knn_accuracy" or (finite.sum() < len(finite) / 4 and name != "loss")


def _around(x: Floats, span: tuple[float, float] | None, width: float) -> slice:
    """The part of a curve that the average of what is shown depends on."""
    if span is None:
        return slice(None)
    first, last = np.searchsorted(x, (span[0] - 8 * width, span[1] + 8 * width))
    return slice(max(0, int(first) - 1), int(last) + 1)


def _measured(curve: Curve, name: str, feed: Feed) -> Curve:
    """With its 95 % intervals, where it is known on how many images it stands."""
    if name != "knn_accuracy" or feed.start is None:
        return curve
    low, high = wilson(curve.y, feed.start.knn.queries)
    half = float(high[-1] - low[-1]) / 2
    return Curve(**{**vars(curve), "low": low, "high": high, "beside": f"±{100 * half:.1f}"})


def _evaluated(feed: Feed, axis: str, prefix: str, color: int | None) -> Curve:
    """What `evaluate knn` found, at the steps of its checkpoints."""
    results = sorted(feed.facts.knn_results, key=lambda result: result.step)
    y = np.array([result.top1 for result in results])
    x = np.array([float(result.step) for result in results])
    if axis == "time":
        steps, hours = feed.columns("step")["step"], feed.axis(axis)
        x = np.interp(x, steps, hours) if len(steps) else x * np.nan
    else:
        x = x * feed.each(axis)
    finite = np.isfinite(x)
    label = " ".join(part for part in (prefix, "◆") if part)
    hue = EVALUATED if color is None else color
    return Curve(label, x[finite], y[finite], hue, dotted=True, marker="◆", joined=False)


def wilson(share: Floats, count: int) -> tuple[Floats, Floats]:
    """95 % interval of a share that was found on `count` images (Wilson 1927)."""
    share, z = np.clip(share, 0.0, 1.0), 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def figure_name(key: str, feeds: Sequence[Feed]) -> str:
    """A column of metrics.jsonl in the words of the charts, for a table of several runs."""
    if key == "knn_accuracy":
        names = {feed.start.knn.name() for feed in feeds if feed.start is not None}
        return names.pop() if len(names) == 1 else "kNN (of different images)"
    if key == "probe_accuracy":
        return "probe (augmented training images)"
    titles = {figure.title for feed in feeds for figure in figures_of(feed) if figure.column == key}
    return titles.pop() if len(titles) == 1 else key.replace("_", " ")


def captions_of(plot: Plot, feed: Feed) -> list[Sequence[str]]:
    """What the figures of a chart stand on, each in words of several lengths."""
    if plot.key != "accuracy":
        return []
    captions: list[Sequence[str]] = []
    if feed.has("knn_accuracy") and feed.start is not None:
        knn = feed.start.knn
        captions.append(
            (knn.name(), f"kNN ({knn.queries:,} held out, bank {knn.bank:,})", f"kNN: {knn.queries:,} held out")
        )
    for basis in {result.basis: None for result in feed.facts.knn_results}:
        what = basis.name() if basis is not None else "kNN of a checkpoint"
        captions.append((f"◆ evaluate: {what}", "◆ evaluate knn"))
    if feed.has("probe_accuracy"):
        captions.append(("probe: on augmented training images", "probe: on augmented images"))
    return captions


def discarded_curves(plot: Plot, feed: Feed, axis: str) -> list[Curve]:
    """What a run logged before it was resumed from an earlier step and went through the same steps again: faint."""
    curves = []
    for stretch in feed.discarded(axis, *plot.columns):
        x = stretch.get(axis)
        if x is None or not np.isfinite(x).all():
            continue
        x = np.maximum.accumulate(feed.hours(x) if axis == "time" else x)
        for name in plot.columns:
            y = stretch.get(name)
            finite = np.isfinite(y) if y is not None else np.empty(0, dtype=bool)
            if y is not None and finite.any():
                points = (x[finite], y[finite]) if is_sparse(name, finite) else (x, y)
                curves.append(Curve("", *points, "foreground", faint=True))
    return curves


def levels_of(plot: Plot, recipe: Recipe | None, feed: Feed | None = None) -> list[Level]:
    """The dashed lines of a chart: chance, the most there can be, where an alarm begins, the recipe's score."""
    if recipe is None:
        return []
    if plot.key == "loss":
        chance = recipe.method.chance_loss(recipe)
        return [] if chance is None else [Level("chance", chance)]
    if plot.key == "task" or plot.key.startswith("own-"):
        return _levels_of_method(plot, recipe)
    if plot.key == "accuracy":
        classes = feed.start.classes if feed is not None and feed.start is not None else 0
        by_chance = [Level(f"chance, {classes} classes:", 1 / classes)] if classes > 1 else []
        return [*by_chance, *_stated(recipe, feed)]
    levels = []
    if plot.key == "rank":
        levels.append(Level("of", _largest_rank(recipe, feed)))
    limits = thresholds(alarm_columns(feed)) if feed is not None else {}
    for name, word in (("data_wait", "above"), ("effective_rank", "below"), ("feature_std", "below")):
        if name in plot.columns and name in limits:
            levels.append(Level(f"alarm {word}", limits[name], own=word == "below"))
    return levels


def _levels_of_method(plot: Plot, recipe: Recipe) -> list[Level]:
    """Chance of what a chart shows, and where its alarms begin."""
    levels: dict[str, Level] = {}  # by what is written: two of one value would hide each other
    for figure in recipe.method.figures(recipe):
        if figure.column in plot.columns and figure.chance is not None:
            levels.setdefault(plot.form(figure.chance), Level("chance", figure.chance))
    collapses = [collapse for collapse in recipe.method.collapses(recipe) if collapse.column in plot.columns]
    words = {True: "alarm below", False: "alarm above"}
    return [*levels.values(), *(Level(words[each.below], each.limit, own=True) for each in collapses)]


def alarm_columns(feed: Feed) -> dict[str, Floats]:
    """The newest values of what alarms look at."""
    recipe = feed.facts.recipe
    if recipe is None:
        return feed.columns(*ALARM_COLUMNS, last=RECENT)
    names = [name for name in ALARM_COLUMNS if recipe.method.features_tell or name not in OF_FEATURES]
    return feed.columns(*names, *(each.column for each in recipe.method.collapses(recipe)), last=RECENT)


def alarms_of(feed: Feed, silent: float | None) -> list[str]:
    """What is wrong with a run, as far as it means something to its method."""
    recipe = feed.facts.recipe
    if recipe is None:
        return alarms(feed.facts.glance, alarm_columns(feed), None, silent)
    method = recipe.method
    return alarms(
        feed.facts.glance,
        alarm_columns(feed),
        method.chance_loss(recipe),
        silent,
        collapses=method.collapses(recipe),
        remedy=HIGHER_TEMPERATURE if "loss" in method.reads else LOWER_RATE,
    )


def _largest_rank(recipe: Recipe, feed: Feed | None) -> int:
    """Of centred features: their dimension, or the rows that are looked at but for one."""
    processes = feed.facts.glance.get("processes") if feed is not None else 1
    processes = processes if isinstance(processes, int) and processes > 0 else 1
    rows = recipe.method.view_count * recipe.training.batch_size // processes
    dimensions = (feed.feature_dim if feed is not None else 0) or RANK_ROWS
    return max(1, min(dimensions, min(RANK_ROWS, rows) - 1))


def _stated(recipe: Recipe, feed: Feed | None) -> list[Level]:
    """The recipe's kNN; in brackets where the run is not the one that it was stated for, or that cannot be told."""
    stated = expected_figures(recipe.about.expected).get("kNN")
    if stated is None:
        return []
    origin = feed.facts.origin if feed is not None else None
    epochs = f", {origin.training.epochs:g} epochs" if origin is not None else ""
    words = f"recipe: kNN {100 * stated[1]:.1f}{epochs}"
    as_stated = origin is not None and not changes_that_matter(recipe, origin)
    return [Level(words if as_stated else f"({words})", stated[1], valued=True)]


def changes_that_matter(recipe: Recipe, origin: Recipe) -> list[str]:
    """Keys in which a recipe differs from the one that it was made from, but for those that change no score."""
    ours, theirs = recipe.model_dump(), origin.model_dump()
    return [
        f"{section}.{key}"
        for section in ours
        if section not in NO_MATTER_SECTIONS
        for key in ours[section]
        if ours[section][key] != theirs[section].get(key) and f"{section}.{key}" not in NO_MATTER
    ]


def future_rate(feed: Feed, axis: str) -> Curve | None:
    """The learning rate still to come, by the schedule of the run; None on the axis of time, or where all is done."""
    schedule, done = feed.schedule, feed.columns("step", last=1)["step"]
    last, each = int(done[-1]) if len(done) else 0, feed.each(axis)
    if schedule is None or last >= schedule.total_steps or not each:
        return None
    steps = np.unique(np.linspace(max(last, 1), schedule.total_steps, FUTURE_POINTS).astype(np.int64))
    rates = [schedule.learning_rate(int(step) - 1) for step in steps]  # a line tells that of the update that it counts
    return Curve("", steps.astype(float) * each, np.array(rates), 0, faint=True)


def end_of(feeds: Sequence[Feed], axis: str) -> float:
    """Where the axis of x ends for all charts of these runs: never at its beginning."""
    end = max((feed.end(axis) for feed in feeds), default=0.0)
    return end if math.isfinite(end) and end > 0 else 1.0
