"""LARS (You et al. 2017) as the SimCLR authors run it, and who is exempt from decay and adaptation.

It differs from common PyTorch copies: the learning rate is inside the velocity, the trust ratio divides by
|g + wd w|, there is no epsilon, and weight_decay = 0 does not switch adaptation off (authors' lars_optimizer.py).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

LIGHTLYS_EPS = 1e-8


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling; one trust ratio a tensor.

    Classic momentum: v = momentum v + lr trust (g + wd w), w = w - v. Popular momentum (classic_momentum=False):
    v = momentum v + g, w = w - lr trust v, the trust ratio taken from |v|. Where |w| or |g| is 0, trust is 1.
    A parameter group may carry `adapt=False` (trust 1) and its own `weight_decay`. Arguments are those of Lightly's
    LARS, in its order; `dampening` is 0, and `eps`, at most Lightly's 1e-8, is not used.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float | Tensor,
        momentum: float = 0.9,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        trust_coefficient: float = 0.001,
        eps: float = 0.0,
        *,
        classic_momentum: bool = True,
    ) -> None:
        _require_neutral({"dampening": dampening, "eps": eps})
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "nesterov": nesterov,
            "classic_momentum": classic_momentum,
            "adapt": True,
        }
        _require_numbers(defaults)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch.optim; a group's own settings must be ones that the constructor takes."""
        _require_neutral(param_group)
        _require_numbers(param_group)
        super().add_param_group(param_group)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # of a state that another optimizer saved
            for name, value in self.defaults.items():
                group.setdefault(name, value)

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
            for w in weights:
                _require_dense_and_real(w)
            for together in _worked_on_together(weights):
                update(together, [self._velocity(w) for w in together], group)
        return loss

    def _velocity(self, w: Tensor) -> Tensor:
        state = self.state[w]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(w)
        velocity: Tensor = state["momentum_buffer"]
        return velocity


def _require_neutral(settings: dict[str, Any]) -> None:
    """Raises ValueError where a setting of Lightly's LARS asks for what this one has not."""
    dampening, eps = settings.get("dampening", 0), settings.get("eps", 0)
    if dampening != 0:
        raise ValueError(
            f"dampening = {dampening}: the authors' momentum takes in the whole gradient; leave it out or give 0, or "
            "take lightly.utils.lars.LARS"
        )
    if not 0 <= eps <= LIGHTLYS_EPS:
        raise ValueError(
            f"eps = {eps}: the authors' trust ratio has no epsilon; leave it out or give {LIGHTLYS_EPS} (Lightly's "
            "default) or less, or take lightly.utils.lars.LARS"
        )


def _require_numbers(settings: dict[str, Any]) -> None:
    """Raises ValueError for a setting that is negative or no number."""
    for name in ("lr", "momentum", "weight_decay", "trust_coefficient"):
        if name in settings and not settings[name] >= 0:
            raise ValueError(f"{name} = {settings[name]}; LARS needs 0 or more")


def _require_dense_and_real(w: Tensor) -> None:
    """Raises RuntimeError for a weight or a gradient without a plain norm."""
    assert w.grad is not None
    if w.grad.is_sparse:
        raise RuntimeError(
            f"LARS does not support sparse gradients, got one of a weight of shape {tuple(w.shape)}; give nn.Embedding "
            "sparse=False, or these weights to torch.optim.SGD"
        )
    if w.is_complex():
        raise RuntimeError(
            f"LARS does not support complex weights, got one of shape {tuple(w.shape)}; give them to torch.optim.SGD"
        )


def _worked_on_together(weights: list[Tensor]) -> list[list[Tensor]]:
    """All in one call on a device, which saves launches; one by one on a CPU, where a tensor then stays in cache."""
    together: dict[Any, list[Tensor]] = {}
    for i, w in enumerate(weights):
        together.setdefault(i if w.is_cpu else (w.device, w.dtype), []).append(w)
    return list(together.values())


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


def parameter_groups(
    model: nn.Module, weight_decay: float, *, exempt_names: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Two groups: matrices and kernels; then batch norms and biases, without decay or adaptation (paper, B.2).

    exempt_names: further parameters for the second group.
    """
    adapted: list[nn.Parameter] = []
    exempt: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_exempt = parameter.ndim <= 1 or name.endswith("bias") or name in exempt_names
            (exempt if is_exempt else adapted).append(parameter)
    return [
        {"params": adapted, "weight_decay": weight_decay, "adapt": True},
        {"params": exempt, "weight_decay": 0.0, "adapt": False},
    ]
