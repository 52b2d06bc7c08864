"""What is wrong with a run, in sentences that name a cause and what to do. Pure: numbers in, sentences out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from simclr_plus.machine.words import duration
from simclr_plus.recipe.method_keys import Collapse

from ..charts.raster import Floats
from ..charts.ticks import percent, short

RECENT = 20  # lines
SMALL_STD, SMALL_SHARE = 0.3, 0.25
LONG_WAIT = 0.3
FEWEST = 5  # values, before which nothing is said of them
OF_FEATURES = ("feature_std", "effective_rank")  # some methods are to make images alike: MethodKeys.features_tell
LOWER_RATE = "a lower optimizer.learning_rate may help"
HIGHER_TEMPERATURE = "a lower optimizer.learning_rate, or a higher loss.temperature, may help"


def alarms(
    glance: dict[str, Any],
    columns: dict[str, Floats],
    chance: float | None,
    silent: float | None,
    *,
    collapses: Sequence[Collapse] = (),
    remedy: str = HIGHER_TEMPERATURE,
) -> list[str]:
    """The sentences, gravest first.

    `columns` holds step, epoch, time, loss, feature_std, effective_rank, data_wait and those of `collapses` as far as
    there are any; `chance` is the loss of features that tell nothing where that is known and means that nothing is
    learnt; `silent` is how many seconds ago the last line was written; `remedy` is for features that come out alike.
    """
    sentences = []
    why = str(glance.get("why") or "").splitlines()
    if glance.get("state") in ("failed", "lost", "stale", "gone", "unreadable") and why:
        sentences.append(f"{glance['state']}: {why[0]}")
    found = [_not_finite(columns), _collapse(columns, remedy), *(_of_method(columns, each) for each in collapses)]
    sentences += [s for s in (*found, _at_chance(columns, chance)) if s]
    if glance.get("state") == "running":
        sentences += [s for s in (_waiting(columns), _no_progress(columns, silent)) if s]
    return sentences


def thresholds(columns: dict[str, Floats]) -> dict[str, float]:
    """Where the alarms begin: below a feature_std and an effective_rank, above a data_wait; charts show it too."""
    limits = {}
    for name in OF_FEATURES:
        values = _finite(columns, name)
        if len(values) >= FEWEST:
            limits[name] = SMALL_SHARE * float(values.max())
    if "feature_std" in limits:
        limits["feature_std"] = min(SMALL_STD, limits["feature_std"])
    if "data_wait" in columns:
        limits["data_wait"] = LONG_WAIT
    return limits


def _finite(columns: dict[str, Floats], name: str) -> Floats:
    values = columns.get(name, np.empty(0))
    return values[np.isfinite(values)]


def _not_finite(columns: dict[str, Floats]) -> str:
    loss = columns.get("loss")
    if loss is None or not len(loss) or np.isfinite(loss[-1]):
        return ""
    finite = np.flatnonzero(np.isfinite(loss))
    since = int(columns["step"][finite[-1] + 1]) if len(finite) else int(columns["step"][0])
    return f"the loss is not finite since step {since}: a lower optimizer.learning_rate or a longer warm-up may help"


def _collapse(columns: dict[str, Floats], remedy: str) -> str:
    limits = thresholds(columns)
    for name, words in (("feature_std", "standard deviation"), ("effective_rank", "effective rank")):
        values = _finite(columns, name)
        if name not in limits:
            continue
        now, best = float(np.median(values[-FEWEST:])), float(values.max())
        if now < limits[name]:
            return (
                f"collapse: the features' {words} fell from {short(best)} to {short(now)}, all images come out alike: "
                f"{remedy}"
            )
    return ""


def _of_method(columns: dict[str, Floats], collapse: Collapse) -> str:
    """What its figure says of a method after an epoch: before, it may not have begun."""
    values, epoch = _finite(columns, collapse.column), columns.get("epoch")
    if len(values) < FEWEST or epoch is None or not epoch[-1] >= 1:
        return ""
    now = float(np.median(values[-FEWEST:]))
    if not (now < collapse.limit if collapse.below else now > collapse.limit):
        return ""
    name, side = collapse.column.replace("_", " "), "below" if collapse.below else "above"
    return f"{collapse.sentence} ({name} {short(now)}, {side} {short(collapse.limit)})"


def _at_chance(columns: dict[str, Floats], chance: float | None) -> str:
    loss, epoch = columns.get("loss"), columns.get("epoch")
    if chance is None or loss is None or epoch is None or len(loss) < 2 * RECENT or not epoch[-1] >= 1:
        return ""
    recent = float(np.nanmedian(loss[-RECENT:])) if np.isfinite(loss[-RECENT:]).any() else 0.0
    if recent < 0.98 * chance:
        return ""
    return f"nothing is learnt: after {short(float(epoch[-1]))} epochs the loss is still at chance, {short(chance)}"


def _waiting(columns: dict[str, Floats]) -> str:
    wait = columns.get("data_wait")
    if wait is None or len(wait) < RECENT or not np.isfinite(wait[-RECENT:]).any():
        return ""
    share = float(np.nanmean(wait[-RECENT:]))
    if share < thresholds(columns)["data_wait"]:
        return ""
    return (
        f"data wait {percent(share)}: images are not made fast enough; more cores, data.threads, or "
        'augmentation.augment_on = "device" (see: simclr-plus bench data)'
    )


def _no_progress(columns: dict[str, Floats], silent: float | None) -> str:
    times = columns.get("time")
    if silent is None or times is None or len(times) < 3:
        return ""
    interval = float(np.nanmedian(np.diff(times[-RECENT:])))
    if silent < max(60.0, 10 * interval):
        return ""
    return f"no progress for {duration(silent)}, where a line came every {duration(interval)}: see the log"
