"""Weights of others as encoder files of SimCLR+: the authors' TensorFlow checkpoints, PyTorch files of any trainer."""

from simclr_plus.importers.authors import import_tensorflow

__all__ = ["import_tensorflow"]
