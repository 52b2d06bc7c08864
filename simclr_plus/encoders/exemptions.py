"""Which parameters of any network neither decay nor adapt, besides biases: all that is no kernel and no matrix.

Decay draws weights towards zero because small kernels and matrices make a smoother function. A norm's scale, a token or
a position has no such reason. timm says the same by `no_weight_decay` and by the dimensions of a parameter, torchvision
by names (class_token, position_embedding, relative_position_bias_table in its reference training).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

# in last parts of names: tokens, positions, biases of attention, learned queries, frequencies, scales of logits
_NO_WEIGHT = re.compile(
    r"token|(^|_)pos(_|$|ition|embed)|(height|width)_rel|rel_(pos|height|width)|bias_table|biases\d*$|^latent|^freqs|"
    r"logit_scale|temperature"
)


def undecayed_parameters(network: nn.Module, named: Iterable[str] = ()) -> frozenset[str]:
    """Names of a network's parameters without decay and adaptation; plain biases are the optimizer's to decide.

    named: names, or last parts of names, that the network's library gives.
    """
    listed = set(named)
    return frozenset(
        name
        for name, parameter in network.named_parameters()
        if (last := name.rpartition(".")[2]) in listed
        or name in listed
        or _NO_WEIGHT.search(last)
        or (last not in ("weight", "bias") and parameter.numel() == max(parameter.shape, default=1))  # one a channel
        or (last != "bias" and parameter.ndim <= 1)
    )
