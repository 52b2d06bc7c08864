"""Which parameters are no kernels or matrices: norms, tokens, positions, scales; by class, name and shape."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from fnmatch import fnmatchcase

from torch import Tensor, nn

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
# words in the last parts of names, as timm, torchvision and others name what has several dimensions and is no matrix
WORDS = frozenset(
    {
        *("token", "tokens", "latent"),
        *("pos", "position", "positional", "rel", "relative", "biases"),  # also of what attention adds by distance
        *("alpha", "beta", "gamma", "gain", "scale", "temperature"),
    }
)
SWINS_POSITIONS = "cpb_mlp"  # the small network that makes Swin v2's position biases; its authors decay none of it


def norm_parameters(network: nn.Module) -> frozenset[str]:
    """Names of scales and offsets of norms: PyTorch's, and layers with "norm" in the name of their class.

    timm's EvoNorm, FilterResponseNorm and GlobalResponseNorm are no subclasses of PyTorch's.
    """
    return frozenset(
        f"{place}.{name}" if place else name
        for place, layer in network.named_modules()
        if _is_norm(layer)
        for name, _ in layer.named_parameters(recurse=False)
    )


def tokens_and_scales(network: nn.Module, library_says: Iterable[str] = ()) -> frozenset[str]:
    """Names of tokens, positions, scales of layers and of attention, besides norms and offsets.

    library_says: names, patterns of names, or their last parts that the network itself keeps from decay.
    """
    norms, said = norm_parameters(network), set(library_says)
    return frozenset(
        name
        for name, parameter in network.named_parameters()
        if _is_said(name, said) or (name not in norms and _is_token_or_scale(name, parameter))
    )


def is_offset(name: str) -> bool:
    """Whether that is the name of an offset: bias, q_bias, in_proj_bias."""
    return name.endswith("bias")


def _is_norm(layer: nn.Module) -> bool:
    if isinstance(layer, NORMS):
        return True
    its_own = list(layer.parameters(recurse=False))
    whole = len(its_own) == len(list(layer.parameters()))  # a block without norms may have the word in its name
    return "norm" in type(layer).__name__.lower() and whole and all(p.ndim <= 1 for p in its_own)


def _is_token_or_scale(name: str, parameter: Tensor) -> bool:
    last = name.rpartition(".")[2]
    if SWINS_POSITIONS in name.split("."):
        return True
    if is_offset(last):
        return False
    if parameter.ndim <= 1:
        return True
    words = set(re.sub(r"\d", "", last).lower().split("_"))
    if "weight" in words:  # a kernel [C, 1, 1, 1] is still a kernel
        return False
    is_row = parameter.ndim > 2 and parameter.numel() == max(parameter.shape)  # [1, 1, C], [C, 1, 1], [C, 1, 1, 1]
    return is_row or bool(words & WORDS)


def _is_said(name: str, said: Collection[str]) -> bool:
    return any(name == word or name.rpartition(".")[2] == word or fnmatchcase(name, word) for word in said)
