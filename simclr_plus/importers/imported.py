"""What an import gives: the files written, the network found, and what had no place in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.architecture import Architecture


@dataclass(frozen=True)
class Imported:
    """The encoder's file, its architecture, files of heads by kind ("projection", "linear"), names left out."""

    encoder: Path
    architecture: Architecture
    heads: dict[str, Path]
    left_out: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema": 1,
            "encoder": str(self.encoder),
            "architecture": self.architecture.as_dict(),
            "heads": {kind: str(path) for kind, path in self.heads.items()},
            "left_out": list(self.left_out),
        }


def beside(encoder: Path, kind: str) -> Path:
    """Where the head of that kind goes: e.safetensors -> e.projection_head.safetensors."""
    return encoder.with_name(f"{encoder.stem}.{kind}_head.safetensors")
