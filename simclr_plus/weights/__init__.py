"""Which files of weights there are, and how they are written, read and handed on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.weights.encoder_files import load_encoder, save_encoder
    from simclr_plus.weights.head_files import load_head

__all__ = ["load_encoder", "load_head", "save_encoder"]

_HOME = dict.fromkeys(__all__, "encoder_files") | {"load_head": "head_files"}
__getattr__ = loads(__name__, _HOME)
