"""What a recipe says of its method: `[method]`, whose keys belong to the named method alone. No torch."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, get_args

from pydantic import Field

from simclr_plus.recipe.method_keys.amdim import AMDIMKeys
from simclr_plus.recipe.method_keys.autoencoder import AutoencoderKeys
from simclr_plus.recipe.method_keys.base import Collapse, Figure, MethodKeys
from simclr_plus.recipe.method_keys.bigan import BiGANKeys
from simclr_plus.recipe.method_keys.cmc import CMCKeys
from simclr_plus.recipe.method_keys.colorization import ColorizationKeys
from simclr_plus.recipe.method_keys.cpc import CPCKeys
from simclr_plus.recipe.method_keys.dim import DIMKeys
from simclr_plus.recipe.method_keys.exemplar import ExemplarKeys
from simclr_plus.recipe.method_keys.instdist import InstDistKeys
from simclr_plus.recipe.method_keys.jigsaw import JigsawKeys
from simclr_plus.recipe.method_keys.moco import MoCoKeys
from simclr_plus.recipe.method_keys.pirl import PIRLKeys
from simclr_plus.recipe.method_keys.relative_patch import RelativePatchKeys
from simclr_plus.recipe.method_keys.rotation import RotationKeys
from simclr_plus.recipe.method_keys.simclr import SimCLRKeys
from simclr_plus.recipe.method_keys.supervised import SupervisedKeys

__all__ = ["METHODS", "AnyMethod", "Collapse", "Figure", "MethodKeys", "SimCLRKeys"]

_SECTIONS: tuple[type[MethodKeys], ...] = (
    SimCLRKeys,
    SupervisedKeys,
    RotationKeys,
    AMDIMKeys,
    AutoencoderKeys,
    CPCKeys,
    DIMKeys,
    RelativePatchKeys,
    MoCoKeys,
    BiGANKeys,
    JigsawKeys,
    InstDistKeys,
    ColorizationKeys,
    CMCKeys,
    PIRLKeys,
    ExemplarKeys,
)
METHODS = {str(get_args(keys.model_fields["name"].annotation)[0]): keys for keys in _SECTIONS}
if TYPE_CHECKING:
    AnyMethod = MethodKeys
else:
    AnyMethod = Annotated[reduce(or_, _SECTIONS), Field(discriminator="name")]
