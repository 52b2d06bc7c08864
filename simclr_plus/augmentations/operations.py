"""SimCLR's image operations on batches of tensors: pure, deterministic, one parameter an image, none of them clips.

Images are float32 [B, 3, H, W] in [0, 1]; a parameter is a number or a tensor [B]. They equal the authors'
TensorFlow operations (tf2/data_util.py), which differ from torchvision's of the same name.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CUBIC_STEPS = 1024  # TensorFlow looks the cubic kernel up at multiples of 1/1024
GRAY_WEIGHTS = (0.2989, 0.587, 0.114)


def crop_and_resize(images: Tensor, boxes: Tensor, size: int, method: str = "bicubic") -> Tensor:
    """Cut boxes [B, 4] (top, left, height, width in pixels) and resize them to [B, C, size, size].

    "bicubic": TF2's kernel (a = -0.5, half-pixel centres, edges renormalised); "bicubic_legacy": TF1's (a = -0.75, no
    half pixel, edges repeated), the paper's. Neither smooths when it shrinks; overshoot stays.
    """
    if method not in ("bicubic", "bicubic_legacy"):
        raise ValueError(f'method = {method!r} is no resize kernel; use "bicubic" or "bicubic_legacy"')
    boxes = boxes.to(images.device)
    legacy = method == "bicubic_legacy"
    rows = _axis_matrix(boxes[:, 0], boxes[:, 2], images.shape[2], size, legacy).to(images.dtype)
    columns = _axis_matrix(boxes[:, 1], boxes[:, 3], images.shape[3], size, legacy).to(images.dtype)
    return rows[:, None] @ images @ columns[:, None].transpose(2, 3)


def _axis_matrix(starts: Tensor, lengths: Tensor, extent: int, size: int, legacy: bool) -> Tensor:
    """[B, size, extent]: how much each pixel of an axis adds to each output pixel."""
    lengths = lengths.float()[:, None]
    scale = lengths / size
    out = torch.arange(size, device=starts.device, dtype=torch.float32)
    source = out * scale if legacy else (out + 0.5) * scale - 0.5
    first = source.floor()
    t = torch.round((source - first) * CUBIC_STEPS) / CUBIC_STEPS
    weights = torch.stack(_cubic_weights(t, -0.75 if legacy else -0.5), dim=-1)  # [B, size, 4]
    taps = first[..., None] + torch.arange(-1, 3, device=starts.device)
    last = (lengths - 1)[..., None]
    if not legacy:
        weights = weights * ((taps >= 0) & (taps <= last))
        weights = weights / weights.sum(dim=-1, keepdim=True)
    taps = torch.minimum(taps.clamp(min=0), last) + starts.float()[:, None, None]
    matrix = weights.new_zeros(len(starts), size, extent)
    return matrix.scatter_add_(2, taps.long(), weights)


def _cubic_weights(t: Tensor, a: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights of the four pixels around a point that lies t after the second."""

    def near(t: Tensor) -> Tensor:
        return ((a + 2) * t - (a + 3)) * t * t + 1

    def far(t: Tensor) -> Tensor:
        u = t + 1
        return ((a * u - 5 * a) * u + 8 * a) * u - 4 * a

    return far(t), near(t), near(1 - t), far(1 - t)


def adjust_brightness(images: Tensor, factor: float | Tensor) -> Tensor:
    """x f: the multiplicative law (authors' code since June 2020)."""
    return images * _per_image(factor, images)


def add_brightness(images: Tensor, delta: float | Tensor) -> Tensor:
    """x + d: the additive law of the paper's experiments."""
    return images + _per_image(delta, images)


def adjust_contrast(images: Tensor, factor: float | Tensor) -> Tensor:
    """(x - m) f + m, with m the mean of each channel of each image."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return (images - mean) * _per_image(factor, images) + mean


def adjust_saturation(images: Tensor, factor: float | Tensor) -> Tensor:
    """HSV saturation times f, cut at 1; hue and value stay."""
    value = images.amax(dim=1, keepdim=True)
    chroma = value - images.amin(dim=1, keepdim=True)
    wanted = torch.minimum(chroma * _per_image(factor, images), value).clamp(min=0)
    share = torch.where(chroma > 0, wanted / chroma.clamp(min=torch.finfo(images.dtype).tiny), 0)
    return value - (value - images) * share


def adjust_hue(images: Tensor, delta: float | Tensor) -> Tensor:
    """HSV hue plus d turns; saturation and value stay."""
    red, green, blue = images.unbind(dim=1)
    value = images.amax(dim=1)
    chroma = torch.where(value > 0, value - images.amin(dim=1), 0)
    safe = torch.where(chroma > 0, chroma, 1)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    sixths = (sixths + 6 * _per_image(delta, images)[:, 0]) % 6
    channels = torch.stack([(sixths - 3).abs() - 1, 2 - (sixths - 2).abs(), 2 - (sixths - 4).abs()], dim=1).clamp(0, 1)
    return (value - chroma)[:, None] + channels * chroma[:, None]


def to_grayscale(images: Tensor) -> Tensor:
    """0.2989 R + 0.587 G + 0.114 B in all three channels."""
    red, green, blue = (weight * channel for weight, channel in zip(GRAY_WEIGHTS, images.unbind(dim=1), strict=True))
    return (red + green + blue)[:, None].expand_as(images)


def gaussian_blur(images: Tensor, sigma: float | Tensor, kernel_size: int) -> Tensor:
    """Separable Gaussian of 2 int(kernel_size / 2) + 1 taps, zeros beyond the border (which darkens it)."""
    batch, channels, height, width = images.shape
    radius = int(kernel_size / 2)
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernels = torch.exp(-(x**2) / (2 * _per_image(sigma, images)[:, :, 0, 0] ** 2))
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).to(images.dtype).expand(batch, -1)
    kernels = kernels.repeat_interleave(channels, dim=0)[:, None, None]  # [B C, 1, 1, taps]
    planes = images.reshape(1, batch * channels, height, width)
    planes = F.conv2d(planes, kernels, padding=(0, radius), groups=batch * channels)
    planes = F.conv2d(planes, kernels.transpose(2, 3), padding=(radius, 0), groups=batch * channels)
    return planes.view(batch, channels, height, width)


def _per_image(parameter: float | Tensor, images: Tensor) -> Tensor:
    """A number or [B] -> [1 or B, 1, 1, 1]."""
    return torch.as_tensor(parameter, dtype=images.dtype, device=images.device).reshape(-1, 1, 1, 1)
