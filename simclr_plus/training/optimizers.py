"""The update rule that a recipe names, and which parameters it decays and adapts."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer

from simclr_plus.encoders.undecayed import is_offset, norm_parameters
from simclr_plus.lars import LARS, parameter_groups
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Method


def build_optimizer(model: Method, recipe: Recipe) -> Optimizer:
    """LARS, SGD, Adam or AdamW; norms are exempt from decay unless the recipe decays all, with AdamW biases too.

    Tokens, positions and scales of layers are always exempt, and the probe is from LARS's adaptation.
    """
    o = recipe.optimizer
    exempt = {f"encoder.{name}" for name in model.encoder.exempt}
    norms = norm_parameters(model)
    if o.name == "lars":
        groups = parameter_groups(model, o.weight_decay, exempt_names=exempt | norms)
        groups = groups if o.adapt_probe else _without_adapting_the_probe(groups, model, o.weight_decay)
        groups = _with_rate_factors(groups, model)
        return LARS(groups, lr=0.0, momentum=o.momentum, trust_coefficient=o.trust_coefficient)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not o.decay_norms:
        exempt |= norms
        if o.name == "adamw":  # as timm groups parameters
            exempt |= {name for name, p in trained if p.ndim <= 1 or is_offset(name)}
    groups = [
        {"params": [p for name, p in trained if name not in exempt], "weight_decay": o.weight_decay},
        {"params": [p for name, p in trained if name in exempt], "weight_decay": 0.0},
    ]
    groups = _with_rate_factors(groups, model)
    if o.name == "sgd" and o.sgd_momentum == "rate_inside":  # Keras' SGD is LARS without its adaptation
        groups = [{**group, "adapt": False} for group in groups]
        return LARS(groups, lr=0.0, momentum=o.momentum, nesterov=o.nesterov and o.momentum > 0)
    if o.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=o.momentum, nesterov=o.nesterov and o.momentum > 0)
    rule = torch.optim.AdamW if o.name == "adamw" else torch.optim.Adam
    return rule(groups, lr=0.0, betas=(o.beta1, o.beta2), fused=True)


def _with_rate_factors(groups: list[dict[str, Any]], model: Method) -> list[dict[str, Any]]:
    """Parameters whose names begin as `model.rate_factors` says, in groups of their own with that factor."""
    factors = {
        id(p): factor
        for prefix, factor in model.rate_factors.items()
        for name, p in model.named_parameters()
        if name.startswith(prefix)
    }
    split = []
    for group in groups:
        for factor in dict.fromkeys(factors.get(id(p), 1.0) for p in group["params"]):
            params = [p for p in group["params"] if factors.get(id(p), 1.0) == factor]
            split.append({**group, "params": params, **({} if factor == 1 else {"rate_factor": factor})})
    return [*split, *(group for group in groups if not group["params"])]


def _without_adapting_the_probe(groups: list[dict[str, Any]], model: Method, decay: float) -> list[dict[str, Any]]:
    """As the authors: the probe's kernel decays but is not adapted (head_supervised is on LARS's exclude list)."""
    if model.probe is None:
        return groups
    kernel = model.probe.weight
    groups[0]["params"] = [p for p in groups[0]["params"] if p is not kernel]
    return [*groups, {"params": [kernel], "weight_decay": decay, "adapt": False}]
