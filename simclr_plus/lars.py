"""LARS (You et al. 2017) as the SimCLR authors run it, and who is exempt from decay and adaptation.

It differs from common PyTorch copies: the learning rate is inside the velocity, the trust ratio divides by
|g + wd w|, there is no epsilon, and weight_decay = 0 does not switch adaptation off (authors' lars_optimizer.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling; one trust ratio a tensor.

    Classic momentum: v = momentum v + lr trust (g + wd w), w = w - v. Popular momentum (classic_momentum=False):
    v = momentum v + g, w = w - lr trust v, the trust ratio taken from |v|. Where |w| or |g| is 0, trust is 1.
    A parameter group may carry `adapt=False` (trust 1) and its own `weight_decay`.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        nesterov: bool = False,
        classic_momentum: bool = True,
    ) -> None:
        for name, value in (
            ("lr", lr),
            ("momentum", momentum),
            ("weight_decay", weight_decay),
            ("trust_coefficient", trust_coefficient),
        ):
            if value < 0:
                raise ValueError(f"{name} = {value} is negative; LARS needs 0 or more")
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "nesterov": nesterov,
            "classic_momentum": classic_momentum,
            "adapt": True,
        }
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; no value leaves the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [w for w in group["params"] if w.grad is not None]
            update = _update_classic if group["classic_momentum"] else _update_popular
            for together in _worked_on_together(weights):
                update(together, [self._velocity(w) for w in together], group)
        return loss

    def _velocity(self, w: Tensor) -> Tensor:
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        velocity: Tensor = state["momentum_buffer"]
        return velocity


def _worked_on_together(weights: list[Tensor]) -> list[list[Tensor]]:
    """All in one call on a device, which saves launches; one by one on a CPU, where a tensor then stays in cache."""
    if not weights or not weights[0].is_cpu:
        return [weights] if weights else []
    return [[w] for w in weights]


def _update_classic(weights: list[Tensor], velocities: list[Tensor], group: dict[str, Any]) -> None:
    gradients = _decayed_gradients(weights, group)
    rates = _rates(gradients, weights, group)
    torch._foreach_mul_(velocities, group["momentum"])
    _add_at_rate(velocities, gradients, rates)
    if group["nesterov"]:
        _add_at_rate(weights, gradients, rates, sign=-1.0)
        torch._foreach_add_(weights, velocities, alpha=-group["momentum"])
    else:
        torch._foreach_sub_(weights, velocities)


def _update_popular(weights: list[Tensor], velocities: list[Tensor], group: dict[str, Any]) -> None:
    gradients = _decayed_gradients(weights, group)
    torch._foreach_mul_(velocities, group["momentum"])
    torch._foreach_add_(velocities, gradients)
    updates = velocities
    if group["nesterov"]:
        updates = list(torch._foreach_add(gradients, velocities, alpha=group["momentum"]))
    _add_at_rate(weights, updates, _rates(updates, weights, group), sign=-1.0)


def _decayed_gradients(weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    gradients = [w.grad for w in weights if w.grad is not None]
    if group["weight_decay"] == 0:
        return gradients
    return list(torch._foreach_add(gradients, weights, alpha=group["weight_decay"]))


def _rates(updates: list[Tensor], weights: list[Tensor], group: dict[str, Any]) -> float | list[Tensor]:
    """lr, or where the group adapts lr times each tensor's trust ratio, on its device."""
    if not group["adapt"]:
        return float(group["lr"])
    weight_norms = torch.stack(list(torch._foreach_norm(weights)))
    update_norms = torch.stack(list(torch._foreach_norm(updates)))
    trust = group["trust_coefficient"] * weight_norms / update_norms
    trust = torch.where((weight_norms > 0) & (update_norms > 0), trust, torch.ones_like(trust))
    return list((group["lr"] * trust).unbind())


def _add_at_rate(into: list[Tensor], updates: list[Tensor], rates: float | list[Tensor], sign: float = 1.0) -> None:
    """into += sign rate update; the updates, which may be the gradients themselves, stay as they are."""
    if isinstance(rates, float):
        torch._foreach_add_(into, updates, alpha=sign * rates)
    else:
        torch._foreach_addcmul_(into, updates, rates, value=sign)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels; then batch norms and biases, without decay or adaptation (paper, B.2)."""
    adapted: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (exempt if parameter.ndim <= 1 or name.endswith("bias") else adapted).append(parameter)
    return [
        {"params": adapted, "weight_decay": weight_decay, "adapt": True},
        {"params": exempt, "weight_decay": 0.0, "adapt": False},
    ]
