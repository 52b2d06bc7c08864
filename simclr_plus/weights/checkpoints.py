"""Checkpoints and encoder files: safetensors, written whole, nothing pickled.

A checkpoint holds `encoder.*`, `head.*`, `probe.*` and the optimizer's state as `optimizer.<parameter>.<key>`; its
header holds the step and the whole recipe. An encoder file holds the encoder's tensors under torchvision's names; its
header holds what is needed to build it. A head file holds a projection head or a linear classifier in the same way.
Header values are strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import CheckpointError, NotFoundError
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.machine.whole_files import write_whole
from simclr_plus.recipe.recipe import Recipe, parse_recipe
from simclr_plus.weights.file_kinds import why_no_safetensors

CHECKPOINT_FORMAT = "simclr-plus checkpoint 1"
ENCODER_FORMAT = "simclr-plus encoder 1"
HEAD_FORMAT = "simclr-plus head 1"
INPUT_RANGE = "RGB in [0, 1], no mean or standard deviation subtracted"
NORMALIZED_INPUT = "RGB in [0, 1]; load_encoder's network itself applies the mean and std of `architecture`"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: tensors by name, updates done, the recipe, and what the data was.

    `listing` and `sizes` are image_identity's digests of the images; "" in checkpoints of earlier versions.
    """

    path: Path
    tensors: dict[str, Tensor]
    step: int
    recipe: Recipe
    images: int
    classes: tuple[str, ...]
    listing: str = ""
    sizes: str = ""

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, without it."""
        return {k[len(prefix) + 1 :]: v for k, v in self.tensors.items() if k.startswith(f"{prefix}.")}


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: Optimizer,
    *,
    step: int,
    recipe: Recipe,
    images: int = 0,
    classes: tuple[str, ...] = (),
) -> None:
    """Write everything that a run needs to go on."""
    write_tensors(path, checkpoint_tensors(model, optimizer), checkpoint_header(step, recipe, images, classes))


def checkpoint_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, not copied: weights, buffers, the optimizer's state."""
    tensors = dict(model.state_dict())
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{key}"] = value
    return tensors


def checkpoint_header(
    step: int,
    recipe: Recipe,
    images: int = 0,
    classes: tuple[str, ...] = (),
    *,
    listing: str = "",
    sizes: str = "",
) -> dict[str, str]:
    """The strings of a checkpoint's header."""
    digests = {"listing_digest": listing, "images_digest": sizes} if listing else {}
    return {
        "format": CHECKPOINT_FORMAT,
        "step": str(step),
        "recipe": recipe.to_toml(),
        "images": str(images),
        "classes": json.dumps(classes),
        **digests,
        "simclr_plus": version("simclr-plus"),
    }


def load_checkpoint(path: Path, *, tensors: bool = True) -> Checkpoint:
    """Read a checkpoint, or without its tensors; raises NotFoundError or CheckpointError naming the file."""
    header, read = _read(path) if tensors else (read_header(path), {})
    if header.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of SimCLR+ (its header says format = {header.get('format')!r}); "
            "name a file of a run's checkpoints folder"
        )
    return Checkpoint(
        path=path,
        tensors=read,
        step=int(header["step"]),
        recipe=parse_recipe(header["recipe"], origin=f"recipe in {path}"),
        images=int(header["images"]),
        classes=tuple(json.loads(header["classes"])),
        listing=header.get("listing_digest", ""),
        sizes=header.get("images_digest", ""),
    )


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: Optimizer | None) -> None:
    """Put weights and optimizer state back, in the memory layout they had; raises CheckpointError when they differ.

    Without an optimizer the weights alone. Every tensor of its state comes to its parameter's device, Adam's count of
    steps too, and those of the parameter's shape to its type.
    """
    _load_into(model, {k: v for k, v in checkpoint.tensors.items() if not k.startswith("optimizer.")}, checkpoint.path)
    if optimizer is None:
        return
    parameters = dict(model.named_parameters())
    for name, value in checkpoint.part("optimizer").items():
        parameter_name, _, key = name.rpartition(".")
        parameter = parameters[parameter_name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][key] = value.to(parameter.device)


