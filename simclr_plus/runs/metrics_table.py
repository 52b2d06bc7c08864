"""The columns of a metrics.jsonl that grows, in numbers: 8 bytes a value, a million lines at hand. No torch."""

from __future__ import annotations

import math
import time
from array import array
from bisect import bisect_left
from pathlib import Path
from typing import Any

from simclr_plus.machine.json_lines import Tail

LINES_AT_ONCE = 1 << 20  # bytes, some thousands of lines
MOST_DISCARDED = 100  # stretches that are kept in mind


class MetricsTable:
    """Steps in rising order and a column a key; what a resumed run went through again is there once, the last time."""

    def __init__(self, path: Path) -> None:
        self.steps: array[int] = array("q")
        self.columns: dict[str, array[float]] = {}  # NaN where a line has no number
        # stretches that a resumed run went through again, oldest first: their columns, "step" among them
        self.discarded: list[dict[str, array[float]]] = []
        self._tail = Tail(path)
        self._restarts = 0

    @property
    def bad_lines(self) -> int:
        """Lines that were no JSON object."""
        return self._tail.bad_lines

    def look(self, seconds: float = math.inf) -> bool:
        """Take in what was added to the file, for about so long; returns whether something is left."""
        end = time.monotonic() + seconds
        while True:
            lines = self._tail.read(LINES_AT_ONCE)
            if self._tail.restarts != self._restarts:
                self._restarts = self._tail.restarts
                self._cut(0)
                self.discarded = []
            self._add(lines)
            if not self._tail.more or time.monotonic() > end:
                return self._tail.more

    def at(self, step: int) -> dict[str, float]:
        """The numbers of a step; empty where it has no line."""
        row = bisect_left(self.steps, step)
        if row == len(self.steps) or self.steps[row] != step:
            return {}
        return {key: column[row] for key, column in self.columns.items() if not math.isnan(column[row])}

    def _add(self, lines: list[dict[str, Any]]) -> None:
        rising: list[dict[str, Any]] = []
        for line in lines:
            step = line.get("step")
            if type(step) is int and -(2**63) <= step < 2**63:
                if rising and rising[-1]["step"] >= step:
                    self._extend(rising)
                    rising = []
                if not rising:
                    self._discard(bisect_left(self.steps, step))
                rising.append(line)
        self._extend(rising)

    def _extend(self, rising: list[dict[str, Any]]) -> None:
        before = len(self.steps)
        self.steps.extend(line["step"] for line in rising)
        for key in dict.fromkeys(key for line in rising for key in line if key != "step"):
            values = [_number(line.get(key)) for line in rising]
            if key not in self.columns:
                if all(math.isnan(value) for value in values):
                    continue  # words
                self.columns[key] = array("d", [math.nan]) * before
            self.columns[key].extend(values)
        for column in self.columns.values():
            if len(column) < len(self.steps):
                column.extend([math.nan] * (len(self.steps) - len(column)))

    def _discard(self, row: int) -> None:
        """Set aside what stands from a row on."""
        if row < len(self.steps):
            steps = array("d", map(float, self.steps[row:]))
            self.discarded.append({"step": steps} | {key: column[row:] for key, column in self.columns.items()})
            del self.discarded[:-MOST_DISCARDED]
            self._cut(row)

    def _cut(self, rows: int) -> None:
        del self.steps[rows:]
        for column in self.columns.values():
            del column[rows:]


def _number(value: Any) -> float:
    kind = type(value)
    if kind is float:
        return float(value)
    try:
        return float(value) if kind is int else math.nan
    except OverflowError:
        return math.nan
