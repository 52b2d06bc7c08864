"""Everything random about views and order, as a pure function of counters: seed, epoch, image index, view.

Words come from Philox4x32-10 (Salmon et al. 2011), keyed by the seed, so that processes, threads, device and resume
cannot change a draw and no generator's state exists. A view's parameters are one row of float32 numbers:

    TOP LEFT HEIGHT WIDTH   the crop, in pixels           BRIGHTNESS CONTRAST SATURATION HUE   factors; hue in turns
    FLIP JITTER GRAY        0 or 1                        SIGMA   of the blur in pixels, 0 for none
    ORDER ... ORDER+3       the four colour operations (0 brightness, 1 contrast, 2 saturation, 3 hue), left to right
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simclr_plus.augmentations.compiled_code import compiled
from simclr_plus.augmentations.law import ViewLaw

TOP, LEFT, HEIGHT, WIDTH, FLIP, JITTER, ORDER = 0, 1, 2, 3, 4, 5, 6
BRIGHTNESS, CONTRAST, SATURATION, HUE, GRAY, SIGMA = 10, 11, 12, 13, 14, 15
COLUMNS = 16

ATTEMPTS = 100  # crops tried before the whole image is taken
MIN_COVERED = 0.1  # share of the image that a crop must cover, whatever min_scale says

# what a word is for: the third counter is the view plus one of these
_CROP, _GATES, _COLORS, _BLUR, _SHARED_BLUR, _EPOCH_ORDER = 0x100, 0x200, 0x300, 0x400, 0x500, 0x600
_STUDY = 0x700

WORDS = 8  # of an operation of a study

_PERMUTATIONS = np.array(list(itertools.permutations(range(4))), dtype=np.float32)
_FIXED_ORDER = _PERMUTATIONS[:1]
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_ULP = np.float32(2.0**-24)


def draw_views(
    seed: int,
    epoch: ArrayLike,
    indices: ArrayLike,
    *,
    heights: ArrayLike,
    widths: ArrayLike,
    law: ViewLaw,
    views: int = 2,
    step: int = 0,
    positions: ArrayLike = 0,
) -> NDArray[np.float32]:
    """Parameters [B, V, 16] of the views of images `indices` [B] with the given sizes in pixels.

    `epoch`, `heights`, `widths` and `positions` are numbers or arrays [B]; `positions`, the places in the global batch
    of `step`, matter only when sigma is shared by groups.
    """
    index = np.array(indices, dtype=np.int64, ndmin=1)
    columns = np.empty((5, len(index)), dtype=np.int64)
    columns[0], columns[1], columns[2], columns[3], columns[4] = index, epoch, heights, widths, positions
    out = np.empty((len(index), views, COLUMNS), dtype=np.float32)
    orders = _PERMUTATIONS if law.random_order else _FIXED_ORDER
    brightness_low = -law.brightness if law.brightness_law == "additive" else max(1 - law.brightness, 0.0)
    brightness_high = law.brightness if law.brightness_law == "additive" else 1 + law.brightness
    ranges = np.array(
        [
            (brightness_low, brightness_high),
            (1 - law.contrast, 1 + law.contrast),
            (1 - law.saturation, 1 + law.saturation),
            (-law.hue, law.hue),
            law.sigmas,
        ],
        dtype=np.float32,
    )
    gates = np.array([law.flip_prob, law.jitter_prob, law.gray_prob, law.blur_prob], dtype=np.float32)
    key = np.uint64(int(seed) % 2**64)
    aspects = np.array([law.aspect[0], law.aspect[1] - law.aspect[0]], dtype=np.float32)
    chances = _Chances(np.float32(law.min_scale), aspects, orders, ranges, gates)
    _draw(key, columns, chances, step, law.blur_sigma_group, out)
    if law.same_crop:
        out[:, 1:] = out[:, :1]
    for shared, column in ((law.same_flip, FLIP), (law.gray_shared, GRAY)):
        if shared:
            out[:, 1:, column] = out[:, :1, column]
    return out


class _Chances(NamedTuple):
    """What the compiled loop knows of a law."""

    min_scale: np.float32
    aspects: NDArray[np.float32]  # smallest, and how much larger the largest is
    orders: NDArray[np.float32]  # of the four colour operations, one a row
    ranges: NDArray[np.float32]  # [5, 2]: brightness, contrast, saturation, hue, sigma
    gates: NDArray[np.float32]  # [4]: probabilities of flip, jitter, gray, blur


def draw_words(seed: int, epoch: ArrayLike, indices: ArrayLike, *, views: int = 2) -> NDArray[np.uint32]:
    """Words [B, V, 8] of 32 bits for what views.py does not know: the operations of studies."""
    index = np.array(indices, dtype=np.int64, ndmin=1)
    out = np.empty((len(index), views, WORDS), dtype=np.uint32)
    _draw_words(np.uint64(int(seed) % 2**64), np.full_like(index, epoch), index, out)
    return out


def epoch_order(seed: int, epoch: int, images: int) -> NDArray[np.int64]:
    """The order in which an epoch visits the images: a permutation of 0 .. images - 1."""
    return np.argsort(_order_keys(np.uint64(int(seed) % 2**64), epoch, images), kind="stable")


@compiled(inline="always")
def _philox(c0, c1, c2, c3, key):  # type: ignore[no-untyped-def]
    """Four 32-bit words, in uint64, from four counters."""
    c0, c1, c2, c3 = np.uint64(c0) & _LOW, np.uint64(c1) & _LOW, np.uint64(c2) & _LOW, np.uint64(c3) & _LOW
    k0, k1 = key & _LOW, key >> _SHIFT
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _LOW, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3


@compiled(inline="always")
def _uniform(word):  # type: ignore[no-untyped-def]
    """A float32 in [0, 1) of 24 bits."""
    return np.float32(word >> np.uint64(8)) * _ULP


@compiled(inline="always")
def _below(word, n):  # type: ignore[no-untyped-def]
    """A whole number from 0 to n - 1."""
    return np.int64((word * np.uint64(n)) >> _SHIFT)


@compiled(inline="always")
def _between(word, limits):  # type: ignore[no-untyped-def]
    return _uniform(word) * (limits[1] - limits[0]) + limits[0]


@compiled(nogil=True)
def _draw(key, columns, chances, step, sigma_group, out):  # type: ignore[no-untyped-def]
    """columns [5, B]: index, epoch, height and width of each image, its position in the global batch."""
    indices, epochs, heights, widths, positions = columns[0], columns[1], columns[2], columns[3], columns[4]
    orders, ranges, gates = chances.orders, chances.ranges, chances.gates
    for b in range(len(indices)):
        for view in range(out.shape[1]):
            row = out[b, view]
            _draw_crop(key, indices[b], epochs[b], view, heights[b], widths[b], chances, row)
            w0, w1, w2, w3 = _philox(indices[b], epochs[b], view | _GATES, 0, key)
            row[FLIP] = _uniform(w0) < gates[0]
            row[JITTER] = _uniform(w1) < gates[1]
            row[GRAY] = _uniform(w2) < gates[2]
            blurred = _uniform(w3) < gates[3]
            w0, w1, w2, w3 = _philox(indices[b], epochs[b], view | _COLORS, 0, key)
            row[ORDER : ORDER + 4] = orders[_below(w0, len(orders))]
            row[BRIGHTNESS] = _between(w1, ranges[0])
            row[CONTRAST] = _between(w2, ranges[1])
            row[SATURATION] = _between(w3, ranges[2])
            w0, w1, w2, w3 = _philox(indices[b], epochs[b], view | _BLUR, 0, key)
            row[HUE] = _between(w0, ranges[3])
            if sigma_group > 0:
                w1, w2, w3, w0 = _philox(positions[b] // sigma_group, step, view | _SHARED_BLUR, 0, key)
            row[SIGMA] = _between(w1, ranges[4]) if blurred else np.float32(0)


@compiled(nogil=True)
def _draw_crop(key, index, epoch, view, image_height, image_width, chances, row):  # type: ignore[no-untyped-def]
    """TensorFlow's sample_distorted_bounding_box: uniform aspect, uniform height, the last offset left out."""
    f = np.float32
    row[TOP], row[LEFT], row[HEIGHT], row[WIDTH] = 0, 0, image_height, image_width
    whole = f(image_width * image_height)
    smallest = chances.min_scale * whole
    for attempt in range(ATTEMPTS):
        w0, w1, w2, w3 = _philox(index, epoch, view | _CROP, attempt, key)
        aspect = _uniform(w0) * chances.aspects[1] + chances.aspects[0]
        low = np.int64(np.rint(np.sqrt(smallest / aspect)))
        high = np.int64(np.rint(np.sqrt(whole / aspect)))
        if np.rint(f(high) * aspect) > image_width:
            high = np.int64((f(image_width) + f(0.5 - 1e-7)) / aspect)
            if np.rint(f(high) * aspect) > image_width:
                high -= 1
        high = min(high, image_height)
        low = min(low, high)
        height = low + _below(w1, high - low + 1)
        width = np.int64(np.rint(f(height) * aspect))
        if f(width * height) < smallest:
            height += 1
            width = np.int64(np.rint(f(height) * aspect))
        if f(width * height) > whole:
            height -= 1
            width = np.int64(np.rint(f(height) * aspect))
        area = f(width * height)
        fits = 0 < width <= image_width and 0 < height <= image_height and smallest <= area <= whole
        if fits and area / whole >= f(MIN_COVERED):
            row[TOP] = _below(w2, image_height - height) if height < image_height else 0
            row[LEFT] = _below(w3, image_width - width) if width < image_width else 0
            row[HEIGHT], row[WIDTH] = height, width
            return


@compiled(nogil=True)
def _draw_words(key, epochs, indices, out):  # type: ignore[no-untyped-def]
    for b in range(len(indices)):
        for view in range(out.shape[1]):
            for block in range(WORDS // 4):
                words = _philox(indices[b], epochs[b], view | _STUDY, block, key)
                for i in range(4):
                    out[b, view, 4 * block + i] = words[i]


@compiled(nogil=True)
def _order_keys(key, epoch, images):  # type: ignore[no-untyped-def]
    keys = np.empty(images, dtype=np.uint64)
    for i in range(images):
        w0, w1, _, _ = _philox(i, epoch, _EPOCH_ORDER, 0, key)
        keys[i] = (w0 << _SHIFT) | w1
    return keys
