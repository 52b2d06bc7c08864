"""What an encoder does to images before its first layer, so that it is fed RGB in [0, 1] wherever its file goes.

"standardized": each image less its mean over all pixels and channels, over its deviation (tf.image's
per_image_standardization, of values from 0 to 255 as in google/revisiting-self-supervised `b530e3b`).
"lightness": L of CIELAB over 100, three times (colorization: Zhang, Isola, Efros 2016). Then mean and deviation of each
channel, where the weights want them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simclr_plus.color_spaces import lightness
from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture


def standardized(images: Tensor) -> Tensor:
    """[B, C, H, W] in [0, 1] -> each image of mean 0 and deviation 1; a constant image becomes 0.

    The deviation counts as 1 / sqrt(C H W) of a gray level at least.
    """
    values = images * 255
    count = values[0].numel()
    deviation, mean = torch.std_mean(values, dim=(1, 2, 3), correction=0, keepdim=True)
    return (values - mean) / deviation.clamp_min(count**-0.5)


class InputLaw(nn.Module):
    """Images [B, 3, H, W] in [0, 1] -> what the first layer sees.

    Mean and deviation are no tensors of the module: a network that is built without memory and filled from a state dict
    has both.
    """

    def __init__(self, architecture: Architecture | ForeignArchitecture) -> None:
        super().__init__()
        self.input, self.mean, self.std = architecture.input, architecture.mean, architecture.std

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> the same shape."""
        return _changed(images, self.input, self.mean, self.std)

    def extra_repr(self) -> str:
        """Its numbers."""
        return f"input={self.input}, mean={self.mean}, std={self.std}"


# wrapped, so that torch.fx.symbolic_trace takes it as one step


@torch.fx.wrap
def _changed(images: Tensor, law: str, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    with torch.autocast(images.device.type, enabled=False):  # which has no torch.cat for every type
        if law == "standardized":
            images = standardized(images)
        elif law == "lightness":
            images = lightness(images.clamp(0, 1)).expand(-1, 3, -1, -1)
        if (mean, std) == ((0, 0, 0), (1, 1, 1)):
            return images
        # filled on their device: the host does not wait for a copy
        means, deviations = (torch.cat([images.new_full((1, 1, 1), x) for x in values]) for values in (mean, std))
        return (images - means) / deviations
