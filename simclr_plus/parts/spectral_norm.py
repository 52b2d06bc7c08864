"""Layers whose weight is divided by its largest singular value (Miyato et al. 2018, arXiv:1802.05957).

A step of the power method at each pass in training estimates it, as `torch.nn.utils.parametrizations.spectral_norm`
does. Its vectors are buffers u and v, so that checkpoints hold them, and follow from weights alone: they are the same
in all processes. Under autocast the value is computed in float32, where PyTorch's is in bfloat16.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12
STEPS_AT_START = 15  # of the power method, as PyTorch's


class SpectralLinear(nn.Linear):
    """Linear, [..., in] -> [..., out]."""

    u: Tensor
    v: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        _remember(self)

    def forward(self, x: Tensor) -> Tensor:
        """With the weight as divided."""
        return F.linear(x, divided(self), self.bias)


class SpectralConv2d(nn.Conv2d):
    """Conv2d, whose weight counts as a matrix [out, in * height * width]."""

    u: Tensor
    v: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, **settings: Any) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **settings)
        _remember(self)

    def forward(self, x: Tensor) -> Tensor:
        """With the weight as divided."""
        y: Tensor = self._conv_forward(x, divided(self), self.bias)
        return y


def divided(layer: SpectralLinear | SpectralConv2d) -> Tensor:
    """The layer's weight / its largest singular value u W v; in training after a step of the power method."""
    with torch.autocast(layer.weight.device.type, enabled=False):
        matrix = layer.weight.flatten(1)
        if layer.training:
            _power_step(layer, matrix.detach())
        u, v = layer.u.clone(), layer.v.clone()  # the next pass overwrites them, before this one's gradient asks
        weight: Tensor = layer.weight / torch.dot(u, torch.mv(matrix, v))
    return weight


def _remember(layer: SpectralLinear | SpectralConv2d) -> None:
    """Random vectors, and some steps to the singular ones."""
    matrix = layer.weight.detach().flatten(1)
    layer.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0, eps=EPS))
    layer.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0, eps=EPS))
    for _ in range(STEPS_AT_START):
        _power_step(layer, matrix)


@torch.no_grad()
def _power_step(layer: SpectralLinear | SpectralConv2d, matrix: Tensor) -> None:
    layer.u.copy_(F.normalize(torch.mv(matrix, layer.v), dim=0, eps=EPS))
    layer.v.copy_(F.normalize(torch.mv(matrix.T, layer.u), dim=0, eps=EPS))
