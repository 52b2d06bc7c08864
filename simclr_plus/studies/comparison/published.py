"""What was published of the methods on ImageNet: top-1 of linear classifiers on frozen features, in percent."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A network, millions of its parameters, its top-1, and who measured it where."""

    network: str
    parameters: float
    top1: float
    source: str


# by method.name, first the figure that stands beside ours: a plain ResNet-50 where there is one
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "simclr": (
        Published("ResNet-50", 24, 69.3, "Chen et al. 2020, Table 6"),
        Published("ResNet-50 2x", 94, 74.2, "Chen et al. 2020, Table 6"),
        Published("ResNet-50 4x", 375, 76.5, "Chen et al. 2020, Table 6"),
    ),
    "supervised": (Published("ResNet-50", 24, 76.5, "Chen et al. 2020, Figure 1"),),
    "rotation": (
        Published("ResNet-50", 24, 47.0, "mmselfsup's model zoo, 70 epochs, on h"),
        Published("RevNet-50 4x", 86, 55.4, "Kolesnikov et al. 2019, by SimCLR's Table 6"),
    ),
    "relative_patch": (Published("ResNet-50", 24, 40.4, "mmselfsup's model zoo, 70 epochs, on h"),),
    "jigsaw": (Published("ResNet-50", 24, 48.6, "VISSL's model zoo, 100 permutations, best layer"),),
    "colorization": (Published("ResNet-50", 24, 40.1, "Goyal et al. 2019 by VISSL's model zoo, best layer"),),
    "bigan": (
        Published("ResNet-50", 24, 55.4, "BigBiGAN: Donahue and Simonyan 2019"),
        Published("RevNet-50 4x", 86, 61.3, "BigBiGAN, by SimCLR's Table 6"),
    ),
    "exemplar": (Published("ResNet-50", 24, 42.8, "Kolesnikov et al. 2019, validation split, from memory"),),
    "instdist": (Published("ResNet-50", 24, 54.0, "Wu et al. 2018; re-evaluated by VISSL: 55.0"),),
    "cmc": (
        Published("two ResNet-50 of half width", 12, 58.6, "PyContrast's README, softmax, 65,536 negatives"),
        Published("two ResNet-50 2x", 188, 68.4, "Tian et al. 2019, by SimCLR's Table 6"),
    ),
    "moco": (
        Published("ResNet-50", 24, 67.5, "v2, 200 epochs: the authors' README"),
        Published("ResNet-50", 24, 60.6, "v1: He et al. 2020"),
        Published("ResNet-50 4x", 375, 68.6, "v1: He et al. 2020"),
    ),
    "pirl": (Published("ResNet-50", 24, 63.6, "Misra and van der Maaten 2020, by SimCLR's Table 6"),),
    "cpc": (
        Published("ResNet-50", 24, 63.8, "v2: Henaff et al. 2019, by SimCLR's Table 6"),
        Published("ResNet-161", 305, 71.5, "v2: Henaff et al. 2019, by SimCLR's Table 6"),
        Published("ResNet-v2-101", 28, 48.7, "v1: van den Oord et al. 2018"),
    ),
    "amdim": (Published("its own, 626 M parameters", 626, 68.1, "Bachman et al. 2019"),),
}