def save_encoder(encoder: nn.Module, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a SimCLR+ encoder alone, with what `load_encoder` and other projects need in the header.

    `metadata` adds values to the header (strings as they are, others as JSON).
    """
    if not isinstance(encoder, ResNet):
        raise CheckpointError(f"save_encoder takes an encoder of SimCLR+ (ResNet), got {type(encoder).__name__}")
    header = {
        "format": ENCODER_FORMAT,
        "architecture": json.dumps(encoder.architecture.as_dict()),
        "feature_dim": str(encoder.feature_dim),
        "input": INPUT_RANGE if not encoder.architecture.normalizes else NORMALIZED_INPUT,
        "simclr_plus": version("simclr-plus"),
    }
    for key, value in (metadata or {}).items():
        header[key] = value if isinstance(value, str) else json.dumps(value)
    write_tensors(Path(path), dict(encoder.state_dict()), header)


def encoder_metadata(recipe: Recipe, step: int) -> dict[str, Any]:
    """What the header of an encoder file says about its training."""
    return {
        "recipe": recipe.to_toml(),
        "data": recipe.data.name if recipe.data.name != "folder" else f"folder {recipe.data.root}",
        "image_size": str(recipe.augmentation.image_size),
        "step": str(step),
    }


def load_encoder(path: str | Path) -> ResNet:
    """Rebuild an encoder from an encoder file or a checkpoint, in eval mode: images [B, 3, S, S] -> h [B, feature_dim].

    Raises NotFoundError, or CheckpointError for a damaged or foreign file.
    """
    path = Path(path)
    header, tensors = _read(path)
    if header.get("format") == ENCODER_FORMAT:
        try:
            architecture = Architecture(**json.loads(header["architecture"]))
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} describes an encoder that this version cannot build: {error}") from None
    elif header.get("format") == CHECKPOINT_FORMAT:
        architecture = parse_recipe(header["recipe"], origin=f"recipe in {path}").architecture
        tensors = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    else:
        raise CheckpointError(
            f"{path} was not written by SimCLR+: its header does not say how to build the encoder; `simclr-plus import "
            f"{path} -o encoder.safetensors` makes one of another trainer's file"
        )
    encoder = ResNet(**architecture.as_dict())
    _load_into(encoder, tensors, path)
    return encoder.eval()


def encoder_to_start_from(recipe: Recipe) -> ResNet:
    """The encoder that training.init_from names; raises CheckpointError where it is another, or holds no numbers."""
    path = recipe.training.init_from
    given = load_encoder(path)
    if given.architecture != recipe.architecture:
        raise CheckpointError(
            f"training.init_from = {path!r} holds {given.architecture}, the recipe {recipe.architecture}; "
            "set [encoder] to match"
        )
    for name, tensor in given.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"training.init_from = {path!r} holds numbers that are not finite, in {name}")
    return given


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
    header, tensors = _read(path)
    head: nn.Module
    if header.get("format") == CHECKPOINT_FORMAT:
        recipe = parse_recipe(header["recipe"], origin=f"recipe in {path}")
        prefix = {"projection": "head.", "linear": "probe."}[kind]
        tensors = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not tensors and not (kind == "projection" and recipe.head.num_layers == 0):
            raise CheckpointError(f"{path} holds no {kind} head: its run trained without one")
        f, h = recipe.architecture.feature_dim, recipe.head
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
    _load_into(head, tensors, path)
    return head.eval()


def read_header(path: str | Path) -> dict[str, str]:
    """The strings in a file's header; the tensors are not read."""
    with _opened(Path(path)) as file:
        return dict(file.metadata() or {})


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
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


def _load_into(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    missing, foreign = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    other = [
        f"{k} is {list(tensors[k].shape)} in the file, {list(own[k].shape)} here"
        for k in own.keys() & tensors.keys()
        if own[k].shape != tensors[k].shape
    ]
    if missing or foreign or other:
        found = [*(f"missing {k}" for k in missing[:3]), *(f"unknown {k}" for k in foreign[:3]), *sorted(other)[:3]]
        raise CheckpointError(
            f"{path} holds another network than the recipe's: {len(missing)} tensors missing, {len(foreign)} unknown, "
            f"{len(other)} of another shape ({'; '.join(found)})"
        )
    module.load_state_dict(tensors)
