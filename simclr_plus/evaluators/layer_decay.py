"""Layer-wise decay of the learning rate in fine-tuning: the further from the classifier, the slower (BEiT, MAE).

The layers are those that timm names for its networks (`group_matcher`); our ResNets' are their stem and blocks.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError

_OF_RESNETS = {"stem": r"^(?:conv1|bn1)\b", "blocks": [(r"^layer(\d+)\.(\d+)", None)]}


def layer_factors(encoder: nn.Module, decay: float) -> dict[int, float]:
    """By a parameter's id, what its learning rate is multiplied by: decay^k, k layers from the top.

    The classifier on top has 1, the last layer `decay`. RecipeError for an encoder whose layers nobody names.
    """
    if not 0 < decay <= 1:
        raise RecipeError(f"--layer-decay {decay:g}: use more than 0, at most 1 (none), e.g. 0.75")
    if decay == 1:
        return {}
    try:
        from timm.models import group_parameters
    except ModuleNotFoundError:
        raise EnvironmentNotAbleError("--layer-decay needs timm: pip install 'simclr-plus[timm]'") from None
    while isinstance(encoder, PatchEncoder):
        encoder = encoder.encoder
    network = encoder.network if isinstance(encoder, ForeignEncoder) else encoder
    matcher: Any = getattr(network, "group_matcher", None)
    if isinstance(encoder, ResNet):
        groups: Any = _OF_RESNETS
    elif callable(matcher):
        groups = matcher(coarse=False)
    else:
        title = getattr(encoder, "title", type(encoder).__name__)
        raise RecipeError(
            f"--layer-decay {decay:g}: {title} does not say what its layers are (timm's networks do, by group_matcher, "
            "and our ResNets); leave it out"
        )
    layer_of: dict[str, int] = group_parameters(network, groups, reverse=True)
    heads = _heads(network)  # a norm there has the classifier's rate, as in timm
    count = 1 + max(layer for name, layer in layer_of.items() if name.partition(".")[0] not in heads)
    return {
        id(p): 1.0 if name.partition(".")[0] in heads else decay ** (count - layer_of[name])
        for name, p in network.named_parameters()
    }


def _heads(network: nn.Module) -> set[str]:
    """Names of the parts of a network of timm that hold its classifier, which is not there any more."""
    config: Any = getattr(network, "pretrained_cfg", None) or {}
    names = config.get("classifier") or ()
    return {name.partition(".")[0] for name in ((names,) if isinstance(names, str) else names)}
