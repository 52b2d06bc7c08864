"""SimCLR+: SimCLR as its authors ran it, as a plugin for Lightly. Importing this package imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.augmentations.transform import SimCLRTransform
    from simclr_plus.encoders.resnet import ResNet
    from simclr_plus.global_batch_norm import (
        GlobalBatchNorm,
        GlobalBatchNorm1d,
        GlobalBatchNorm2d,
        GlobalBatchNorm3d,
        convert_global_batch_norm,
    )
    from simclr_plus.heads import SimCLRProjectionHead
    from simclr_plus.lars import LARS
    from simclr_plus.losses.contrastive import NTXentLoss
    from simclr_plus.recipe.reading import load_recipe
    from simclr_plus.recipe.recipe import Recipe
    from simclr_plus.weights.encoder_files import load_encoder, save_encoder

__all__ = [
    "LARS",
    "GlobalBatchNorm",
    "GlobalBatchNorm1d",
    "GlobalBatchNorm2d",
    "GlobalBatchNorm3d",
    "NTXentLoss",
    "Recipe",
    "ResNet",
    "SimCLRProjectionHead",
    "SimCLRTransform",
    "convert_global_batch_norm",
    "load_encoder",
    "load_recipe",
    "save_encoder",
]

_HOME = {
    "LARS": "lars",
    "GlobalBatchNorm": "global_batch_norm",
    "GlobalBatchNorm1d": "global_batch_norm",
    "GlobalBatchNorm2d": "global_batch_norm",
    "GlobalBatchNorm3d": "global_batch_norm",
    "NTXentLoss": "losses.contrastive",
    "Recipe": "recipe.recipe",
    "ResNet": "encoders.resnet",
    "SimCLRProjectionHead": "heads",
    "SimCLRTransform": "augmentations.transform",
    "convert_global_batch_norm": "global_batch_norm",
    "load_encoder": "weights.encoder_files",
    "load_recipe": "recipe.reading",
    "save_encoder": "weights.encoder_files",
}
__getattr__ = loads(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
