"""Two networks side by side, one of an image's lightness, one of its colors: the encoder of CMC (Tian et al. 2020).

RGB goes in and is turned to CIELAB or YDbDr inside, so that whoever reads h needs to know nothing of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from simclr_plus.color_spaces import lab, ydbdr
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.resnet import ResNet

# by color space: mean and deviation of each channel. Of HobbitLong/CMC `7b227be` (dataset.py): the middle and half the
# width of what sRGB reaches in CIELAB; of HobbitLong/PyContrast `84f94ea`: YDbDr's
SCALES = {
    "lab": ((50.0, 6.025, -6.6895), (50.0, 92.208, 101.1675)),
    "ydbdr": ((0.457, -0.082, -0.052), (0.5, 1.331, 1.333)),
}


class LabPair(Encoder):
    """Images [B, 3, H, W] in [0, 1] -> h [B, feature_dim]: the features of lightness, then those of the colors.

    branch: the numbers of each of both ResNets (depth, width, stem, ...), which differ in the channels they see.
    color_space: "lab" or "ydbdr".
    """

    def __init__(self, *, color_space: str = "lab", **branch: Any) -> None:
        super().__init__()
        if color_space not in SCALES:
            raise ValueError(f"color_space = {color_space!r} is unknown; use one of {', '.join(SCALES)}")
        self.color_space = color_space
        self.lightness, self.colors = (ResNet(**branch, in_channels=channels) for channels in (1, 2))
        self.feature_dim = 2 * self.lightness.feature_dim

    def channels(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """RGB [B, 3, H, W] -> what each network sees: [B, 1, H, W], [B, 2, H, W], most of it within [-1, 1].

        What a resize left outside [0, 1] is cut first: it has no color.
        """
        mean, std = SCALES[self.color_space]
        turned = (lab if self.color_space == "lab" else ydbdr)(images.clamp(0, 1))
        scaled = [(x - m) / s for x, m, s in zip(turned.unbind(1), mean, std, strict=True)]
        return scaled[0][:, None], torch.stack(scaled[1:], dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, feature_dim]."""
        light, colors = self.channels(images)
        return torch.cat([self.lightness(light), self.colors(colors)], dim=1)

    def halves(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """h -> the features of lightness and those of the colors, each [B, feature_dim / 2]."""
        light, colors = h.chunk(2, dim=1)
        return light, colors

    def features_and_maps(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Features and maps of both, channels side by side."""
        both = zip(self._networks(), self.channels(images), strict=True)
        (h, light), (other, colors) = (network.features_and_maps(x) for network, x in both)
        return torch.cat([h, other], dim=1), {name: torch.cat([light[name], colors[name]], dim=1) for name in light}

    @property
    def title(self) -> str:
        """Both networks by their one name."""
        space = {"lab": "CIELAB", "ydbdr": "YDbDr"}[self.color_space]
        return f"{self.lightness.title}, twice: lightness and colors of {space}"

    @property
    def spec(self) -> dict[str, Any]:
        """The numbers that both share."""
        branch = {name: value for name, value in self.lightness.spec.items() if name != "in_channels"}
        return {"family": "lab_pair", "color_space": self.color_space, **branch}

    @property
    def normalizes(self) -> bool:
        """Each channel, after the change of color space."""
        return True

    @property
    def exempt(self) -> frozenset[str]:
        """Those of both."""
        return frozenset(
            f"{part}.{name}"
            for part, network in zip(("lightness", "colors"), self._networks(), strict=True)
            for name in network.exempt
        )

    def _networks(self) -> tuple[ResNet, ResNet]:
        return self.lightness, self.colors
