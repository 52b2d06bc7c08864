"""PyTorch files of other trainers as encoder files: Lightly, solo-learn, VISSL, MoCo, DDP, torchvision, timm and kin.

What they share is a ResNet somewhere in a (nested) dictionary of tensors, under a prefix of the trainer's. The prefix
is found by the names behind it and removed; depth, width and stem follow from the shapes; every tensor of the network
must fit, and those of no place in it are listed. Nothing in a file is ever run: see `read_tensors`.

Names and shapes do not tell everything: a bottleneck's stride is taken to be in its 3x3 convolution, as torchvision and
all of these trainers have it (the oldest Caffe networks have it in the first 1x1).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from simclr_plus.encoders.architecture import BLOCKS, STEMS, Architecture
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.importers.imported import Imported, filled, linear_head, write_files
from simclr_plus.weights.file_kinds import is_safetensors, no_weights, why_no_safetensors
from simclr_plus.weights.tensor_files import read_header

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what most trainers normalise by
NO_MEAN, NO_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
Three = tuple[float, float, float]
ASSUMED = (
    "the file does not say how its images were normalised: ImageNet's mean and standard deviation are taken; if its "
    "training subtracted nothing: --normalize none, if it took others: --normalize with six numbers"
)

_PARTS = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
# our top-level names in a named ResNet, in Sequential(*resnet.children()), and in that of Lightly's ResNetGenerator
_NAMED = {part: part for part in _PARTS}
_SEQUENTIAL = dict(zip(_PARTS, "014567", strict=True))
_GENERATED = dict(zip(_PARTS, "012345", strict=True))
_COPIES = re.compile(r"momentum|encoder_k\b|key_encoder|target|ema|student|offline")  # of the network that is used
_WRAPPERS = re.compile(r"(module|model|state_dict|model_state_dict|_orig_mod|net|network)\.")
_CLASSIFIERS = ("fc", "classifier", "head", "linear", "online_classifier", "classification_head")
_NOT_WEIGHTS = re.compile(r"(^|\.)(optimizer\w*|opt|lr_schedulers|scheduler|callbacks|loops|scaler|amp)$")
# classes that describe settings in honest checkpoints; they are read as empty objects
_SETTINGS = re.compile(
    r"(builtins\.(dict|list|tuple|set|int|float|str|bool)|collections\.defaultdict)$|"
    r"(argparse|pathlib|typing|enum|numpy|omegaconf|pytorch_lightning|lightning|lightning_fabric|lightning_utilities|"
    r"yacs|fvcore|ml_collections|addict|mmengine|mmcv)\."
)


@dataclass(frozen=True)
class _Found:
    """A ResNet in a file: the prefix of its names and how its parts are called."""

    prefix: str
    layout: Mapping[str, str]


def import_pytorch(
    path: str | Path,
    out_path: str | Path,
    *,
    mean: Three | None = None,
    std: Three | None = None,
    prefix: str = "",
    stem: str = "",
) -> Imported:
    """Write the encoder of a .pth, .ckpt or .safetensors file to `out_path`, a linear classifier to a file beside it.

    mean, std: how the trainer normalised images in [0, 1], which the file does not say; without them ImageNet's, as a
    note says. The encoder then does it by itself.
    prefix: of the encoder's names, where a file holds several. stem: "cifar" or "cifar_pad2" where one knows better.
    Raises NotFoundError, RecipeError (prefix, stem), CheckpointError (foreign, damaged, malicious, another network).
    """
    path, out = Path(path), Path(out_path)
    tensors = read_tensors(path)
    if is_safetensors(path) and str(read_header(path).get("format", "")).startswith("simclr-plus"):
        raise CheckpointError(
            f"{path} is a file of SimCLR+ already: simclr_plus.load_encoder and every command open it"
        )
    network = _choose(tensors, prefix, path)
    names = dict(_renamed(tensors, network))
    architecture, notes = _architecture_of(network, names, tensors, stem, path)
    if mean is None or std is None:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
        notes = (*notes, ASSUMED)
    architecture = Architecture(**(architecture.as_dict() | {"mean": mean, "std": std}))
    state = {
        name: tensors[theirs].float() for name, theirs in names.items() if not name.endswith("num_batches_tracked")
    }
    encoder = filled(lambda: ResNet(**architecture.as_dict()), state, f"{path} under {network.prefix!r}")
    metadata = {
        "imported_from": f"PyTorch file {path.name}, names under {network.prefix!r}",
        "image_size": "224" if architecture.stem == "imagenet" else "32",
    }
    classifier = _classifier(tensors, network, architecture.feature_dim)
    values = {name: tensors[theirs].float() for name, theirs in classifier.items()}
    heads: dict[str, nn.Module] = {"linear": linear_head(values, str(path))} if values else {}
    written = write_files(encoder, heads, out, metadata)
    used = {*names.values(), *classifier.values()}
    return Imported(out, architecture, written, tuple(sorted(tensors.keys() - used)), notes)


def read_linear_head(path: Path) -> nn.Linear:
    """The one linear classifier of a trainer's file; CheckpointError where there is none or are several."""
    tensors = read_tensors(path)
    pairs = {
        name.removesuffix(".weight") if "." in name else "": tensor
        for name, tensor in tensors.items()
        if re.search(r"(^|\.)weight$", name) and tensor.ndim == 2 and re.sub("weight$", "bias", name) in tensors
    }
    named = [place for place in pairs if place.rpartition(".")[2] in _CLASSIFIERS] or list(pairs)
    if len(named) != 1:
        there = ", ".join(named) or "none at all"
        raise CheckpointError(f"{path} must hold one linear classifier (weight and bias); found: {there}")
    dot = f"{named[0]}." if named[0] else ""
    values = {part: tensors[f"{dot}{part}"].float() for part in ("weight", "bias")}
    return linear_head(values, str(path))


