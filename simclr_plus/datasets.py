"""Images and their labels: the embedded set, torchvision's by name, any folder. What they are, not how they are viewed.

Small sets are one uint8 array [N, H, W, 3] in memory; folders are lists of files, decoded when asked for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError, UnlabelledError, UnreadableImageError
from simclr_plus.file_list import SUFFIXES, FileList, list_images
from simclr_plus.recipe import Recipe
from simclr_plus.recipe_keys import Data

PRETRAIN, TRAIN, TEST = "pretrain", "train", "test"  # what is asked for: all images, the labelled ones, held-out ones
HELD_OUT = 0.2  # of each class of a folder that has no test images of its own
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


class Unreadable(set[Path]):
    """Files that could not be read so far. A data set and its subsets share one; it is no part of what they show."""

    def __repr__(self) -> str:
        return "Unreadable()"


@dataclass(frozen=True)
class Images:
    """N images with or without labels; `pixels` holds them all, or `paths` says where they lie."""

    name: str
    pixels: NDArray[np.uint8] | None = None  # [N, H, W, 3]
    paths: Sequence[Path] = ()
    labels: NDArray[np.int64] | None = None  # [N]
    classes: tuple[str, ...] = ()
    skip_bad: bool = False  # what to do with an unreadable image: leave it out, or stop
    unreadable: Unreadable = field(default_factory=Unreadable, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.paths) if self.pixels is None else len(self.pixels)

    def read(self, index: int) -> NDArray[np.uint8]:
        """Image `index` as uint8 [H, W, 3]; raises UnreadableImageError naming the file."""
        if self.pixels is not None:
            image: NDArray[np.uint8] = self.pixels[index]
            return image
        path = self.paths[index]
        try:
            return decode_image(path.read_bytes())
        except (OSError, UnreadableImageError) as error:
            self.unreadable.add(path)
            raise UnreadableImageError(f"image {path} cannot be read: {error}") from None

    def subset(self, indices: NDArray[np.int64]) -> Images:
        """The images at `indices`, in that order."""
        return replace(
            self,
            pixels=None if self.pixels is None else self.pixels[indices],
            paths=self._paths_at(indices),
            labels=None if self.labels is None else self.labels[indices],
        )

    def _paths_at(self, indices: NDArray[np.int64]) -> Sequence[Path]:
        if isinstance(self.paths, FileList):
            return self.paths.subset(indices)
        return tuple(self.paths[i] for i in indices) if self.pixels is None else ()

    def first(self, count: int) -> Images:
        """`count` images, or all where there are fewer or count is 0.

        The first ones of a set in memory; of a folder, whose files are sorted by class, a seeded choice.
        """
        if not 0 < count < len(self):
            return self
        if self.pixels is not None:
            return self.subset(np.arange(count))
        return self.subset(np.sort(np.random.Generator(np.random.Philox(0)).permutation(len(self))[:count]))


def open_images(data: Data, split: str) -> Images:
    """The images of a recipe's [data] for "pretrain", "train" (labelled) or "test"; pretraining obeys data.limit."""
    if data.name == "embedded":
        images = _open_embedded(split)
    elif data.name == "folder":
        images = replace(_open_folder_split(Path(data.root), split), skip_bad=data.on_bad_image == "skip")
    else:
        images = _open_torchvision(data, split)
    return images.first(data.limit) if split == PRETRAIN else images


def open_training_images(recipe: Recipe) -> Images:
    """What a run trains on: all images; for supervised training the labelled ones that no evaluation holds out.

    data.limit is obeyed by both. Raises RecipeError for a batch that is too large, or where labels are missing.
    """
    if not recipe.supervised:
        images = open_images(recipe.data, PRETRAIN)
    else:
        try:
            images = open_images(recipe.data, TRAIN)
            require_labels(images)
        except UnlabelledError:
            raise RecipeError(
                f'loss.name = "cross_entropy" learns labels, and {recipe.data.root} has none; put the images in one '
                'folder a class, or set loss.name = "nt_xent"'
            ) from None
        images = images.first(recipe.data.limit)
    check_trainable(images, recipe.training.batch_size)
    return images


def open_folder(root: Path) -> Images:
    """All images below a folder, sorted by path; labelled when each lies in one of several folders, one a class."""
    if not root.is_dir():
        raise NotFoundError(f"data folder {root} does not exist; name a folder of images (data.root)")
    paths = list_images(root)
    if not paths:
        raise NotFoundError(f"data folder {root} holds no image ({', '.join(sorted(SUFFIXES))})")
    labels, classes = paths.first_folders() or (None, ())
    if len(classes) < 2:
        return Images(name=str(root), paths=paths)
    return Images(name=str(root), paths=paths, labels=labels, classes=classes)


