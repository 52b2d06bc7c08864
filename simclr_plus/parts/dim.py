"""DIM: features of an image find its places among those of other images (Hjelm et al. 2019), local objective and prior.

The authors' code is rdevon/DIM at bac4765: `MI1x1ConvNet` in mi_networks.py is `PlaceScorer`, dim_losses.py is
`DIMLoss`; their Donsker-Varadhan loss stops with an error of shapes, so that its formula is taken here.

N: images of this process, M: images of all processes, U: units, L: places of a map, K: global vectors of an image.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simclr_plus import distributed
from simclr_plus.full_precision import in_full
from simclr_plus.global_batch_norm import GlobalBatchNorm2d

CHUNK_ELEMENTS = 1 << 22  # scores held at a time
OWN_PLACES = -10.0  # what the authors' NCE puts for the other places of the own image
Objective = Literal["nce", "jsd", "dv"]


class PlaceScorer(nn.Module):
    """A 1x1 network of each place, whose products are scores: [N, C, G, G] -> [N, U, G, G].

    Two convolutions with a batch norm between, beside a linear shortcut, then a layer norm over the units of each
    place. The shortcut starts as the identity and noise where U is C or more.
    """

    def __init__(self, input_dim: int, units: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_dim, units, 1, bias=False)
        self.bn = GlobalBatchNorm2d(units)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(units, units, 1)
        self.shortcut = nn.Conv2d(input_dim, units, 1, bias=False)
        self.norm = nn.LayerNorm(units)
        if units >= input_dim:
            nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
            with torch.no_grad():
                self.shortcut.weight[:, :, 0, 0].fill_diagonal_(1.0)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, G, G] -> [N, U, G, G]."""
        places = self.conv2(self.relu(self.bn(self.conv1(maps)))) + self.shortcut(maps)
        normalised: Tensor = self.norm(places.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return normalised


class Scored(NamedTuple):
    """The global vector Y [N, D], and what gives scores: of the whole image [N, U], of its places [N, U, G, G]."""

    vector: Tensor
    whole: Tensor
    places: Tensor


class DIMHeads(nn.Module):
    """h [N, F] and a map [N, C, G, G] of an encoder -> `Scored`. Y is a linear layer on h; the networks share nothing.

    units: U, 2048 in the authors' code (1024 in their README with NCE). global_dim: D of Y.
    """

    def __init__(self, feature_dim: int, local_dim: int, units: int = 2048, global_dim: int = 64) -> None:
        super().__init__()
        self.vector = nn.Linear(feature_dim, global_dim)
        self.whole = PlaceScorer(global_dim, units)
        self.places = PlaceScorer(local_dim, units)

    def forward(self, h: Tensor, maps: Tensor) -> Scored:
        """[N, F], [N, C, G, G] -> Y and two factors of scores."""
        vector = self.vector(h)
        return Scored(vector, self.whole(vector[:, :, None, None]).flatten(1), self.places(maps))


class DIMLoss(nn.Module):
    """The negative estimate of mutual information between images and their places. A score is a product, not scaled.

    objective: "nce", a cross entropy for each place against all places of other images; "jsd", the Jensen-Shannon
    divergence by softplus; "dv", the bound of Donsker and Varadhan.
    exact_mask: leave other places of the own image out of NCE's denominator. The authors give them a score of -10
    (False), which counts where all scores are far below.
    gather_distributed: negatives of all processes. The mean over processes is then the loss of the global batch.
    """

    def __init__(self, objective: Objective = "nce", exact_mask: bool = False, gather_distributed: bool = True) -> None:
        super().__init__()
        if objective not in ("nce", "jsd", "dv"):
            raise ValueError(f'objective = "{objective}": choose "nce", "jsd" or "dv"')
        self.objective: Objective = objective
        self.exact_mask, self.gather_distributed = exact_mask, gather_distributed

    def forward(self, whole: Tensor, places: Tensor, *, equal_rows: bool = False) -> Tensor:
        """Of whole images [N, U] or [N, U, K], of places [N, U, L] or [N, U, G, G], a scalar.

        equal_rows=True: see distributed.gather. Raises ValueError for shapes that do not fit and for a single image,
        SimclrPlusError for uneven batches.
        """
        gather = self.gather_distributed and distributed.world_size() > 1
        _check(whole, places, gather)
        whole = in_full(whole if whole.ndim == 3 else whole[:, :, None])
        columns = in_full(places.flatten(2))
        if gather:
            columns = distributed.gather(columns, equal_rows=equal_rows).flatten(0, 1)
        first = distributed.rank() * len(whole) * gather
        positive, negative = self._of_all_parts(whole, columns, first)
        vectors, (images, _, length) = whole.shape[2], columns.shape
        positive = positive / (len(whole) * vectors * length)
        if self.objective == "nce":
            return positive
        if self.objective == "jsd":
            return negative / (len(whole) * vectors * (images - 1) * length) + positive - 2 * math.log(2)
        if gather:  # the logarithm is of the mean over all processes
            negative = distributed.gather(negative[None], equal_rows=True).flatten().logsumexp(0)
        return negative - math.log(images * vectors * (images - 1) * length) + positive

    def _of_all_parts(self, whole: Tensor, columns: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """A sum over places of own images, and what the places of others give; see `_of_part`."""
        parts = torch.split(whole, max(1, CHUNK_ELEMENTS // (whole.shape[2] * columns.shape[0] * columns.shape[2])))
        results = []
        for part in parts:
            arguments = (part, columns, first, self.objective, self.exact_mask)
            results.append(
                _of_part(*arguments)
                if len(parts) == 1
                else checkpoint(_of_part, *arguments, use_reentrant=False, preserve_rng_state=False)
            )
            first += len(part)
        positive, negative = torch.stack(results).unbind(1)
        return positive.sum(), negative.logsumexp(0) if self.objective == "dv" else negative.sum()


def _of_part(whole: Tensor, columns: Tensor, first: int, objective: Objective, exact_mask: bool) -> Tensor:
    """Of own images [n, U, K] and all places [M, U, L], two sums: over places of own images, over those of others.

    nce: the cross entropies, nothing; jsd: softplus(-s), softplus(s); dv: -s, the logarithm of the sum of e^s.
    """
    with torch.autocast(whole.device.type, enabled=False):
        length = columns.shape[2]
        scores = whole.transpose(1, 2).flatten(0, 1) @ columns.transpose(0, 1).flatten(1)
        scores = scores.view(len(whole), -1, len(columns), length)  # [n, K, M, L]
        own = torch.arange(first, first + len(whole), device=whole.device)[:, None, None, None]
        own = own.expand(-1, scores.shape[1], 1, length)
        positive = scores.gather(2, own).squeeze(2)
        others = scores.scatter(2, own, OWN_PLACES if objective == "nce" and not exact_mask else -torch.inf).flatten(2)
        if objective == "jsd":
            return torch.stack([_softplus(-positive).sum(), _softplus(others).sum()])
        if objective == "dv":
            return torch.stack([-positive.sum(), others.flatten().logsumexp(0)])
        of_others = others.logsumexp(dim=2, keepdim=True)
        return torch.stack([(torch.logaddexp(positive, of_others) - positive).sum(), positive.new_zeros(())])


def _softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), which PyTorch's is for x up to a threshold; of minus infinity 0."""
    return F.softplus(x, threshold=40.0)


class PriorDiscriminator(nn.Module):
    """Tells vectors in [0, 1]^D that were drawn from those that images gave: D -> 1000 -> 200 -> 1, ReLU between."""

    def __init__(self, dim: int = 64, hidden: tuple[int, int] = (1000, 200)) -> None:
        super().__init__()
        self.layer1 = nn.Linear(dim, hidden[0])
        self.layer2 = nn.Linear(hidden[0], hidden[1])
        self.layer3 = nn.Linear(hidden[1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D] -> scores [N], high for what was drawn."""
        return self._scores(x, [(layer.weight, layer.bias) for layer in self._layers])[0]

    def fixed(self, x: Tensor) -> Tensor:
        """The same with a gradient for x alone, none for the weights."""
        return self._scores(x, [(layer.weight.detach(), layer.bias.detach()) for layer in self._layers])[0]

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [N] and their derivative by x [N, D], written out, so that weights have a gradient through it."""
        scores, (first, second) = self._scores(x, [(layer.weight, layer.bias) for layer in self._layers])
        slope = (self.layer3.weight * second) @ self.layer2.weight * first
        return scores, slope @ self.layer1.weight

    @property
    def _layers(self) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
        return self.layer1, self.layer2, self.layer3

    @staticmethod
    def _scores(x: Tensor, weights: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
        """Scores, and of both hidden layers 1 where a number is above 0."""
        above = []
        for weight, bias in weights[:2]:
            x = F.relu(F.linear(x, weight, bias))
            above.append((x > 0).to(x.dtype))
        return F.linear(x, *weights[2]).squeeze(1), above


class PriorTerms(NamedTuple):
    """Minimised by what gives the vectors (times gamma), by the discriminator, and by it as well: its penalty."""

    encoder: Tensor
    discriminator: Tensor
    penalty: Tensor


def prior_terms(discriminator: PriorDiscriminator, vectors: Tensor, samples: Tensor) -> PriorTerms:
    """Vectors Y [N, D] of images, whose sigmoid is to be as samples [N, D] from [0, 1]. No term reaches both networks.

    discriminator: softplus(-d(sample)) + softplus(d(y)); encoder: softplus(-d(y)), both means; penalty: half the sum,
    over both kinds of input, of the mean square length of d's derivative by its input.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        y = torch.sigmoid(in_full(vectors))
        drawn, slope_of_drawn = discriminator.with_slope(samples.to(y.dtype))
        scores, slope = discriminator.with_slope(y.detach())
        penalty = (slope.square().sum(1).mean() + slope_of_drawn.square().sum(1).mean()) / 2
        of_discriminator = F.softplus(-drawn).mean() + F.softplus(scores).mean()
        return PriorTerms(F.softplus(-discriminator.fixed(y)).mean(), of_discriminator, penalty)


def _check(whole: Tensor, places: Tensor, gather: bool) -> None:
    if whole.ndim not in (2, 3) or places.ndim not in (3, 4) or whole.shape[:2] != places.shape[:2]:
        raise ValueError(
            f"the loss takes [N, U] or [N, U, K] of images and [N, U, L] or [N, U, G, G] of their places, got "
            f"{tuple(whole.shape)} and {tuple(places.shape)}"
        )
    if len(whole) == 1 and not gather:
        raise ValueError("the loss of a single image has no negatives; give two images or more")
