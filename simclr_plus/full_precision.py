"""Losses are never rounded to half precision."""

from __future__ import annotations

import torch
from torch import Tensor


def in_full(x: Tensor) -> Tensor:
    """What was computed in bfloat16 or float16 as float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()
