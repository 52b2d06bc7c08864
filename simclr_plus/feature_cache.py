"""Features kept on disk, so that an encoder sees an image once: one file for (encoder, images, preprocessing).

A safetensors file of `features` [N, F] and `kept` [N], the places of the images that could be read. Its name is a
digest of the encoder's weights and form, of the images (pixels, or paths with sizes and times) and of how they are
shown.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.checkpoints import write_tensors
from simclr_plus.datasets import Images
from simclr_plus.distributed import all_gather, barrier, rank, sum_over_processes, world_size
from simclr_plus.features import features_of, require_finite
from simclr_plus.image_identity import images_digest


def cached_features(
    encoder: nn.Module, images: Images, law: ViewLaw, folder: Path | None, *, device: torch.device
) -> tuple[Tensor, Images]:
    """`features_of`, from the folder where it has them; several processes share the work. No folder: nothing kept."""
    file = None if folder is None else folder / f"{_digest(encoder, images, law)}.safetensors"
    kept_before = file is not None and file.is_file()
    if file is not None and kept_before:
        stored = load_file(file)
        features, kept = stored["features"], stored["kept"]
    else:
        features, kept = _extracted(encoder, images, law, device)
    seen = images if len(kept) == len(images) else images.subset(kept.numpy())
    require_finite(features, seen)  # of all processes, so that all of them refuse
    images.unreadable.update(images.paths[i] for i in np.setdiff1d(np.arange(len(images)), kept.numpy()))
    if file is not None and not kept_before:
        if rank() == 0:
            write_tensors(file, {"features": features, "kept": kept}, {"format": "simclr-plus cached features 1"})
        barrier()
    return features, seen


def _digest(encoder: nn.Module, images: Images, law: ViewLaw) -> str:
    digest = hashlib.sha256(f"{encoder}{law.size}{law.resize}{law.evaluation_crop}".encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    digest.update(images_digest(images, times=True).encode())
    return digest.hexdigest()[:32]


def _extracted(encoder: nn.Module, images: Images, law: ViewLaw, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features and places of the images that could be read; each process does every W-th image."""
    processes = world_size()
    mine = np.arange(rank(), len(images), processes)
    numbered = replace(images, labels=np.arange(len(images)))
    features, seen = features_of(encoder, numbered.subset(mine), law, device=device, finite=False)
    assert seen.labels is not None
    kept = torch.from_numpy(seen.labels)
    if processes == 1:
        return features, kept
    most = -(-len(images) // processes)
    padded = features.new_zeros(most, features.shape[1] + 1, device=device)
    padded[: len(features), :-1] = features.to(device)
    padded[: len(features), -1] = 1  # a row that is there
    places = torch.zeros(most, dtype=torch.int64, device=device)
    places[: len(kept)] = kept.to(device)
    rows, numbers = all_gather(padded).flatten(0, 1).cpu(), all_gather(places).flatten().cpu()
    assert int(sum_over_processes(torch.tensor([len(kept)], device=device))) == int(rows[:, -1].sum())
    there = rows[:, -1] == 1
    order = numbers[there].argsort()
    return rows[there][order, :-1].contiguous(), numbers[there][order]
