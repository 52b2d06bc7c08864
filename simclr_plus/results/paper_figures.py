"""Figures of the paper (arXiv 2002.05709v3) to stand beside one's own, in percent, by evaluation, data and network.

Networks are ResNet-50 of width 1, 2, 4. Tables 6 (linear), 7 and B.4 (few labels), 8 and B.5 (transfer); those of
SimCLR v2 are its README's. They were reached on ImageNet at 224 pixels: smaller encoders are not expected to.
"""

from __future__ import annotations

import re

TWELVE = (
    *("food101", "cifar10", "cifar100", "birdsnap", "sun397", "cars"),
    *("aircraft", "voc2007", "dtd", "pets", "caltech101", "flowers102"),
)

# (evaluation, width): one figure for each of the twelve
_TRANSFER = {
    ("transfer", 1): "68.4 90.6 71.6 37.4 58.8 50.3 50.3 80.5 74.5 83.6 90.3 91.2",
    ("transfer", 4): "76.9 95.3 80.2 48.4 65.9 60.0 61.2 84.2 78.9 89.2 93.9 95.0",
    ("fine_tuned", 1): "88.2 97.7 85.9 75.9 63.5 91.3 88.1 84.1 73.2 89.2 92.1 97.0",
    ("fine_tuned", 4): "89.4 98.6 89.0 78.2 68.1 92.1 87.0 86.6 77.8 92.1 94.1 97.6",
    ("fine_tuned_random", 1): "86.9 95.9 80.2 76.1 53.6 91.4 85.9 67.3 64.8 81.5 72.6 92.0",
    ("fine_tuned_random", 4): "88.3 96.0 81.9 77.0 53.7 91.3 84.8 69.4 64.1 82.7 72.5 92.5",
}
_SUPERVISED = {
    ("transfer", 1): "72.3 93.6 78.3 53.7 61.9 66.7 61.0 82.8 74.9 91.5 94.5 94.7",
    ("transfer", 4): "75.2 95.7 81.2 56.4 64.9 68.8 63.8 83.8 78.7 92.3 94.1 94.2",
    ("fine_tuned", 1): "88.3 97.5 86.4 75.8 64.3 92.1 86.0 85.0 74.6 92.1 93.3 97.6",
    ("fine_tuned", 4): "88.7 98.3 88.7 77.8 67.0 91.4 88.0 86.5 78.8 93.2 94.2 98.0",
}
# width: top-1, top-5
_LINEAR: dict[int, tuple[float, float]] = {1: (69.3, 89.0), 2: (74.2, 92.0), 4: (76.5, 93.2)}
# (protocol, percent of labels), width: top-1, top-5 (0: not given)
_FEW_LABELS: dict[tuple[str, int], dict[int, tuple[float, float]]] = {
    ("paper", 1): {1: (48.3, 75.5), 2: (58.5, 83.0), 4: (63.0, 85.8)},
    ("paper", 10): {1: (65.6, 87.8), 2: (71.7, 91.2), 4: (74.4, 92.6)},
    ("simclr_v2", 1): {1: (57.9, 0), 2: (66.3, 0)},
    ("simclr_v2", 10): {1: (68.4, 0), 2: (73.9, 0)},
    ("simclr_v2", 100): {1: (76.3, 0), 2: (79.1, 0)},
}


def paper_figure(evaluation: str, data: str, metric: str, *, width: float = 1, imagenet: bool = False) -> str:
    """What the paper reports for it, as text: "R50 68.4 (supervised 72.3)"; empty where it reports nothing.

    The network of the same width is taken where there is one, else the narrowest.
    """
    if data in TWELVE:
        kind = "transfer" if evaluation == "transfer_mean" else evaluation
        figures_by_width = {w: of.split()[TWELVE.index(data)] for (e, w), of in _TRANSFER.items() if e == kind}
        if not figures_by_width:
            return ""
        nearest = int(width) if width in figures_by_width else min(figures_by_width)
        supervised = _SUPERVISED.get((kind, nearest))
        beside = f" (supervised {supervised.split()[TWELVE.index(data)]})" if supervised else ""
        return f"{_network(nearest)} {figures_by_width[nearest]}{beside}"
    place = {"top1": 0, "top5": 1}.get(metric)
    figures = _LINEAR if evaluation == "linear" else _of_few_labels(evaluation)
    if not imagenet or place is None or not figures:
        return ""
    nearest = int(width) if width in figures else min(figures)
    value = figures[nearest][place]
    return f"{_network(nearest)} {value:.1f}" if value else ""


def _of_few_labels(evaluation: str) -> dict[int, tuple[float, float]]:
    match = re.match(r"few_labels_(paper|simclr_v2)_(\d+(?:\.\d+)?)pct", evaluation)
    return _FEW_LABELS.get((match[1], round(float(match[2]))), {}) if match else {}


def _network(width: int) -> str:
    return "R50" if width == 1 else f"R50 {width}x"
