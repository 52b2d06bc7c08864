"""Encoder files: tensors under torchvision's or timm's names, and in the header what is needed to build the network."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from simclr_plus.encoders.build import build
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.errors import CheckpointError, EnvironmentNotAbleError, NotFoundError, RecipeError
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.weights.checkpoints import CHECKPOINT_FORMAT
from simclr_plus.weights.tensor_files import load_into, read, write_tensors

ENCODER_FORMAT = "simclr-plus encoder 1"
INPUT_RANGE = "RGB in [0, 1], no mean or standard deviation subtracted"
NORMALIZED_INPUT = "RGB in [0, 1]; load_encoder's network itself applies the mean and std of `architecture`"


def save_encoder(encoder: nn.Module, path: str | Path, metadata: dict[str, Any] | None = None) -> None:
    """Write a SimCLR+ encoder alone, with what `load_encoder` and other projects need in the header.

    `metadata` adds values to the header (strings as they are, others as JSON).
    """
    if not isinstance(encoder, Encoder):
        kind = type(encoder).__name__
        raise CheckpointError(f"save_encoder takes an encoder of SimCLR+ (ResNet, ForeignEncoder), got {kind}")
    header = encoder_header(encoder, ENCODER_FORMAT, metadata or {})
    write_tensors(Path(path), dict(encoder.named_weights.state_dict()), header)


def encoder_header(encoder: Encoder, format: str, metadata: dict[str, Any]) -> dict[str, str]:
    """What a file says of the encoder in it, and `metadata` as strings."""
    foreign = [module for module in encoder.modules() if isinstance(module, ForeignEncoder)]
    header = {
        "format": format,
        "architecture": json.dumps(encoder.spec),
        "feature_dim": str(encoder.feature_dim),
        "input": NORMALIZED_INPUT if encoder.normalizes else INPUT_RANGE,
        "simclr_plus": version("simclr-plus"),
    }
    if library := next((network.library.version() for network in foreign), ""):
        header["library"] = library
    if isinstance(encoder, ForeignEncoder):
        header["image_size"] = str(encoder.architecture.image_size)
    return header | {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}


def encoder_metadata(recipe: Recipe, step: int) -> dict[str, Any]:
    """What the header of an encoder file says about its training."""
    return {
        "recipe": recipe.to_toml(),
        "data": recipe.data.name if recipe.data.name != "folder" else f"folder {recipe.data.root}",
        "image_size": str(recipe.augmentation.image_size),
        "step": str(step),
    }


def load_encoder(path: str | Path) -> Encoder:
    """Rebuild an encoder from an encoder file or a checkpoint, in eval mode: images [B, 3, S, S] -> h [B, feature_dim].

    Raises NotFoundError, or CheckpointError for a damaged or foreign file.
    """
    path = Path(path)
    header, tensors = read(path)
    of_a_run = header.get("format") == CHECKPOINT_FORMAT
    if header.get("format") == ENCODER_FORMAT:
        try:
            encoder = build(json.loads(header["architecture"]))
        except (TypeError, ValueError, KeyError) as error:
            raise CheckpointError(f"{path} describes an encoder that this version cannot build: {error}") from None
        except (EnvironmentNotAbleError, NotFoundError, RecipeError) as error:
            made_with = f" (written with {header['library']})" if "library" in header else ""
            raise type(error)(f"{path}{made_with} cannot be opened: {error}") from None
    elif of_a_run:
        encoder = build(parse_recipe(header["recipe"], origin=f"recipe in {path}").network)
        tensors = {k.removeprefix("encoder."): v for k, v in tensors.items() if k.startswith("encoder.")}
    else:
        raise CheckpointError(
            f"{path} was not written by SimCLR+: its header does not say how to build the encoder; `simclr-plus import "
            f"{path} -o encoder.safetensors` makes one of another trainer's file"
        )
    load_into(encoder if of_a_run else encoder.named_weights, tensors, path)
    return encoder.eval()


def encoder_to_start_from(recipe: Recipe) -> Encoder:
    """The encoder that training.init_from names; raises CheckpointError where it is another, or holds no numbers."""
    path = recipe.training.init_from
    encoder, wanted = load_encoder(path), recipe.network
    if _network(encoder.spec) != _network(wanted):
        raise CheckpointError(
            f"training.init_from = {path!r} holds {encoder.spec}, the recipe {wanted}; set [encoder] to match"
        )
    if isinstance(encoder, ForeignEncoder) and encoder.fixed_size and encoder.spec != wanted:
        raise CheckpointError(
            f"training.init_from = {path!r} holds {encoder.title} for images of {encoder.spec['image_size']} pixels, "
            f"the recipe shows {wanted['image_size']}: give encoder.pretrained = {path!r} in its place, which fits the "
            "positions to the new size"
        )
    for name, tensor in encoder.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"training.init_from = {path!r} holds numbers that are not finite, in {name}")
    return encoder


def _network(spec: dict[str, Any]) -> dict[str, Any]:
    """A network's description without the size of the images that it was built for."""
    return {k: _network(v) if k == "encoder" else v for k, v in spec.items() if k != "image_size"}
