"""What a network of timm, of torchvision or of one's own is, in numbers, as `Architecture` tells a ResNet's. No torch.

Its numbers have no closed form: they are measured when they are asked for, on the network without its memory
(`measuring.py`), which loads PyTorch and the library.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from simclr_plus.encoders.architecture import INPUTS
from simclr_plus.errors import RecipeError

if TYPE_CHECKING:
    from simclr_plus.encoders.measuring import Figures

LIBRARIES = ("timm", "torchvision", "python")
# arguments that would fetch or read files, or give another thing than pooled features of RGB
NOT_OPTIONS = frozenset(
    {
        "cache_dir",
        "checkpoint_path",
        "features_only",
        "in_chans",
        "num_classes",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
        "progress",
        "scriptable",
        "weights",
        "weights_backbone",
    }
)


@dataclass(frozen=True)
class ForeignArchitecture:
    """A network by its name: "timm:NAME", "torchvision:NAME" or "python:package.module:function".

    options: arguments of the function that builds it. image_size: side of the images that it is built for.
    mean, std, input: what is done to images in [0, 1] first, as in `Architecture`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 224
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    input: str = "rgb"

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # lists where they come from TOML or JSON
            object.__setattr__(self, name, tuple(float(x) for x in getattr(self, name)))
        library, _, rest = self.name.partition(":")
        if library not in LIBRARIES or not rest or (library == "python" and rest.count(":") != 1):
            raise ValueError(
                f'name = {self.name!r} is unknown; use "resnet", "timm:NAME", "torchvision:NAME" or '
                '"python:package.module:function"'
            )
        if library != "python" and (":" in rest or "/" in rest):
            raise ValueError(
                f"name = {self.name!r} names a place; give the network's name, and encoder.pretrained = FILE for its "
                "weights"
            )
        refused = sorted(self.options.keys() & (NOT_OPTIONS - _OF_ONES_OWN if library == "python" else NOT_OPTIONS))
        if refused:
            raise ValueError(f"options has {refused[0]!r}, which is not for options; {_INSTEAD.get(refused[0], _OUT)}")
        object.__setattr__(self, "options", _as_json(self.options))
        if not len(self.mean) == len(self.std) == 3 or min(self.std) <= 0:
            raise ValueError(f"mean = {self.mean}, std = {self.std}: give three numbers each, those of std above 0")
        if self.input not in INPUTS:
            raise ValueError(f"input = {self.input!r} is unknown; use one of {', '.join(INPUTS)}")

    @property
    def figures(self) -> Figures:
        """What was measured; RecipeError or NotFoundError where the network cannot be f, in a sentence."""
        from simclr_plus.encoders.measuring import figures_of  # PyTorch and the library are loaded here

        return figures_of(self.name, json.dumps(dict(self.options), sort_keys=True), self.image_size)

    @property
    def feature_dim(self) -> int:
        """Dimensions of h."""
        return self.figures.feature_dim

    @property
    def title(self) -> str:
        """For people: its name, and what its builder was told."""
        told = ", ".join(f"{name} {value}" for name, value in self.options.items())
        return f"{self.name} ({told})" if told else self.name

    @property
    def normalizes(self) -> bool:
        """Whether images are changed before its first layer."""
        return (self.mean, self.std, self.input) != ((0, 0, 0), (1, 1, 1), "rgb")

    def parameter_count(self) -> int:
        """Trained numbers."""
        return self.figures.parameters

    def multiply_add_count(self, image_size: int) -> int:
        """Multiplications, each with its addition, for one image forward."""
        return self.at(image_size).figures.multiply_adds

    def activation_count(self, image_size: int, recompute_blocks: bool = False) -> int:
        """Numbers that an image leaves for the backward pass, with its own activation checkpointing or without."""
        figures = self.at(image_size).figures
        if not recompute_blocks:
            return figures.activations
        if figures.activations_recomputed is None:
            raise RecipeError(
                f"training.activation_checkpointing = true: {self.name} has none of its own; leave it out, or take a "
                "network of timm"
            )
        return figures.activations_recomputed

    def map_shape(self, stage: int, image_size: int) -> tuple[int, int]:
        """Channels and side of the map of stage 1 to 4, the last four that the network offers."""
        maps = self.at(image_size).figures.maps
        if not maps:
            raise RecipeError(f"{self.name} gives no feature maps")
        return maps[stage - 1]

    def at(self, image_size: int) -> ForeignArchitecture:
        """The same, built for images of that side."""
        return self if image_size == self.image_size else replace(self, image_size=image_size)

    def as_dict(self) -> dict[str, Any]:
        """The values by name, for a file's header."""
        values: dict[str, Any] = {"family": "foreign", "name": self.name, "image_size": self.image_size}
        values |= {"options": dict(self.options)} if self.options else {}
        values |= {"mean": self.mean, "std": self.std} if (self.mean, self.std) != ((0, 0, 0), (1, 1, 1)) else {}
        return values | ({"input": self.input} if self.input != "rgb" else {})


def _as_json(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a file's header keeps them: lists for tuples."""
    try:
        return dict(json.loads(json.dumps(dict(options))))
    except TypeError as error:
        raise ValueError(
            f"options = {dict(options)} cannot be written into a file: {error}; give plain values"
        ) from None


_OF_ONES_OWN = {"features_only", "in_chans", "num_classes", "progress", "scriptable"}
_OUT = "leave it out"
_INSTEAD = dict.fromkeys(
    ("pretrained", "weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay"),
    "encoder.pretrained says which weights f starts from",
)
