"""Weights from anywhere as the start of f: a library's own, or a file under the names of the network's library.

A file may be a state dict in whatever a trainer wrapped it in, with a classifier or without, an encoder file or a
checkpoint of SimCLR+. Nothing in it is run (`read_tensors`). The library's own loader puts the tensors in, so that
earlier names are understood and positions fit images of another size; but for the classifier all must be there.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.libraries import CLASSIFIERS, Timm
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError
from simclr_plus.importers.library_weights import library_weights
from simclr_plus.importers.normalisation import about_normalisation, listed, network_in, spoken
from simclr_plus.importers.trainers import read_tensors
from simclr_plus.recipe.recipe import Recipe

_Spare = Callable[[ForeignEncoder, Iterable[str]], set[str]]  # names of classifiers, by those in a file
_Load = Callable[[ForeignEncoder, dict[str, Tensor]], tuple[dict[str, Tensor], list[str]]]
_AUXILIARY = ("aux1", "aux2", "AuxLogits")  # of torchvision's GoogLeNet and Inception
# of other trainers' files: what names begin with, and copies beside the network that is used
_WRAPPERS = re.compile(r"(module|model|state_dict|model_state_dict|_orig_mod|net|network|encoder|backbone)\.")
_COPIES = re.compile(r"momentum|encoder_k\b|key_encoder|target|ema|teacher|offline")
_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")  # torchvision's earlier names
_TRUE = 'give the file: encoder.pretrained = "FILE"'
_FALSE = f"encoder.download = true fetches them, or {_TRUE}"


def load_pretrained(encoder: Encoder, recipe: Recipe) -> list[str]:
    """Put the weights of encoder.pretrained into f, in place; returns what a user should know of them.

    With encoder.download = true weights of a library that are in no cache are fetched; else the network is not touched.
    Raises NotFoundError, or CheckpointError that names the file and what does not fit in it.
    """
    inner = getattr(encoder, "encoder", encoder)  # of one around another
    if not isinstance(inner, ForeignEncoder):
        raise RecipeError(f"encoder.pretrained is for networks by name, and f is {encoder.title}; leave it out")
    path = weights_file(recipe)
    described = network_in(path, recipe.encoder.name)
    if described is not None and described.input != recipe.encoder.input:
        raise CheckpointError(
            f'encoder.input = "{recipe.encoder.input}", but f of {path} was trained on "{described.input}"; set it'
        )
    notes = load_file(inner, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    numbers = listed((*recipe.encoder.mean, *recipe.encoder.std))
    own = recipe.encoder.pretrained is True
    origin = f"the weights of {recipe.encoder.name}, {path}" if own else str(path)
    return [f"f starts from {origin} (sha256 {digest}); images are normalised by mean and std {numbers}", *notes]


def weights_file(recipe: Recipe) -> Path:
    """The file that encoder.pretrained stands for, fetched where encoder.download says so; else NotFoundError."""
    file = recipe.encoder.pretrained
    if isinstance(file, str):
        if not Path(file).is_file():
            raise NotFoundError(f"encoder.pretrained = {file!r}: there is no such file; name one of weights")
        return Path(file)
    weights = library_weights(recipe.encoder.name)
    return weights.fetched(_TRUE) if recipe.encoder.download else weights.needed(_FALSE)


def about_start(recipe: Recipe) -> list[str]:
    """What a plan tells of the weights that f will start from, which need not be there yet; nothing is fetched."""
    notes = []
    try:
        notes = about_normalisation(recipe)
        if recipe.encoder.pretrained is True and recipe.encoder.download:
            library_weights(recipe.encoder.name).needed("the run fetches them")
        else:
            weights_file(recipe)
    except NotFoundError as error:
        notes.append(str(error))
    return notes


def load_file(encoder: ForeignEncoder, path: Path) -> list[str]:
    """Put a file's tensors into the library's network, in place; returns notes. CheckpointError where they do not fit.

    Of a file of SimCLR+ it was asked before whether that network is in it (`network_in`).
    """
    network, title = encoder.network, spoken(encoder.architecture.name)
    expected = network.state_dict().keys()
    tensors, notes = _unwrapped(read_tensors(path), expected, path)
    spare, load = _LIBRARIES[encoder.library.key]
    spared = spare(encoder, tensors) - expected
    tensors = {name: tensor for name, tensor in tensors.items() if name not in spared}
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise CheckpointError(f"{path} holds numbers that are not finite (NaN or infinite), e.g. in {broken[0]}")
    try:
        state, initial = load(encoder, tensors)
        network.load_state_dict(state)
    except Exception as error:  # a library's loader raises anything
        raise CheckpointError(f"{path} does not fit {title}: {' '.join(str(error).split())[:400]}") from None
    if any(state[name].ndim > 1 for name in initial):
        raise CheckpointError(f"{path} does not fit {title}: it lacks {', '.join(initial[:4])}")
    return notes + [f"{path.name} lacks {', '.join(initial)}, which start as in a new network"] * bool(initial)


# the prefix of a trainer's


def _unwrapped(tensors: Mapping[str, Tensor], expected: Set[str], path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under the prefix behind which the names of the network are, without it; and what is left out.

    Where few names are the network's, they may be of an earlier format, which the library's loader may know.
    """
    names = Counter(prefix for name in tensors for prefix in _prefixes(name) if name[len(prefix) :] in expected)
    most = max(names.values(), default=0)
    if 2 * most <= len(expected):
        return _without_wrappers(tensors), []
    prefixes = [prefix for prefix, count in names.items() if count == most]
    if len(prefixes) > 1:
        prefixes = [prefix for prefix in prefixes if not _COPIES.search(prefix)] or prefixes
    if len(prefixes) > 1:
        raise CheckpointError(
            f"{path} holds the network {len(prefixes)} times, under {' and '.join(map(repr, prefixes))}; save one of "
            "them alone"
        )
    inside = {name.removeprefix(prefixes[0]): x for name, x in tensors.items() if name.startswith(prefixes[0])}
    others = len(tensors) - len(inside)
    return inside, [f"{others} tensors of {path.name} outside of {prefixes[0]!r} are of no part in f"] * bool(others)


