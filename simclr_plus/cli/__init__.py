"""What can be typed: the command `simclr-plus` and its groups of commands."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_plus.cli.app import main

__all__ = ["main"]

_HOME = dict.fromkeys(__all__, "app")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
