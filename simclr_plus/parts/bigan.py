"""BiGAN: which goes with which, an image with its code or a code with its picture? The discriminator, and its losses.

Donahue, Krähenbühl, Darrell 2017 (arXiv:1605.09782; jeffdonahue/bigan at 06342ee), and towards BigBiGAN (Donahue,
Simonyan 2019, arXiv:1907.02544) unary scores, the hinge and spectral norm. A real pair is (x, E(x)), a fake one (G(z),
z); a score is higher for what the discriminator takes for real. E's part of the loss makes D call real pairs fake.

B images, D dimensions of z, S side of the pictures, C channels. G is `parts.decoder.Decoder`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from simclr_plus.full_precision import in_full
from simclr_plus.global_batch_norm import GlobalBatchNorm2d
from simclr_plus.parts.decoder import DEVIATION, start_small
from simclr_plus.parts.generative_shapes import doublings, hidden_width, widths
from simclr_plus.parts.spectral_norm import SpectralConv2d, SpectralLinear

Form = Literal["logistic", "hinge"]
SLOPE = 0.2  # of leaky ReLUs, below 0


class Discriminator(Protocol):
    """What `scores_of` calls."""

    batch_statistics: bool  # whether rows of a pass see each other

    def __call__(self, x: Tensor, z: Tensor, /) -> Tensor:
        """Pictures [B, C, S, S] in [0, 1] and codes [B, D] -> scores [B, scores of a pair]."""


class LatentHead(nn.Module):
    """E's last layer, h [B, input_dim] -> z [B, latent_dim], with the support of the prior.

    "uniform", z from U(-1, 1): 2 sigmoid - 1. "normal", z from N(0, I): mean + softplus(s) * noise from N(0, I).
    """

    def __init__(self, input_dim: int, latent_dim: int, prior: Literal["uniform", "normal"] = "uniform") -> None:
        super().__init__()
        self.prior = prior
        self.linear = nn.Linear(input_dim, latent_dim * (2 if prior == "normal" else 1), bias=False)
        nn.init.normal_(self.linear.weight, std=DEVIATION)

    def forward(self, h: Tensor, noise: Tensor | None = None) -> Tensor:
        """z, in float32 under autocast too; noise [B, latent_dim] for a normal prior, without it the mean."""
        y: Tensor = self.linear(h)
        y = in_full(y)
        if self.prior == "uniform":
            return 2 * torch.sigmoid(y) - 1
        mean, deviation = y.chunk(2, dim=1)
        return mean if noise is None else mean + F.softplus(deviation) * noise


class JointDiscriminator(nn.Module):
    """One score of a pair, as in bigan: convolutions 5x5 of x, into all but the first of which z is added.

    Sides below 16 have no layer that z could enter: ValueError. Its batch norm must see real and fake pairs apart.
    """

    batch_statistics = True

    def __init__(self, latent_dim: int, image_size: int, width: int = 64, channels: int = 3) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(
                f"image_size = {image_size}: z enters from the second map on, which takes 16 pixels or more"
            )
        maps, last_side = widths(image_size, width), doublings(image_size)[1]
        self.first = nn.Conv2d(channels, maps[0], 5, stride=2, padding=2)
        self.convolutions, self.norms, codes = nn.ModuleList(), nn.ModuleList(), list[nn.Linear]()
        for a, b in pairwise(maps):
            self.convolutions.append(nn.Conv2d(a, b, 5, stride=2, padding=2, bias=False))
            codes.append(nn.Linear(latent_dim, b, bias=False))
            self.norms.append(GlobalBatchNorm2d(b))
        self.codes = nn.ModuleList(codes)
        self.score = nn.Linear(maps[-1] * last_side**2, 1, bias=False)
        start_small(self)
        for code in codes:
            nn.init.normal_(code.weight, std=25 * DEVIATION)  # the original's, times the kernel's size
        nn.init.zeros_(self.score.weight)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Scores [B, 1]; all 0 at the start."""
        y = F.leaky_relu(self.first(2 * x - 1), SLOPE)
        for convolution, code, norm in zip(self.convolutions, self.codes, self.norms, strict=True):
            y = F.leaky_relu(norm(convolution(y) + code(z)[:, :, None, None]), SLOPE)
        scores: Tensor = self.score(y.flatten(1))
        return scores


