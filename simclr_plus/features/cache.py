"""Features kept on disk, so that an encoder sees an image once: one file for (encoder, images, preprocessing).

A safetensors file of `features` [N, F] and `kept` [N], the places of the images that could be read. Its name is a
digest of the encoder (encoders/digest.py), of the images (pixels, or paths with sizes and times), of how they are
decoded and of how they are shown.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.identity import images_digest
from simclr_plus.datasets.images import Images
from simclr_plus.distributed import all_gather, any_process, barrier, from_main, rank, sum_over_processes, world_size
from simclr_plus.encoders.digest import encoder_digest
from simclr_plus.features.extraction import features_of, require_finite
from simclr_plus.weights.tensor_files import write_tensors


def cached_features(
    encoder: nn.Module, images: Images, law: ViewLaw, folder: Path | None, *, device: torch.device
) -> tuple[Tensor, Images]:
    """`features_of`, from the folder where it has them; several processes share the work. No folder: nothing kept."""
    file = None if folder is None else folder / f"{from_main(_name(encoder, images, law))}.safetensors"
    stored = _stored(file, device)
    features, kept = stored or _extracted(encoder, images, law, device)
    seen = images if len(kept) == len(images) else images.subset(kept.numpy())
    require_finite(features, seen)  # of all processes, so that all of them refuse
    images.unreadable.update(images.paths[i] for i in np.setdiff1d(np.arange(len(images)), kept.numpy()))
    if file is not None and stored is None and rank() == 0:
        write_tensors(file, {"features": features, "kept": kept}, {"format": "simclr-plus cached features 1"})
    barrier()
    return features, seen


def decoded_digest(images: Images, *, times: bool = False) -> str:
    """Digest of the pixels that come of the images: `images_digest`, and all that says how they are decoded."""
    named = ("name", "pixels", "paths", "labels", "classes")  # the digest of the images tells of these
    decoding_fields = [field.name for field in fields(images) if field.compare and field.name not in named]
    decoding = {name: repr(getattr(images, name)) for name in decoding_fields}
    return hashlib.sha256(json.dumps([images_digest(images, times=times), decoding]).encode()).hexdigest()[:32]


def _name(encoder: nn.Module, images: Images, law: ViewLaw) -> str:
    """On process 0. Files of equal names, sizes and times in two folders may differ, so that the folder counts too."""
    if rank() != 0:
        return ""
    place = os.path.realpath(images.paths[0]) if images.pixels is None and len(images) else ""
    parts = [encoder_digest(encoder), decoded_digest(images, times=True), repr(law), os.fsencode(place).hex()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _stored(file: Path | None, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """What the file holds, on all processes; None on all where one of them cannot read it."""
    if file is None or not from_main(file.is_file()):
        return None
    try:
        stored = load_file(file)
        features = stored["features"], stored["kept"]
    except (OSError, SafetensorError, KeyError):  # not there yet on this machine's network file system, or cut off
        features = None
    return None if any_process(features is None, device) else features


def _extracted(encoder: nn.Module, images: Images, law: ViewLaw, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features and places of the images that could be read; each process does every W-th image."""
    processes = world_size()
    mine = np.arange(rank(), len(images), processes)
    numbered = replace(images, labels=np.arange(len(images)), classes=())
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
