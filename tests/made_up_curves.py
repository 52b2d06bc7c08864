"""A curve that falls as losses do, and how strongly it is averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
from simclr_plus.tui.screens.plots import SMOOTHINGS

STEPS = 1719
LIGHT, STRONG = SMOOTHINGS["light"] * STEPS, SMOOTHINGS["strong"] * STEPS


def decay(x: Any) -> Any:
    return 0.5 + 5 * np.exp(-np.asarray(x) / 110)