class SpectralDiscriminator(nn.Module):
    """BigBiGAN's form in small: F of x and H of z to 16 `width` features each, J of both, every layer spectral.

    unary: two further scores of a pair, of x alone and of z alone. Layers begin as PyTorch's.
    """

    batch_statistics = False

    def __init__(
        self, latent_dim: int, image_size: int, width: int = 64, channels: int = 3, *, unary: bool = True
    ) -> None:
        super().__init__()
        maps, hidden = widths(image_size, width), hidden_width(width)
        self.of_x = nn.Sequential()
        for a, b in zip([channels, *maps], maps, strict=False):
            self.of_x += nn.Sequential(SpectralConv2d(a, b, 3, padding=1), nn.LeakyReLU(SLOPE))
            self.of_x += nn.Sequential(SpectralConv2d(b, b, 4, stride=2, padding=1), nn.LeakyReLU(SLOPE))
        values = maps[-1] * (image_size >> len(maps)) ** 2
        self.of_x += nn.Sequential(nn.Flatten(), *_layers(values, hidden))
        self.of_z = nn.Sequential(*_layers(latent_dim, hidden, hidden))
        self.of_both = nn.Sequential(*_layers(2 * hidden, hidden, hidden), SpectralLinear(hidden, 1))
        self.score_x = SpectralLinear(hidden, 1) if unary else None
        self.score_z = SpectralLinear(hidden, 1) if unary else None

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Scores [B, 3]: of the pair, of x, of z; without unary ones [B, 1]. Moves the spectral vectors by a step."""
        of_x, of_z = self.of_x(2 * x - 1), self.of_z(z)
        scores = [self.of_both(torch.cat([of_x, of_z], dim=1))]
        if self.score_x is not None and self.score_z is not None:
            scores += [self.score_x(of_x), self.score_z(of_z)]
        return torch.cat(scores, dim=1)


def _layers(*sizes: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for a, b in pairwise(sizes):
        layers += [SpectralLinear(a, b), nn.LeakyReLU(SLOPE)]
    return layers


def scores_of(
    discriminator: Discriminator, real: tuple[Tensor, Tensor], fake: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Scores of real and of fake pairs (x, z): two passes for batch norm, which must not see both; else one."""
    if discriminator.batch_statistics:
        return discriminator(*real), discriminator(*fake)
    scores = discriminator(torch.cat([real[0], fake[0]]), torch.cat([real[1], fake[1]]))
    return scores[: len(real[0])], scores[len(real[0]) :]


class Frozen:
    """A network whose parameters get no gradient and whose buffers stay: inputs get their gradient through it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.batch_statistics = bool(getattr(network, "batch_statistics", False))

    def __call__(self, *inputs: Tensor) -> Tensor:
        """What the network gives for inputs."""
        state = {name: parameter.detach() for name, parameter in self.network.named_parameters()}
        state |= {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        outputs: Tensor = functional_call(self.network, state, inputs)
        return outputs


def discriminator_loss(real: Tensor, fake: Tensor, form: Form = "hinge") -> Tensor:
    """What D minimises, from scores [B, scores of a pair]; the mean runs over all scores, unary ones too.

    logistic: half the sum of both cross entropies, ln 2 for scores of 0; hinge: 2. Computed in float32 or float64.
    """
    real, fake = in_full(real), in_full(fake)
    if form == "logistic":
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def encoder_generator_loss(real: Tensor, fake: Tensor, form: Form = "hinge") -> Tensor:
    """What E (by real pairs) and G (by fake ones) minimise, from scores of a frozen D.

    logistic: the labels of D's loss the other way round, ln 2 for scores of 0; hinge: mean real - mean fake, 0.
    Computed in float32 or float64.
    """
    real, fake = in_full(real), in_full(fake)
    if form == "logistic":
        return (F.softplus(real).mean() + F.softplus(-fake).mean()) / 2
    return real.mean() - fake.mean()
