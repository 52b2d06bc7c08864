"""Files below a folder of runs that can be made again or that nobody will finish; results and checkpoints are none.

.features/*.safetensors                 features that evaluations keep, so that an encoder sees an image once
.NAME.part                              what a killed process left half-written
results/.NAME.safetensors, .NAME.tried, *.state.safetensors   where a killed evaluation would go on
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FEATURES, UNFINISHED, STATES = "kept features", "unfinished files", "states of evaluations"
UNFINISHED_AFTER = 1.0  # days without a change: nothing is written for so long
_PART = re.compile(r"\..+\.part$")
_STATE = re.compile(r"\..+\.(safetensors|tried)$|.+\.state\.safetensors$")


@dataclass(frozen=True)
class Leftover:
    """A file, what it is ("kept features", "unfinished files", "states of evaluations") and its size."""

    path: Path
    kind: str
    bytes: int


def leftovers(runs: Path, *, days: float) -> list[Leftover]:
    """All of them below `runs`, links not followed; of states those that no one has touched for so many days."""
    now = time.time()
    leftovers = []
    for path, kind in _kinds(runs):
        try:
            status = path.lstat()
        except OSError:  # gone meanwhile
            continue
        least = {FEATURES: 0.0, UNFINISHED: UNFINISHED_AFTER, STATES: days}[kind]
        if now - status.st_mtime >= least * 86_400:
            leftovers.append(Leftover(path, kind, status.st_size))
    return sorted(leftovers, key=lambda leftover: leftover.path)


def remove(files: list[Leftover]) -> None:
    """Delete them; what is gone already is no error."""
    for leftover in files:
        leftover.path.unlink(missing_ok=True)


def _kinds(runs: Path) -> Iterator[tuple[Path, str]]:
    for folder, _, files in os.walk(runs):
        inside = Path(folder).relative_to(runs).parts
        for name in files:
            path = Path(folder) / name
            if _PART.match(name):
                yield path, UNFINISHED
            elif inside[-1:] == (".features",) and name.endswith(".safetensors"):
                yield path, FEATURES
            elif "results" in inside and _STATE.match(name):
                yield path, STATES
