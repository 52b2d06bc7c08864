"""An encoder whose features are the mean over a grid of patches, as CPC's are (van den Oord et al. 2018, 3.2)."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor, nn

from simclr_plus.encoders.encoder import Encoder


class PatchEncoder(Encoder):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim], the mean of the encoder's features over all patches.

    encoder: of one patch. side, stride: of the patches in pixels; the grid begins at the top left.
    """

    def __init__(self, encoder: Encoder, side: int, stride: int) -> None:
        super().__init__()
        if side < 8 or stride < 1:
            raise ValueError(f"side = {side}, stride = {stride}: patches have 8 pixels or more, and 1 or more between")
        self.encoder, self.side, self.stride = encoder, side, stride
        self.feature_dim = encoder.feature_dim

    def patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, rows, columns, 3, side, side], from the top left."""
        if min(images.shape[-2:]) < self.side:
            raise ValueError(
                f"images of {images.shape[-2]}x{images.shape[-1]} pixels hold no patch of {self.side}: take larger ones"
            )
        grid = images.unfold(2, self.side, self.stride).unfold(3, self.side, self.stride)
        return grid.permute(0, 2, 3, 1, 4, 5)

    def features(self, patches: Tensor) -> Tensor:
        """[B, rows, columns, 3, side, side] -> h of each patch [B, rows, columns, feature_dim]."""
        h: Tensor = self.encoder(patches.flatten(0, 2))
        return h.view(*patches.shape[:3], -1)

    def grid(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> h of each patch [B, rows, columns, feature_dim]."""
        return self.features(self.patches(images))

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, feature_dim]."""
        return self.grid(images).mean(dim=(1, 2))

    def during_backward(self) -> AbstractContextManager[None]:
        """As the network of a patch wants it."""
        return self.encoder.during_backward()

    @property
    def patch_embedding(self) -> list[nn.Parameter]:
        """That of the network of a patch."""
        return self.encoder.patch_embedding

    @property
    def title(self) -> str:
        """The network of a patch, and the patches."""
        return f"{self.encoder.title}, mean over {self.side}-pixel patches"

    @property
    def spec(self) -> dict[str, Any]:
        """That of the network of a patch, inside."""
        return {"family": "patches", "encoder": self.encoder.spec, "side": self.side, "stride": self.stride}

    @property
    def normalizes(self) -> bool:
        """Where the network of a patch does."""
        return self.encoder.normalizes

    @property
    def exempt(self) -> frozenset[str]:
        """Those of the network of a patch."""
        return frozenset(f"encoder.{name}" for name in self.encoder.exempt)
