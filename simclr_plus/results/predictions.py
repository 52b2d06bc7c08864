"""Predictions on disk, beside the results: labels once, what each subject said, so that encoders can be compared later.

A safetensors file of `labels` and `predictions.SUBJECT`, [N] classes or for several labels [N, C] of 1 (yes) and 0; its
header names the data, the metric and a digest of the test images; `encoder`, `digests` (of each subject) and `key` say
which networks and which evaluation they are of.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from simclr_plus.datasets.identity import images_digest
from simclr_plus.datasets.images import Images
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.evaluators.significance import Comparison, compare, right_answers, strata_of, weights_of
from simclr_plus.weights.file_kinds import why_no_safetensors
from simclr_plus.weights.tensor_files import write_tensors


def write_predictions(
    file: Path,
    test: Images,
    metric: str,
    labels: NDArray[np.int64],
    said: Mapping[str, NDArray[np.int64]],
    about: Mapping[str, str] | None = None,
) -> None:
    """Write labels and the predictions of each subject; about: more of the header."""
    tensors = {f"predictions.{subject}": torch.from_numpy(values) for subject, values in said.items()}
    header = {"data": test.name, "metric": metric, "test_images": images_digest(test)}
    write_tensors(file, {"labels": torch.from_numpy(labels), **tensors}, header | dict(about or {}))


def earlier_predictions(file: Path, key: str, subjects: Iterable[str]) -> dict[str, NDArray[np.int64]]:
    """What subjects said that an earlier evaluation of the same key asked."""
    if not file.is_file() or predictions_header(file).get("key") != key:
        return {}
    return {subject: _read(file, subject)[2] for subject in subjects}


def predictions_header(file: Path) -> dict[str, str]:
    """Of a file of predictions; empty for any other file."""
    try:
        with safe_open(file, framework="np") as opened:
            header = dict(opened.metadata() or {})
            return header if "test_images" in header and "metric" in header else {}
    except (OSError, SafetensorError):
        return {}


def compare_predictions(a: Path, b: Path, subject_a: str = "encoder", subject_b: str = "encoder") -> Comparison:
    """Two subjects by their predictions on the same test images; raises RecipeError for other images."""
    (header_a, labels, said_a), (header_b, labels_b, said_b) = _read(a, subject_a), _read(b, subject_b)
    if header_a["test_images"] != header_b["test_images"] or not np.array_equal(labels, labels_b):
        raise RecipeError(f"{a} and {b} are of other test images, so that their predictions cannot be paired")
    metric = header_a["metric"]
    right = right_answers(labels, said_a), right_answers(labels, said_b)
    return compare(*right, weights_of(labels, metric), strata_of(labels, metric))


def _read(file: Path, subject: str) -> tuple[dict[str, str], Any, Any]:
    try:
        with safe_open(file, framework="np") as opened:
            if f"predictions.{subject}" not in opened.keys():  # noqa: SIM118 (not a dict)
                raise NotFoundError(f"{file} holds no predictions of {subject!r}")
            return opened.metadata(), opened.get_tensor("labels"), opened.get_tensor(f"predictions.{subject}")
    except FileNotFoundError:
        raise NotFoundError(f"no predictions {file}; evaluate the encoder first") from None
    except (SafetensorError, OSError):
        raise CheckpointError(f"{file} {why_no_safetensors(file)}") from None
