"""The encoder f: which networks there are, as modules and in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.encoders.resnet import ResNet

__all__ = ["ResNet"]

_HOME = dict.fromkeys(__all__, "resnet")
__getattr__ = loads(__name__, _HOME)
