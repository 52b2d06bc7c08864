"""The losses that the paper compares NT-Xent with (Table 2, Table 4, B.10), over the global batch.

N: images of this process, M: images of all processes, D: dimensions of z. Each of the 2N rows u has a positive v+, the
other view of its image, and negatives v-, the other images: in the view that u is not of ("other_view", M - 1, as for
all entries of Table 4), or in both ("both_views", 2M - 2). s+ and s- are their products with u. No code of these was
published: what no source says is told where it is chosen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_plus.losses.contrastive import check_temperature, rows_and_columns

NEGATIVES = ("both_views", "other_view")


def nt_xent_other_view(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    gather: bool = False,
    equal_rows: bool = False,
) -> Tensor:
    """NT-Xent whose rows compete with the M images of the other view alone; the rest is as in `losses.nt_xent`."""
    check_temperature(temperature)
    with torch.autocast(z0.device.type, enabled=False):
        rows, columns, first = rows_and_columns(z0, z1, normalize, gather, equal_rows)
        n = len(z0)
        logits = rows.view(2, n, -1) @ _views(columns).flip(0).mT / temperature  # [2, N, M]
        rows_of_process = torch.arange(first, first + n, device=z0.device)
        return F.cross_entropy(logits.flatten(0, 1), rows_of_process.repeat(2))


def nt_logistic(
    z0: Tensor,
    z1: Tensor,
    *,
    temperature: float = 0.1,
    normalize: bool = True,
    negatives: str = "other_view",
    semi_hard: bool = False,
    gather: bool = False,
    equal_rows: bool = False,
) -> Tensor:
    """Mean over 2N rows of -log sigma(s+ / t) - log sigma(-s- / t), the second term a mean over the row's negatives.

    The mean is our choice: Table 2 has one negative, of which it is the expectation; a sum would outweigh the positive
    2M - 2 times. semi_hard=True keeps one negative a row, see `semi_hard_negatives`. Arguments and errors as for
    `losses.nt_xent`, ValueError too for unknown negatives or for less than two images.
    """
    check_temperature(temperature)
    with torch.autocast(z0.device.type, enabled=False):
        positive, similar, is_negative = _similarities(z0, z1, normalize, negatives, gather, equal_rows)
        pull = -F.logsigmoid(positive / temperature)
        if semi_hard:
            push = -F.logsigmoid(-semi_hard_negatives(positive, similar, is_negative) / temperature)
        else:
            push = _mean_of(-F.logsigmoid(-similar / temperature), is_negative)
        return (pull + push).mean()


def margin_triplet(
    z0: Tensor,
    z1: Tensor,
    *,
    margin: float = 0.8,
    normalize: bool = True,
    negatives: str = "other_view",
    semi_hard: bool = False,
    gather: bool = False,
    equal_rows: bool = False,
) -> Tensor:
    """Mean over 2N rows of max(s- - s+ + margin, 0), a mean over the row's negatives.

    The mean is our choice, and it counts the triplets that keep the margin too, as 0. semi_hard=True keeps one negative
    a row, see `semi_hard_negatives`. Errors as for `nt_logistic`, ValueError too for a margin below 0.
    """
    if not margin >= 0:
        raise ValueError(f"margin = {margin}; the loss needs a margin of 0 or more")
    with torch.autocast(z0.device.type, enabled=False):
        positive, similar, is_negative = _similarities(z0, z1, normalize, negatives, gather, equal_rows)
        if semi_hard:
            similar = semi_hard_negatives(positive, similar, is_negative)
            return F.relu(similar - positive + margin).mean()
        return _mean_of(F.relu(similar - positive[:, None] + margin), is_negative).mean()


def semi_hard_negatives(positive: Tensor, similar: Tensor, is_negative: Tensor) -> Tensor:
    """The similarity [R] of each row's semi-hard negative: the closest of those farther away than the positive.

    positive: s+ [R]; similar: s- [R, C], of which `is_negative` [R, C] says which count. "Within the margin", the
    paper's other condition, needs no choice: beyond it the triplet's loss is 0, and NT-Logistic has no margin. Where
    all negatives are closer than the positive it is the farthest, as in TensorFlow's triplet_semihard_loss; the paper
    does not say.
    """
    with torch.no_grad():
        farther = is_negative & (similar < positive[:, None])
        closest = similar.masked_fill(~farther, -torch.inf).argmax(dim=1)
        farthest = similar.masked_fill(~is_negative, torch.inf).argmin(dim=1)
        chosen = torch.where(farther.any(dim=1), closest, farthest)
    return similar.gather(1, chosen[:, None])[:, 0]


def _similarities(
    z0: Tensor, z1: Tensor, normalize: bool, negatives: str, gather: bool, equal_rows: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """s+ [2N]; products of the rows with the candidates [2N, M or 2M]; which of these are negatives, [1 or 2N, ...]."""
    if negatives not in NEGATIVES:
        raise ValueError(f"negatives = {negatives!r} is unknown; use {' or '.join(map(repr, NEGATIVES))}")
    rows, columns, first = rows_and_columns(z0, z1, normalize, gather, equal_rows)
    n, m = len(z0), len(columns) // 2
    if m < 2:
        raise ValueError("one image has no negatives; the loss needs two or more")
    views = _views(columns)
    rows_of_process = torch.arange(first, first + n, device=z0.device)
    positive = (rows.view(2, n, -1) * views.flip(0)[:, rows_of_process]).sum(dim=-1).flatten()
    is_other = torch.arange(m, device=z0.device) != rows_of_process[:, None]  # [N, M]
    if negatives == "both_views":
        return positive, rows @ columns.T, is_other.repeat(2, 2)
    similar = rows.view(2, n, -1) @ views.flip(0).mT
    return positive, similar.flatten(0, 1), is_other.repeat(2, 1)


def _views(columns: Tensor) -> Tensor:
    """[2M, D] -> [2, M, D]."""
    return columns.view(2, len(columns) // 2, -1)


def _mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Means of the counted values of each row."""
    return (values * counted).sum(dim=1) / counted.sum(dim=1)
