"""From sRGB to CIELAB and YDbDr, on batches of images.

CIELAB with the white of D65 at 2 degrees, equal to scikit-image's `rgb2lab`, which the authors of CMC and of
colorization use; float32 is within 1e-4 of float64. Values outside [0, 1] have no color: clamp first.
"""

from __future__ import annotations

import torch
from torch import Tensor

_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)
_YDBDR = ((0.299, 0.587, 0.114), (-0.45, -0.883, 1.333), (-1.333, 1.116, 0.217))


def lab(images: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> L in 0 to 100, a, b [B, 3, H, W]; in float32 or float64, whatever the autocast."""
    with torch.autocast(images.device.type, enabled=False):
        x, y, z = (_root(row) for row in _mixed(_linear(_wide(images)), _XYZ, _WHITE).unbind(1))
        return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=1)


def lightness(images: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> L / 100 [B, 1, H, W]."""
    with torch.autocast(images.device.type, enabled=False):
        y = _mixed(_linear(_wide(images)), _XYZ[1:2], _WHITE[1:2])
        return (116 * _root(y) - 16) / 100


def ydbdr(images: Tensor) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> Y, Db, Dr [B, 3, H, W]: SECAM's, which are linear in RGB."""
    with torch.autocast(images.device.type, enabled=False):
        return _mixed(_wide(images), _YDBDR, (1.0, 1.0, 1.0))


def _wide(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"colors are those of images [B, 3, H, W], got {tuple(images.shape)}")
    return images if images.dtype == torch.float64 else images.float()


def _linear(values: Tensor) -> Tensor:
    """Without sRGB's gamma. The power sees no value below its range: its gradient there would be NaN."""
    return torch.where(values > 0.04045, ((values.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, values / 12.92)


def _mixed(images: Tensor, rows: tuple[tuple[float, ...], ...], white: tuple[float, ...]) -> Tensor:
    """[B, 3, H, W] -> [B, rows, H, W], each row a mixture of the channels over its white."""
    r, g, b = images.unbind(1)
    return torch.stack([(p * r + q * g + s * b) / w for (p, q, s), w in zip(rows, white, strict=True)], dim=1)


def _root(t: Tensor) -> Tensor:
    """The cube root, and near 0 a line."""
    return torch.where(t > 0.008856, t.clamp_min(0.008856) ** (1 / 3), 7.787 * t + 16 / 116)
