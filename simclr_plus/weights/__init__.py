"""Which files of weights there are, and how they are written, read and handed on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_plus.weights.encoder_files import load_encoder, save_encoder
    from simclr_plus.weights.head_files import load_head

__all__ = ["load_encoder", "load_head", "save_encoder"]

_HOME = dict.fromkeys(__all__, "encoder_files") | {"load_head": "head_files"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
