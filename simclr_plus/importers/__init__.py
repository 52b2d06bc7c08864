"""Weights of others as encoder files of SimCLR+: the authors' TensorFlow checkpoints, PyTorch files of any trainer."""

from simclr_plus.importers.authors import import_tensorflow
from simclr_plus.importers.tensor_bundle import is_tensorflow
from simclr_plus.importers.trainers import import_pytorch, mean_and_std

__all__ = ["import_pytorch", "import_tensorflow", "is_tensorflow", "mean_and_std"]
