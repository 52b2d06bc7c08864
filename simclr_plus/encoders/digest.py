"""Which network is this? One digest for whatever is kept under an encoder's name: features, cells, states, results.

It holds all that decides what the network gives for an image: how it is built, its weights, and its buffers, those too
that no file keeps, as a normalisation. Where an encoder says how it is built (`architecture`), that counts as well:
a stem without its ReLU has the modules of one with it. The file that it came from does not count, nor its device.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

NO_FORM = (
    "training",
    "checkpoint_activations",
    "grad_checkpointing",
    "over_processes",
)  # change how it trains, not what it gives


def encoder_digest(encoder: nn.Module) -> str:
    """32 hex digits; the same for the same network with the same weights, wherever it was read from."""
    digest = hashlib.sha256()
    for name, module in encoder.named_modules():
        digest.update(f"{name} {type(module).__name__} {json.dumps(_form(module))}\n".encode())
    tensors: dict[str, Tensor] = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _form(module: nn.Module) -> dict[str, Any]:
    """The plain values of a module: kernel sizes, strides, epsilons; and the architecture where it has one."""
    values = {
        name: value
        for name, value in sorted(vars(module).items())
        if not name.startswith("_") and name not in NO_FORM and _is_plain(value)
    }
    architecture: Any = getattr(module, "architecture", None)
    return values | ({"architecture": architecture.as_dict()} if hasattr(architecture, "as_dict") else {})


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, bool | int | float | str)
