"""Weights of others: files of any trainer as encoder files of SimCLR+, and weights from anywhere as the start of f."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.importers.authors import import_tensorflow
    from simclr_plus.importers.normalisation import about_normalisation, with_normalisation
    from simclr_plus.importers.pretrained import load_pretrained
    from simclr_plus.importers.tensor_bundle import is_tensorflow
    from simclr_plus.importers.trainers import import_pytorch, mean_and_std

__all__ = [
    "about_normalisation",
    "import_pytorch",
    "import_tensorflow",
    "is_tensorflow",
    "load_pretrained",
    "mean_and_std",
    "with_normalisation",
]

_HOME = {
    "about_normalisation": "normalisation",
    "import_pytorch": "trainers",
    "import_tensorflow": "authors",
    "is_tensorflow": "tensor_bundle",
    "load_pretrained": "pretrained",
    "mean_and_std": "trainers",
    "with_normalisation": "normalisation",
}
__getattr__ = loads(__name__, _HOME)
