"""Weights that timm and torchvision offer for a network by name: what they expect of images, and where they lie.

Looked for in the caches of Hugging Face's hub and of PyTorch on this machine. `fetched` alone touches the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from simclr_plus.encoders.libraries import Timm, Torchvision, library_of
from simclr_plus.encoders.measuring import first_line
from simclr_plus.errors import EnvironmentNotAbleError, NotFoundError, RecipeError
from simclr_plus.machine.printing import say

Three = tuple[float, float, float]
SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"  # names in a repository of the hub
HALF = (0.5, 0.5, 0.5)
TRANSFORMED = ("googlenet", "inception_v3")  # of torchvision: with weights they take its numbers to these themselves


@dataclass(frozen=True)
class LibraryWeights:
    """What a library says of the weights of a network.

    mean, std: of images in [0, 1]. image_size: side of the images that they were trained on. crop: share of the shorter
    side that is shown in evaluation. repository: on Hugging Face's hub, with the names of its files, the best first.
    url: where else they are, and the name of the file there. megabytes: their size, 0 where it is not known.
    """

    name: str
    mean: Three
    std: Three
    image_size: int
    crop: float
    repository: str = ""
    files: tuple[str, ...] = ()
    url: str = ""
    file: str = ""
    megabytes: float = 0.0

    def cached(self) -> Path | None:
        """Where they lie on this machine; the network is not asked."""
        return next(filter(None, (*map(self._in_hub, self.files), self._in_torch_hub())), None)

    def needed(self, remedy: str) -> Path:
        """The same; raises NotFoundError that says where they were looked for, and the remedy."""
        path = self.cached()
        if path is None:
            raise NotFoundError(f"the weights of {self.name} are not on this machine: {self._places()}; {remedy}")
        return path

    def fetched(self, remedy: str) -> Path:
        """The same, fetched into the library's own cache where they are not there, which is said.

        Raises NotFoundError with the remedy where they cannot be fetched.
        """
        path = self.cached()
        if path is not None:
            return path
        if not self.repository and not self.url:
            return self.needed(remedy)
        say(f"fetching the weights of {self.name} from {self.origin}")
        try:
            return self._from_hub() if self.repository else self._from_url()
        except Exception as error:  # whatever a network and its libraries raise
            raise NotFoundError(
                f"the weights of {self.name} could not be fetched from {self.origin} ({first_line(error)}): "
                f"{self._places()}; {remedy}"
            ) from None

    @property
    def origin(self) -> str:
        """Where they are fetched from, in words."""
        if self.repository:
            return f"{self.repository} on Hugging Face's hub"
        return f"{self.url}{f' ({self.megabytes:.0f} MB)' if self.megabytes else ''}"

    def _in_hub(self, file: str) -> Path | None:
        hub = _hub()
        if hub is None:
            return None
        repository, _, revision = self.repository.partition("@")
        path = hub.try_to_load_from_cache(repository, file, revision=revision or None)
        return Path(path) if isinstance(path, str) else None

    def _in_torch_hub(self) -> Path | None:
        path = _torch_hub() / self.file
        return path if self.file and path.is_file() else None

    def _from_hub(self) -> Path:
        hub = _hub()
        if hub is None:
            raise EnvironmentNotAbleError("huggingface_hub is not installed")
        repository, _, revision = self.repository.partition("@")
        for file in self.files:
            try:
                return Path(hub.hf_hub_download(repository, file, revision=revision or None))
            except hub.errors.EntryNotFoundError as error:  # not every repository has each of them
                missing = error
                if isinstance(error, hub.errors.LocalEntryNotFoundError):  # there is no way to the hub
                    break
        raise missing

    def _from_url(self) -> Path:
        path = _torch_hub() / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = torch.hub.HASH_REGEX.search(self.file)
        torch.hub.download_url_to_file(self.url, str(path), digest[1] if digest else None, progress=False)
        return path

    def _places(self) -> str:
        """Where they are looked for."""
        places = []
        if self.repository:
            hub = _hub()
            cache = hub.constants.HF_HUB_CACHE if hub else "a cache of the hub (huggingface_hub is not installed)"
            places.append(f"no {' or '.join(self.files)} of {self.repository} in {cache}")
        if self.file:
            places.append(f"{_torch_hub() / self.file} is not there, which {self.url} gives")
        return ", and ".join(places) or "their library offers none"


def library_weights(name: str) -> LibraryWeights:
    """Of "timm:NAME", with its tag or the usual one's, or "torchvision:NAME".

    Raises NotFoundError where there is no such network, RecipeError for one of one's own.
    """
    library, rest = library_of(name)
    if library.key not in _OF:
        raise RecipeError(f"{name} is a network of your own, of which no library has weights; give a FILE of them")
    return _OF[library.key](name, rest)


def _of_timm(name: str, rest: str) -> LibraryWeights:
    return of_config(name, Timm().config(rest))


def of_config(name: str, config: dict[str, Any]) -> LibraryWeights:
    """The same of a network of timm's from its `pretrained_cfg`."""
    address = config.get("url") or ""
    url, file = address if isinstance(address, tuple | list) else (address, Path(urlparse(address).path).name)
    if file.endswith(".npz"):  # arrays of the original's framework
        url, file = "", ""
    repository, one = config.get("hf_hub_id") or "", config.get("hf_hub_filename") or ""
    size = config.get("input_size") or (3, 224, 224)
    if size[1] != size[2]:
        raise RecipeError(f"{name} takes images of {tuple(size[1:])} pixels; only squares are shown here")
    return LibraryWeights(
        name=name,
        mean=tuple(config.get("mean") or (0.485, 0.456, 0.406)),
        std=tuple(config.get("std") or (0.229, 0.224, 0.225)),
        image_size=size[1],
        crop=float(config.get("crop_pct") or 0.875),
        repository=repository,
        files=_names(one) if repository else (),
        url=url,
        file=file,
    )


def _names(one: str) -> tuple[str, ...]:
    """Files of a repository, safetensors before what is pickled."""
    one = one or PICKLED
    return (one.replace(PICKLED, SAFE), one) if one.endswith(PICKLED) else (one,)


def _of_torchvision(name: str, rest: str) -> LibraryWeights:
    from torchvision import models

    if rest not in models.list_models(module=models):
        Torchvision().create(rest, {}, 0)
    weights: Any = models.get_model_weights(rest)["DEFAULT"]
    preset: Any = weights.transforms()
    size, resized = preset.crop_size[0], preset.resize_size[0]
    return LibraryWeights(
        name=name,
        mean=HALF if rest in TRANSFORMED else tuple(preset.mean),
        std=HALF if rest in TRANSFORMED else tuple(preset.std),
        image_size=size,
        crop=min(1.0, size / resized),
        url=weights.url,
        file=Path(urlparse(weights.url).path).name,
        megabytes=float(weights.meta.get("_file_size", 0.0)),
    )


_OF: dict[str, Callable[[str, str], LibraryWeights]] = {"timm": _of_timm, "torchvision": _of_torchvision}


def _hub() -> Any:
    """huggingface_hub, which timm brings; None where it is not installed."""
    try:
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ModuleNotFoundError:
        return None
    return huggingface_hub


def _torch_hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"
