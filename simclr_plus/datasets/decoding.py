"""From the bytes of an image file to 8-bit pixels. What cannot be read truly is refused: no gray halves, no guesses.

Of an animation the first frame counts, and EXIF rotation is not applied (as in torchvision's loaders).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from simclr_plus.errors import UnreadableImageError
from simclr_plus.recipe.keys import Data

if TYPE_CHECKING:
    from PIL.Image import Image

JPEG, PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
_opening = Lock()  # Pillow's limit of pixels and Python's filters of warnings belong to the whole process


@dataclass(frozen=True)
class Reading:
    """How files become pixels: the keys `background`, `deep_gray` and `max_pixels` of [data]."""

    background: str = Data().background
    deep_gray: str = Data().deep_gray
    max_pixels: int = Data().max_pixels


def reading_of(data: Data) -> Reading:
    """What a recipe says of it."""
    return Reading(data.background, data.deep_gray, data.max_pixels)


def decode_image(data: bytes, reading: Reading = Reading()) -> NDArray[np.uint8]:
    """The bytes of an image file, whatever it is called -> uint8 [H, W, 3] RGB. Raises UnreadableImageError."""
    try:
        image = _decode_jpeg(data, reading) if data[:2] == JPEG else None
        image = _decode_with_pillow(data, reading) if image is None else image
    except UnreadableImageError:
        raise
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from None
    if not image.size:
        raise UnreadableImageError("it has no pixel")
    return image


def is_transparent(path: Path) -> bool:
    """Whether a file is an image with a pixel that is not opaque."""
    try:
        data = path.read_bytes()
        if data[:2] == JPEG:
            return False
        with _opened(data, Reading()) as image:
            key = _transparent_value(image, data)
            if image.mode.startswith("I;16"):
                return bool((np.asarray(image) == key).any())
            return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] < 255  # type: ignore[operator]
    except Exception:  # whoever reads it will say so
        return False


def _decode_jpeg(data: bytes, reading: Reading) -> NDArray[np.uint8] | None:
    """None for what only Pillow reads."""
    import simplejpeg

    height, width, color_space, _ = simplejpeg.decode_jpeg_header(data)
    _require_size(width, height, reading)
    inks = color_space in ("CMYK", "YCCK")
    if not inks and color_space not in ("Gray", "YCbCr", "RGB", "YCC"):
        return None
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="CMYK" if inks else "RGB")
    except ValueError as error:
        if _is_damage(str(error), data):  # Pillow would fill the rest with gray
            raise UnreadableImageError(str(error)) from None
        return None
    return None if inks else image


def _is_damage(complaint: str, data: bytes) -> bool:
    """Whether pixels are lost. Bytes of filling before the end, as some cameras write them, are none."""
    filling = re.search(r"(\d+) extraneous bytes before marker 0xd9", complaint)
    if filling:
        end = data.rfind(b"\xff\xd9")
        return bool(data[max(0, end - int(filling[1])) : end].strip(b"\0\xff"))
    return complaint.startswith(("Corrupt JPEG data", "Premature end"))


def _decode_with_pillow(data: bytes, reading: Reading) -> NDArray[np.uint8]:
    with _opened(data, reading) as image:
        key = _transparent_value(image, data)
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            values = np.asarray(image)
            pixels = np.repeat(_eight_bits(values, reading.deep_gray)[:, :, None], 3, axis=2)
            if isinstance(key, int) and reading.background != "drop":
                pixels[values == key] = _color(reading.background)
            return pixels
        if not image.has_transparency_data:
            return np.ascontiguousarray(image.convert("RGB"))
        if reading.background == "drop":  # a palette by way of RGBA: straight to RGB Pillow warns
            return np.ascontiguousarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))
        return _laid_on(image.convert("RGBA"), _color(reading.background))


def _laid_on(image: Image, color: tuple[int, ...]) -> NDArray[np.uint8]:
    from PIL import Image

    laid = Image.new("RGB", image.size, color)
    laid.paste(image.convert("RGB"), mask=image.getchannel("A"))
    return np.ascontiguousarray(laid)


def _color(name: str) -> tuple[int, ...]:
    from PIL.ImageColor import getrgb

    return getrgb(name)


def _transparent_value(image: Image, data: bytes) -> Any:
    """The colour that a file without alpha calls transparent, on the scale of Pillow's pixels, which is not always the
    file's: 16 bits of colour are 8 here, and 2 or 4 bits of gray are 8.
    """
    key = image.info.get("transparency")
    if key is None or data[:8] != PNG:
        return key
    bits = data[24]
    if bits == 16 and isinstance(key, tuple):
        key = tuple(value >> 8 for value in key)
    elif bits < 8 and image.mode in ("1", "L") and isinstance(key, int):
        key = min(255, key * 255 // (2**bits - 1))  # Pillow has done it for one bit
    image.info["transparency"] = key
    return key


@contextmanager
def _opened(data: bytes, reading: Reading) -> Iterator[Image]:
    """The image with its header read; Pillow's own limit of pixels does not count, and what it warns of is metadata."""
    from PIL import Image, UnidentifiedImageError

    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            what = "it is no image of a known format" if data else "the file is empty"
            raise UnreadableImageError(what) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with image:
        _require_size(*image.size, reading)
        yield image


def _require_size(width: int, height: int, reading: Reading) -> None:
    if 0 < reading.max_pixels < width * height:
        raise UnreadableImageError(
            f"it has {width} x {height} = {width * height:,} pixels, more than data.max_pixels = {reading.max_pixels:,}"
        )


def _eight_bits(gray: NDArray[Any], rule: str) -> NDArray[np.uint8]:
    """A deep gray image [H, W] in 8 bits: by its type, so that a dark one stays dark, or by its largest value."""
    if rule == "by_values":
        top = 65535.0 if gray.dtype.kind in "iu" and gray.max(initial=0) > 255 else 255.0
    else:
        top = 1.0 if gray.dtype.kind == "f" else 65535.0  # Pillow brings deep PGM of any range to 16 bits
        low, high = (float(find(gray)) if gray.size else 0.0 for find in (np.min, np.max))
        margin = top / 512 if gray.dtype.kind == "f" else 0  # what is rounded to 8 bits hides it
        if not (-margin <= low and high <= top + margin):
            kind = "floating-point" if gray.dtype.kind == "f" else f"{8 * gray.dtype.itemsize}-bit"
            raise UnreadableImageError(
                f"it is a {kind} image of values {low:g} to {high:g}, but 0 is black and {top:g} white; "
                "save it in 8 or 16 bits"
            )
    return np.clip(np.rint(gray.astype(np.float64) * (255 / top)), 0, 255).astype(np.uint8)