def mean_and_std(text: str) -> tuple[Three, Three]:
    """What --normalize says: "imagenet", "none", or three means and three standard deviations of images in [0, 1]."""
    if text in ("imagenet", "none"):
        return (IMAGENET_MEAN, IMAGENET_STD) if text == "imagenet" else (NO_MEAN, NO_STD)
    try:
        a, b, c, d, e, f = (float(part) for part in text.split(","))
    except ValueError:
        raise RecipeError(
            f'--normalize {text!r}: use "imagenet", "none", or six numbers such as 0.5,0.5,0.5,0.25,0.25,0.25'
        ) from None
    if not all(map(math.isfinite, (a, b, c, d, e, f))) or min(d, e, f) <= 0:
        raise RecipeError(
            f"--normalize {text!r}: use finite numbers; the last three, the standard deviations, must be above 0"
        )
    if max(a, b, c, d, e, f) > 2:
        raise RecipeError(f"--normalize {text!r}: images are in [0, 1] here; divide numbers for 0 to 255 by 255")
    return (a, b, c), (d, e, f)


# reading


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file by its dotted name, on the CPU; states of optimizers are left out.

    safetensors cannot hold code. Pickled files are read with `weights_only=True`: what asks for any function or class
    beyond tensors is refused, but for the classes of settings in `_SETTINGS`, for which empty objects stand in.
    """
    if not path.is_file():
        raise NotFoundError(f"no file {path}; name a .pth, .ckpt or .safetensors file, or a TensorFlow checkpoint")
    if is_safetensors(path):
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError, OSError):
            raise CheckpointError(f"{path} {why_no_safetensors(path)}") from None
    if known := no_weights(path):
        raise CheckpointError(f"{path} {known}")
    tensors = dict(_flat(_unpickled(path), ""))
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; save the network's state_dict() and import that")
    return tensors


def _unpickled(path: Path) -> Any:
    stand_ins: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(stand_ins.values())), path.open("rb") as file:
                return torch.load(file, map_location="cpu", weights_only=True)  # by its content, not by its ending
        except Exception as error:  # a foreign file raises anything, KeyError and UnicodeDecodeError among them
            wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
            if not wanted:
                what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                raise CheckpointError(
                    f"{path} is no PyTorch file of weights, or is damaged ({type(error).__name__}: {what})"
                ) from None
            name = wanted[1] if "." in wanted[1] else f"builtins.{wanted[1]}"  # PyTorch leaves that module's name out
            if not _SETTINGS.match(name) or name in stand_ins:
                raise CheckpointError(
                    f"{path} is refused: it asks for {name}, which files of weights do not need and which could run "
                    "code; nothing was run. If you trust its origin, save its state_dict() there as safetensors"
                ) from None
            module, _, kind = name.rpartition(".")
            stand_ins[name] = type(kind, (_StandIn,), {"__module__": module})


class _StandIn:
    """An object of settings without its contents."""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...


def _flat(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping) and not _NOT_WEIGHTS.search(name) and depth < 10:  # one may hold itself
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key), depth + 1)


# finding the network


def _choose(tensors: Mapping[str, Tensor], prefix: str, path: Path) -> _Found:
    """The ResNet at the prefix given, else the only one that is no momentum or teacher's copy of another."""
    every = list(_networks(tensors))
    wanted = prefix.rstrip(".") + "." if prefix else ""
    networks = [network for network in every if not prefix or network.prefix == wanted]
    if not networks and prefix:
        prefixes = ", ".join(repr(network.prefix) for network in every) or "none at all"
        raise RecipeError(f"{path} has no ResNet under the prefix {prefix!r}; found: {prefixes}")
    if not networks:
        some = ", ".join(sorted(tensors)[:4])
        raise CheckpointError(
            f"{path} holds no ResNet: no conv1, bn1 and layer1 to layer4 side by side among its {len(tensors)} tensors "
            f"({some}, ...)"
        )
    if len(networks) > 1:
        networks = [network for network in networks if not _COPIES.search(network.prefix)] or networks
    if len(networks) > 1:
        prefixes = ", ".join(repr(network.prefix) for network in networks)
        raise RecipeError(f"{path} holds {len(networks)} encoders ({prefixes}); choose one by its prefix")
    return networks[0]


