"""Outcomes of subjects, kept until the whole command has ended: what one subject cost is not lost with a later one.

.NAME_SUBJECT.outcome.safetensors beside the results holds labels and predictions; its header holds the numbers as JSON
and the key, a digest of all that the outcome depends on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from simclr_plus.distributed import from_main, rank
from simclr_plus.evaluators.outcomes import Outcome
from simclr_plus.runs.result_names import plain
from simclr_plus.weights.tensor_files import write_tensors

NONE = np.zeros(0, dtype=np.int64)


class KeptOutcomes:
    """The outcomes that this command has asked for; `forget` removes their files when all is written."""

    def __init__(self) -> None:
        self._files: list[Path] = []

    def outcome(
        self, results: Path, name: str, key: str, compute: Callable[[], Outcome], *, whole: bool = True
    ) -> Outcome:
        """The outcome of that key: of a command that was cut off after it, or else computed and kept.

        whole: whether what the evaluation leaves beside its numbers is there; without it they are computed again.
        """
        kept = self.perhaps(results, name, key, compute, whole=whole)
        assert kept is not None
        return kept

    def perhaps(
        self, results: Path, name: str, key: str, compute: Callable[[], Outcome | None], *, whole: bool = True
    ) -> Outcome | None:
        """The same for what may give nothing yet, on all processes alike; then nothing is kept."""
        file = results / f".{plain(name, keep='_.')[:150]}-{key[:8]}.outcome.safetensors"
        self._files.append(file)
        outcome = from_main(_read(file, key) if rank() == 0 and whole else None)
        if outcome is not None:
            return outcome
        outcome = compute()
        if outcome is not None and rank() == 0:
            tensors = {"labels": outcome.labels, "predictions": outcome.predictions}
            header = {"key": key, "numbers": json.dumps(outcome.numbers)}
            write_tensors(file, {name: torch.from_numpy(v) for name, v in tensors.items() if len(v)}, header)
        return outcome

    def numbers(
        self, results: Path, name: str, key: str, compute: Callable[[], dict[str, Any]], *, whole: bool = True
    ) -> dict[str, Any]:
        """The same for an evaluation without predictions."""
        return self.outcome(results, name, key, lambda: Outcome(compute(), NONE, NONE), whole=whole).numbers

    def forget(self) -> None:
        """All results are written."""
        for file in self._files if rank() == 0 else ():
            file.unlink(missing_ok=True)


def _read(file: Path, key: str) -> Outcome | None:
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="np") as opened:
            header, names = opened.metadata(), opened.keys()
            labels, said = (opened.get_tensor(n) if n in names else NONE for n in ("labels", "predictions"))
            return Outcome(json.loads(header["numbers"]), labels, said) if header["key"] == key else None
    except (SafetensorError, OSError, KeyError, ValueError):  # damaged: computed anew
        return None
