from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simclr_plus.datasets.decoding import decode_image
from simclr_plus.datasets.images import (
    PRETRAIN,
    TEST,
    TRAIN,
    Images,
    check_trainable,
    held_out_indices,
    open_folder,
    open_images,
    open_monitor_images,
    require_same_classes,
)
from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError, UnreadableImageError
from simclr_plus.recipe import Recipe, parse_recipe
from simclr_plus.recipe.keys import Data

# SHA-256 of the published files' first 10,000 training and 2,000 test images and of their labels
ORIGINAL = [
    "2929ae1c7b89e0ee6587bbe4911fd5f0a5dafe21ae6ed9b737173cbfe20c12c9",
    "1022e4632874e71bb84d924c475e6a3428a2deeb8c5a0f612a015c97e4fce7f0",
    "09bbac78738f0229a68f7ca74e62665d7fb34f45ea7a3509ab5c4a202c1370de",
    "a86243d2b2400909bc0a82f5fd5c9df83bf827852a1543e3dc70af890035a9d4",
]


def gradient(height: int = 40, width: int = 50) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 5, x * 5, 255 - x * 2], axis=-1).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_the_embedded_set_is_fashion_mnists_first_images() -> None:
    train, test = open_images(Data(), TRAIN), open_images(Data(), TEST)
    assert (len(train), len(test), train.classes[9]) == (10_000, 2_000, "Ankle boot")
    assert train.pixels is not None and train.pixels.shape == (10_000, 28, 28, 3)
    assert train.labels is not None and train.labels[:5].tolist() == [9, 0, 0, 3, 0]  # as published
    assert test.pixels is not None and test.labels is not None
    digests = [hashlib.sha256(a.astype(np.uint8).tobytes()).hexdigest() for a in (train.pixels[..., 0], train.labels)]
    digests += [hashlib.sha256(a.astype(np.uint8).tobytes()).hexdigest() for a in (test.pixels[..., 0], test.labels)]
    assert digests == ORIGINAL


def test_only_pretraining_obeys_the_limit() -> None:
    data = Data(limit=100)
    assert [len(open_images(data, split)) for split in (PRETRAIN, TRAIN, TEST)] == [100, 10_000, 2_000]


def test_a_jpeg_decodes_as_pillow_does() -> None:
    data = encoded(Image.fromarray(gradient()), "JPEG", quality=95)
    ours, theirs = decode_image(data).astype(int), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert ours.shape == (40, 50, 3) and np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_decode_to_the_same_pixels(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert (decode_image(encoded(Image.fromarray(gradient()), kind, **options)) == gradient()).all()


def test_gray_images_get_three_channels() -> None:
    gray = gradient()[..., 0]
    for kind in ("PNG", "JPEG"):
        image = decode_image(encoded(Image.fromarray(gray), kind))
        assert image.shape == (40, 50, 3) and (image[..., 0] == image[..., 2]).all()


def test_a_cmyk_jpeg_comes_out_in_rgb() -> None:
    data = encoded(Image.fromarray(gradient()).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode_image(data).astype(int) - gradient()).mean() < 4


def test_sixteen_bits_are_scaled_to_eight_not_cut() -> None:
    deep = (np.arange(40 * 50).reshape(40, 50) * 32).astype(np.uint16)
    image = decode_image(encoded(Image.fromarray(deep), "PNG"))
    assert np.abs(image[..., 0] - deep / 257).max() <= 0.5 and image[..., 0].max() > 240


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (9, 8), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(animation) == [255, 0, 0]).all()


def test_the_content_decides_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(gradient()), "PNG"))
    assert (open_folder(tmp_path).read(0) == gradient()).all()


