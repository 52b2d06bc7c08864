"""The authors' checkpoints (TF1 Saver, TF2 Checkpoint, SavedModel) as files of SimCLR+: an encoder and its heads.

A layer is known by the number at the end of its name (`conv2d_12`), which counts layers in the order of their making;
convolutions and batch norms count apart. The order of a list of variables says nothing: in TF2 the shortcut of a basic
block is made first and listed last. Kernels are HWIO and (in, out) there, OIHW and (out, in) here.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from simclr_plus.encoders.architecture import BLOCKS, STEMS, Architecture
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import CheckpointError
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.importers.imported import Imported, filled, linear_head, write_files
from simclr_plus.importers.tensor_bundle import OBJECT_GRAPH, TensorBundle, find_bundle, object_graph

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
_ENCODER, _PROJECTION, _SUPERVISED = "encoder", "projection head", "supervised head"
_PARTS = {  # names in the graph of TF1 and TF2, and in TF2's tree of objects
    "base_model": _ENCODER,
    "resnet": _ENCODER,
    "resnet_model": _ENCODER,
    "head_contrastive": _PROJECTION,
    "projection_head": _PROJECTION,
    "_projection_head": _PROJECTION,
    "head_supervised": _SUPERVISED,
    "supervised_head": _SUPERVISED,
}
_OF_OPTIMIZER = re.compile(r"^optimizer\b|\.OPTIMIZER_SLOT|/_(variables|momentums|velocities)/")
_OF_LAYER = {"kernel": "weight", "bias": "bias"}
_OF_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
# attributes of TF2's objects in the order in which the authors' code makes their layers
_MADE = (
    *("initial_conv_relu_max_pool", "block_groups", "layers"),
    *("projection_layers", "shortcut_layers", "conv2d_bn_layers", "conv_relu_dropblock_layers", "se_layer"),
    *("conv2d_fixed_padding", "batch_norm_relu", "conv2d_0", "batch_norm_relu_1", "conv2d_1"),
    *("se_reduce", "se_expand", "conv2d", "bn"),
)


class Place(NamedTuple):
    """Where a variable belongs: part, batch norm or not, rank of the layer in order of making, our attribute."""

    part: str
    norm: bool
    rank: tuple[int, ...]
    attribute: str


@dataclass(frozen=True)
class Names:
    """Our names for the authors' variables, part by part, and the variables that have none."""

    architecture: Architecture
    encoder: dict[str, str]
    projection: dict[str, str]
    supervised: dict[str, str]
    left_out: tuple[str, ...]


def import_tensorflow(path: str | Path, out_path: str | Path) -> Imported:
    """Write the encoder (flavor "reference") of a TensorFlow checkpoint to `out_path`, its heads to files beside it.

    path: a checkpoint's prefix or one of its files, a SavedModel, or a folder that holds one checkpoint.
    Raises NotFoundError, or CheckpointError for a damaged file and for a network that is not SimCLR's.
    """
    bundle, out = TensorBundle(find_bundle(Path(path))), Path(out_path)
    keys = variables_of(bundle)
    origin = str(bundle.prefix)
    try:
        names = our_names({name: bundle.entries[key].shape for name, key in keys.items()})
    except CheckpointError as error:
        raise CheckpointError(f"{origin}: {error}") from None

    def tensors(part: dict[str, str]) -> dict[str, Tensor]:
        return {ours: _as_ours(bundle.tensor(keys[theirs])) for theirs, ours in part.items()}

    encoder = filled(lambda: ResNet(**names.architecture.as_dict()), tensors(names.encoder), origin)
    heads = {}
    if names.projection:
        heads["projection"] = _projection_head(tensors(names.projection), origin)
    if names.supervised:
        heads["linear"] = linear_head(tensors(names.supervised), origin)
    written = write_files(encoder, heads, out, _metadata(bundle, names.architecture))
    return Imported(out, names.architecture, written, names.left_out)


def variables_of(bundle: TensorBundle) -> dict[str, str]:
    """Keys of a bundle by the names of its variables, without those of an optimizer.

    Names are those that the program gave (TF1's keys; in TF2 listed in the object graph, whatever the keys), or the
    places in TF2's tree of objects where names are missing.
    """
    if OBJECT_GRAPH not in bundle.entries:
        return {key: key for key in bundle.entries}
    kept = [v for v in object_graph(bundle) if v.key in bundle.entries and not _OF_OPTIMIZER.search(v.key)]
    named, placed = ({getattr(v, by): v.key for v in kept} for by in ("full_name", "key"))
    known_names, known_places = (sum(place_of(name) is not None for name in found) for found in (named, placed))
    return named if known_names >= known_places else placed


