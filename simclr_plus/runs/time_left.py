"""How long a run still takes, for every place that says so: log, progress bar, lists, screens. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simclr_plus.machine.json_lines import is_number

LINES = 50  # of metrics.jsonl that the pace is taken from: training, evaluating and saving, as the clock saw them


def seconds_left(lines: Sequence[Mapping[str, Any]], steps: object) -> float | None:
    """Seconds to the last of `steps`, by the pace of a start's newest lines (oldest first); None where none is known.

    The first line after a start has no other to be compared with: its images a second count.
    """
    counted = [line for line in lines[-LINES:] if is_number(line.get("step"))]
    if not counted or not is_number(steps):
        return None
    last = counted[-1]
    rest = max(0.0, steps - last["step"])
    timed = [line for line in counted if is_number(line.get("time"))]
    if len(timed) > 1 and timed[-1]["step"] > timed[0]["step"] and timed[-1]["time"] > timed[0]["time"]:
        each = (timed[-1]["time"] - timed[0]["time"]) / (timed[-1]["step"] - timed[0]["step"])
    else:
        images, rate = last.get("images"), last.get("images_per_second")
        if not (is_number(images) and is_number(rate)) or rate <= 0 or last["step"] <= 0:
            return None
        each = images / last["step"] / rate
    left = rest * each
    return left if math.isfinite(left) else None


def lines_of_a_start(backwards: Iterable[Mapping[str, Any]], from_step: object) -> list[Mapping[str, Any]]:
    """The newest lines that one start has written, oldest first, of a file that is read from its end."""
    newest: list[Mapping[str, Any]] = []
    begin = from_step if is_number(from_step) else 0
    for line in backwards:
        step = line.get("step")
        if not is_number(step) or step <= begin or (newest and step >= newest[-1]["step"]) or len(newest) == LINES:
            break
        newest.append(line)
    return newest[::-1]
