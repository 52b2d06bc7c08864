"""Encoders of torchvision and timm as subjects, with their own normalisation inside and their own image size.

"torchvision:resnet50" takes torchvision's weights (fetched into its cache when they are not there),
"torchvision:resnet50@FILE" those of a safetensors or PyTorch file; "timm:NAME" is timm's create_model(NAME,
pretrained=True), so that "timm:local-dir:FOLDER" opens what `simclr-plus export --format timm` wrote.

Nothing in a file is run: while a library reads its weights, PyTorch unpickles nothing but tensors.
"""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import CheckpointError, EnvironmentNotAbleError, NotFoundError, RecipeError
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.importers.trainers import mean_and_std, read_tensors
from simclr_plus.weights.checkpoints import CHECKPOINT_FORMAT
from simclr_plus.weights.encoder_files import ENCODER_FORMAT
from simclr_plus.weights.file_kinds import is_safetensors
from simclr_plus.weights.tensor_files import read_header

CLASSIFIERS = ("fc", "classifier", "heads", "head")  # torchvision's names of what comes after the features
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError)  # what the libraries raise


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
    if library == "timm":
        return _of_timm(name)
    return _of_torchvisions_file(name, Path(file), normalize) if file else _of_torchvision(name)


@contextmanager
def tensors_alone() -> Iterator[None]:
    """Until it ends torch.load of this process reads tensors and refuses code; what libraries print goes to stderr."""
    names = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    os.environ[names[0]] = "1"
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        del os.environ[names[0]]
        os.environ.update(before)


def _of_torchvision(name: str) -> ForeignNetwork:
    """With torchvision's own weights."""
    from torchvision import models

    weights = _torchvisions_weights(name)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name
    was_there = cached.is_file()
    try:
        with tensors_alone():
            network = models.get_model(name, weights=weights)
    except UNREADABLE as error:
        if was_there:
            raise CheckpointError(
                f"{cached}, torchvision's {name}, is damaged or asks for more than tensors, and nothing in it was run "
                f"({_first_line(error)}); remove it, so that it is fetched again"
            ) from None
        raise NotFoundError(
            f"torchvision:{name}: {cached} is not there and could not be fetched ({_first_line(error)}); put there "
            f"what {weights.url} gives, or name another file as torchvision:{name}@FILE"
        ) from None
    preset: Any = weights.transforms()
    return _foreign(Normalised(_headless(network), tuple(preset.mean), tuple(preset.std)), _law_of(weights))


def _of_torchvisions_file(name: str, file: Path, normalize: str) -> ForeignNetwork:
    """Weights of a file in torchvision's network: normalised as the file says, or as torchvision's own are."""
    from torchvision import models

    weights = _torchvisions_weights(name)
    tensors = read_tensors(file)
    header = read_header(file) if is_safetensors(file) else {}
    if header.get("format") == CHECKPOINT_FORMAT:
        raise CheckpointError(f"{file} is a checkpoint of SimCLR+: evaluate it by its own name, without torchvision:")
    preset: Any = weights.transforms()
    mean, std = tuple(preset.mean), tuple(preset.std)
    choices: tuple[str, ...] = ()
    if header.get("format") == ENCODER_FORMAT:
        mean, std = _normalisation_in(header, file, normalize)
    elif normalize:
        mean, std = mean_and_std(normalize)
    else:
        numbers = ", ".join(f"{value:g}" for value in (*mean, *std))
        choices = (
            f"images for {file.name} are normalised as for torchvision's own {name} ({numbers}): the file does not say "
            "how; --normalize none (or six numbers) where its training did otherwise",
        )
    network = models.get_model(name, weights=None)
    if hasattr(network, "transform_input"):  # so torchvision's GoogLeNet and Inception are with weights
        network.transform_input = True
    network = _headless(network)
    try:
        network.load_state_dict({k: v for k, v in tensors.items() if k.split(".")[0] not in CLASSIFIERS})
    except RuntimeError as error:
        raise CheckpointError(
            f"{file} does not fit torchvision's {name} ({_first_line(error)}); a file of another trainer is read by "
            f"`simclr-plus import {file} -o encoder.safetensors`"
        ) from None
    broken = [key for key, tensor in network.state_dict().items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(f"{file} holds numbers that are not finite (NaN or infinite), e.g. in {broken[0]}")
    return _foreign(Normalised(network, mean, std), _law_of(weights), choices)


def _torchvisions_weights(name: str) -> Any:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise NotFoundError(f"torchvision has no classifier {name!r}; torchvision.models.list_models() names them")
    return models.get_model_weights(name)["DEFAULT"]


def _normalisation_in(header: dict[str, str], file: Path, normalize: str) -> tuple[tuple[float, ...], ...]:
    """Mean and standard deviation that an encoder file of ours names."""
    if normalize:
        raise RecipeError(f"--normalize {normalize}: {file} itself says how its images are normalised; leave it out")
    try:
        spec = json.loads(header["architecture"])
        if "family" in spec:
            raise CheckpointError(f"{file} is no network of torchvision's; evaluate it by its own name")
        a = Architecture(**spec)
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file} describes an encoder that this version cannot build: {error}") from None
    plain = Architecture(a.depth, a.width, mean=a.mean, std=a.std, se_ratio=a.se_ratio)
    if a != plain:
        raise CheckpointError(
            f"{file} is no network of torchvision's ({a.title}, flavor {a.flavor}); evaluate it by its own name"
        )
    return a.mean, a.std


def _law_of(weights: Any) -> ViewLaw:
    preset = weights.transforms()
    size, resized = preset.crop_size[0], preset.resize_size[0]
    return simclr_law(size, evaluation_crop=min(1.0, size / resized))


def _headless(network: nn.Module) -> nn.Module:
    """The network without its classifier."""
    for part in CLASSIFIERS:
        if isinstance(getattr(network, part, None), nn.Module):
            setattr(network, part, nn.Identity())
            break
    return network


def _of_timm(name: str) -> ForeignNetwork:
    try:
        import timm
    except ModuleNotFoundError:
        raise EnvironmentNotAbleError(f"timm:{name} needs timm: pip install 'simclr-plus[timm]'") from None
    try:
        with tensors_alone():
            network = timm.create_model(name, pretrained=True, num_classes=0)
    except UNREADABLE as error:
        raise NotFoundError(
            f"timm:{name} cannot be opened, and nothing in a file was run ({_first_line(error)}); its weights must be "
            "in the cache of Hugging Face's hub (HF_HOME) or be fetched from there, or lie in a folder that "
            "timm:local-dir:FOLDER names, best as model.safetensors"
        ) from None
    config = timm.data.resolve_model_data_config(network)
    size = config["input_size"][1]
    if config["input_size"][1] != config["input_size"][2]:
        raise RecipeError(f"timm:{name} takes images of {config['input_size'][1:]} pixels; only squares are shown here")
    law = simclr_law(size, evaluation_crop=float(config["crop_pct"]))
    return _foreign(Normalised(network, tuple(config["mean"]), tuple(config["std"])), law)


def _foreign(encoder: nn.Module, law: ViewLaw, choices: tuple[str, ...] = ()) -> ForeignNetwork:
    return ForeignNetwork(Subject("encoder", encoder.eval(), law), choices)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
