"""What can be typed: the command `simclr-plus` and its groups of commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.cli.app import main

__all__ = ["main"]

_HOME = dict.fromkeys(__all__, "app")
__getattr__ = loads(__name__, _HOME)
