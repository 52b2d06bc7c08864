"""Files of tensors: safetensors, written whole, nothing pickled; header values are strings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from simclr_plus.errors import CheckpointError, NotFoundError
from simclr_plus.machine.whole_files import write_whole
from simclr_plus.weights.file_kinds import why_no_safetensors

# safetensors' names of types
_TYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def read_header(path: str | Path) -> dict[str, str]:
    """The strings in a file's header; the tensors are not read."""
    with _opened(Path(path)) as file:
        return dict(file.metadata() or {})


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Header and tensors by one opening: a run that drops its older checkpoints may delete the file meanwhile."""
    with _opened(path) as file:
        return dict(file.metadata() or {}), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise NotFoundError(f"no file {path}") from None
    except (SafetensorError, OSError):
        raise CheckpointError(f"{path} {why_no_safetensors(path)}") from None


def write_tensors(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """A safetensors file, whole or not at all: 8 bytes of length, the header as JSON, the tensors one after the other.

    Written here because equal contents must give equal bytes (safetensors writes the header's strings in no fixed
    order), because no second copy of all tensors is then made, and because writing then leaves the GIL to others.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))  # large items first: all aligned
    table: dict[str, Any] = {"__metadata__": dict(sorted(header.items()))}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        table[name] = {"dtype": _TYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in names:
                flat = tensors[name].detach().to("cpu").contiguous().view(-1)
                file.write(flat.view(torch.uint8).numpy().data)

    write_whole(path, write)


def load_into(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Put tensors into a module; raises CheckpointError naming the file where names or shapes differ."""
    expected = module.state_dict()
    missing, foreign = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    other = [
        f"{k} is {list(tensors[k].shape)} in the file, {list(expected[k].shape)} here"
        for k in expected.keys() & tensors.keys()
        if expected[k].shape != tensors[k].shape
    ]
    if missing or foreign or other:
        differences = [
            *(f"missing {k}" for k in missing[:3]),
            *(f"unknown {k}" for k in foreign[:3]),
            *sorted(other)[:3],
        ]
        raise CheckpointError(
            f"{path} holds another network than the recipe's: {len(missing)} tensors missing, {len(foreign)} unknown, "
            f"{len(other)} of another shape ({'; '.join(differences)})"
        )
    expected.update(tensors)  # which holds the versions of its modules too: some of torchvision's ask for them
    module.load_state_dict(expected)
