"""From what a user names to predictions that can be paired: runs, checkpoints, encoder files, files of predictions.

Predictions are paired where the same evaluation met the same test images. Nothing is compared with itself.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.evaluators.significance import Comparison
from simclr_plus.results.predictions import compare_predictions, predictions_header
from simclr_plus.results.targets import open_target
from simclr_plus.runs.result_folders import find_results, noted, read_result


@dataclass(frozen=True)
class Said:
    """A file of predictions, its header, and the result that it belongs to (empty where that is not beside it)."""

    file: Path
    header: dict[str, str]
    result: dict[str, Any]

    @property
    def evaluation(self) -> str:
        """How it was evaluated: the same for two encoders that were treated alike."""
        settings = [self.result.get(key) for key in ("evaluator", "changed", "image_size")]
        return json.dumps(settings) if self.result else ""

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.result.get('evaluator', self.file.stem)} of {self.header.get('data', '')}".replace("_", " ")

    def digest_of(self, subject: str) -> str:
        """Of the network of a subject; empty where the file does not say."""
        return str(json.loads(self.header.get("digests", "{}")).get(subject, ""))


@dataclass(frozen=True)
class Pair:
    """Two files of predictions and what comparing them gave."""

    a: Said
    b: Said
    found: Comparison


def compare_named(a: str, b: str, subject_a: str, subject_b: str, runs: Path) -> list[Pair]:
    """Every evaluation that both share, compared; raises RecipeError where both are the same thing."""
    said_a, said_b = _said(a, runs), _said(b, runs)
    pairs = [(x, y) for x in said_a for y in said_b if x.header["test_images"] == y.header["test_images"]]
    alike = [(x, y) for x, y in pairs if x.evaluation == y.evaluation]
    if len(said_a) == len(said_b) == 1:
        pairs = pairs or [(said_a[0], said_b[0])]  # of other test images: comparing them says so
    elif alike:
        pairs = alike
    if not pairs:
        raise NotFoundError(
            f"{a} ({_listed(said_a)}) and {b} ({_listed(said_b)}) share no evaluation: evaluate both alike"
        )
    for x, y in pairs:
        if _same(x, y, subject_a, subject_b):
            raise RecipeError(
                f"{a} and {b} stand for the same predictions of {subject_a!r} ({x.file}): nothing can be compared with "
                "itself. Name another encoder, or another subject with --subject-b"
            )
    return [Pair(x, y, compare_predictions(x.file, y.file, subject_a, subject_b)) for x, y in pairs]


def _said(name: str, runs: Path) -> list[Said]:
    """The predictions that a name stands for: the file itself, or all of an encoder."""
    if Path(name).is_file() and predictions_header(Path(name)):
        return [_read(Path(name))]
    try:
        target = open_target(name, runs)
        folder, digest, weights = target.run, target.digest, target.file
    except NotFoundError:
        folder = find_results(name, runs)  # of weights that are gone
        digest, weights = str(noted(folder.path).get("digest")), None
    files = sorted((folder.results / "predictions").glob("*.safetensors"))
    said = [_read(file) for file in files if predictions_header(file)]
    predictions = [one for one in said if _is_of(one, digest, weights)]
    if not predictions:
        others = f"; those there are of other weights: {_listed(said)}" if said else ""
        raise NotFoundError(
            f"no predictions of {name} in {folder.results / 'predictions'}{others}. Evaluate it first: "
            f"simclr-plus evaluate transfer {shlex.quote(name)} --data DATA (or few-labels, finetune)"
        )
    return predictions


def _is_of(said: Said, digest: str, weights: Path | None) -> bool:
    if "encoder" in said.header:
        return said.header["encoder"] == digest
    weights_file = said.result.get("weights")  # of an earlier version
    return weights is not None and isinstance(weights_file, str) and Path(weights_file).resolve() == weights.resolve()


def _read(file: Path) -> Said:
    result = read_result(file.parent.parent / f"{file.stem}.json") or {}
    return Said(file, predictions_header(file), result)


def _same(a: Said, b: Said, subject_a: str, subject_b: str) -> bool:
    if subject_a == subject_b and (a.file.samefile(b.file) or a.file.read_bytes() == b.file.read_bytes()):
        return True
    digest = a.digest_of(subject_a)
    return bool(digest) and digest == b.digest_of(subject_b) and a.evaluation == b.evaluation


def _listed(said: list[Said]) -> str:
    return ", ".join(one.file.stem for one in said[:5])
