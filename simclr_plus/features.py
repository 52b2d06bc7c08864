"""Features of all images of a data set, from a frozen encoder in eval mode."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets import Images
from simclr_plus.loading import evaluation_batches


@torch.no_grad()
def features_of(
    encoder: nn.Module, images: Images, law: ViewLaw, *, device: torch.device, batch_size: int = 256
) -> Tensor:
    """h [N, F] of the images' central crops, float32 on the CPU; the encoder's mode is put back."""
    was_training = encoder.training
    encoder.eval()
    try:
        parts = [
            encoder(views.to(device)).flatten(1).float().cpu()
            for views, _ in evaluation_batches(images, law, batch_size)
        ]
    finally:
        encoder.train(was_training)
    return torch.cat(parts)


def labels_of(images: Images) -> Tensor:
    """The labels [N], -1 where there are none."""
    return torch.from_numpy(np.full(len(images), -1) if images.labels is None else images.labels)
