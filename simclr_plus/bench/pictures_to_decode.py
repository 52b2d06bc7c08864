"""The JPEG files that the data benchmark decodes: a user's folder, photographs of this machine, or mosaics."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simclr_plus.datasets.decoding import decode_image
from simclr_plus.datasets.images import PRETRAIN, open_folder, open_images
from simclr_plus.recipe.keys import Data

PHOTOGRAPHS = Path("/usr/share/backgrounds/mate/nature")  # Debian's mate-backgrounds
WIDTH, HEIGHT, QUALITY = 500, 375, 94  # ImageNet's commonest size


def files_to_decode(folder: Path | None, count: int) -> tuple[list[bytes], str]:
    """Contents of up to `count` image files, and in words where they come from."""
    if folder is not None:
        paths = open_folder(folder).first(count).paths
        return [path.read_bytes() for path in paths], f"{len(paths)} images of {folder}"
    if PHOTOGRAPHS.is_dir():
        return list(_cuts(count)), f"{count} cuts of {WIDTH} x {HEIGHT} from the photographs in {PHOTOGRAPHS}"
    mosaics = [_as_jpeg(_mosaic(i)) for i in range(count)]
    return mosaics, f"{count} mosaics of {WIDTH} x {HEIGHT} of embedded images (no photographs here: name a folder)"


def small_images(files: list[bytes], size: int, count: int) -> NDArray[np.uint8]:
    """`count` images of size x size [N, S, S, 3], as a small data set in memory holds them, cut from the files."""
    cuts = []
    for data in files:
        image = Image.fromarray(decode_image(data)).resize((8 * size, 8 * size))
        cuts += [np.asarray(image)[y : y + size, x : x + size] for y in range(0, 8 * size, size) for x in (0, 4 * size)]
    return np.ascontiguousarray(np.stack([cuts[i % len(cuts)] for i in range(count)]))


def _cuts(count: int) -> Iterator[bytes]:
    photographs = [Image.open(path).convert("RGB") for path in sorted(PHOTOGRAPHS.glob("*.jpg"))]
    for i in range(count):
        photograph = photographs[i % len(photographs)].copy()
        photograph.thumbnail((1000, 1000))
        left = 137 * i % max(1, photograph.width - WIDTH)
        top = 89 * i % max(1, photograph.height - HEIGHT)
        yield _as_jpeg(photograph.crop((left, top, left + WIDTH, top + HEIGHT)))


def _mosaic(number: int) -> Image.Image:
    """Embedded 28 x 28 images side by side, smoothly enlarged to twice their size."""
    pixels = open_images(Data(), PRETRAIN).pixels
    assert pixels is not None
    rows, columns = -(-HEIGHT // 56), -(-WIDTH // 56)
    tiles = pixels[np.arange(rows * columns) + number * rows * columns].reshape(rows, columns, 28, 28, 3)
    whole = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * 28, columns * 28, 3)
    return Image.fromarray(whole).resize((columns * 56, rows * 56)).crop((0, 0, WIDTH, HEIGHT))


def _as_jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