def _networks(tensors: Mapping[str, Tensor]) -> Iterator[_Found]:
    """Every place where the parts of a ResNet lie side by side."""
    for layout in (_NAMED, _SEQUENTIAL, _GENERATED):
        first = f"{layout['conv1']}.weight"
        for name, tensor in tensors.items():
            prefix = name.removesuffix(first)
            if prefix == name or (prefix and not prefix.endswith(".")) or tensor.ndim != 4 or tensor.shape[1] != 3:
                continue
            needed = [f"{layout['bn1']}.weight", *(f"{layout[part]}.0.conv1.weight" for part in _PARTS[2:])]
            if all(prefix + other in tensors for other in needed):
                yield _Found(prefix, layout)


def _renamed(tensors: Mapping[str, Tensor], network: _Found) -> Iterator[tuple[str, str]]:
    """Our name and theirs of each tensor below the network's parts."""
    for part, called in network.layout.items():
        start = f"{network.prefix}{called}."
        for name in tensors:
            if name.startswith(start):
                rest = name[len(start) :].replace("shortcut.", "downsample.")  # as Lightly's ResNetGenerator has it
                yield f"{part}.{rest}", name


def _architecture_of(
    network: _Found, names: Mapping[str, str], tensors: Mapping[str, Tensor], stem: str, path: Path
) -> tuple[Architecture, tuple[str, ...]]:
    """Depth, width, stem, flavor and squeeze-excitation by names and shapes, and what had to be assumed."""
    blocks = tuple(len({k.split(".")[1] for k in names if k.startswith(f"{part}.")}) for part in _PARTS[2:])
    bottleneck = "layer1.0.conv3.weight" in names
    depths = [depth for depth, kind in BLOCKS.items() if kind == (blocks, bottleneck)]
    if not depths:
        kind = "bottleneck" if bottleneck else "basic"
        raise CheckpointError(f"{path} holds a ResNet with {blocks} {kind} blocks; SimCLR+ has none like it")
    kernel = tensors[names["conv1.weight"]]
    possible = ("imagenet",) if kernel.shape[2] == 7 else tuple(stem for stem in STEMS if stem != "imagenet")
    if stem and stem not in possible:
        raise RecipeError(f"stem {stem!r} does not fit {path}: its first kernel is {kernel.shape[2]}x{kernel.shape[3]}")
    notes: tuple[str, ...] = ()
    if not stem and len(possible) > 1:
        stem, notes = _small_stem(network, tensors)
    ratio = 0.0
    if "layer1.0.se.fc1.weight" in names:
        inner = len(tensors[names["layer1.0.conv1.weight"]])
        ratio = len(tensors[names["layer1.0.se.fc1.weight"]]) / inner
    # a shortcut in the first group of basic blocks is the authors'; their max-pool differs, and a 3x3 stem has none
    projects = not bottleneck and "layer1.0.downsample.0.weight" in names and stem.startswith("cifar")
    width = kernel.shape[0] / 64
    width = int(width) if width.is_integer() else width
    flavor = "reference" if projects else "torchvision"
    return Architecture(depths[0], width, stem or possible[0], flavor, se_ratio=ratio), notes


def _small_stem(network: _Found, tensors: Mapping[str, Tensor]) -> tuple[str, tuple[str, ...]]:
    """What follows a 3x3 kernel is not in the file: it is taken by the names of the trainer, and said."""
    names = {part for name in tensors for part in name.split(".")[:2]}
    if network.layout is _GENERATED:
        return "cifar_no_relu", ("a Sequential of Lightly's ResNetGenerator has no ReLU after its stem; nor has this",)
    if {"projector", "classifier"} <= names:
        return "cifar_pad2", (
            "the 3x3 stem is taken for solo-learn's, padded by 2; if it is padded by 1: --stem cifar",
        )
    return "cifar", ("the 3x3 stem is taken to be padded by 1; if it is solo-learn's: --stem cifar_pad2",)


def _classifier(tensors: Mapping[str, Tensor], network: _Found, width: int) -> dict[str, str]:
    """A linear classifier on the features: `fc` of a plain network, or one beside the encoder."""
    outer = network.prefix
    while match := _WRAPPERS.match(outer):
        outer = outer[match.end() :]
    wrappers = network.prefix[: len(network.prefix) - len(outer)]
    places = [f"{wrappers}{name}" for name in _CLASSIFIERS]
    for place in places:
        weight, bias = tensors.get(f"{place}.weight"), tensors.get(f"{place}.bias")
        if weight is not None and bias is not None and weight.ndim == 2 and weight.shape == (len(bias), width):
            return {"weight": f"{place}.weight", "bias": f"{place}.bias"}
    return {}
