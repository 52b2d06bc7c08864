"""L2-regularised logistic regression by L-BFGS along a path of penalties, on a CPU or a GPU, in float64.

It minimises what scikit-learn minimises, the sum of the examples' losses plus l2/2 |W|^2 (its C is 1 / l2), offsets
free, and ends at the same optimum, sooner: features are centred and turned into the eigenbasis of their covariance,
where the Hessian is nearly diagonal and its diagonal starts each L-BFGS step; the line search works on scores, so that
an iteration costs two products with the features; each penalty starts from the optimum of the one before.
N: examples, F: features, C: classes, P: penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_plus.errors import NotFiniteError, SimclrPlusError, UnlabelledError

MEMORY = 12  # pairs of steps and gradient changes that L-BFGS keeps
NEW_DIAGONAL = 25  # iterations after which the Hessian's diagonal is measured again
FLATTEST = 1e-10  # curvature an example that is counted at least: offsets of classes that never occur have none
SEARCHES = 12  # points tried along a direction at most
SLOPE_LEFT = 0.5  # share of a direction's first slope that a step may leave


@dataclass(frozen=True)
class Path:
    """The optima: weights [P, C, F] and offsets [P, C], with what says how good they are, one for each penalty.

    objective: sum of losses + l2/2 |W|^2. gradient_norm: 2-norm of the gradient of objective / N. converged: by the
    curvature measured on the way less than the tolerance, as a share of the objective, is left to gain.
    """

    l2: tuple[float, ...]
    weights: Tensor
    offsets: Tensor
    objective: tuple[float, ...]
    gradient_norm: tuple[float, ...]
    iterations: tuple[int, ...]
    converged: tuple[bool, ...]

    def scores(self, features: Tensor, number: int) -> Tensor:
        """Scores [N, C] of features [N, F] by the optimum of penalty `number`."""
        return features.to(self.weights) @ self.weights[number].T + self.offsets[number]


def fit_path(
    features: Tensor,
    labels: Tensor,
    classes: int,
    l2: Sequence[float],
    *,
    tolerance: float = 1e-8,
    max_iterations: int = 2000,
) -> Path:
    """The optima for each penalty of `l2`, which is gone through from the strongest to the weakest.

    labels [N]: one softmax over the classes. labels [N, C] of 1, 0 and -1 (present, absent, left out): one logistic
    regression a class, all with the same penalty. Raises SimclrPlusError for what has no such optimum.
    """
    _require_fit(features, labels, classes)
    x = features.double()
    mean = x.mean(dim=0)
    x = x - mean
    _, basis = torch.linalg.eigh(x.T @ x)
    basis = basis.flip(1)
    x = torch.cat([x @ basis, x.new_ones(len(x), 1)], dim=1).T.contiguous()  # [F + 1, N]: rows of ones for the offsets
    loss = _softmax_loss(labels.to(x.device), classes) if labels.ndim == 1 else _sigmoid_losses(labels.to(x.device))
    w = x.new_zeros(classes, len(x))
    optima: dict[int, _Optimum] = {}
    for number in sorted(range(len(l2)), key=lambda i: -l2[i]):
        optima[number] = _minimise(x, loss, w, l2[number], tolerance, max_iterations)
        w = optima[number].w
    ordered = [optima[number] for number in range(len(l2))]
    weights = torch.stack([o.w[:, :-1] @ basis.T for o in ordered])
    return Path(
        tuple(l2),
        weights,
        offsets=torch.stack([o.w[:, -1] for o in ordered]) - weights @ mean,
        objective=tuple(o.objective for o in ordered),
        gradient_norm=tuple(o.gradient_norm for o in ordered),
        iterations=tuple(o.iterations for o in ordered),
        converged=tuple(o.converged for o in ordered),
    )


def _require_fit(features: Tensor, labels: Tensor, classes: int) -> None:
    """Each example with finite features and a label, and more than one class among them."""
    if not bool(features.isfinite().all()):
        raise NotFiniteError("features that are not finite (NaN or infinite) have no logistic regression")
    if labels.ndim == 1 and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UnlabelledError(
            f"labels run from {int(labels.min())} to {int(labels.max())}, not from 0 to {classes - 1}: some images "
            "have none"
        )
    if labels.ndim == 1 and (not len(labels) or int(labels.min()) == int(labels.max())):
        raise SimclrPlusError(
            f"the {len(labels)} examples are of one class: nothing can be told apart; take images of two or more"
        )


class _Optimum(NamedTuple):
    """Weights and offsets [C, F + 1] in the eigenbasis, and how good they are."""

    w: Tensor
    objective: float
    gradient_norm: float
    iterations: int
    converged: bool


# scores [C, N] -> sum of losses, its derivative by the scores [C, N], its second derivative
_Loss = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _softmax_loss(labels: Tensor, classes: int) -> _Loss:
    target = F.one_hot(labels, classes).T.double().contiguous()

    def loss(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        shifted = scores - scores.amax(dim=0)
        p = shifted.exp()
        total = p.sum(dim=0)
        value = total.log().sum() - (shifted * target).sum()
        p /= total
        return value, p - target, p

    return loss


def _sigmoid_losses(labels: Tensor) -> _Loss:
    counted = (labels >= 0).T.double().contiguous()
    target = (labels > 0).T.double().contiguous()

    def loss(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = scores.sigmoid()
        value = (counted * (F.softplus(scores) - scores * target)).sum()
        return value, counted * (p - target), p

    return loss


def _minimise(x: Tensor, loss: _Loss, w: Tensor, l2: float, tolerance: float, max_iterations: int) -> _Optimum:
    """The optimum, sought from `w` [C, F + 1] on."""
    penalty = torch.full((x.shape[0],), l2, dtype=x.dtype, device=x.device)
    penalty[-1] = 0
    scores = w @ x
    value, error, p = loss(scores)
    gradient = error @ x.T + penalty * w
    history: list[tuple[Tensor, Tensor, float]] = []
    inverse_diagonal = torch.empty(0)
    for iteration in range(max_iterations + 1):
        if iteration % NEW_DIAGONAL == 0:
            inverse_diagonal = 1 / ((p * (1 - p)) @ (x * x).T + penalty + FLATTEST * x.shape[1])
        objective = float(value + (penalty * w * w).sum() / 2)
        direction = _newton_like(-gradient, inverse_diagonal, history)
        slope = float((gradient * direction).sum())
        converged = -slope / 2 <= tolerance * objective
        if converged or iteration == max_iterations:
            break
        along = (penalty * w * direction).sum(), (penalty * direction * direction).sum()
        step, scores, (value, error, p) = _search(loss, scores, direction @ x, along, slope)
        direction *= step
        w = w + direction
        change = error @ x.T + penalty * w - gradient
        gradient = gradient + change
        curvature = float((direction * change).sum())
        if curvature > 0:
            history = [*history, (direction, change, curvature)][-MEMORY:]
    return _Optimum(w, objective, float(gradient.norm()) / x.shape[1], iteration, converged)


def _newton_like(vector: Tensor, inverse_diagonal: Tensor, history: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    """The inverse Hessian that the history and the diagonal tell of, times a vector (Nocedal and Wright, 7.4)."""
    q, shares = vector.clone(), []
    for step, change, curvature in reversed(history):
        shares.append(float((step * q).sum()) / curvature)
        q -= shares[-1] * change
    q *= inverse_diagonal
    if history:
        _, change, curvature = history[-1]
        q *= curvature / float((change * change * inverse_diagonal).sum())
    for (step, change, curvature), share in zip(history, reversed(shares), strict=True):
        q += (share - float((change * q).sum()) / curvature) * step
    return q


def _search(
    loss: _Loss, scores: Tensor, direction: Tensor, along: tuple[Tensor, Tensor], slope: float
) -> tuple[float, Tensor, tuple[Tensor, Tensor, Tensor]]:
    """A step that leaves half of the slope or less, its scores and the loss there; `along`: slope and curvature of the
    penalty. The objective is convex, so that its slopes bracket the minimum and no value need be compared.
    """
    low, slope_low, high, slope_high, step = 0.0, slope, 0.0, 0.0, 1.0
    for _ in range(SEARCHES):
        scores_there = scores + step * direction
        evaluated = loss(scores_there)
        slope_here = float((evaluated[1] * direction).sum() + along[0] + step * along[1])
        if abs(slope_here) <= SLOPE_LEFT * abs(slope):
            break
        if slope_here < 0:
            low, slope_low = step, slope_here
        else:
            high, slope_high = step, slope_here
        if not high:
            step = min(4 * step, max(1.5 * step, step * slope / (slope - slope_here) if slope_here > slope else 0.0))
        else:
            step = low - (high - low) * slope_low / (slope_high - slope_low)
            step = min(max(step, low + 0.1 * (high - low)), high - 0.1 * (high - low))
    return step, scores_there, evaluated
