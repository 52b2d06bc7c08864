"""CPC: a context of the rows of patches above predicts rows below (van den Oord et al. 2018; v2: Henaff et al. 2019).

The authors published no code. The networks and the loss of v2 are the pseudocode of its appendix; those of v1 are
sections 2.3 and 3.2 of its paper, with the context network of v2. Patches are those of `encoders/patches.py`.

N: images of this process, M: images of all processes, F: features of a patch, [H, W]: the grid of patches, D:
dimensions that are compared, o: an offset in rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from simclr_plus import distributed
from simclr_plus.full_precision import in_full

CHUNK_ELEMENTS = 1 << 23  # scores held at a time
DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {  # [N, F, H, W] -> the same with the rows to come further down
    "down": lambda z: z,
    "up": lambda z: z.flip(2),
    "right": lambda z: z.transpose(2, 3),
    "left": lambda z: z.flip(3).transpose(2, 3),
}


class Predicted(NamedTuple):
    """Of one direction: what is to be found [N, D, H, W], and by offset what it is predicted to be [N, D, H - o, W].

    Row r of a prediction is made from rows 0 to r, and is of row r + o.
    """

    targets: Tensor
    predictions: Mapping[int, Tensor]


class _ContextBlock(nn.Module):
    """x -> x + a, where a sees its own row to one place on each side and the row above."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, width, 1)
        self.conv2 = nn.Conv2d(width, width, (1, 3), padding=(0, 1))
        self.conv3 = nn.Conv2d(width, width, (2, 1))
        self.conv4 = nn.Conv2d(width, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv2(F.relu(self.conv1(x)))  # no ReLU after it, as in the pseudocode
        a = self.conv3(F.pad(a, (0, 0, 1, 0)))  # a row of zeros on top
        out: Tensor = x + self.conv4(F.relu(a))
        return out


class ContextNetwork(nn.Module):
    """Features [N, F, H, W] -> contexts of the same shape; that of a place sees its row and the rows above alone."""

    def __init__(self, dim: int, width: int = 256, blocks: int = 5) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(_ContextBlock(dim, width) for _ in range(blocks)))

    def forward(self, z: Tensor) -> Tensor:
        """[N, F, H, W] -> [N, F, H, W]."""
        return F.relu(self.blocks(z))


class Predictor(nn.Module):
    """One direction, downwards: contexts, and for each offset a map of its own.

    version 1: W_o c predicts z itself, so that the score is z' W_o c, without offsets. version 2: a linear layer of c,
    times `score_scale`, predicts a linear layer of z, both of target_dim.
    """

    def __init__(
        self,
        dim: int,
        offsets: Sequence[int],
        version: Literal[1, 2] = 2,
        *,
        target_dim: int = 64,
        score_scale: float = 0.1,
        width: int = 256,
        blocks: int = 5,
    ) -> None:
        super().__init__()
        if version not in (1, 2) or not offsets or min(offsets) < 1:
            raise ValueError(f"version = {version}, offsets = {list(offsets)}: give version 1 or 2 and rows from 1 on")
        self.context = ContextNetwork(dim, width, blocks)
        self.target = nn.Conv2d(dim, target_dim, 1) if version == 2 else nn.Identity()
        out = target_dim if version == 2 else dim
        self.predict = nn.ModuleDict({str(o): nn.Conv2d(dim, out, 1, bias=version == 2) for o in offsets})
        self.scale = score_scale if version == 2 else 1.0

    def forward(self, z: Tensor) -> Predicted:
        """[N, F, H, W] -> targets, and predictions by offset. Raises ValueError for a grid that has no such rows."""
        context, rows = self.context(z), z.shape[2]
        predictions = {}
        for name, layer in self.predict.items():
            if int(name) >= rows:
                raise ValueError(f"offset {name} leads out of {rows} rows of patches: use smaller ones, or more rows")
            predictions[int(name)] = self.scale * layer(context[:, :, : rows - int(name)])
        return Predicted(self.target(z), predictions)


class CPCHeads(nn.Module):
    """Features of a grid of patches -> `Predicted` for each direction, whose networks share nothing.

    directions: 1 (from above) or 4 (from above, below, left and right). Other arguments are those of `Predictor`.
    """

    def __init__(
        self,
        dim: int,
        offsets: Sequence[int],
        version: Literal[1, 2] = 2,
        directions: Literal[1, 4] = 4,
        *,
        target_dim: int = 64,
        score_scale: float = 0.1,
        width: int = 256,
        blocks: int = 5,
    ) -> None:
        super().__init__()
        if directions not in (1, 4):
            raise ValueError(f"directions = {directions}: use 1, from above, or 4")
        names = list(DIRECTIONS)[:directions]
        settings = {"target_dim": target_dim, "score_scale": score_scale, "width": width, "blocks": blocks}
        self.predictors = nn.ModuleDict({n: Predictor(dim, offsets, version, **settings) for n in names})  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> dict[str, Predicted]:
        """[N, F, H, W] -> by direction. Their grids are turned so that predictions go down."""
        return {name: predictor(DIRECTIONS[name](z)) for name, predictor in self.predictors.items()}