@pytest.mark.parametrize("damage", ["text", "cut jpeg", "cut png", "empty"])
def test_an_unreadable_image_is_named(tmp_path: Path, damage: str) -> None:
    jpeg, png = (encoded(Image.fromarray(gradient(300, 300)), kind) for kind in ("JPEG", "PNG"))
    content = {"text": b"hello", "cut jpeg": jpeg[: len(jpeg) // 2], "cut png": png[: len(png) // 2], "empty": b""}
    (tmp_path / "broken.jpg").write_bytes(content[damage])
    with pytest.raises(UnreadableImageError, match=r"broken\.jpg cannot be read"):
        open_folder(tmp_path).read(0)


def test_folders_are_labelled_when_each_image_lies_in_one_of_several(tmp_path: Path) -> None:
    for name in ("cat/1.png", "cat/deep/2.png", "dog/3.PNG", "dog/notes.txt", "dog/.hidden.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient()).save(tmp_path / name, "PNG")
    images = open_folder(tmp_path)
    assert images.classes == ("cat", "dog") and images.labels is not None and images.labels.tolist() == [0, 0, 1]
    (tmp_path / "loose.png").write_bytes((tmp_path / "cat/1.png").read_bytes())
    assert open_folder(tmp_path).labels is None and len(open_folder(tmp_path)) == 4
    assert open_folder(tmp_path / "cat").labels is None


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="nowhere does not exist"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(NotFoundError, match="holds no image"):
        open_folder(tmp_path)


def test_imagenets_layout_gives_train_and_val(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png", "val/b/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient()).save(tmp_path / name)
    data = Data(name="folder", root=str(tmp_path))
    assert [len(open_images(data, split)) for split in (PRETRAIN, TRAIN, TEST)] == [2, 2, 3]


def test_a_folder_without_test_images_holds_out_a_fifth_of_each_class(photos: Path) -> None:
    data = Data(name="folder", root=str(photos))
    everything, train, test = (open_images(data, split) for split in (PRETRAIN, TRAIN, TEST))
    assert (len(everything), len(train), len(test)) == (48, 38, 10)
    assert not set(train.paths) & set(test.paths) and set(train.paths) | set(test.paths) == set(everything.paths)
    assert test.labels is not None and np.bincount(test.labels).tolist() == [5, 5]


def test_a_class_of_one_image_is_never_held_out() -> None:
    held, kept = held_out_indices(np.array([0, 0, 0, 0, 1]), 0.25)
    assert len(held) == 1 and 4 in kept
    with pytest.raises(SimclrPlusError, match="two or more are needed"):
        held_out_indices(np.array([0, 1]), 0.25)


def test_torchvisions_data_sets_are_never_downloaded_unasked(tmp_path: Path) -> None:
    for name in ("mnist", "fashion_mnist", "cifar10", "cifar100", "stl10"):
        with pytest.raises(NotFoundError, match=rf'data.name = "{name}" was not found .*data.download=true'):
            open_images(Data(name=name, root=str(tmp_path)), TRAIN)  # type: ignore[arg-type]


def idx_file(array: np.ndarray) -> bytes:
    """Yann LeCun's format: a magic number with the count of dimensions, their lengths, the bytes."""
    return struct.pack(f">{array.ndim + 1}i", 0x800 + array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_fashion_mnist_is_read_in_the_form_in_which_it_is_published(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    sources = {"train": open_images(Data(), TRAIN), "t10k": open_images(Data(), TEST)}
    for part, images in sources.items():
        assert images.pixels is not None and images.labels is not None
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx_file(images.pixels[..., 0]))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx_file(images.labels))
    data = Data(name="fashion_mnist", root=str(tmp_path))
    for split, source in ((TRAIN, sources["train"]), (TEST, sources["t10k"])):
        images = open_images(data, split)
        assert images.classes == source.classes and len(images) == len(source)
        assert images.pixels is not None and (images.pixels == source.pixels).all()
        assert images.labels is not None and (images.labels == source.labels).all()


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"batch_size = 64 exceeds the 10 images .* use 8 or less"):
        check_trainable(Images("few", np.zeros((10, 8, 8, 3), np.uint8)), 64)


def class_folders(root: Path, **classes: str) -> None:
    """Pictures in PART/CLASS/, e.g. train="abc"."""
    for part, names in classes.items():
        for name in names:
            (root / part / name).mkdir(parents=True)
            for i in range(2):
                Image.fromarray(gradient()).save(root / part / name / f"{i}.png")


def monitored(root: Path) -> Recipe:
    return parse_recipe("", ["data.name=folder", f"data.root={root}", "monitor.knn_every_epochs=1"])


@pytest.mark.parametrize(("train", "val", "told"), [("abc", "bc", "a"), ("bc", "abc", "a"), ("ab", "cd", "d")])
def test_the_monitor_compares_labels_of_the_same_classes_alone(tmp_path: Path, train: str, val: str, told: str) -> None:
    class_folders(tmp_path, train=train, val=val)
    with pytest.raises(RecipeError, match=rf"{told}\b.*monitor\.knn_every_epochs = 0"):
        open_monitor_images(monitored(tmp_path))


def test_the_monitor_needs_labels_in_both_parts(tmp_path: Path) -> None:
    class_folders(tmp_path, train="ab")
    (tmp_path / "val").mkdir()
    Image.fromarray(gradient()).save(tmp_path / "val" / "1.png")
    with pytest.raises(RecipeError, match=r"val has no labels.*monitor\.knn_every_epochs = 0"):
        open_monitor_images(monitored(tmp_path))


def test_a_class_without_an_image_in_one_part_is_told(tmp_path: Path) -> None:
    class_folders(tmp_path, train="ab", val="abc")
    (tmp_path / "train" / "c").mkdir()
    data = Data(name="folder", root=str(tmp_path))
    with pytest.raises(SimclrPlusError, match=r"\bc of .*val has no image in .*train"):
        require_same_classes(open_images(data, TRAIN), open_images(data, TEST))


def test_the_monitors_images_are_those_of_the_evaluations(tmp_path: Path) -> None:
    class_folders(tmp_path, train="ab", val="ab")
    bank, queries = open_monitor_images(monitored(tmp_path))
    assert (len(bank), len(queries), bank.classes) == (4, 4, ("a", "b"))


def test_an_error_names_the_whole_path_that_was_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFoundError, match=str(tmp_path / "photos")):
        open_images(Data(name="folder", root="photos"), TRAIN)
    with pytest.raises(NotFoundError, match=str(tmp_path / "sets")):
        open_images(Data(name="mnist", root="sets"), TRAIN)
