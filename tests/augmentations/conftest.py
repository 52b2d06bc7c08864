"""What the tests of the augmentations share: golden arrays and real images."""

from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
from places import GOLDEN_FOLDER


@pytest.fixture(scope="session")
def golden() -> Callable[[str], dict[str, np.ndarray]]:
    """The arrays of tests/golden/NAME.npz, by their names."""

    @cache
    def arrays_of(name: str) -> dict[str, np.ndarray]:
        with np.load(GOLDEN_FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
            return dict(arrays)

    return arrays_of


@pytest.fixture(scope="session")
def real_images() -> np.ndarray:
    """Sixty real images, uint8 [60, 28, 28, 3]: the first half gray, the second with three images as its channels."""
    with np.load(files("simclr_plus.datasets.embedded") / "fashion_mnist.npz", allow_pickle=False) as arrays:
        images = arrays["train_images"][:120]
    gray = np.repeat(images[:30, :, :, None], 3, axis=3)
    coloured = images[30:].reshape(30, 3, 28, 28).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(np.concatenate([gray, coloured]))
