"""SimCLR's augmentations: the law (law.py), what is drawn (draws.py), tensors (operations.py), CPU loops (views.py).

Names load on first use: the law needs neither torch nor numba.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simclr_plus.lazy import loads

if TYPE_CHECKING:
    from simclr_plus.augmentations.draws import draw_views, epoch_order
    from simclr_plus.augmentations.law import ViewLaw, simclr_law
    from simclr_plus.augmentations.operations import (
        add_brightness,
        adjust_brightness,
        adjust_contrast,
        adjust_hue,
        adjust_saturation,
        crop_and_resize,
        gaussian_blur,
        to_grayscale,
    )

__all__ = [
    "ViewLaw",
    "add_brightness",
    "adjust_brightness",
    "adjust_contrast",
    "adjust_hue",
    "adjust_saturation",
    "crop_and_resize",
    "draw_views",
    "epoch_order",
    "gaussian_blur",
    "simclr_law",
    "to_grayscale",
]

_HOME = dict.fromkeys(__all__, "operations") | {
    "ViewLaw": "law",
    "simclr_law": "law",
    "draw_views": "draws",
    "epoch_order": "draws",
}
__getattr__ = loads(__name__, _HOME)