def our_names(shapes: Mapping[str, tuple[int, ...]]) -> Names:
    """Find the architecture that variables of these names and shapes make up, and our name for each of them.

    Raises CheckpointError when they are no network of SimCLR: nothing is guessed, nothing is left without a value.
    """
    places = {name: place for name in shapes if (place := place_of(name))}
    encoder = {name: place for name, place in places.items() if place.part == _ENCODER}
    if not encoder:
        some = ", ".join(sorted(shapes)[:5])
        raise CheckpointError(f"this checkpoint is not of the authors' SimCLR: no variable of its ResNet ({some}, ...)")
    architecture, names = _encoder_names(encoder, shapes)
    supervised = {name: place.attribute for name, place in places.items() if place.part == _SUPERVISED}
    projection = {
        name: f"layers.{3 * place.rank[0] + place.norm}.{place.attribute}"
        for name, place in places.items()
        if place.part == _PROJECTION
    }
    for part in (names, projection, supervised):
        twice = [ours for ours, count in Counter(part.values()).items() if count > 1]
        if twice:
            raise CheckpointError(f"two variables of this checkpoint are {twice[0]}; it holds more than one network")
    left_out = tuple(sorted(name for name in shapes if name not in places and not _is_expected(name, shapes)))
    return Names(architecture, names, projection, supervised, left_out)


def _encoder_names(
    encoder: Mapping[str, Place], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Architecture, dict[str, str]]:
    """The architecture, and our name for each of the encoder's variables."""
    architecture = _architecture_of(_convolutions(encoder, shapes))
    layers = list(layer_names(architecture))
    norms = [norm for _, norm in layers if norm]
    of_convolutions, of_norms = (sorted({p.rank for p in encoder.values() if p.norm == norm}) for norm in (False, True))
    if len(of_norms) != len(norms):
        raise CheckpointError(f"the encoder has {len(of_norms)} batch norms; {architecture.title} has {len(norms)}")
    layer_of = {(False, rank): name for rank, (name, _) in zip(of_convolutions, layers, strict=True)}
    layer_of |= {(True, rank): name for rank, name in zip(of_norms, norms, strict=True)}
    names = {name: f"{layer_of[place.norm, place.rank]}.{place.attribute}" for name, place in encoder.items()}
    return architecture, names


