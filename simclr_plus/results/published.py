"""What the authors state of the checkpoints they published: ImageNet top-1 in percent. Facts, no code of a network.

v1: README of google-research/simclr (linear classifier). v2: its table, which covers five ways of making a classifier
of each network: fine-tuned with 1 %, 10 % and 100 % of the labels, a linear classifier, and supervised training.
"""

from __future__ import annotations

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.errors import RecipeError

V1_LINEAR: dict[float, float] = {1: 69.1, 2: 74.2, 4: 76.6}  # ResNet-50 by width
V2_COLUMNS = ("v2-1pct", "v2-10pct", "v2-100pct", "v2-linear", "v2-supervised")
V2: dict[tuple[int, float, bool], tuple[float, ...]] = {  # by depth, width, selective kernels
    (50, 1, False): (57.9, 68.4, 76.3, 71.7, 76.6),
    (50, 1, True): (64.5, 72.1, 78.7, 74.6, 78.5),
    (50, 2, False): (66.3, 73.9, 79.1, 75.6, 77.8),
    (50, 2, True): (70.6, 77.0, 81.3, 77.7, 79.3),
    (101, 1, False): (62.1, 71.4, 78.2, 73.6, 78.0),
    (101, 1, True): (68.3, 75.1, 80.6, 76.3, 79.6),
    (101, 2, False): (69.1, 75.8, 80.7, 77.0, 78.9),
    (101, 2, True): (73.2, 78.8, 82.4, 79.0, 80.1),
    (152, 1, False): (64.0, 73.0, 79.3, 74.5, 78.3),
    (152, 1, True): (70.0, 76.5, 81.3, 77.2, 79.9),
    (152, 2, False): (70.2, 76.6, 81.1, 77.4, 79.1),
    (152, 2, True): (74.2, 79.4, 82.9, 79.4, 80.4),
    (152, 3, True): (74.9, 80.1, 83.1, 79.8, 80.5),
}
NAMES = ("v1-linear", *V2_COLUMNS)


def stated_top1(name: str, architecture: Architecture) -> float:
    """ImageNet top-1 in percent of the published network `name` of that architecture; RecipeError where none is."""
    if name not in NAMES:
        raise RecipeError(f"{name!r} is no set of published figures; use one of {', '.join(NAMES)}")
    depth, width, selective = architecture.depth, architecture.width, architecture.selective_kernels
    percent: float | None
    if name == "v1-linear":
        percent = V1_LINEAR.get(width) if (depth, selective) == (50, False) else None
    else:
        row = V2.get((depth, width, selective))
        percent = row[V2_COLUMNS.index(name)] if row else None
    if percent is None or architecture.stem != "imagenet" or architecture.se_ratio:
        raise RecipeError(
            f"the authors state no {name} figure for {architecture.title}; give --stated PERCENT yourself"
        )
    return percent
