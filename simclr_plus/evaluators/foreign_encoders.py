"""Encoders of torchvision and timm as subjects, with their own normalisation inside and their own image size.

"torchvision:resnet50" takes torchvision's weights (fetched into its cache when they are not there, which is said),
"torchvision:resnet50@FILE" those of a file; "timm:NAME" those of timm, "timm:hf-hub:REPOSITORY" those of a repository
of Hugging Face's hub, and "timm:local-dir:FOLDER" opens what `simclr-plus export --format timm` wrote.

Nothing in a file is run: tensors alone are read (`importers.trainers.read_tensors`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.foreign_architecture import NOT_OPTIONS, ForeignArchitecture
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.importers.library_weights import TRANSFORMED, LibraryWeights, library_weights, of_config
from simclr_plus.importers.normalisation import listed, network_in
from simclr_plus.importers.pretrained import load_file
from simclr_plus.importers.trainers import mean_and_std

FOLDER, HUB = "local-dir:", "hf-hub:"  # timm's names of places
IN_FOLDER = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")  # the first one that is there
ELSEWHERE = f"name a folder that has its files: timm:{FOLDER}FOLDER"


@dataclass(frozen=True)
class ForeignNetwork:
    """A network of another library as a subject; `choices`: what no file said and was taken."""

    subject: Subject
    choices: tuple[str, ...] = ()


def is_foreign(target: str) -> bool:
    """Whether a target names a network of another library."""
    return target.startswith(("torchvision:", "timm:"))


def foreign_network(target: str, normalize: str = "") -> ForeignNetwork:
    """What "torchvision:NAME", "torchvision:NAME@FILE" or "timm:NAME" stands for.

    normalize: "imagenet", "none" or six numbers, for a FILE that does not say how its images were normalised.
    """
    library, _, name = target.partition(":")
    name, _, file = name.partition("@") if library == "torchvision" else (name, "", "")
    if normalize and not file:
        raise RecipeError(f"--normalize is for torchvision:NAME@FILE; {target} knows its mean and standard deviation")
    if name.startswith((FOLDER, HUB)):
        return _of_place(target, name)
    weights = library_weights(f"{library}:{name}")
    if file:
        return _of_file(weights, Path(file), normalize)
    another = "put it there, or name another file as torchvision:NAME@FILE"
    path = weights.fetched(another if library == "torchvision" else ELSEWHERE)
    try:
        return _filled(weights, path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; or remove {path}, so that it is fetched again") from None


def _of_file(weights: LibraryWeights, file: Path, normalize: str) -> ForeignNetwork:
    """Weights of a file in torchvision's network: normalised as the file says, or as torchvision's own are."""
    if not file.is_file():
        raise NotFoundError(f"{weights.name}@{file}: there is no such file; name one of weights")
    described = network_in(file, weights.name)
    if described is not None:
        if normalize:
            raise RecipeError(
                f"--normalize {normalize}: {file} itself says how its images are normalised; leave it out"
            )
        says: dict[str, Any] = {"mean": described.mean, "std": described.std}
        if isinstance(described, ForeignArchitecture):
            says |= {"image_size": described.image_size}
            return _filled(replace(weights, **says), file, described.options, described.input)
        return _filled(replace(weights, **says), file)
    if normalize:
        mean, std = mean_and_std(normalize)
        return _filled(replace(weights, mean=mean, std=std), file)
    choice = (
        f"images for {file.name} are normalised as for torchvision's own {weights.name.partition(':')[2]} "
        f"({listed((*weights.mean, *weights.std))}): the file does not say how; --normalize none (or six numbers) "
        "where its training did otherwise"
    )
    return replace(_filled(weights, file), choices=(choice,))


def _of_place(target: str, name: str) -> ForeignNetwork:
    """What timm saved in a folder, or in a repository of the hub: config.json beside the weights."""
    try:
        config_file, path = _files_of_place(target, name)
        config = json.loads(config_file.read_text(encoding="utf-8"))
        weights = of_config(f"timm:{config['architecture']}", config.get("pretrained_cfg", config))
        arguments: Mapping[str, Any] = config.get("model_args", {})
        if size := arguments.get("img_size"):
            weights = replace(weights, image_size=size if isinstance(size, int) else int(size[0]))
        options = {key: value for key, value in arguments.items() if key not in {*NOT_OPTIONS, "img_size"}}
        return _filled(weights, path, options)
    except (OSError, ValueError, KeyError, AttributeError, CheckpointError) as error:
        raise NotFoundError(
            f"{target} cannot be opened, and nothing in a file was run ({error}); a folder holds config.json and best "
            "model.safetensors"
        ) from None


def _files_of_place(target: str, name: str) -> tuple[Path, Path]:
    """config.json and the weights."""
    _, _, where = name.partition(":")
    if name.startswith(FOLDER):
        paths = [Path(where) / file for file in IN_FOLDER]
        return Path(where) / "config.json", next((path for path in paths if path.is_file()), paths[0])
    place = LibraryWeights(target, (0.0,) * 3, (1.0,) * 3, 0, 1.0, repository=where)
    config, weights = (replace(place, files=files) for files in (("config.json",), IN_FOLDER[:2]))
    return config.fetched(ELSEWHERE), weights.fetched(ELSEWHERE)


def _filled(
    weights: LibraryWeights, path: Path, options: Mapping[str, Any] | None = None, law: str = "rgb"
) -> ForeignNetwork:
    """The network with the weights of a file, and how images are shown to it; law: encoder.input."""
    auxiliary = weights.name.partition(":")[2] in TRANSFORMED  # a classifier beside, for training alone
    encoder = ForeignEncoder(
        weights.name,
        options or ({"aux_logits": False} if auxiliary else {}),
        weights.image_size,
        mean=weights.mean,
        std=weights.std,
        input=law,
    )
    choices = tuple(load_file(encoder, path))
    views: ViewLaw = simclr_law(weights.image_size, evaluation_crop=weights.crop)
    return ForeignNetwork(Subject("encoder", encoder.eval(), views), choices)
