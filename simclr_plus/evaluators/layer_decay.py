"""Layer-wise decay of the learning rate in fine-tuning: the further from the classifier, the slower (BEiT, MAE).

The layers are those that timm names for its networks (`group_matcher`); our ResNets' are their stem and blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError

_CLASSIFIER = "simclr_plus_classifier"  # a name that no layer of a network claims
_OF_RESNETS = {"stem": r"^(?:conv1|bn1)\b", "blocks": [(r"^layer(\d+)\.(\d+)", None)]}


def layer_factors(encoder: nn.Module, decay: float) -> dict[int, float]:
    """By a parameter's id, what its learning rate is multiplied by: decay^k, k layers from the top.

    The classifier on top has 1, the last layer `decay`. RecipeError for an encoder whose layers nobody names.
    """
    require_layer_decay(decay)
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
    layer_of: dict[str, int] = group_parameters(_WithClassifier(network), groups, reverse=True)
    top = layer_of[_CLASSIFIER]
    if min(layer_of.values()) == top:
        raise RecipeError(f"--layer-decay {decay:g}: {type(network).__name__} is one layer to timm; leave it out")
    return {id(p): decay ** (top - layer_of[name]) for name, p in network.named_parameters()}


def require_layer_decay(decay: float) -> None:
    """Raises RecipeError for what is no factor of a rate."""
    if not 0 < decay <= 1:
        raise RecipeError(f"--layer-decay {decay:g}: use more than 0, at most 1 (none), e.g. 0.75")


class _WithClassifier:
    """A network as timm reads it that has its classifier on top: what no layer claims, as a last norm, is with it."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """The network's, and the classifier's."""
        yield from self.network.named_parameters()
        yield _CLASSIFIER, None