def _prefixes(name: str) -> Iterator[str]:
    yield ""
    yield from (name[: dot.end()] for dot in re.finditer(r"\.", name))


def _without_wrappers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without what all names begin with, where trainers wrap networks so."""
    while (match := _WRAPPERS.match(next(iter(tensors), ""))) and all(name.startswith(match[0]) for name in tensors):
        tensors = {name.removeprefix(match[0]): tensor for name, tensor in tensors.items()}
    return dict(tensors)


# what each library does with them; the names of the parameters that were not filled


def _by_timm(encoder: ForeignEncoder, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """By timm.create_model, strictly but for the networks of which timm itself lets tensors be left out.

    What was left out is found by its values, which a network of the same seed has as well.
    """
    overlay = {"state_dict": tensors, "num_classes": 0, "classifier": None, "label_offset": None, "custom_load": False}
    state = _timms_network(encoder, pretrained=True, pretrained_cfg_overlay=overlay)
    initial = [name for name in dict(encoder.network.named_parameters()) if name not in tensors]
    if initial:  # or they have other names in the file
        new = _timms_network(encoder, pretrained=False)
        initial = [name for name in initial if torch.equal(state[name], new[name])]
    return state, initial


def _timms_network(encoder: ForeignEncoder, **start: Any) -> dict[str, Tensor]:
    _, _, name = encoder.architecture.name.partition(":")
    key, options = encoder.library.size_option(name, encoder.architecture.options), encoder.architecture.options
    size = {key: encoder.architecture.image_size} if key else {}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        network: nn.Module = Timm().module().create_model(name, num_classes=0, **start, **size, **options)
    return network.state_dict()


def _by_torchvision(encoder: ForeignEncoder, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """By its modules, which know earlier names; of DenseNets and positions its functions do."""
    from torchvision.models import MNASNet, VisionTransformer
    from torchvision.models.vision_transformer import interpolate_embeddings

    network = encoder.network
    state = OrderedDict((_DENSENET.sub(r"\1\2.", name), tensor) for name, tensor in tensors.items())
    if isinstance(network, VisionTransformer) and "encoder.pos_embedding" in state:
        state = interpolate_embeddings(encoder.architecture.image_size, network.patch_size, state)
    if isinstance(network, MNASNet):  # which asks
        state._metadata = {"": {"version": MNASNet._version}}  # type: ignore[attr-defined]
    return state, []


def _as_they_are(encoder: ForeignEncoder, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    return tensors, []


# tensors of a classifier, those of the network too


def _timms_classifier(encoder: ForeignEncoder, names: Iterable[str]) -> set[str]:
    """By its place, in timm's file or in one of an earlier format."""
    said: Any = getattr(encoder.network, "pretrained_cfg", {}).get("classifier") or ()
    places = {*CLASSIFIERS, *((said,) if isinstance(said, str) else said)}
    return {name for name in names if name.rpartition(".")[0] in places}


def _torchvisions_classifier(encoder: ForeignEncoder, names: Iterable[str]) -> set[str]:
    """By its place, and classifiers beside it that are for training."""
    return {name for name in names if name.partition(".")[0] in (*CLASSIFIERS, *_AUXILIARY)}


def _no_classifier(encoder: ForeignEncoder, names: Iterable[str]) -> set[str]:
    return set()


_LIBRARIES: dict[str, tuple[_Spare, _Load]] = {
    "timm": (_timms_classifier, _by_timm),
    "torchvision": (_torchvisions_classifier, _by_torchvision),
    "python": (_no_classifier, _as_they_are),
}
