"""From the JSON that a file's header keeps of a network to the network."""

from __future__ import annotations

from typing import Any

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.lab_pair import LabPair
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.encoders.resnet import ResNet

FAMILIES: dict[str, type[Encoder]] = {
    "resnet": ResNet,
    "patches": PatchEncoder,
    "lab_pair": LabPair,
    "foreign": ForeignEncoder,
}


def build(spec: dict[str, Any]) -> Encoder:
    """The network of `Encoder.spec`, with new weights; TypeError or ValueError where this version knows none such."""
    numbers = dict(spec)
    family = numbers.pop("family", "resnet")  # files of ResNets do not name it
    if family not in FAMILIES:
        raise ValueError(f"a network of family {family!r}")
    if isinstance(numbers.get("encoder"), dict):  # of a network around another
        numbers["encoder"] = build(numbers["encoder"])
    return FAMILIES[family](**numbers)
