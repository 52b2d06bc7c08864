"""The autoencoder's loss: squared error of the pictures, and of a variational one the divergence from N(0, I).

Plain, denoising (Vincent et al. 2008) and variational (Kingma and Welling 2014, arXiv:1312.6114). The code is h itself
or a linear layer of it, the decoder `parts.decoder.Decoder`. B images, D dimensions of z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.full_precision import in_full
from simclr_plus.parts.decoder import in_unit_range

ACTIVE = 0.01  # variance of a mean over images from which on a dimension of z says something (Burda et al. 2016)


def corrupted(images: Tensor, noise: Tensor, deviation: float) -> Tensor:
    """Images in [0, 1] with normal noise of that deviation, in [0, 1] again; deviation 0 changes no bit."""
    return in_unit_range(images + deviation * noise) if deviation else images


def sampled(mean: Tensor, log_variance: Tensor, noise: Tensor) -> Tensor:
    """z [B, D] = mean + noise e^(log_variance / 2), with noise from N(0, I): its gradient goes to both."""
    return mean + (log_variance / 2).exp() * noise


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Of N(mean, e^log_variance) from N(0, I), in nats, [B, D] -> [B], in float32 or float64."""
    mean, log_variance = in_full(mean), in_full(log_variance)
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(1)


def reconstruction_loss(made: Tensor, images: Tensor) -> Tensor:
    """The squared error, its mean over all values. made and images: [B, C, S, S]."""
    return F.mse_loss(made, images)


def variational_loss(
    made: Tensor, images: Tensor, mean: Tensor, log_variance: Tensor, *, kl_weight: float = 1.0
) -> Tensor:
    """The squared error + kl_weight * KL of an image / its number of values.

    With kl_weight = 2 s^2 it is, up to a factor and a constant, the bound of a decoder whose pixels have deviation s:
    1 is s = 0.7, far too wide for values in [0, 1]; 0.01 is s = 0.07.
    """
    values = images[0].numel()
    return reconstruction_loss(made, images) + kl_weight * kl_divergence(mean, log_variance).mean() / values


@torch.no_grad()
def active_dimensions(mean: Tensor) -> int:
    """Dimensions of z whose mean [B, D] varies over the images of the global batch: variance above 0.01; 0: collapse.

    Every process must call it.
    """
    x = mean.double()
    sums = distributed.sum_over_processes(torch.stack([x.mean(0), x.square().mean(0)]))
    first, second = sums / distributed.world_size()
    return int((second - first.square() > ACTIVE).sum())
