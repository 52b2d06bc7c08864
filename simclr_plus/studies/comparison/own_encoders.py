"""The user's own encoders that were evaluated on ImageNet, for Figure 1. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from simclr_plus.errors import SimclrPlusError
from simclr_plus.runs.folder import list_runs

IMAGENET_IMAGES = 1_200_000  # training images, from which on a set counts as ImageNet whatever its folder is called


@dataclass(frozen=True)
class OwnEncoder:
    """A run, millions of parameters of its encoder, and top-1 of a linear classifier on it, in percent."""

    name: str
    parameters: float
    top1: float


def evaluated_on_imagenet(runs: Path) -> tuple[OwnEncoder, ...]:
    """Of each run in the folder the best linear evaluation of h; files that tell nothing usable are passed over."""
    encoders = []
    for run in list_runs(runs) if runs.is_dir() else []:
        accuracies = []
        for file in sorted(run.results.glob("linear*.json")):
            try:
                result = json.loads(file.read_text(encoding="utf-8"))
                on_imagenet = "imagenet" in result["data"].lower() or result["train_images"] >= IMAGENET_IMAGES
                if on_imagenet and "on" not in result.get("changed", {}):
                    accuracies.append(float(result["results"]["encoder"]["top1"]))
            except (OSError, ValueError, TypeError, KeyError, AttributeError):
                continue
        if not accuracies:
            continue
        try:
            recipe = run.recipe()
            parameters = recipe.method.encoder_parameters(recipe) / 1e6
        except SimclrPlusError:  # of a network by name too, whose library is not here
            continue
        encoders.append(OwnEncoder(run.name, parameters, 100 * max(accuracies)))
    return tuple(encoders)