class CPCLoss(nn.Module):
    """Cross entropy of each predicted place among all places of a batch: mean over places, then over offsets.

    candidates: 0 for the places of all images; g for those of the g images of each group, which follow each other.
    gather_distributed: candidates of all processes. The mean over processes is then the loss of the global batch.
    """

    def __init__(self, candidates: int = 0, gather_distributed: bool = True) -> None:
        super().__init__()
        if candidates < 0:
            raise ValueError(f"candidates = {candidates}: give the images of a group, or 0 for all")
        self.candidates, self.gather_distributed = candidates, gather_distributed

    def forward(self, predicted: Predicted, *, equal_rows: bool = False) -> Tensor:
        """A scalar. equal_rows=True: see distributed.gather."""
        return torch.stack(list(self.by_offset(predicted, equal_rows=equal_rows).values())).mean()

    def by_offset(self, predicted: Predicted, *, equal_rows: bool = False) -> dict[int, Tensor]:
        """The loss of each offset. Raises ValueError for images that do not fill groups, SimclrPlusError for uneven
        batches.
        """
        totals = self._summed(_cross_entropy, predicted, equal_rows)
        return {offset: total / count for offset, (total, count) in totals.items()}

    @torch.no_grad()
    def accuracy(self, predicted: Predicted, *, equal_rows: bool = False) -> Tensor:
        """Share of predictions whose best candidate is the right place, a mean over offsets; of this process."""
        totals = self._summed(_right, predicted, equal_rows)
        return torch.stack([right / count for right, count in totals.values()]).mean()

    def _summed(
        self, what: Callable[[Tensor, Tensor, Tensor], Tensor], predicted: Predicted, equal_rows: bool
    ) -> dict[int, tuple[Tensor, int]]:
        """By offset: a sum over all predictions, and their number."""
        images, dim, height, width = predicted.targets.shape
        for offset, x in predicted.predictions.items():
            if x.shape != (images, dim, height - offset, width):
                raise ValueError(
                    f"predictions {tuple(x.shape)} of offset {offset} are not those of targets "
                    f"{tuple(predicted.targets.shape)}: give [N, D, H - offset, W] for [N, D, H, W]"
                )
        totals: dict[int, tuple[Tensor, int]] = {}
        for columns, members, first in self._groups(predicted.targets, equal_rows):
            for offset, predictions in predicted.predictions.items():
                rows = places_of(in_full(predictions[members]))
                labels = first + labels_of(predictions[members], offset)
                total, count = totals.get(offset, (rows.new_zeros(()), 0))
                totals[offset] = total + _in_parts(what, rows, columns, labels), count + len(rows)
        return totals

    def _groups(self, targets: Tensor, equal_rows: bool) -> Iterator[tuple[Tensor, slice, int]]:
        """Candidates [places, D], which own images they are for, the number of those images' first place."""
        size = self.candidates
        if size:
            if len(targets) % size:
                raise ValueError(f"{len(targets)} images do not fill groups of candidates = {size}")
            for start in range(0, len(targets), size):
                members = slice(start, start + size)
                yield places_of(in_full(targets[members])), members, 0
            return
        columns = places_of(in_full(targets))
        first = 0
        if self.gather_distributed and distributed.world_size() > 1:
            first = distributed.rank() * len(columns)
            columns = distributed.gather(columns, equal_rows=equal_rows).flatten(0, 1)
        yield columns, slice(None), first


def places_of(maps: Tensor) -> Tensor:
    """[N, D, H, W] -> [N H W, D], image by image and row by row."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def labels_of(predictions: Tensor, offset: int) -> Tensor:
    """Of predictions [N, D, H - o, W] the numbers [N (H - o) W] of their places among N H W."""
    images, _, rows, columns = predictions.shape
    places = torch.arange(images * (rows + offset) * columns, device=predictions.device)
    return places.view(images, rows + offset, columns)[:, offset:].flatten()


def _in_parts(
    what: Callable[[Tensor, Tensor, Tensor], Tensor], rows: Tensor, columns: Tensor, labels: Tensor
) -> Tensor:
    """A sum over rows, as many at a time as scores are held; more parts than one are made again going backward."""
    count = max(1, CHUNK_ELEMENTS // len(columns))
    if len(rows) <= count:
        return what(rows, columns, labels)
    total = rows.new_zeros(())
    for start in range(0, len(rows), count):
        part = slice(start, start + count)
        total = total + checkpoint(
            what, rows[part], columns, labels[part], use_reentrant=False, preserve_rng_state=False
        )
    return total


def _cross_entropy(rows: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return F.cross_entropy(rows @ columns.T, labels, reduction="sum")


def _right(rows: Tensor, columns: Tensor, labels: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):
        return ((rows @ columns.T).argmax(dim=1) == labels).sum().to(rows.dtype)
