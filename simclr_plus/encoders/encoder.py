"""What others may ask of an encoder f, whatever network it is."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture


class Encoder(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim]."""

    feature_dim: int
    architecture: (
        Architecture | ForeignArchitecture
    )  # networks of several parts have none, and tell title, spec, normalizes
    checkpoint_activations = False  # keep the input of each block only

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features of whole images."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps by name [B, C, H', W'], the finest first."""
        return self.features_and_maps(images)[1]

    def features_and_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """h [B, feature_dim] and the maps "layer1" to "layer4" of one pass."""
        raise NotImplementedError

    def check_maps(self, side: int) -> None:
        """Raises RecipeError where h beside the maps is not h without, as libraries might have it."""

    @property
    def after_maps(self) -> list[nn.Parameter]:
        """Parameters that h depends on and the last map does not; [] where h is the mean of that map."""
        return []

    @property
    def named_weights(self) -> nn.Module:
        """The module under whose names the weights are kept in files for other projects."""
        return self

    @property
    def patch_embedding(self) -> list[nn.Parameter]:
        """Parameters of the layer that cuts images into patches, as transformers have it; [] where there is none."""
        return []

    def during_backward(self) -> AbstractContextManager[None]:
        """What holds while gradients are computed, and with activation checkpointing activations again."""
        return nullcontext()

    @property
    def title(self) -> str:
        """What people call it."""
        return self.architecture.title

    @property
    def spec(self) -> dict[str, Any]:
        """All that builds the same network again, for JSON; `family` says which class, where it is no ResNet."""
        return self.architecture.as_dict()

    @property
    def normalizes(self) -> bool:
        """Whether the network itself subtracts a mean from images in [0, 1] and divides by a deviation."""
        return self.architecture.normalizes

    @property
    def exempt(self) -> frozenset[str]:
        """Names of parameters without decay and adaptation, besides norms and biases: tokens, positions."""
        return frozenset()