def held_out_indices(labels: NDArray[np.int64], share: float, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Two sorted index arrays: the same share of each class held out, the rest; a class of one image is kept whole."""
    generator = np.random.Generator(np.random.Philox(seed))
    kept, held = [], []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held.append(members[:count])
        kept.append(members[count:])
    if not any(map(len, held)):
        raise SimclrPlusError("every class has one image, so none can be held out for a test; two or more are needed")
    return np.sort(np.concatenate(held)), np.sort(np.concatenate(kept))


def decode_image(data: bytes) -> NDArray[np.uint8]:
    """The bytes of an image file, whatever it is called -> uint8 [H, W, 3] RGB.

    16-bit images are scaled to 8 bits, alpha is dropped, of an animation the first frame counts, and EXIF rotation is
    not applied (as in torchvision's loaders). Raises UnreadableImageError.
    """
    try:
        if data[:2] == b"\xff\xd8":
            image = _decode_jpeg(data)
            if image is not None:
                return image
        return _decode_with_pillow(data)
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise UnreadableImageError(f"{type(error).__name__}: {error}") from None


def _decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """None for what only Pillow reads (CMYK)."""
    import simplejpeg

    if simplejpeg.decode_jpeg_header(data)[2] not in ("Gray", "YCbCr", "RGB", "YCC"):
        return None
    try:
        image: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:  # a fault that Pillow may forgive
        return None
    return image


def _decode_with_pillow(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return _eight_bits(np.asarray(image))
        return np.ascontiguousarray(image.convert("RGB"))


def _eight_bits(gray: NDArray[Any]) -> NDArray[np.uint8]:
    """A deep gray image [H, W] in three 8-bit channels."""
    top = 65535.0 if gray.dtype.kind in "iu" and gray.max(initial=0) > 255 else 255.0
    values = np.clip(np.rint(gray.astype(np.float64) * (255 / top)), 0, 255).astype(np.uint8)
    return np.repeat(values[:, :, None], 3, axis=2)


@cache
def _embedded_arrays() -> dict[str, NDArray[Any]]:
    with np.load(str(files("simclr_plus.embedded") / "fashion_mnist.npz"), allow_pickle=False) as arrays:
        return dict(arrays)


def _open_embedded(split: str) -> Images:
    arrays, part = _embedded_arrays(), "test" if split == TEST else "train"
    return Images(
        name="embedded",
        pixels=_in_colour(arrays[f"{part}_images"]),
        labels=arrays[f"{part}_labels"].astype(np.int64),
        classes=FASHION_CLASSES,
    )


def _open_folder_split(root: Path, split: str) -> Images:
    """ImageNet's layout (train and val or test below root), or one folder of which a fifth is held out for tests."""
    if (root / "train").is_dir():
        if split in (PRETRAIN, TRAIN):
            return open_folder(root / "train")
        for name in ("val", "validation", "test"):
            if (root / name).is_dir():
                return open_folder(root / name)
        raise NotFoundError(f"{root} has train but neither val nor test; add one to evaluate")
    images = open_folder(root)
    if split == PRETRAIN:
        return images
    held, kept = held_out_indices(require_labels(images), HELD_OUT)
    return images.subset(held if split == TEST else kept)


def _open_torchvision(data: Data, split: str) -> Images:
    from torchvision import datasets

    kind = {
        "mnist": datasets.MNIST,
        "fashion_mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
        "cifar100": datasets.CIFAR100,
        "stl10": datasets.STL10,
    }[data.name]
    if data.name == "stl10":
        which: dict[str, Any] = {"split": {PRETRAIN: "train+unlabeled", TRAIN: "train", TEST: "test"}[split]}
    else:
        which = {"train": split != TEST}
    try:
        found = kind(data.root, download=data.download, **which)
    except (RuntimeError, OSError) as error:
        raise NotFoundError(
            f'data.name = "{data.name}" was not found in data.root = "{data.root}" ({error}); '
            "set data.download=true to download it there"
        ) from None
    if data.name == "stl10":
        labels = None if split == PRETRAIN else np.asarray(found.labels, dtype=np.int64)
        return Images(
            data.name, np.ascontiguousarray(found.data.transpose(0, 2, 3, 1)), (), labels, tuple(found.classes)
        )
    pixels = np.asarray(found.data, dtype=np.uint8)
    pixels = pixels if pixels.ndim == 4 else _in_colour(pixels)
    return Images(data.name, pixels, (), np.asarray(found.targets, dtype=np.int64), tuple(found.classes))


def _in_colour(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """[N, H, W] -> [N, H, W, 3]."""
    return np.ascontiguousarray(np.repeat(gray[..., None], 3, axis=-1))


def check_trainable(images: Images, batch_size: int) -> None:
    """A batch must not hold an image twice: it would be its own negative."""
    if batch_size > len(images):
        raise RecipeError(
            f"training.batch_size = {batch_size} exceeds the {len(images)} images of {images.name}; "
            f"use {1 << (len(images).bit_length() - 1)} or less"
            if len(images) > 1
            else f"{images.name} holds {len(images)} image; contrastive learning needs two or more"
        )


def require_several_classes(images: Images) -> None:
    """Raises SimclrPlusError where all images are of one class: whatever is said of the others would be right."""
    shown = np.unique(require_labels(images))
    if len(shown) < 2:
        which = images.classes[int(shown[0])] if len(shown) and 0 <= int(shown[0]) < len(images.classes) else "none"
        raise SimclrPlusError(
            f"the {len(images)} training images of {images.name} show one class alone ({which}): nothing can be "
            "told apart; take images of two or more"
        )


def require_labels(images: Images) -> NDArray[np.int64]:
    """The labels; raises UnlabelledError."""
    if images.labels is None:
        raise UnlabelledError(
            f"{images.name} has no labels, so nothing can be evaluated on it; put the images in one folder a class"
        )
    return images.labels
