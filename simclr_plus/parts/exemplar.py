"""Exemplar's loss: triplets of many views of each image with semi-hard negatives (Kolesnikov, Zhai, Beyer 2019).

After self_supervision/exemplar.py of google/revisiting-self-supervised `b530e3b`, which calls triplet_semihard_loss of
TensorFlow's contrib.losses.metric_learning: squared distances. (That of TensorFlow Addons has plain ones by default.)
R: rows of this process, M of all, D: dimensions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from simclr_plus import distributed
from simclr_plus.full_precision import in_full

NORMALIZE = ("rows", "columns", "none")
AT_ONCE = 1 << 22  # distances that are held at once; more are computed again for the backward pass


def exemplar_triplet_loss(
    z: Tensor,
    images: Tensor,
    *,
    margin: float = 0.5,
    normalize: str = "rows",
    group_rows: int = 0,
    gather: bool = False,
    equal_rows: bool = False,
) -> Tensor:
    """Mean over all ordered pairs of two rows of an image of max(margin + d_ap - d_an, 0); z [R, D], images [R].

    d: squared Euclidean distances. n: the nearest row of another image that is farther than p; where there is none, the
    farthest. Rows are of one image where their numbers in `images` are equal, wherever they stand.
    normalize: "rows" divides each row by its length, "columns" each dimension by its length over all rows (what the
    authors' code does), "none" nothing.
    group_rows: so many consecutive rows are a batch of their own, in normalising too; 0: all rows are one.
    gather: rows of all processes are one batch (not with group_rows); the mean over processes is then the global loss.
    Returns 0 where no image has two rows. Raises ValueError for other arguments.
    """
    _check(z, images, margin, normalize, group_rows)
    with torch.autocast(z.device.type, enabled=False):
        z = in_full(z)
        together = gather and not group_rows and distributed.world_size() > 1
        if together:
            everywhere = distributed.gather(z, equal_rows=equal_rows).flatten(0, 1)
            owners, first = distributed.all_gather(images).flatten(), distributed.rank() * len(z)
            batches = [(_normalized(everywhere, normalize), owners, first)]
        else:
            rows = group_rows or len(z)
            parts = zip(torch.split(z, rows), torch.split(images, rows), strict=True)
            batches = [(_normalized(part, normalize), owners, 0) for part, owners in parts]
        total, pairs = z.new_zeros(()), z.new_zeros(())
        for everywhere, owners, first in batches:
            count = len(z) if together else len(everywhere)
            chunk = max(1, AT_ONCE // len(everywhere))
            for start in range(first, first + count, chunk):
                stop = min(start + chunk, first + count)
                more, counted = _terms(everywhere, owners, start, stop, margin, again=chunk < count)
                total, pairs = total + more, pairs + counted
        if gather:
            pairs = distributed.sum_over_processes(pairs) / distributed.world_size()
        return total / pairs.clamp_min(torch.finfo(pairs.dtype).tiny)


def embedding_deviation(z: Tensor) -> Tensor:
    """Root mean square distance of unit rows z / |z| [R, D] from their mean: 1 spread evenly, 0 where all are one."""
    return F.normalize(z).var(dim=0, correction=0).sum().sqrt()


def nearest_is_own(z: Tensor, images: Tensor) -> Tensor:
    """The share of rows z [R, D] whose nearest other, after z / |z|, is of the same image [R]."""
    similar = F.normalize(z) @ F.normalize(z).T
    similar.fill_diagonal_(-torch.inf)
    return (images[similar.argmax(dim=1)] == images).to(z.dtype).mean()


def _check(z: Tensor, images: Tensor, margin: float, normalize: str, group_rows: int) -> None:
    if z.ndim != 2 or images.shape != z.shape[:1]:
        raise ValueError(
            f"rows [R, D] and the numbers of their images [R], got {tuple(z.shape)}, {tuple(images.shape)}"
        )
    if not margin >= 0:
        raise ValueError(f"margin = {margin}; the loss needs a margin of 0 or more")
    if normalize not in NORMALIZE:
        raise ValueError(f"normalize = {normalize!r} is unknown; use one of {NORMALIZE}")
    if group_rows < 0 or (group_rows and len(z) % group_rows):
        raise ValueError(f"group_rows = {group_rows} does not divide {len(z)} rows")


def _normalized(z: Tensor, normalize: str) -> Tensor:
    return z if normalize == "none" else F.normalize(z, dim=1 if normalize == "rows" else 0)


def _terms(
    everywhere: Tensor, owners: Tensor, start: int, stop: int, margin: float, *, again: bool
) -> tuple[Tensor, Tensor]:
    """Of anchors start to stop - 1 the sum over their pairs, and how many pairs they have."""

    def total(rows: Tensor) -> Tensor:
        same = owners[start:stop, None] == owners  # made again with the distances: kept, they would be [R, R] in all
        places = torch.arange(len(owners), device=owners.device)
        positive, negative = same & (places != places[start:stop, None]), ~same
        distances = _squared_distances(rows[start:stop], rows)
        chosen = _semi_hard(distances.detach(), negative)
        terms = F.relu(margin + distances - distances.gather(1, chosen))
        return terms.where(positive & negative.any(1, keepdim=True), 0).sum()

    pairs = ((owners[start:stop, None] == owners).sum() - (stop - start)).to(everywhere.dtype)
    if again:
        return checkpoint(total, everywhere, use_reentrant=False), pairs
    return total(everywhere), pairs


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[A, D], [B, D] -> [A, B]."""
    return ((a * a).sum(1, keepdim=True) + (b * b).sum(1) - 2 * a @ b.T).clamp_min(0)


def _semi_hard(distances: Tensor, negative: Tensor) -> Tensor:
    """[A, M]: for each column as positive the column of the nearest negative beyond it, or of the farthest."""
    values, order = distances.masked_fill(~negative, torch.inf).sort(dim=1)
    count = negative.sum(1, keepdim=True)
    beyond = torch.searchsorted(values, distances, right=True)
    return order.gather(1, torch.minimum(beyond, count - 1).clamp_min(0))
