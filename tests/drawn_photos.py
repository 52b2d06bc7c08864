"""Pictures with the statistics of photographs, drawn from a seed.

Their amplitudes fall as 1/frequency, as those of natural images do (Field 1987). Shaded things with sharp and soft
edges stand before that ground, each channel reaches 0 and 255, and a sensor's noise lies over all.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
THINGS = 12


def drawn_photo(
    seed: int, *, height: int = 200, width: int = 250, tint: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """A picture [H, W, 3]; `tint` is added to the ground's red, green and blue, whose deviation is 1."""
    draws = np.random.default_rng(seed)
    light = _ground(draws, height, width)
    channels = np.stack([light + 0.2 * _ground(draws, height, width) for _ in range(3)], axis=-1) + tint
    y, x = np.mgrid[:height, :width]
    for _ in range(THINGS):
        away = np.hypot(y - draws.uniform(0, height), (x - draws.uniform(0, width)) * draws.uniform(0.5, 2))
        inside = 1 / (1 + np.exp(np.clip((away - draws.uniform(5, height / 4)) * draws.choice([0.2, 1, 5]), -50, 50)))
        thing = draws.normal(0, 2, size=3) + 0.5 * light[..., None] + 0.01 * (y - x)[..., None]
        channels += inside[..., None] * (thing - channels)
    darkest, lightest = np.percentile(channels, (1, 99), axis=(0, 1))
    exposed = 255 * (channels - darkest) / (lightest - darkest) + draws.normal(0, 3, size=channels.shape)
    return np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


def _ground(draws: np.random.Generator, height: int, width: int) -> Floats:
    """[H, W] of mean 0 and deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    spectrum = np.fft.rfft2(draws.normal(size=(height, width))) / np.where(frequency == 0, np.inf, frequency)
    ground = np.fft.irfft2(spectrum, (height, width))
    return np.asarray(ground / ground.std())
