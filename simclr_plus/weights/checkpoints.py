"""Checkpoints: all that a run needs to go on.

A checkpoint holds `encoder.*`, `head.*` or what else its method builds, `probe.*`, and the optimizer's state as
`optimizer.<parameter>.<key>`. Its header holds the step and the whole recipe.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_plus.errors import CheckpointError
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.weights.tensor_files import load_into, read, read_header, write_tensors

CHECKPOINT_FORMAT = "simclr-plus checkpoint 1"


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
        "method": recipe.method.name,
        "recipe": recipe.to_toml(),
        "images": str(images),
        "classes": json.dumps(classes),
        **digests,
        "simclr_plus": version("simclr-plus"),
    }


def load_checkpoint(path: Path, *, tensors: bool = True) -> Checkpoint:
    """Read a checkpoint, or without its tensors; raises NotFoundError or CheckpointError naming the file."""
    header, content = read(path) if tensors else (read_header(path), {})
    if header.get("format") != CHECKPOINT_FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of SimCLR+ (its header says format = {header.get('format')!r}); "
            "name a file of a run's checkpoints folder"
        )
    return Checkpoint(
        path=path,
        tensors=content,
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
    load_into(model, {k: v for k, v in checkpoint.tensors.items() if not k.startswith("optimizer.")}, checkpoint.path)
    if optimizer is not None:
        restore_optimizer(model, optimizer, checkpoint.tensors)


def restore_optimizer(model: nn.Module, optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimizer the state that `checkpoint_tensors` names: `optimizer.<parameter>.<key>`."""
    parameters = dict(model.named_parameters())
    for name, value in tensors.items():
        if not name.startswith("optimizer."):
            continue
        parameter_name, _, key = name.removeprefix("optimizer.").rpartition(".")
        parameter = parameters[parameter_name]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter).copy_(value)
        optimizer.state[parameter][key] = value.to(parameter.device)
