"""Which images there are, with which labels, and how batches are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.datasets.decoding import decode_image
    from simclr_plus.datasets.embedded import FASHION_CLASSES
    from simclr_plus.datasets.images import (
        HELD_OUT,
        PRETRAIN,
        TEST,
        TRAIN,
        Images,
        check_trainable,
        held_out_indices,
        open_folder,
        open_images,
        open_training_images,
        require_labels,
    )

__all__ = [
    "FASHION_CLASSES",
    "HELD_OUT",
    "PRETRAIN",
    "TEST",
    "TRAIN",
    "Images",
    "check_trainable",
    "decode_image",
    "held_out_indices",
    "open_folder",
    "open_images",
    "open_training_images",
    "require_labels",
]

_HOME = dict.fromkeys(__all__, "images") | {"decode_image": "decoding", "FASHION_CLASSES": "embedded"}
__getattr__ = loads(__name__, _HOME)
