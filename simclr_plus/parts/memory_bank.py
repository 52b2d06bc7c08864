"""A memory of every image's embedding, and the losses that compare with it (Wu, Xiong, Yu, Lin, CVPR 2018).

B: images of this process, n: images of the data set, D: dimensions of z, K: negatives of an image, T: temperature.
The law is that of zhirongw/lemniscate.pytorch at f7cfe29 (lib/NCEAverage.py, NCECriterion.py, LinearAverage.py).
Rows of the memory have no gradient. Lightly's MemoryBankModule is another thing: a queue that knows no images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.augmentations.streams import Stream, uniforms, whole_numbers
from simclr_plus.full_precision import in_full
from simclr_plus.losses.contrastive import CHUNK_ELEMENTS, check_temperature

EPSILON = 1e-7  # NCECriterion.py
_DENSE_FROM = 1 / 32  # of n negatives: then the product with the whole memory takes less time than reading rows


def unit(z: Tensor) -> Tensor:
    """[B, D] in float32 (or float64), each row divided by its length; no floor, as the authors (lib/normalize.py)."""
    z = in_full(z)
    lengths: Tensor = z.norm(dim=1, keepdim=True)
    return z / lengths


class MemoryBank(nn.Module):
    """One row [D] for each of n images, a buffer that is saved: random directions at first, the same on all processes.

    normalized=False leaves the rows at the authors' start, uniform in +-sqrt(3 / D), where their length is about 1.
    number: of the bank, where there are several by one seed.
    """

    memory: Tensor

    def __init__(self, images: int, dim: int, seed: int = 0, normalized: bool = True, *, number: int = 0) -> None:
        super().__init__()
        memory = torch.empty(images, dim)
        for rows in torch.arange(images).split(max(1, CHUNK_ELEMENTS // dim)):  # type: ignore[no-untyped-call]
            drawn = (2 * uniforms(seed, Stream.BANK, rows, number, dim) - 1) * math.sqrt(3 / dim)
            memory[rows] = (unit(drawn) if normalized else drawn).float()
        self.register_buffer("memory", memory)

    def rows(self, indices: Tensor) -> Tensor:
        """The rows [B, D] of some images: copies."""
        return self.memory[indices]

    def candidates(
        self, indices: Tensor, negatives: int, *, seed: int, step: int, places: Tensor | None = None
    ) -> Tensor:
        """[B, 1 + K]: each image, then K of the n at random, with replacement, itself not left out (as the authors).

        A function of seed, step and the row's place in the global batch; None: rows of the processes one after another.
        """
        if places is None:
            places = torch.arange(len(indices)) + distributed.rank() * len(indices)
        drawn = whole_numbers(seed, Stream.NEGATIVES, places, step, negatives, below=len(self.memory))
        return torch.cat([indices[:, None], drawn.to(indices.device, non_blocking=True)], dim=1)

    @torch.no_grad()
    def update(self, indices: Tensor, z: Tensor, momentum: float = 0.5, *, equal_rows: bool = False) -> None:
        """Rows of the images of all processes become unit(momentum row + (1 - momentum) z), z [B, D] of unit length.

        Each from its row before the call. Of an image that stands twice in the global batch the last place counts.
        equal_rows: see distributed.gather.
        """
        z = z.detach().to(self.memory.dtype)
        if distributed.world_size() > 1:
            indices = distributed.gather(indices, equal_rows=equal_rows).flatten(0, 1)
            z = distributed.gather(z, equal_rows=equal_rows).flatten(0, 1)
        z = z[_last_of_each(indices)]  # copies of an image write the same row, in whatever order a device does it
        self.memory[indices] = unit(momentum * self.memory[indices] + (1 - momentum) * z)


def _last_of_each(indices: Tensor) -> Tensor:
    """[B] -> [B]: for each place the last one that has the same number."""
    in_order, places = indices.sort(stable=True)
    last: Tensor = places[torch.searchsorted(in_order, indices.contiguous(), right=True) - 1]
    return last


class NCEConstant(nn.Module):
    """Z of `nce`: n times the mean of exp(z v / T) over the scores of the first global batch, then constant.

    momentum below 1 lets it follow: Z <- momentum Z + (1 - momentum) that of the batch. Its logarithm is a buffer that
    is saved: found anew on a trained memory it would be orders of magnitude larger. It stays as it is in evaluation.
    """

    log_z: Tensor

    def __init__(self, momentum: float = 1.0) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("log_z", torch.tensor(-torch.inf))
        self._known: bool | None = None  # whether there is one; None: the buffer is to be looked at

    @torch.no_grad()
    def forward(self, z: Tensor, memory: Tensor, candidates: Tensor, temperature: float = 0.07) -> Tensor:
        """log Z, for the scores of z [B, D] against candidates [B, 1 + K] of all processes."""
        if self._known is None:  # the host waits for the device, once
            self._known = bool(self.log_z > -torch.inf)
        if self._known and (self.momentum == 1 or not self.training):
            return self.log_z
        of_batch = log_mean_exp(z, memory, candidates, temperature) + math.log(len(memory))
        if self._known:
            shares = self.log_z.new_tensor([self.momentum, 1 - self.momentum]).log()
            of_batch = torch.logaddexp(self.log_z + shares[0], of_batch + shares[1])
        if self.training:
            self.log_z.copy_(of_batch)
            self._known = True
        return of_batch

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._known = None


class Compared(NamedTuple):
    """loss: the mean over rows. nearest: share of the rows that are closer to their own image's row of the memory
    than to any other candidate's, without gradient.
    """

    loss: Tensor
    nearest: Tensor


def softmax(z: Tensor, memory: Tensor, candidates: Tensor, *, temperature: float = 0.07) -> Compared:
    """Cross entropy of the own row among candidates [B, 1 + K] (numbers of rows, the own first), or among all n.

    candidates [B] are the own rows alone: then all n of the memory [n, D] are compared. z [B, D] has unit length.
    Raises ValueError for wrong shapes or a wrong temperature.
    """
    return _compare(z, memory, candidates, temperature, _softmax_terms)


def nce(
    z: Tensor,
    memory: Tensor,
    candidates: Tensor,
    log_z: Tensor,
    *,
    temperature: float = 0.07,
    epsilon: float = EPSILON,
) -> Compared:
    """Noise-contrastive estimation: is it the own row, or one of K draws? candidates [B, 1 + K], the own row first.

    With P = exp(z v / T) / Z and q = K / n: -ln(P / (P + q)) of the own row, and the sum of -ln(q / (P + q)) over the
    K, not their mean; epsilon is added to each divisor. log_z: of `NCEConstant`. z [B, D] has unit length.
    Raises ValueError for wrong shapes, no negatives, or a wrong temperature.
    """
    if candidates.ndim != 2 or candidates.shape[1] < 2:
        raise ValueError(f"candidates {tuple(candidates.shape)}: nce takes [B, 1 + K], with K of 1 or more negatives")
    noise = (candidates.shape[1] - 1) / len(memory)
    return _compare(z, memory, candidates, temperature, partial(_nce_terms, log_z=log_z, noise=noise, epsilon=epsilon))


def proximal(z: Tensor, rows: Tensor) -> Tensor:
    """The mean of |z - v|^2 over B images, v [B, D] their rows before the update (the paper, equation 9)."""
    return (z.to(rows.dtype) - rows).square().sum(dim=1).mean()


@torch.no_grad()
def log_mean_exp(z: Tensor, memory: Tensor, candidates: Tensor, temperature: float = 0.07) -> Tensor:
    """log of the mean of exp(z v / T) over all candidates [B, 1 + K] of all processes, each of as many."""
    z, total = z.detach().to(memory.dtype), memory.new_tensor(-torch.inf)
    with torch.autocast(z.device.type, enabled=False):
        for rows in _chunks(z, memory, candidates):
            scores, _ = _scores(z[rows], memory, candidates[rows])
            total = torch.logaddexp(total, (scores / temperature).flatten().logsumexp(dim=0))
    if distributed.world_size() > 1:
        total = distributed.all_gather(total).logsumexp(dim=0)
    return total - math.log(candidates.numel() * distributed.world_size())


# Scores and gradients. A chunk of rows at a time, the gradient made while their scores are there, so that neither
# [B, K, D] nor [B, n] is kept and a memory that changes before the backward pass changes nothing.

Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # scores / T [b, M], own column [b, 1] -> sum, d sum / d


def _compare(z: Tensor, memory: Tensor, candidates: Tensor, temperature: float, terms: Terms) -> Compared:
    check_temperature(temperature)
    shapes = (tuple(z.shape), tuple(memory.shape), tuple(candidates.shape))
    if z.ndim != 2 or memory.ndim != 2 or z.shape[1] != memory.shape[1] or not len(z) or not len(memory):
        raise ValueError(f"z is [B, D] and the memory [n, D], B and n above 0, got {shapes[0]} and {shapes[1]}")
    if candidates.ndim not in (1, 2) or len(candidates) != len(z):
        raise ValueError(f"candidates are [B, 1 + K], or [B] for all n, got {shapes[2]} for B = {len(z)}")
    loss, nearest = _AgainstMemory.apply(z.to(memory.dtype), memory, candidates, temperature, terms)
    return Compared(loss, nearest)


class _AgainstMemory(torch.autograd.Function):
    """Mean loss of z [B, D] against rows of the memory, and the share of rows whose own is the nearest."""

    @staticmethod
    def forward(ctx, z, memory, candidates, temperature, terms):  # type: ignore[no-untyped-def]
        gradient = torch.empty_like(z if ctx.needs_input_grad[0] else z[:0])
        total, nearest = z.new_zeros(()), z.new_zeros(())
        with torch.autocast(z.device.type, enabled=False):
            for rows in _chunks(z, memory, candidates):
                scores, weighted = _scores(z[rows], memory, candidates[rows])
                own, others = _own_and_others(candidates[rows], scores)
                nearest += (scores.gather(1, own)[:, 0] > others).sum()
                loss, slope = terms(scores.div_(temperature), own)
                total += loss
                if ctx.needs_input_grad[0]:
                    gradient[rows] = weighted(slope) / (len(z) * temperature)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(nearest.div_(len(z)))
        return total / len(z), nearest

    @staticmethod
    def backward(ctx, grad, _grad_nearest):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            raise RuntimeError("a loss against a memory bank has first derivatives only (create_graph=False)")
        (gradient,) = ctx.saved_tensors
        return grad * gradient, None, None, None, None


def _softmax_terms(scores: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
    log_sum = scores.logsumexp(dim=1, keepdim=True)
    loss = (log_sum - scores.gather(1, own)).sum()
    return loss, (scores - log_sum).exp_().scatter_add_(1, own, -torch.ones_like(log_sum))


def _nce_terms(scores: Tensor, own: Tensor, *, log_z: Tensor, noise: float, epsilon: float) -> tuple[Tensor, Tensor]:
    log_p = scores - log_z
    p, of_noise = log_p.exp(), noise + epsilon
    loss = ((p[:, :1] + of_noise).log() - log_p[:, :1]).sum() + torch.log1p((p[:, 1:] + epsilon) / noise).sum()
    slope = p / (p + of_noise)
    return loss, slope.scatter_(1, own, -of_noise / (p[:, :1] + of_noise))


def _chunks(z: Tensor, memory: Tensor, candidates: Tensor) -> Iterator[Tensor]:
    """Numbers of rows of z, so many at a time that what is read or scored for them stays small."""
    of_a_row = len(memory) if _is_dense(memory, candidates) else candidates.shape[1] * memory.shape[1]
    yield from torch.arange(len(z), device=z.device).split(max(1, CHUNK_ELEMENTS // of_a_row))  # type: ignore[no-untyped-call]


def _is_dense(memory: Tensor, candidates: Tensor) -> bool:
    return candidates.ndim == 1 or candidates.shape[1] - 1 >= _DENSE_FROM * len(memory)


def _scores(z: Tensor, memory: Tensor, candidates: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """z v [b, M] of the candidates, and what makes the sum of c v [b, D] of some c [b, M]."""
    if not _is_dense(memory, candidates):
        rows = memory[candidates]
        return torch.bmm(rows, z[:, :, None])[:, :, 0], lambda c: torch.bmm(c[:, None], rows)[:, 0]
    products = z @ memory.T
    if candidates.ndim == 1:
        return products, lambda c: c @ memory

    def weighted(c: Tensor) -> Tensor:
        """A row that was drawn several times has one c: its copies are counted, so that no order of sums matters."""
        drawn, dense = candidates[:, 1:], torch.zeros_like(products)
        times = torch.zeros_like(products).scatter_add_(1, drawn, torch.ones_like(c[:, 1:]))
        return dense.scatter_(1, drawn, c[:, 1:]).mul_(times) @ memory + c[:, :1] * memory[candidates[:, 0]]

    return products.gather(1, candidates), weighted


def _own_and_others(candidates: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The column of the own row [b, 1]; the highest score of a row that is another image's [b]."""
    if candidates.ndim == 1:
        own = candidates[:, None]
        return own, scores.scatter(1, own, -torch.inf).amax(dim=1)
    others = scores.masked_fill(candidates == candidates[:, :1], -torch.inf).amax(dim=1)
    return torch.zeros_like(candidates[:, :1]), others
