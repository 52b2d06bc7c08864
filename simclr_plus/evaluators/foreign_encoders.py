"""Encoders of torchvision and timm as subjects, with their own normalisation inside and their own image size.

"torchvision:resnet50" takes torchvision's weights (fetched into its cache when they are not there),
"torchvision:resnet50@FILE" those of a safetensors file; "timm:NAME" is timm's create_model(NAME, pretrained=True), so
that "timm:local-dir:FOLDER" opens what `simclr-plus export --format timm` wrote.
"""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.errors import CheckpointError, EnvironmentNotAbleError, NotFoundError, RecipeError
from simclr_plus.evaluators.subjects import Subject

CLASSIFIERS = ("fc", "classifier", "heads", "head")  # torchvision's names of what comes after the features


class Normalised(nn.Module):
    """Images in [0, 1] -> features of a network that was trained on (x - mean) / std."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, F]."""
        features: Tensor = self.network((images - self.mean) / self.std)
        return features.flatten(1)


def is_foreign(target: str) -> bool:
    """Whether a target names a network of another library."""
    return target.startswith(("torchvision:", "timm:"))


def foreign_subject(target: str) -> Subject:
    """The subject that "torchvision:NAME", "torchvision:NAME@FILE" or "timm:NAME" stands for."""
    library, _, name = target.partition(":")
    encoder, law = _of_torchvision(name) if library == "torchvision" else _of_timm(name)
    return Subject("encoder", encoder.eval(), law)


def _of_torchvision(name: str) -> tuple[nn.Module, ViewLaw]:
    from torchvision import models

    name, _, file = name.partition("@")
    try:
        weights = models.get_model_weights(name)["DEFAULT"]
    except (ValueError, KeyError):
        raise NotFoundError(f"torchvision has no model {name!r} with weights") from None
    network = models.get_model(name, weights=None if file else weights)
    for part in CLASSIFIERS:
        if isinstance(getattr(network, part, None), nn.Module):
            setattr(network, part, nn.Identity())
            break
    if file:
        try:
            network.load_state_dict({k: v for k, v in load_file(file).items() if k.split(".")[0] not in CLASSIFIERS})
        except (OSError, RuntimeError) as error:
            raise CheckpointError(f"{file} does not fit torchvision's {name}: {error}") from None
    shown: Any = weights.transforms()
    size, resized = shown.crop_size[0], shown.resize_size[0]
    law = simclr_law(size, evaluation_crop=min(1.0, size / resized))
    # weights of a file are taken to be ours: images in [0, 1], nothing subtracted
    mean, std = ((0.0,) * 3, (1.0,) * 3) if file else (tuple(shown.mean), tuple(shown.std))
    return Normalised(network, mean, std), law


def _of_timm(name: str) -> tuple[nn.Module, ViewLaw]:
    try:
        import timm
    except ModuleNotFoundError:
        raise EnvironmentNotAbleError(f"timm:{name} needs timm: pip install 'simclr-plus[timm]'") from None
    try:
        network = timm.create_model(name, pretrained=True, num_classes=0)
    except (RuntimeError, FileNotFoundError) as error:
        raise NotFoundError(f"timm:{name}: {error}") from None
    config = timm.data.resolve_model_data_config(network)
    size = config["input_size"][1]
    if config["input_size"][1] != config["input_size"][2]:
        raise RecipeError(f"timm:{name} takes images of {config['input_size'][1:]} pixels; only squares are shown here")
    law = simclr_law(size, evaluation_crop=float(config["crop_pct"]))
    return Normalised(network, tuple(config["mean"]), tuple(config["std"])), law
