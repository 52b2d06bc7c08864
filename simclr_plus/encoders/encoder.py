"""What others may ask of an encoder f, whatever network it is."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Encoder(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim]."""

    feature_dim: int
    checkpoint_activations = False  # keep the input of each block only

    def forward(self, images: Tensor) -> Tensor:
        """Pooled features of whole images."""
        raise NotImplementedError

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """Feature maps by name [B, C, H', W'], the finest first; h is the mean of the last one over its places."""
        raise NotImplementedError

    @property
    def title(self) -> str:
        """What people call it."""
        raise NotImplementedError

    @property
    def spec(self) -> dict[str, Any]:
        """All that builds the same network again, for JSON; `family` says which class, where it is no ResNet."""
        raise NotImplementedError

    @property
    def normalizes(self) -> bool:
        """Whether the network itself subtracts a mean from images in [0, 1] and divides by a deviation."""
        return False

    @property
    def exempt(self) -> frozenset[str]:
        """Names of parameters without decay and adaptation, besides norms and biases: tokens, positions."""
        return frozenset()
