"""Head files: a projection head or a linear classifier alone, and in the header what is needed to build it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from simclr_plus.errors import CheckpointError
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.weights.checkpoints import CHECKPOINT_FORMAT
from simclr_plus.weights.tensor_files import load_into, read, write_tensors

HEAD_FORMAT = "simclr-plus head 1"


def save_head(head: nn.Module, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a projection head or a linear classifier (nn.Linear) alone, with what `load_head` needs in the header."""
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    if isinstance(head, nn.Linear):
        numbers = {"kind": "linear", "input_dim": head.in_features, "classes": head.out_features}
    elif isinstance(head, SimCLRProjectionHead) and linears:
        first, last = linears[0], linears[-1]
        numbers = {"kind": "projection", "input_dim": first.in_features, "hidden_dim": first.out_features}
        numbers |= {"output_dim": last.out_features, "num_layers": len(linears)}
    else:
        raise CheckpointError(f"save_head takes a SimCLRProjectionHead or nn.Linear, got {type(head).__name__}")
    header = {"format": HEAD_FORMAT, "head": json.dumps(numbers), "simclr_plus": version("simclr-plus")}
    for key, value in (metadata or {}).items():
        header[key] = value if isinstance(value, str) else json.dumps(value)
    write_tensors(Path(path), dict(head.state_dict()), header)


def beside(encoder: Path, kind: str) -> Path:
    """Where the head of that kind goes: e.safetensors -> e.projection_head.safetensors."""
    return encoder.with_name(f"{encoder.stem}.{kind}_head.safetensors")


def load_head(path: str | Path, kind: str) -> nn.Module:
    """Rebuild the head of that kind ("projection", "linear") from a head file or a checkpoint, in eval mode.

    A checkpoint's linear head is its probe. Raises NotFoundError, or CheckpointError for another file.
    """
    path = Path(path)
    header, tensors = read(path)
    head: nn.Module
    if header.get("format") == CHECKPOINT_FORMAT:
        recipe = parse_recipe(header["recipe"], origin=f"recipe in {path}")
        prefix = {"projection": "head.", "linear": "probe."}[kind]
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not tensors and not (kind == "projection" and recipe.head.num_layers == 0):
            raise CheckpointError(f"{path} holds no {kind} head: its run trained without one")
        f, h = recipe.feature_dim, recipe.head
        if kind == "projection":
            head = SimCLRProjectionHead(f, recipe.head_hidden_dim, h.output_dim, h.num_layers)
        else:
            head = nn.Linear(f, len(tensors["weight"]))
    elif header.get("format") == HEAD_FORMAT:
        numbers = json.loads(header["head"])
        if numbers["kind"] != kind:
            raise CheckpointError(f"{path} holds a {numbers['kind']} head, not a {kind} head")
        if kind == "projection":
            n = numbers
            head = SimCLRProjectionHead(n["input_dim"], n["hidden_dim"], n["output_dim"], n["num_layers"])
        else:
            head = nn.Linear(numbers["input_dim"], numbers["classes"])
    else:
        raise CheckpointError(f"{path} is no head file of SimCLR+ (its header says {header.get('format')!r})")
    load_into(head, tensors, path)
    return head.eval()
