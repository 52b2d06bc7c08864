"""Colorization (Zhang, Isola, Efros, ECCV 2016): from lightness, which of 313 colors has each place of an image?

The law is that of richzhang/colorization (BSD-2: `caffe_traininglayers.py`), in PyTorch and for any encoder with maps:

    ab = color_targets(images, stride=8)                      # [B, 2, h, w], of RGB in [0, 1]
    logits = ColorHead(2048)(maps, ab.shape[-2:])             # maps [B, 2048, H', W'] of lightness(images)
    loss = colorization_loss(logits, ab, rebalancing_weights(imagenet_prior())).loss

B images, h x w places of the label grid, Q = 313 colors, K colors that share a label.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from simclr_plus.color_spaces import lab
from simclr_plus.full_precision import in_full
from simclr_plus.global_batch_norm import GlobalBatchNorm2d

COLORS = 313  # Q
COLORED_FROM = 5.0  # an image is gray where neither |a| nor |b| is above this


class ColorizationLoss(NamedTuple):
    """What the loss of a batch comes to, all means over its B h w places.

    loss: weighed cross entropy. floor: what it would be if the labels were told exactly. right: places of colored
    images whose most likely color is the nearest one; counted: those places.
    """

    loss: Tensor
    floor: Tensor
    right: Tensor
    counted: Tensor


class ColorHead(nn.Module):
    """Maps [B, F, H', W'] -> logits [B, Q, h, w]: 3x3 convolution, batch norm, ReLU, 1x1 convolution, bilinear.

    As the last layers of the authors' AlexNet for features, whose logits are resized to the label grid too.
    """

    def __init__(self, input_dim: int, hidden_dim: int = 512) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(input_dim, hidden_dim, 3, padding=1)
        self.norm = GlobalBatchNorm2d(hidden_dim)
        self.colors = nn.Conv2d(hidden_dim, COLORS, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.normal_(self.colors.weight, std=0.01)
        nn.init.zeros_(self.hidden.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.colors.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """size: h, w of the label grid."""
        logits = self.colors(F.relu(self.norm(self.hidden(maps))))
        return F.interpolate(logits, tuple(size), mode="bilinear", align_corners=False)


def color_bins() -> Tensor:
    """The Q colors [Q, 2], a and b: points of a grid of 10 that screens can show (the authors' pts_in_hull)."""
    return torch.from_numpy(_arrays()["bins"].astype(np.float64))


def imagenet_prior() -> Tensor:
    """How often each color occurs in ImageNet's training images [Q], by the authors; of sum 1, none is 0."""
    return torch.from_numpy(_arrays()["prior"].copy())


def color_targets(images: Tensor, stride: int) -> Tensor:
    """RGB [B, 3, H, W] in [0, 1] -> a and b of every `stride`-th pixel, the top left first [B, 2, h, w]; no averages.

    What lies outside [0, 1] is cut first, as a bicubic resize leaves it.
    """
    return lab(images[:, :, ::stride, ::stride].clamp(0, 1))[:, 1:]


def are_colored(ab: Tensor) -> Tensor:
    """[B, 2, h, w] -> [B]: whether an image has a place with |a| or |b| above 5."""
    return (ab.abs() > COLORED_FROM).flatten(1).any(dim=1)


def soft_code(ab: Tensor, neighbours: int = 10, sigma: float = 5.0) -> tuple[Tensor, Tensor]:
    """a and b [..., 2] -> the K nearest colors [..., K], nearest first, and their shares [..., K] of sum 1.

    The shares are a Gaussian's of the distance. At a bin's own point the nearest neighbours tie, and which of them
    come in is left to the device.
    """
    bins = _bins_on(ab.device, ab.dtype)
    distances = (ab[..., :1] - bins[:, 0]).square_().add_((ab[..., 1:] - bins[:, 1]).square_())
    nearest, indices = distances.topk(neighbours, dim=-1, largest=False)
    return indices, (nearest / (-2 * sigma**2)).softmax(dim=-1)


def color_prior(ab: Tensor, counts: Tensor | None = None, neighbours: int = 10, sigma: float = 5.0) -> Tensor:
    """How often each color occurs [Q]: the mean soft code of a and b [N, 2], each counted `counts` [N] times."""
    indices, shares = soft_code(ab, neighbours, sigma)
    times = ab.new_ones(len(ab)) if counts is None else counts.to(ab)
    sums = ab.new_zeros(COLORS).index_add_(0, indices.flatten(), (shares * times[:, None]).flatten())
    return sums / times.sum()


def rebalancing_weights(prior: Tensor, rebalance: float = 0.5) -> Tensor:
    """How much a label of each color counts [Q]: the less often it occurs the more, 1 in the mean over `prior` [Q].

    rebalance: share in (0, 1] of the uniform distribution that is mixed in, over all colors, so that one that never
    occurs has a finite weight; 1: all count the same.
    """
    if not 0 < rebalance <= 1:
        raise ValueError(f"rebalance = {rebalance}: use a share above 0, so that no weight is infinite, up to 1")
    weights = 1 / ((1 - rebalance) * prior + rebalance / len(prior))
    return weights / (prior * weights).sum()


def colorization_loss(
    logits: Tensor, ab: Tensor, color_weights: Tensor, *, neighbours: int = 10, sigma: float = 5.0
) -> ColorizationLoss:
    """Logits [B, Q, h, w] against a and b [B, 2, h, w]: the cross entropy of the soft code, times the nearest color's
    weight, and 0 for gray images. A mean over all places: a gray batch has loss 0 and no gradient. Computed in float32,
    whatever the autocast; float64 stays.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits, ab = in_full(logits), in_full(ab)
        bins, shares = (x.movedim(-1, 1) for x in soft_code(ab.movedim(1, -1), neighbours, sigma))
        colored = are_colored(ab).to(logits)[:, None, None].expand(-1, *ab.shape[-2:])
        weights = color_weights.to(logits)[bins[:, 0]] * colored
        entropies = logits.logsumexp(dim=1) - (shares * logits.gather(1, bins)).sum(dim=1)
        right = (logits.detach().argmax(dim=1) == bins[:, 0]) * colored
        floors = torch.special.entr(shares).sum(dim=1)
        return ColorizationLoss(
            (weights * entropies).mean(), (weights * floors).mean(), right.mean(), colored.mean().to(right)
        )


def colors_of(logits: Tensor, temperature: float = 0.38) -> Tensor:
    """Logits [B, Q, ...] -> a and b [B, 2, ...], for pictures: the annealed mean; 1 is the mean, towards 0 the mode."""
    return torch.einsum("bq...,qc->bc...", (logits / temperature).softmax(dim=1), _bins_on(logits.device, logits.dtype))


@cache
def _bins_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Copied there once: a copy in each step would keep the host waiting."""
    return color_bins().to(device, dtype)


@cache
def _arrays() -> dict[str, NDArray[Any]]:
    with np.load(str(files("simclr_plus.parts") / "color_bins.npz"), allow_pickle=False) as arrays:
        return dict(arrays)
