"""Of more features than images only the directions that the images span matter to a linear classifier.

One that starts from zero and follows gradients, or that pays for its weights' squares, never leaves them.
N: images, F: features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def spanning(features: Tensor) -> Tensor | None:
    """An orthonormal basis [F, N] of what the rows of features [N, F] span; None where F is no larger than N.

    Turned into it (`features @ basis`), products of rows stay as they are, and so do all trainings that know no more.
    """
    if features.shape[1] <= len(features):
        return None
    basis: Tensor
    basis, _ = torch.linalg.qr(features.double().T)
    return basis
