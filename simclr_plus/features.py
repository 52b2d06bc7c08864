"""Features of all images of a data set, from a frozen encoder in eval mode."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets import Images
from simclr_plus.errors import SimclrPlusError
from simclr_plus.loading import evaluation_batches


@torch.no_grad()
def features_of(
    encoder: nn.Module,
    images: Images,
    law: ViewLaw,
    *,
    device: torch.device,
    batch_size: int = 256,
    change: Callable[[Tensor, NDArray[np.int64]], Tensor] = lambda views, _: views,
) -> tuple[Tensor, Images]:
    """h [N, F] of the images' central crops, float32 on the CPU, and the N images: unreadable ones may be left out.

    The encoder's mode is put back. change: what is done to crops [B, 3, S, S] of the images at indices [B].
    """
    was_training = encoder.training
    encoder.eval()
    dtype = next((p.dtype for p in encoder.parameters()), torch.float32)
    features, seen = [], []
    try:
        for views, indices in evaluation_batches(images, law, batch_size):
            features.append(encoder(change(views, indices).to(device, dtype)).flatten(1).float().cpu())
            seen.append(indices)
    finally:
        encoder.train(was_training)
    if not features:
        raise SimclrPlusError(f"no image of {images.name} can be read; all {len(images)} were tried")
    kept = np.concatenate(seen)
    return torch.cat(features), images if len(kept) == len(images) else images.subset(kept)


def labels_of(images: Images) -> Tensor:
    """The labels [N], -1 where there are none."""
    return torch.from_numpy(np.full(len(images), -1) if images.labels is None else images.labels)
