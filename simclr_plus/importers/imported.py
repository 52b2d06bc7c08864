"""What an import gives: files, the network found, what had no place in it; and how modules are filled and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import CheckpointError
from simclr_plus.weights.encoder_files import save_encoder
from simclr_plus.weights.head_files import beside, save_head


@dataclass(frozen=True)
class Imported:
    """The encoder's file, its architecture, files of heads by kind ("projection", "linear"), names left out, notes."""

    encoder: Path
    architecture: Architecture
    heads: dict[str, Path]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": 1,
            "encoder": str(self.encoder),
            "architecture": self.architecture.as_dict(),
            "heads": {kind: str(path) for kind, path in self.heads.items()},
            "left_out": list(self.left_out),
            "notes": list(self.notes),
        }


def write_files(
    encoder: nn.Module, heads: dict[str, nn.Module], out: Path, metadata: dict[str, Any]
) -> dict[str, Path]:
    """The encoder at `out`, its heads beside it; heads that an earlier import left there are removed."""
    save_encoder(encoder, out, metadata)
    for kind in ("projection", "linear"):
        if kind in heads:
            save_head(heads[kind], beside(out, kind), metadata)
        else:
            beside(out, kind).unlink(missing_ok=True)
    return {kind: beside(out, kind) for kind in heads}


def linear_head(tensors: dict[str, Tensor], origin: str) -> nn.Linear:
    """A classifier from its weight [classes, features] and bias."""
    weight = tensors.get("weight")
    if weight is None or weight.ndim != 2:
        raise CheckpointError(f"the linear head of {origin} has no matrix; the checkpoint is incomplete")
    classes, features = weight.shape
    head = filled(lambda: nn.Linear(features, classes), tensors, origin)
    assert isinstance(head, nn.Linear)
    return head.eval()


def filled(build: Callable[[], nn.Module], tensors: dict[str, Tensor], origin: str) -> nn.Module:
    """The module with these values, every one of them; counters of batches, which not every file has, are 0.

    Raises CheckpointError naming the origin and what is missing, unknown, of another shape or not finite.
    """
    with torch.device("meta"):  # no time for initial weights that nobody reads
        module = build()
    expected = module.state_dict()
    counters = {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")}
    missing = [f"missing {key}" for key in sorted(expected.keys() - tensors.keys() - counters.keys())]
    foreign = [f"unknown {key}" for key in sorted(tensors.keys() - expected.keys())]
    wrong = [
        f"{key} is {list(tensors[key].shape)}, not {list(expected[key].shape)}"
        for key in sorted(expected.keys() & tensors.keys())
        if expected[key].shape != tensors[key].shape
    ]
    if missing or foreign or wrong:
        raise CheckpointError(
            f"{origin} does not fit {type(module).__name__}: {len(missing)} tensors missing, {len(foreign)} unknown, "
            f"{len(wrong)} of another shape ({'; '.join([*missing[:4], *foreign[:4], *wrong[:4]])})"
        )
    broken = [key for key in sorted(tensors) if not bool(tensors[key].isfinite().all())]
    if broken:
        some = ", ".join(broken[:4]) + (", ..." if len(broken) > 4 else "")
        raise CheckpointError(
            f"{origin} holds numbers that are not finite (NaN or infinite) in {len(broken)} of {len(tensors)} tensors "
            f"({some}): its training diverged, or the file is damaged; take an earlier checkpoint of it"
        )
    module.load_state_dict(tensors | counters, assign=True)
    return module
