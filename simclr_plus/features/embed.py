"""Features of a folder of images, written as safetensors for other projects."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.images import Images
from simclr_plus.errors import SimclrPlusError
from simclr_plus.features.extraction import features_of, left_out
from simclr_plus.weights.outputs import require_output
from simclr_plus.weights.tensor_files import write_tensors

FEATURES_FORMAT = "simclr-plus features 1"
MAX_NAMES = 80_000_000  # bytes; safetensors reads headers of up to 100 MB


def embed(
    encoder: nn.Module, images: Images, root: Path, target: Path, *, weights: str, law: ViewLaw, device: torch.device
) -> Tensor:
    """Write features [N, F] of images as safetensors: `features`, `labels` where there are some, names in the header.

    weights: the file that the encoder is of, or its name in another library.

    The header's `files` is a JSON list of N file names below `root`, `left_out` one of those that could not be read,
    `classes` one of the class names. JSON escapes what is no UTF-8 in a name.
    """
    require_output(target, FEATURES_FORMAT, inputs=[Path(weights)])
    names = [path.relative_to(root).as_posix() for path in images.paths]
    if len(json.dumps(names)) > MAX_NAMES:
        raise SimclrPlusError(f"{images.name} has too many file names for one file's header; embed its folders apart")
    features, seen = features_of(encoder.to(device), images, law, device=device)
    header = {
        "format": FEATURES_FORMAT,
        "files": json.dumps([path.relative_to(root).as_posix() for path in seen.paths]),
        "left_out": json.dumps([Path(name).relative_to(root).as_posix() for name in left_out([images], device)]),
        "encoder": os.fsencode(weights).decode("utf-8", "backslashreplace"),
    }
    tensors = {"features": features}
    if seen.labels is not None:
        tensors["labels"] = torch.from_numpy(seen.labels)
        header["classes"] = json.dumps(seen.classes)
    write_tensors(target, tensors, header)
    return features
