"""Views on the CPU: a decoded uint8 image and drawn parameters -> float32 planes, in compiled loops without the GIL.

An output row is mixed from four image rows, then along the row; colour operations run on a few rows at a time while
these are in cache, and only contrast, which needs the mean, splits the work into two sweeps. Everything is float32 and
unclipped until the first colour operation. The same law on batches of tensors is in operations.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from threading import Timer
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from simclr_plus.augmentations.compiled_code import compiled
from simclr_plus.augmentations.draws import (
    BRIGHTNESS,
    COLUMNS,
    CONTRAST,
    FLIP,
    GRAY,
    HEIGHT,
    HUE,
    JITTER,
    LEFT,
    ORDER,
    SATURATION,
    SIGMA,
    TOP,
    WIDTH,
    draw_views,
    draw_words,
    epoch_order,
)
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.operations import CUBIC_STEPS, GRAY_WEIGHTS

_f = np.float32
_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY = np.float32(1e-20)
_EDGE = 2  # pixels repeated on both ends of a row, so that no tap needs a check
_CHUNK_PIXELS = 1536  # rows worked on at a time, about the size of the first-level cache

_LOOP: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_FAST: dict[str, Any] = {"fastmath": {"contract", "nsz", "arcp", "reassoc", "nnan", "ninf"}, **_LOOP}


def _cubic_table(a: float) -> NDArray[np.float32]:
    """[1025, 4]: the weights of four pixels around a point q/1024 after the second."""
    t = np.arange(CUBIC_STEPS + 1) / CUBIC_STEPS
    near = ((a + 2) * t - (a + 3)) * t * t + 1
    far = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a
    return np.stack([far, near, near[::-1], far[::-1]], axis=1).astype(np.float32)


_TABLES = {"bicubic": _cubic_table(-0.5), "bicubic_legacy": _cubic_table(-0.75)}


class _Law(NamedTuple):
    """What the compiled loops know of a law; crops_only: no colour and no blur."""

    table: NDArray[np.float32]
    legacy: bool
    additive: bool
    crops_only: bool
    gray_weights: NDArray[np.float32]  # [3]
    gray_first: bool


class _Room(NamedTuple):
    """The buffers of a view: two mixed rows, taps of both axes, of the blur, and what it works in."""

    wide: NDArray[np.float32]  # [2, W + 2 edges, times 3]
    starts: NDArray[np.uint64]  # [2, S]
    weights: NDArray[np.float32]  # [2, S, 4]
    taps: NDArray[np.float32]  # [radius + 1]
    padded: NDArray[np.float32]
    columns: NDArray[np.float32]


class ViewMaker:
    """Makes the views of one law; holds the buffers of one thread.

    crops_only=True crops, resizes and flips, and leaves overshoot, colour and blur to `finish_views` on a device.
    """

    def __init__(self, law: ViewLaw, *, crops_only: bool = False) -> None:
        self.law = law
        size, radius = law.size, law.blur_radius
        self._numbers = _Law(
            _TABLES[law.resize],
            law.resize == "bicubic_legacy",
            law.brightness_law == "additive",
            crops_only,
            np.array(GRAY_WEIGHTS if law.gray_law == "luma" else [1 / 3] * 3, dtype=np.float32),
            law.gray_first,
        )
        self._room = _Room(
            np.zeros((2, 0), dtype=np.float32),
            np.zeros((2, size), dtype=np.uint64),
            np.zeros((2, size, 4), dtype=np.float32),
            np.zeros(radius + 1, dtype=np.float32),
            np.zeros(size + 2 * radius, dtype=np.float32),
            np.zeros((size + 2 * radius) * size, dtype=np.float32),
        )

    def fill(self, image: NDArray[np.uint8], parameters: NDArray[np.float32], out: NDArray[np.float32], b: int) -> None:
        """Write the views [V] of image [H, W, 3] by parameters [V, 16] to out[:, b] of [V, B, 3, S, S]."""
        self._check(image, parameters[None], out)
        assert 0 <= b < out.shape[1]
        _fill_one(image, parameters, self._planes(out), b, self._numbers, self._room_for(image))

    def fill_batch(
        self,
        images: NDArray[np.uint8],
        indices: NDArray[np.int64],
        parameters: NDArray[np.float32],
        out: NDArray[np.float32],
        first: int,
        last: int,
    ) -> None:
        """Write the views of images[indices[b]] by parameters [B, V, 16] to out[:, b], b from `first` to `last` - 1."""
        self._check(images[0], parameters, out)
        assert 0 <= first <= last <= min(len(indices), len(parameters), out.shape[1])
        if not images.flags.c_contiguous:
            raise ValueError("images must be one contiguous array [N, H, W, 3]")
        if last > first and not 0 <= indices[first:last].min() <= indices[first:last].max() < len(images):
            raise ValueError(f"indices lie outside the {len(images)} images")
        room = self._room_for(images[0])
        _fill_many(images, indices, parameters, self._planes(out), (first, last), self._numbers, room)

    def _check(self, image: NDArray[Any], parameters: NDArray[Any], out: NDArray[Any]) -> None:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.flags.c_contiguous:
            raise ValueError(f"an image is a contiguous uint8 array [H, W, 3], got {image.dtype} {image.shape}")
        if out.shape[2:] != (3, self.law.size, self.law.size) or out.dtype != np.float32 or not out.flags.c_contiguous:
            raise ValueError(f"views go to a contiguous float32 array [V, B, 3, S, S], got {out.dtype} {out.shape}")
        assert parameters.shape[1:] == (out.shape[0], COLUMNS) and parameters.dtype == np.float32
        boxes = parameters[..., TOP : WIDTH + 1]
        ends = boxes[..., :2] + boxes[..., 2:]
        if (boxes < 0).any() or (boxes[..., 2:] < 1).any() or (ends > np.array(image.shape[:2])).any():
            raise ValueError(f"a crop leaves its image of {image.shape[0]} x {image.shape[1]} pixels")

    def _planes(self, out: NDArray[np.float32]) -> NDArray[np.float32]:
        return out.reshape(*out.shape[:3], -1)

    def _room_for(self, image: NDArray[np.uint8]) -> _Room:
        needed = (image.shape[1] + 2 * _EDGE) * 3
        if self._room.wide.shape[1] < needed:
            self._room = self._room._replace(wide=np.zeros((2, needed), dtype=np.float32))
        return self._room


def compile_views(law: ViewLaw, say: Callable[[str], None] | None = None) -> None:
    """Compile, or load what was kept of it, all that makes views: before anything is timed, and before a fork.

    `say` is told when it takes longer than a second, which it does the first time on a machine.
    """
    notice = Timer(1.0, say or (lambda text: None), ["compiling the loops that make views, once (about half a minute)"])
    notice.start()
    try:
        law = replace(law, size=8)  # the code is the same for all sizes
        image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
        out = np.empty((2, 1, 3, 8, 8), dtype=np.float32)
        parameters = draw_views(0, 0, [0], heights=8, widths=8, law=law)
        maker = ViewMaker(law)
        maker.fill(image[0], parameters[0], out, 0)
        maker.fill_batch(image, np.zeros(1, dtype=np.int64), parameters, out, 0, 1)
        epoch_order(0, 0, 1)
        if law.operations:
            draw_words(0, 0, [0])
    finally:
        notice.cancel()
        notice.join()  # no thread is left when workers fork


@compiled(**_LOOP)
def _fill_many(images, indices, parameters, out, part, law, room):  # type: ignore[no-untyped-def]
    height, width = images.shape[1], images.shape[2]
    for b in range(part[0], part[1]):
        image = images[indices[b]].reshape(height, width * 3)
        for v in range(out.shape[0]):
            _fill_view(image, parameters[b, v], out[v, b], law, room)


@compiled(**_LOOP)
def _fill_one(image, parameters, out, b, law, room):  # type: ignore[no-untyped-def]
    flat = image.reshape(image.shape[0], image.shape[1] * 3)
    for v in range(out.shape[0]):
        _fill_view(flat, parameters[v], out[v, b], law, room)


@compiled(**_LOOP)
def _fill_view(image, p, out, law, room):  # type: ignore[no-untyped-def]
    """One view of an image [H, W 3] into planes [3, S S]."""
    contrast_at, gray = -1, False
    if not law.crops_only:
        gray = p[GRAY] != 0
        if p[JITTER] != 0:
            contrast_at = _place_of_contrast(p)
    sums = _resize_and_begin_color(image, p, out, law, room, contrast_at, gray)
    if contrast_at >= 0:
        _contrast_and_after(p, out, room.starts.shape[1], contrast_at, sums, law, gray and not law.gray_first)
    if p[SIGMA] > 0 and not law.crops_only:
        radius = _gaussian_taps(p[SIGMA], room.taps)
        for c in range(1 if gray else 3):
            _blur(out[c], room.starts.shape[1], room.taps, radius, room.padded, room.columns)
            _clip(out[c])
        if gray:
            out[1, :] = out[0]
            out[2, :] = out[0]


@compiled(**_LOOP)
def _place_of_contrast(p):  # type: ignore[no-untyped-def]
    """In the order of the four colour operations."""
    place = 4
    for k in range(4):
        if p[ORDER + k] == 1:
            place = k
    return place


@compiled(**_LOOP)
def _resize_and_begin_color(image, p, out, law, room, contrast_at, gray):  # type: ignore[no-untyped-def]
    """Crop, resize, flip, and the colour operations before contrast; returns the sums that contrast needs."""
    wide, starts, weights, size = room.wide, room.starts, room.weights, room.starts.shape[1]
    top, left, height, width = np.int64(p[TOP]), np.int64(p[LEFT]), np.int64(p[HEIGHT]), np.int64(p[WIDTH])
    _axis_taps(law.table, law.legacy, height, size, False, starts[0], weights[0])
    _axis_taps(law.table, law.legacy, width, size, p[FLIP] != 0, starts[1], weights[1])
    rows = max(1, _CHUNK_PIXELS // size)
    sum0, sum1, sum2 = _ZERO, _ZERO, _ZERO
    for start in range(0, size, rows):
        stop = min(size, start + rows)
        for y in range(start, stop, 2):
            z = min(y + 1, stop - 1)  # two rows share the taps' places and weights; an odd one is made twice
            _mix_image_rows(image, top, left, height, width, np.int64(starts[0, y]) - _EDGE, weights[0, y], wide[0])
            _mix_image_rows(image, top, left, height, width, np.int64(starts[0, z]) - _EDGE, weights[0, z], wide[1])
            here, there = slice(y * size, (y + 1) * size), slice(z * size, (z + 1) * size)
            r, g, b = out[0, here], out[1, here], out[2, here]
            _mix_along_rows(r, g, b, out[0, there], out[1, there], out[2, there], wide, starts[1], weights[1])
        chunk = slice(start * size, stop * size)
        r, g, b = out[0, chunk], out[1, chunk], out[2, chunk]
        if gray and (law.gray_first or contrast_at < 0):
            _to_gray(r, g, b, law.gray_weights)
        if contrast_at >= 0:
            _color(r, g, b, p, 0, contrast_at, law.additive)
            sum0 += _total(r)
            sum1 += _total(g)
            sum2 += _total(b)
        elif not gray and not law.crops_only:
            _clip(r)
            _clip(g)
            _clip(b)
    return sum0, sum1, sum2


@compiled(**_LOOP)
def _contrast_and_after(p, out, size, contrast_at, sums, law, gray):  # type: ignore[no-untyped-def]
    factor = p[CONTRAST]
    share = (_ONE - factor) / _f(size * size)
    rows = max(1, _CHUNK_PIXELS // size)
    for start in range(0, size, rows):
        chunk = slice(start * size, min(size, start + rows) * size)
        r, g, b = out[0, chunk], out[1, chunk], out[2, chunk]
        _scale_and_shift(r, factor, sums[0] * share)
        _scale_and_shift(g, factor, sums[1] * share)
        _scale_and_shift(b, factor, sums[2] * share)
        _color(r, g, b, p, contrast_at + 1, 4, law.additive)
        if gray:
            _to_gray(r, g, b, law.gray_weights)


@compiled(**_LOOP)
def _axis_taps(table, legacy, extent, size, flip, starts, weights):  # type: ignore[no-untyped-def]
    """starts[o]: the first of four taps, counted in a row with _EDGE repeated pixels; weights[o, 4]."""
    scale = _f(extent) / _f(size)
    for o in range(size):
        source = _f(o) * scale if legacy else (_f(o) + _f(0.5)) * scale - _f(0.5)
        first = math.floor(source)
        q = np.int64(np.rint((source - _f(first)) * _f(CUBIC_STEPS)))
        at = size - 1 - o if flip else o
        starts[at] = np.uint64(first - 1 + _EDGE)
        total = _ZERO
        for k in range(4):
            tap = first - 1 + k
            weight = table[q, k] if legacy or 0 <= tap < extent else _ZERO
            weights[at, k] = weight
            total += weight
        if not legacy:
            for k in range(4):
                weights[at, k] /= total


@compiled(**_LOOP)
def _mix_image_rows(image, top, left, height, width, first, w, row):  # type: ignore[no-untyped-def]
    """Four rows of the crop into one, in [0, 1], its ends repeated."""
    begin, end = left * 3, (left + width) * 3
    i0 = min(max(first, 0), height - 1) + top
    i1 = min(max(first + 1, 0), height - 1) + top
    i2 = min(max(first + 2, 0), height - 1) + top
    i3 = min(max(first + 3, 0), height - 1) + top
    inner = row[_EDGE * 3 : _EDGE * 3 + end - begin]
    _mix_four(inner, image[i0, begin:end], image[i1, begin:end], image[i2, begin:end], image[i3, begin:end], w)
    for k in range(_EDGE * 3):
        row[k] = inner[k % 3]
        row[_EDGE * 3 + len(inner) + k] = inner[len(inner) - 3 + k % 3]


@compiled(**_FAST)
def _mix_four(out, a, b, c, d, w):  # type: ignore[no-untyped-def]
    unit = _f(1 / 255)
    w0, w1, w2, w3 = w[0] * unit, w[1] * unit, w[2] * unit, w[3] * unit
    for i in range(len(out)):
        out[i] = w0 * _f(a[i]) + w1 * _f(b[i]) + w2 * _f(c[i]) + w3 * _f(d[i])


@compiled(**_FAST)
def _mix_along_rows(r, g, b, r2, g2, b2, rows, starts, weights):  # type: ignore[no-untyped-def]
    u = np.uint64
    row, row2 = rows[0], rows[1]
    for x in range(len(r)):
        q = starts[x] * u(3)
        w0, w1, w2, w3 = weights[x, 0], weights[x, 1], weights[x, 2], weights[x, 3]
        r[x] = w0 * row[q] + w1 * row[q + u(3)] + w2 * row[q + u(6)] + w3 * row[q + u(9)]
        g[x] = w0 * row[q + u(1)] + w1 * row[q + u(4)] + w2 * row[q + u(7)] + w3 * row[q + u(10)]
        b[x] = w0 * row[q + u(2)] + w1 * row[q + u(5)] + w2 * row[q + u(8)] + w3 * row[q + u(11)]
        r2[x] = w0 * row2[q] + w1 * row2[q + u(3)] + w2 * row2[q + u(6)] + w3 * row2[q + u(9)]
        g2[x] = w0 * row2[q + u(1)] + w1 * row2[q + u(4)] + w2 * row2[q + u(7)] + w3 * row2[q + u(10)]
        b2[x] = w0 * row2[q + u(2)] + w1 * row2[q + u(5)] + w2 * row2[q + u(8)] + w3 * row2[q + u(11)]


@compiled(**_LOOP)
def _color(r, g, b, p, first, last, additive):  # type: ignore[no-untyped-def]
    """The colour operations at places `first` to `last` - 1 of the order, contrast left out, a clip after each."""
    for k in range(first, last):
        operation = p[ORDER + k]
        if operation == 0:
            if additive:
                _scale_and_shift(r, _ONE, p[BRIGHTNESS])
                _scale_and_shift(g, _ONE, p[BRIGHTNESS])
                _scale_and_shift(b, _ONE, p[BRIGHTNESS])
            else:
                _scale_and_shift(r, p[BRIGHTNESS], _ZERO)
                _scale_and_shift(g, p[BRIGHTNESS], _ZERO)
                _scale_and_shift(b, p[BRIGHTNESS], _ZERO)
        elif operation == 2:
            _saturate(r, g, b, p[SATURATION])
        elif operation == 3:
            _turn_hue(r, g, b, p[HUE])


@compiled(**_FAST)
def _scale_and_shift(x, factor, shift):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        x[i] = min(max(x[i] * factor + shift, _ZERO), _ONE)


@compiled(**_FAST)
def _clip(x):  # type: ignore[no-untyped-def]
    for i in range(len(x)):
        x[i] = min(max(x[i], _ZERO), _ONE)


@compiled(**_FAST)
def _total(x):  # type: ignore[no-untyped-def]
    total = _ZERO
    for i in range(len(x)):
        total += x[i]
    return total


@compiled(**_FAST)
def _saturate(r, g, b, factor):  # type: ignore[no-untyped-def]
    """V - (V - c) min(f, V / C); a value of 0 or less needs no case of its own because the clip follows."""
    for i in range(len(r)):
        red, green, blue = r[i], g[i], b[i]
        value = max(red, max(green, blue))
        chroma = value - min(red, min(green, blue))
        share = min(factor, value / max(chroma, _TINY))
        r[i] = min(max(value - (value - red) * share, _ZERO), _ONE)
        g[i] = min(max(value - (value - green) * share, _ZERO), _ONE)
        b[i] = min(max(value - (value - blue) * share, _ZERO), _ONE)


@compiled(**_FAST)
def _turn_hue(r, g, b, turns):  # type: ignore[no-untyped-def]
    """Hue in sixths of a turn, without a branch."""
    for i in range(len(r)):
        red, green, blue = r[i], g[i], b[i]
        value = max(red, max(green, blue))
        low = min(red, min(green, blue))
        chroma = value - low
        along, offset = red - green, _f(4)
        along, offset = (blue - red, _f(2)) if value == green else (along, offset)
        along, offset = (green - blue, _ZERO) if value == red else (along, offset)
        h = along / max(chroma, _TINY) + (offset + turns * _f(6))
        h = h + _f(6) if h < _ZERO else h
        h = h - _f(6) if h >= _f(6) else h
        r[i] = min(max(low + chroma * min(max(abs(h - _f(3)) - _ONE, _ZERO), _ONE), _ZERO), _ONE)
        g[i] = min(max(low + chroma * min(max(_f(2) - abs(h - _f(2)), _ZERO), _ONE), _ZERO), _ONE)
        b[i] = min(max(low + chroma * min(max(_f(2) - abs(h - _f(4)), _ZERO), _ONE), _ZERO), _ONE)


@compiled(**_FAST)
def _to_gray(r, g, b, weights):  # type: ignore[no-untyped-def]
    red, green, blue = weights[0], weights[1], weights[2]
    for i in range(len(r)):
        gray = min(max(red * r[i] + green * g[i] + blue * b[i], _ZERO), _ONE)
        r[i] = gray
        g[i] = gray
        b[i] = gray


@compiled(**_LOOP)
def _gaussian_taps(sigma, taps):  # type: ignore[no-untyped-def]
    """The half kernel, normalised over the whole one; returns the radius beyond which taps are below 1e-8."""
    total = 0.0
    for k in range(len(taps)):
        taps[k] = math.exp(-(k * k) / (2.0 * sigma * sigma))
        total += taps[k] if k == 0 else 2 * taps[k]
    radius = 0
    for k in range(len(taps)):
        taps[k] = _f(taps[k] / total)
        if taps[k] >= _f(1e-8):
            radius = k
    return radius


@compiled(**_LOOP)
def _blur(plane, size, taps, radius, padded, columns):  # type: ignore[no-untyped-def]
    """A plane [S S] in place, rows then columns, zeros beyond the border (both buffers hold them)."""
    border = len(taps) - 1
    for y in range(size):
        _copy(padded[border : border + size], plane[y * size : (y + 1) * size])
        _weighted_pairs(columns[(y + border) * size : (y + border + 1) * size], padded, border, 1, taps, radius)
    rows = max(1, 2048 // size)
    for start in range(0, size, rows):
        stop = min(size, start + rows)
        _weighted_pairs(plane[start * size : stop * size], columns, (start + border) * size, size, taps, radius)


@compiled(**_FAST)
def _copy(out, x):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = x[i]


@compiled(**_LOOP)
def _weighted_pairs(out, x, at, stride, taps, radius):  # type: ignore[no-untyped-def]
    """out[i] = taps[0] x[at + i] + sum over k of taps[k] (x[at + i - k stride] + x[at + i + k stride])."""
    n = len(out)
    _scaled_copy(out, x[at : at + n], taps[0])
    k = 1
    while k <= radius:
        if k + 1 <= radius:
            near, far = k * stride, (k + 1) * stride
            _add_two_pairs(
                out,
                x[at - near : at - near + n],
                x[at + near : at + near + n],
                x[at - far : at - far + n],
                x[at + far : at + far + n],
                taps[k],
                taps[k + 1],
            )
        else:
            near = k * stride
            _add_pair(out, x[at - near : at - near + n], x[at + near : at + near + n], taps[k])
        k += 2


@compiled(**_FAST)
def _scaled_copy(out, x, w):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = w * x[i]


@compiled(**_FAST)
def _add_pair(out, a, b, w):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] += w * (a[i] + b[i])


@compiled(**_FAST)
def _add_two_pairs(out, a, b, c, d, w, v):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] += w * (a[i] + b[i]) + v * (c[i] + d[i])
