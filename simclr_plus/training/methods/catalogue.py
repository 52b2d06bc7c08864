"""The methods by the names that `method.name` takes."""

from __future__ import annotations

from simclr_plus.training.methods.amdim import AMDIM
from simclr_plus.training.methods.autoencoder import Autoencoder
from simclr_plus.training.methods.bigan import BiGAN
from simclr_plus.training.methods.cmc import CMC
from simclr_plus.training.methods.colorization import Colorization
from simclr_plus.training.methods.cpc import CPC
from simclr_plus.training.methods.dim import DIM
from simclr_plus.training.methods.exemplar import Exemplar
from simclr_plus.training.methods.instdist import InstDist
from simclr_plus.training.methods.jigsaw import Jigsaw
from simclr_plus.training.methods.method import Method
from simclr_plus.training.methods.moco import MoCo
from simclr_plus.training.methods.pirl import PIRL
from simclr_plus.training.methods.relative_patch import RelativePatch
from simclr_plus.training.methods.rotation import Rotation
from simclr_plus.training.methods.simclr import SimCLR
from simclr_plus.training.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "simclr": SimCLR,
    "supervised": Supervised,
    "rotation": Rotation,
    "amdim": AMDIM,
    "autoencoder": Autoencoder,
    "cpc": CPC,
    "dim": DIM,
    "relative_patch": RelativePatch,
    "moco": MoCo,
    "bigan": BiGAN,
    "jigsaw": Jigsaw,
    "instdist": InstDist,
    "colorization": Colorization,
    "cmc": CMC,
    "pirl": PIRL,
    "exemplar": Exemplar,
}
