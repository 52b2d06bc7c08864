"""What training minimises: NT-Xent, and the losses that the paper compares with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

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
__getattr__ = loads(__name__, _HOME)
