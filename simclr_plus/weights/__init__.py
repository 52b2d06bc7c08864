"""Which files of weights there are, and how they are written, read and handed on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_plus.weights.checkpoints import load_encoder, load_head, save_encoder

__all__ = ["load_encoder", "load_head", "save_encoder"]

_HOME = dict.fromkeys(__all__, "checkpoints")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
