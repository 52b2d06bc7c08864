"""Features of all images of a data set, from a frozen encoder in eval mode; which images gave none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import evaluation_batches
from simclr_plus.datasets.images import Images
from simclr_plus.distributed import sum_over_processes
from simclr_plus.errors import NotFiniteError, UnreadableImageError

SHOWN = 10  # names in a message


@torch.no_grad()
def features_of(
    encoder: nn.Module,
    images: Images,
    law: ViewLaw,
    *,
    device: torch.device,
    batch_size: int = 256,
    change: Callable[[Tensor, NDArray[np.int64]], Tensor] = lambda views, _: views,
    finite: bool = True,
) -> tuple[Tensor, Images]:
    """h [N, F] of the images' central crops, float32 on the CPU, and the N images: unreadable ones may be left out.

    The encoder's mode is put back. change: what is done to crops [B, 3, S, S] of the images at indices [B]. Raises
    NotFiniteError naming images; finite=False: whoever holds more than this process's share looks by himself.
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
        raise UnreadableImageError(f"no image of {images.name} can be read; all {len(images)} were tried")
    kept = np.concatenate(seen)
    all_features, images = torch.cat(features), images if len(kept) == len(images) else images.subset(kept)
    if finite:
        require_finite(all_features, images)
    return all_features, images


def require_finite(features: Tensor, images: Images) -> None:
    """Raises NotFiniteError where a feature [N, F] is NaN or infinite: no accuracy and no file is made of such."""
    broken = (~features.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if not broken:
        return
    if len(broken) == len(images):
        raise NotFiniteError(
            f"the features of all {len(images)} images of {images.name} are not finite (NaN or infinite): the weights "
            "are not, or they are those of a training that diverged; take an earlier checkpoint"
        )
    places = listed([str(images.paths[i]) if images.pixels is None else f"number {i}" for i in broken])
    raise NotFiniteError(
        f"the features of {len(broken)} of {len(images)} images of {images.name} are not finite (NaN or infinite): "
        f"{places}; look at these images, and at the weights"
    )


def left_out(parts: Sequence[Images], device: torch.device) -> list[str]:
    """Files of these images that any process could not read, each once; all processes ask together."""
    unreadable: set[Path] = set().union(*(images.unreadable for images in parts))
    files: dict[str, None] = {}
    for images in parts:
        flags = torch.zeros(len(images.paths), device=device)
        if unreadable:
            flags[[i for i, path in enumerate(images.paths) if path in unreadable]] = 1
        files |= {str(images.paths[int(i)]): None for i in sum_over_processes(flags).nonzero().flatten()}
    return list(files)


def listed(names: Sequence[str]) -> str:
    """The first ten names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def labels_of(images: Images) -> Tensor:
    """The labels [N], -1 where there are none."""
    return torch.from_numpy(np.full(len(images), -1) if images.labels is None else images.labels)