def _is_expected(name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Counters, and an optimizer's slots (`base_model/conv2d/kernel/Momentum`): no weights of a network."""
    return shapes[name] == () or name.rpartition("/")[0] in shapes


def place_of(name: str) -> Place | None:
    """Where the variable of that name, or at that place of TF2's tree of objects, belongs; None: nowhere."""
    *layers, attribute = re.sub(r":0$", "", name.removesuffix(_VALUE)).split("/")
    norm = attribute in _OF_NORM
    starts = [i for i, layer in enumerate(layers) if re.sub(r"_\d+$", "", layer) in _PARTS]
    if not starts or attribute not in _OF_LAYER | _OF_NORM:
        return None
    part, inner = _PARTS[re.sub(r"_\d+$", "", layers[starts[0]])], layers[starts[0] + 1 :]
    ours = (_OF_LAYER | _OF_NORM)[attribute]
    if part == _SUPERVISED:
        return Place(part, norm, (), ours)
    if part == _PROJECTION:
        numbers = [int(found[1]) for layer in inner if (found := re.fullmatch(r"(?:n?l_)?(\d+)", layer))]
        return Place(part, norm, tuple(numbers[:1]), ours) if numbers else None
    if any(layer.isdigit() for layer in inner):
        if not all(layer.isdigit() or layer in _MADE for layer in inner):
            return None
        return Place(part, norm, tuple(int(x) if x.isdigit() else _MADE.index(x) for x in inner), ours)
    numbered = re.fullmatch(r".*(?:conv2d|batch_normalization)(?:_(\d+))?", inner[-1]) if inner else None
    return Place(part, norm, (int(numbered[1] or 0),), ours) if numbered else None


def layer_names(architecture: Architecture) -> Iterator[tuple[str, str | None]]:
    """Our name of each convolution and of the batch norm behind it, in the order of `Architecture.convolutions`."""
    blocks, bottleneck = BLOCKS[architecture.depth]
    if architecture.selective_kernels and architecture.stem == "imagenet":
        yield from (("conv1.0", "conv1.1"), ("conv1.3", "conv1.4"), ("conv1.6", "bn1"))
    else:
        yield "conv1", "bn1"
    for group, count in enumerate(blocks):
        for i in range(count):
            block = f"layer{group + 1}.{i}"
            if i == 0:  # the authors project in every group
                pooled = int(architecture.selective_kernels)
                yield f"{block}.downsample.{pooled}", f"{block}.downsample.{pooled + 1}"
            yield f"{block}.conv1", f"{block}.bn1"
            yield f"{block}.conv2", f"{block}.bn2"
            if bottleneck and architecture.selective_kernels:
                yield from ((f"{block}.sk.fc1", f"{block}.sk.bn"), (f"{block}.sk.fc2", None))
            if bottleneck:
                yield f"{block}.conv3", f"{block}.bn3"
            if architecture.se_ratio:
                yield from ((f"{block}.se.fc1", None), (f"{block}.se.fc2", None))


_Kernel = tuple[int, int, int, bool]  # side, channels in and out, with an offset


def _convolutions(encoder: Mapping[str, Place], shapes: Mapping[str, tuple[int, ...]]) -> list[_Kernel]:
    """The convolutions in the order of their making."""
    kernels, offsets = {}, set()
    for name, place in encoder.items():
        if place.attribute == "weight" and not place.norm:
            if place.rank in kernels:
                raise CheckpointError(f"two convolutions have the same number ({name}): it holds more than one network")
            if len(shapes[name]) != 4:
                raise CheckpointError(f"{name} has the shape {list(shapes[name])}; a kernel has four sides")
            kernels[place.rank] = shapes[name]
        elif not place.norm:
            offsets.add(place.rank)
    if offsets - kernels.keys():
        raise CheckpointError("a convolution of the encoder has an offset but no kernel: the checkpoint is incomplete")
    return [(kernels[rank][0], *kernels[rank][2:], rank in offsets) for rank in sorted(kernels)]  # type: ignore[misc]


def _architecture_of(kernels: list[_Kernel]) -> Architecture:
    """The one architecture whose convolutions these are."""
    for depth, (_, bottleneck) in BLOCKS.items():
        for stem in STEMS:
            for selective in (False, True):
                deep = 2 if selective and stem == "imagenet" else 0
                if len(kernels) <= deep:
                    continue
                width = kernels[deep][2] / 64
                ratio = 0.0
                if kernels[-1][3]:  # squeezed from the outer width; a share of the base width
                    ratio = kernels[-1][1] / (kernels[-1][2] // (4 if bottleneck else 1))
                width = int(width) if width.is_integer() else width
                architecture = Architecture(depth, width, stem, "reference", selective, ratio)
                expected = [(c.kernel, c.width_in, c.width_out, c.bias) for c in architecture.convolutions(32)]
                if expected == kernels:
                    return architecture
    side, width_in, width_out, _ = kernels[0]
    raise CheckpointError(
        f"its {len(kernels)} convolutions (the first is {side}x{side}, {width_in} to {width_out} channels) make up "
        f"no ResNet of SimCLR (depth {', '.join(map(str, BLOCKS))}); is a variable missing?"
    )


def _as_ours(values: np.ndarray[Any, Any]) -> Tensor:
    """float32; HWIO becomes OIHW, (in, out) becomes (out, in)."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(values.ndim)
    return torch.from_numpy(np.array(values.transpose(axes) if axes else values, dtype=np.float32, order="C"))


def _projection_head(tensors: dict[str, Tensor], origin: str) -> nn.Module:
    kernels = {int(name.split(".")[1]): tensor for name, tensor in tensors.items() if tensor.ndim == 2}
    if not kernels:
        raise CheckpointError(f"the projection head of {origin} has no matrix; the checkpoint is incomplete")
    first, last = kernels[min(kernels)], kernels[max(kernels)]
    numbers = (first.shape[1], first.shape[0], last.shape[0], max(kernels) // 3 + 1)
    return filled(lambda: SimCLRProjectionHead(*numbers), tensors, origin)


def _metadata(bundle: TensorBundle, architecture: Architecture) -> dict[str, Any]:
    """What the header says: origin, image size, and the resize that the network was trained with."""
    header: dict[str, Any] = {
        "imported_from": f"TensorFlow checkpoint {bundle.prefix.name}",
        "image_size": "32" if architecture.stem == "cifar" else "224",
        "resize": "bicubic" if OBJECT_GRAPH in bundle.entries else "bicubic_legacy",
    }
    for key in ("global_step", f"global_step{_VALUE}"):
        if key in bundle.entries:
            header["step"] = str(int(bundle.tensor(key)))
    return header
