"""Data that ships with the package: part of Fashion-MNIST (MIT), and photographs of 66 places (public domain)."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets.decoding import decode_image

FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PIECE = 64  # side of a piece in pixels; a photograph is 360 x 180, half of its file
PIECES = {"train": 64, "test": 24}  # of each photograph
# from where to where in its width they are cut, so that no pixel is in both parts
SPANS = {"train": ((0.0, 0.34), (0.66, 1.0)), "test": ((0.36, 0.64),)}
PLACES_SEED = 0

# images [N, H, W] or [N, H, W, 3], labels [N], classes
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64], tuple[str, ...]]


def fashion_mnist(part: str) -> Arrays:
    """The first 10,000 training or the first 2,000 test images ("train", "test"), gray, 28 pixels a side."""
    arrays = _fashion_arrays()
    return arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int64), FASHION_CLASSES


def places(part: str) -> Arrays:
    """Pieces of 66 photographs, 64 pixels a side; the class is the place, which is the photograph.

    64 training pieces of each come from the left and the right third of the photograph in turn, 24 test pieces from its
    middle. They stand in rounds, a piece of each place a round: the first 66 images have one label a class, the first
    330 five.
    """
    photographs, count, spans = _photographs(), PIECES[part], SPANS[part]
    pixels = np.empty((count, len(photographs), PIECE, PIECE, 3), dtype=np.uint8)
    for number, photograph in enumerate(photographs.values()):
        height, width = photograph.shape[:2]
        random = np.random.Generator(np.random.Philox([PLACES_SEED, number, part == "test"]))
        for i in range(count):
            start, end = spans[i % len(spans)]
            top = random.integers(height - PIECE + 1)
            left = random.integers(round(start * width), round(end * width) - PIECE + 1)
            pixels[i, number] = photograph[top : top + PIECE, left : left + PIECE]
    labels = np.tile(np.arange(len(photographs)), count)
    return pixels.reshape(-1, PIECE, PIECE, 3), labels, tuple(photographs)


@cache
def _photographs() -> dict[str, NDArray[np.uint8]]:
    """By name, in the order of the classes."""
    paths = sorted((files(__name__) / "places").iterdir(), key=lambda path: path.name)
    return {path.name.removesuffix(".jpg"): _halved(decode_image(path.read_bytes())) for path in paths}


def _halved(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 pixels."""
    height, width = (side // 2 * 2 for side in image.shape[:2])
    means = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    halved: NDArray[np.uint8] = np.rint(means).astype(np.uint8)
    return halved


@cache
def _fashion_arrays() -> dict[str, NDArray[Any]]:
    with np.load(str(files(__name__) / "fashion_mnist.npz"), allow_pickle=False) as arrays:
        return dict(arrays)
