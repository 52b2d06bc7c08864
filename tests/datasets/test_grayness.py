"""Gray images are told by their channels, with the noise of a JPEG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_plus.datasets.grayness import count_gray, is_gray
from simclr_plus.datasets.images import Images
from simclr_plus.errors import UnreadableImageError


def test_channels_may_differ_by_the_noise_of_a_jpeg(tmp_path: Path) -> None:
    gray = np.repeat(np.random.default_rng(0).integers(0, 256, (32, 32, 1), dtype=np.uint8), 3, axis=2)
    assert is_gray(gray)
    Image.fromarray(gray).save(tmp_path / "x.jpg", quality=60)
    assert is_gray(np.asarray(Image.open(tmp_path / "x.jpg")))
    for channel in range(3):
        spot = gray.clip(20, 235)
        spot[3, 4, channel] += 8
        assert is_gray(spot)
        spot[3, 4, channel] += 1
        assert not is_gray(spot)


def test_images_are_looked_at_evenly_and_few_suffice() -> None:
    pixels = np.zeros((1000, 4, 4, 3), dtype=np.uint8)
    pixels[500:, 0, 0, 0] = 200
    images = Images("halves", pixels)
    assert count_gray(images, 10) == (5, 10) and count_gray(images) == (128, 256)
    assert count_gray(images.subset(np.arange(3))) == (3, 3)


def test_an_image_that_cannot_be_read_is_not_counted_or_stops(tmp_path: Path) -> None:
    for i in range(3):
        Image.new("RGB", (4, 4), (9 * i, 9 * i, 9 * i)).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"")
    paths = tuple(sorted(tmp_path.iterdir()))
    assert count_gray(Images("some", paths=paths, skip_bad=True)) == (2, 2)
    with pytest.raises(UnreadableImageError):
        count_gray(Images("some", paths=paths))
