"""AMDIM: a view's features at one scale find the places of the other view (Bachman, Hjelm, Buchwalter 2019).

The authors' code is Philip-Bachman/amdim-public at 8754ae1: `FakeRKHSConvNet` in model.py is `PlaceNet`, and
`LossMultiNCE` in costs.py is `AMDIMLoss`. Their features have the names of their sides: f1, f5 and f7.

N: images of this process, M: images of all processes, D: units, L: places of a map, G: its side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simclr_plus import distributed
from simclr_plus.full_precision import in_full
from simclr_plus.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d

CHUNK_ELEMENTS = 1 << 22  # scores held at a time


class Scales(NamedTuple):
    """What a view is compared by: its whole [N, D], its coarse map [N, D, G, G], its fine map [N, D, G', G']."""

    whole: Tensor
    coarse: Tensor
    fine: Tensor


class Terms(NamedTuple):
    """The parts of the loss: from the whole to coarse and fine places, from coarse to coarse ones, the regulariser.

    mean_square: of all scores before the clip, which the regulariser is 3 of, times its weight.
    """

    whole_to_coarse: Tensor
    whole_to_fine: Tensor
    coarse_to_coarse: Tensor
    regulariser: Tensor
    mean_square: Tensor

    @property
    def total(self) -> Tensor:
        """The sum, which is minimised."""
        return self.whole_to_coarse + self.whole_to_fine + self.coarse_to_coarse + self.regulariser


def on_grid(maps: Tensor, side: int) -> Tensor:
    """[N, C, H, W] -> [N, C, side, side]: the places in the middle of equal cells; smaller sides stay as they are.

    Places are read, not pooled, so that each keeps its field of view.
    """
    for dimension in (2, 3):
        length = maps.shape[dimension]
        if length > side:
            cells = torch.arange(side, device=maps.device)
            maps = maps.index_select(dimension, (2 * cells + 1) * length // (2 * side))
    return maps


class PlaceNet(nn.Module):
    """A 1x1 network of each place: [N, C, G, G] -> [N, D, G, G].

    Two convolutions beside a linear shortcut, then a batch norm. It starts as the normalised shortcut, which is the
    identity and noise where D is C or more.
    """

    def __init__(self, input_dim: int, units: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(input_dim, units, 1, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(units, units, 1, bias=False)
        self.shortcut = nn.Conv2d(input_dim, units, 1)
        self.bn = GlobalBatchNorm2d(units)
        nn.init.zeros_(self.conv2.weight)
        if units >= input_dim:
            nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
            with torch.no_grad():
                self.shortcut.weight[:, :, 0, 0].fill_diagonal_(1.0)

    def forward(self, maps: Tensor) -> Tensor:
        """[N, C, G, G] -> [N, D, G, G]."""
        places: Tensor = self.bn(self.conv2(self.relu(self.conv1(maps))) + self.shortcut(maps))
        return places


class AMDIMHeads(nn.Module):
    """h [N, F] and two maps of an encoder -> `Scales` of D units.

    The whole is h behind a batch norm, as in the paper, which has no projection head; where D is not F, a linear layer
    stands before. Batch statistics are those of one call: call it once for each view, as the authors do.
    """

    def __init__(self, feature_dim: int, coarse_dim: int, fine_dim: int, units: int = 0) -> None:
        super().__init__()
        units = units or feature_dim
        linear = nn.Identity() if units == feature_dim else nn.Linear(feature_dim, units, bias=False)
        self.whole = nn.Sequential(linear, GlobalBatchNorm1d(units))
        self.coarse = PlaceNet(coarse_dim, units)
        self.fine = PlaceNet(fine_dim, units)

    def forward(self, h: Tensor, coarse: Tensor, fine: Tensor) -> Scales:
        """[N, F], [N, C, G, G], [N, C', G', G'] -> three features of D units."""
        return Scales(self.whole(h), self.coarse(coarse), self.fine(fine))


class AMDIMLoss(nn.Module):
    """The loss of two views: `Scales` of each, and the coarse place [N] that each is to be told from.

    clip: scores are bent to stay within +-clip (the default of the authors' train.py; their class has 10).
    regulariser: weight of the mean square of the scores before that.
    gather_distributed: negatives of all processes. The mean over processes is then the loss of the global batch.
    """

    def __init__(self, clip: float = 20.0, regulariser: float = 0.05, gather_distributed: bool = True) -> None:
        super().__init__()
        if not (clip > 0 and regulariser >= 0):
            raise ValueError(
                f"clip = {clip}, regulariser = {regulariser}: give a clip above 0 and a weight of 0 or more"
            )
        self.clip, self.regulariser, self.gather_distributed = clip, regulariser, gather_distributed

    def forward(
        self, first: Scales, second: Scales, place0: Tensor | None = None, place1: Tensor | None = None
    ) -> Tensor:
        """The sum of all terms, a scalar; see `terms`."""
        return self.terms(first, second, place0, place1).total

    def terms(
        self,
        first: Scales,
        second: Scales,
        place0: Tensor | None = None,
        place1: Tensor | None = None,
        *,
        equal_rows: bool = False,
    ) -> Terms:
        """Each term of the loss. A place is row times side plus column; None: PyTorch's generator draws them.

        Everything crosses views, both ways. equal_rows=True: see distributed.gather. Raises ValueError for features
        that do not fit each other and for a single image, SimclrPlusError for uneven batches.
        """
        gather = self.gather_distributed and distributed.world_size() > 1
        _check(first, second, gather)
        first, second = (Scales(*map(in_full, view)) for view in (first, second))
        losses: list[list[Tensor]] = [[], [], []]
        squares = []
        for source, target, place in ((first, second, place0), (second, first, place1)):
            coarse, fine = (_places_of_all(maps, gather, equal_rows) for maps in (target.coarse, target.fine))
            pairs = ((source.whole, coarse), (source.whole, fine), (_at(source.coarse, place), coarse))
            for term, (rows, columns) in zip(losses, pairs, strict=True):
                loss, square = places_found(
                    rows, columns, clip=self.clip, first=distributed.rank() * len(rows) * gather
                )
                term.append(loss)
                squares.append(square)
        mean_square = torch.stack(squares).mean()
        to_coarse, to_fine, coarse_to_coarse = (torch.stack(term).mean() for term in losses)
        return Terms(to_coarse, to_fine, coarse_to_coarse, 3 * self.regulariser * mean_square, mean_square)


def places_found(rows: Tensor, columns: Tensor, *, clip: float, first: int = 0) -> tuple[Tensor, Tensor]:
    """Vectors [N, D] of own images against the places [M, D, L] of all, of which `first` is the first own image.

    Returns the mean over N L of -log e^s / (e^s + sum over the places of other images), s the clipped score of a place
    of the own image; and the mean square of all N M L scores before the clip. Places of one image do not compete.
    More than `CHUNK_ELEMENTS` scores are made again in the backward pass, a part at a time.
    """
    parts = list(_in_parts(rows, columns))
    totals = rows.new_zeros(2)
    for start, part in parts:
        arguments = (part, columns, clip, first + start)
        totals = totals + (
            _summed(*arguments)
            if len(parts) == 1
            else checkpoint(_summed, *arguments, use_reentrant=False, preserve_rng_state=False)
        )
    places = len(rows) * columns.shape[2]
    return totals[0] / places, totals[1] / (places * len(columns))


@torch.no_grad()
def place_accuracy(source: Tensor, target: Tensor, *, gather: bool = True, equal_rows: bool = False) -> Tensor:
    """Share of the places of target maps [N, D, G, G] whose score with their own image's source [N, D] is the best.

    It is to beat the places of all other images: by chance 1 in 1 + L (M - 1). A mean over the images of this process.
    """
    gather = gather and distributed.world_size() > 1
    columns = _places_of_all(in_full(target), gather, equal_rows)
    first, right = distributed.rank() * len(source) * gather, torch.zeros((), device=source.device)
    for start, part in _in_parts(in_full(source), columns):
        positive, others = _own_and_others(_scores(part, columns), first + start)
        right += (positive > others.amax(dim=(1, 2))[:, None]).sum()
    return right / (len(source) * columns.shape[2])


def _in_parts(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Rows as many at a time as scores are held, and the number of the first of them."""
    start = 0
    for part in torch.split(rows, max(1, CHUNK_ELEMENTS // (columns.shape[0] * columns.shape[2]))):
        yield start, part
        start += len(part)


def _summed(rows: Tensor, columns: Tensor, clip: float, first: int) -> Tensor:
    """[2]: the sum over all places of the cross entropies, and of the squares of the scores."""
    with torch.autocast(rows.device.type, enabled=False):
        scores = _scores(rows, columns)
        positive, others = _own_and_others(clip * torch.tanh(scores / clip), first)
        all_others = others.flatten(1).logsumexp(dim=1)[:, None]
        return torch.stack([(torch.logaddexp(positive, all_others) - positive).sum(), scores.square().sum()])


def _scores(rows: Tensor, columns: Tensor) -> Tensor:
    """[N, D] and [M, D, L] -> [N, M, L]."""
    of_all = rows @ columns.transpose(0, 1).flatten(1) / rows.shape[1] ** 0.5
    return torch.unflatten(of_all, 1, (len(columns), columns.shape[2]))


def _own_and_others(scores: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Of the own image [N, L], and all of them with those at minus infinity [N, M, L]."""
    own = torch.arange(first, first + len(scores), device=scores.device)[:, None, None].expand(-1, 1, scores.shape[2])
    return scores.gather(1, own).squeeze(1), scores.scatter(1, own, -torch.inf)


def _places_of_all(maps: Tensor, gather: bool, equal_rows: bool) -> Tensor:
    """[N, D, G, G] -> [M, D, L]."""
    places = maps.flatten(2)
    return distributed.gather(places, equal_rows=equal_rows).flatten(0, 1) if gather else places


def _at(maps: Tensor, place: Tensor | None) -> Tensor:
    """The vector [N, D] at one place of each map [N, D, G, G]."""
    places = maps.flatten(2)
    if place is None:
        place = torch.randint(places.shape[2], (len(maps),), device=maps.device)
    return places.gather(2, place[:, None, None].expand(-1, places.shape[1], 1)).squeeze(2)


def _check(first: Scales, second: Scales, gather: bool) -> None:
    shapes = [tuple(x.shape) for x in first]
    rows = {len(x) for x in first}
    units = {x.shape[1] for x in first}
    dimensions = [x.ndim for x in first]
    if shapes != [tuple(x.shape) for x in second] or len(rows) > 1 or len(units) > 1 or dimensions != [2, 4, 4]:
        raise ValueError(
            f"the loss takes [N, D], [N, D, G, G] and [N, D, G', G'] of each of two views, got {shapes} and "
            f"{[tuple(x.shape) for x in second]}"
        )
    if rows == {1} and not gather:
        raise ValueError("the loss of a single image has no negatives; give two images or more")
