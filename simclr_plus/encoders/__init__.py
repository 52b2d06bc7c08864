"""The encoder f: which networks there are, as modules and in numbers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_plus.encoders.resnet import ResNet

__all__ = ["ResNet"]

_HOME = dict.fromkeys(__all__, "resnet")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
