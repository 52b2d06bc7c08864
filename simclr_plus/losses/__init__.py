"""What training minimises: NT-Xent, and the losses that the paper compares with it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simclr_plus.losses.contrastive import (
        NTXentLoss,
        check_temperature,
        contrastive_metrics,
        nt_xent,
        rows_and_columns,
    )

__all__ = ["NTXentLoss", "check_temperature", "contrastive_metrics", "nt_xent", "rows_and_columns"]

_HOME = dict.fromkeys(__all__, "contrastive")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
