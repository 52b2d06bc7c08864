"""What a person sees in a file is what is trained on, or the file is refused by name."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simclr_plus.datasets.decoding import Reading, decode_image
from simclr_plus.datasets.images import PRETRAIN, TRAIN, notes_of, open_folder, open_images
from simclr_plus.errors import UnreadableImageError
from simclr_plus.recipe.keys import Data

AS_BEFORE = Reading("drop", "by_values", 0)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing() -> Image.Image:
    """A red disk, half transparent at its left, on black that nobody sees."""
    image = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 5, 30, 25), fill=(255, 0, 0, 255))
    ImageDraw.Draw(image).rectangle((0, 10, 15, 20), fill=(255, 0, 0, 128))
    return image


def seen(image: Image.Image, colour: tuple[int, int, int]) -> NDArray[np.float64]:
    """By the definition of alpha."""
    pixels = np.asarray(image.convert("RGBA"), dtype=np.float64)
    alpha = pixels[..., 3:] / 255
    return pixels[..., :3] * alpha + np.array(colour) * (1 - alpha)  # type: ignore[no-any-return]


def png(width: int, height: int, bits: int, colour_type: int, rows: bytes, transparent: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0))
    middle = chunk(b"tRNS", transparent) if transparent else b""
    return b"\x89PNG\r\n\x1a\n" + head + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("background", "colour"), [("white", (255, 255, 255)), ("#102030", (16, 32, 48))])
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_transparent_parts_show_the_background(kind: str, background: str, colour: tuple[int, int, int]) -> None:
    data = encoded(drawing(), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    image = decode_image(data, Reading(background))
    assert np.abs(image - seen(drawing(), colour)).max() <= 1
    assert (decode_image(data, replace(AS_BEFORE)) == np.asarray(drawing())[..., :3]).all()


def test_palettes_gray_and_animations_are_laid_on_the_background_too() -> None:
    gray = drawing().convert("LA")
    palette = drawing().quantize(16)  # several alphas
    frames = [Image.new("RGBA", (9, 8), (0, 0, 0, 0)), Image.new("RGBA", (9, 8), (0, 0, 255, 255))]
    ImageDraw.Draw(frames[0]).point((4, 4), fill=(0, 255, 0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.abs(decode_image(encoded(gray, "PNG")) - seen(gray, (255, 255, 255))).max() <= 1
        assert np.abs(decode_image(encoded(palette, "PNG")) - seen(palette, (255, 255, 255))).max() <= 1
        dropped = decode_image(encoded(palette, "PNG"), AS_BEFORE)
        first = decode_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert (dropped == np.asarray(palette.convert("RGBA"))[..., :3]).all()
    assert (first[0, 0] == 255).all() and first[4, 4].tolist() == [0, 255, 0]


def test_a_colour_that_a_png_calls_transparent_is_found_at_every_depth() -> None:
    """Without alpha, one value is transparent: 1, 2, 4, 8 and 16 bits of gray, 8 and 16 of colour."""
    for bits, rows, key in ((1, b"\0\x40", 1), (2, b"\0\x20", 2), (4, b"\0\x0b", 11), (8, b"\0\0\x0b", 11)):
        image = decode_image(png(2, 1, bits, 0, rows, struct.pack(">H", key)), Reading("#0000ff"))
        assert image[0].tolist() == [[0, 0, 0], [0, 0, 255]], bits
    deep = decode_image(png(2, 1, 16, 0, b"\0\0\0\x12\x34", struct.pack(">H", 0x1234)), Reading("#0000ff"))
    assert deep[0].tolist() == [[0, 0, 0], [0, 0, 255]]
    colours = struct.pack(">HHH", 0x1234, 0x5678, 0x9ABC)
    deep = decode_image(png(2, 1, 16, 2, b"\0" + bytes(6) + colours, colours), Reading("#0000ff"))
    assert deep[0].tolist() == [[0, 0, 0], [0, 0, 255]]


def test_sixteen_bits_a_channel_are_cut_to_eight_with_their_alpha() -> None:
    rows = b"\0" + struct.pack(">2H", 65535, 65535) + struct.pack(">2H", 0, 0) + struct.pack(">2H", 256, 65535)
    assert decode_image(png(3, 1, 16, 4, rows))[0, :, 0].tolist() == [255, 255, 1]
    rows = b"\0" + struct.pack(">4H", 65535, 0, 0, 65535) + struct.pack(">4H", 0, 0, 0, 0)
    assert decode_image(png(2, 1, 16, 6, rows))[0].tolist() == [[255, 0, 0], [255, 255, 255]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_a_dark_frame_of_16_bits_stays_dark(kind: str) -> None:
    dark = np.full((6, 5), 250, np.uint16)
    assert decode_image(encoded(Image.fromarray(dark), kind)).max() == 1
    if kind == "PNG":
        assert decode_image(encoded(Image.fromarray(dark), kind), AS_BEFORE).min() == 250


def test_deep_gray_of_every_type_is_the_same_picture() -> None:
    gray = np.linspace(0, 1, 600).reshape(20, 30)
    expected = np.rint(gray * 255)
    deep = np.rint(gray * 65535)
    for data in (
        encoded(Image.fromarray(gray.astype(np.float32)), "TIFF"),
        encoded(Image.fromarray(deep.astype(np.uint16)), "PNG"),
        encoded(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        encoded(Image.fromarray(deep.astype(">u2")), "TIFF"),
    ):
        assert np.abs(decode_image(data)[..., 1] - expected).max() <= 1
    bits = np.tile(np.array([[False, True]]), (4, 3))
    assert (decode_image(encoded(Image.fromarray(bits), "PNG"))[..., 0] == bits * 255).all()


@pytest.mark.parametrize("values", [[0, 65535.0], [0, np.nan], [0, np.inf], [-1.0, 1.0], [0, 2.0]])
def test_floating_point_beyond_0_to_1_is_refused_not_guessed(values: list[float]) -> None:
    data = encoded(Image.fromarray(np.array([values], np.float32)), "TIFF")
    with pytest.raises(UnreadableImageError):
        decode_image(data)


def test_integers_beyond_16_bits_are_refused() -> None:
    for value in (65536, -3):
        with pytest.raises(UnreadableImageError):
            decode_image(encoded(Image.fromarray(np.array([[0, value]], np.int32)), "TIFF"))


def photograph() -> Image.Image:
    small = np.random.default_rng(0).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((240, 240))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("how", ["cut", "cut and ended", "cut and filled", "hole"])
def test_half_a_jpeg_is_an_error_and_no_gray_half(mode: str, options: dict[str, bool], how: str) -> None:
    whole = encoded(photograph().convert(mode), "JPEG", quality=90, **options)
    decode_image(whole)
    half = len(whole) * 45 // 100
    damaged = {
        "cut": whole[:half],
        "cut and ended": whole[:half] + b"\xff\xd9",
        "cut and filled": whole[:half] + bytes(len(whole) - half),
        "hole": whole[:half] + bytes(2000) + whole[half + 2000 :],
    }[how]
    with pytest.raises(UnreadableImageError):
        decode_image(damaged)


def test_a_jpeg_with_filling_before_its_end_or_bytes_behind_it_is_whole() -> None:
    whole = encoded(photograph(), "JPEG", quality=90)
    for data in (whole[:-2] + bytes(100) + whole[-2:], whole + b"more" * 9):
        assert np.abs(decode_image(data).astype(int) - decode_image(whole)).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.5, 0.99])
def test_other_cut_files_are_errors(kind: str, share: float) -> None:
    data = encoded(photograph(), kind)
    with pytest.raises(UnreadableImageError):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_more_pixels_than_allowed_are_refused_and_the_limit_is_a_key(tmp_path: Path, kind: str) -> None:
    (tmp_path / "large.jpg").write_bytes(encoded(photograph(), kind))
    with pytest.raises(UnreadableImageError, match=r"large\.jpg .*data\.max_pixels"):
        open_folder(tmp_path, Data(max_pixels=240 * 240 - 1)).read(0)
    assert open_folder(tmp_path, Data(max_pixels=240 * 240)).read(0).shape == (240, 240, 3)


def test_pillows_own_limit_does_not_count_and_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_image(encoded(photograph(), "PNG")).shape == (240, 240, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_the_recipe_says_how_files_are_read(tmp_path: Path) -> None:
    drawing().save(tmp_path / "1.png")
    drawing().save(tmp_path / "2.png")
    corners = []
    for background in ("white", "black", "drop", "#ff0000"):
        data = Data(name="folder", root=str(tmp_path), background=background)
        corners.append(open_images(data, PRETRAIN).read(0)[0, 0].tolist())
    assert corners == [[255] * 3, [0] * 3, [0] * 3, [255, 0, 0]]
    assert open_folder(tmp_path).subset(np.array([1])).read(0)[0, 0].tolist() == [255] * 3


def test_how_many_images_are_transparent_is_told_before_training(tmp_path: Path) -> None:
    for i in range(4):
        photograph().save(tmp_path / f"{i}.jpg")
        photograph().convert("RGBA").save(tmp_path / f"{i}.png")  # opaque all over
    assert not [note for note in notes_of(open_folder(tmp_path)) if "transparent" in note]
    drawing().save(tmp_path / "drawing.png")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "broken.png").write_bytes(encoded(drawing(), "PNG")[:60])
    (note,) = (note for note in notes_of(open_folder(tmp_path)) if "transparent" in note)
    assert note.startswith("1 of 11 ")


def test_an_image_of_one_pixel_and_a_long_one_make_views() -> None:
    from simclr_plus.augmentations.draws import draw_views
    from simclr_plus.augmentations.law import simclr_law
    from simclr_plus.augmentations.views import ViewMaker

    law = simclr_law(16)
    for size in ((1, 1), (1, 3000), (3000, 1)):
        image = decode_image(encoded(Image.new("RGB", size, (9, 90, 200)), "PNG"))
        views = np.empty((2, 1, 3, 16, 16), np.float32)
        drawn = draw_views(0, 0, 0, heights=image.shape[0], widths=image.shape[1], law=law)
        ViewMaker(law).fill(image, drawn[0], views, 0)
        assert np.isfinite(views).all() and views.min() >= 0 and views.max() <= 1


@pytest.mark.parametrize("split", [PRETRAIN, TRAIN])
def test_an_empty_file_is_named(tmp_path: Path, split: str) -> None:
    for name in ("a/1.jpg", "b/2.jpg", "a/3.jpg", "b/4.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    images = open_images(Data(name="folder", root=str(tmp_path)), split)
    with pytest.raises(UnreadableImageError, match=images.paths[0].name):
        images.read(0)
