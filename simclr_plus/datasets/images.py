"""Images and their labels: the embedded set, torchvision's by name, any folder. What they are, not how they are viewed.

Small sets are one uint8 array [N, H, W, 3] in memory; folders are lists of files, decoded when asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets import embedded
from simclr_plus.datasets.decoding import Reading, decode_image, is_transparent, reading_of
from simclr_plus.datasets.file_list import SUFFIXES, FileList, list_images, listed_names, shown_name
from simclr_plus.datasets.splits import are_parts, parts_of
from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError, UnlabelledError, UnreadableImageError
from simclr_plus.recipe.keys import EMBEDDED, Data
from simclr_plus.recipe.paths import whole_path
from simclr_plus.recipe.recipe import Recipe

PRETRAIN, TRAIN, TEST = "pretrain", "train", "test"  # what is asked for: all images, the labelled ones, held-out ones
LOOKED_AT = 64  # images that are looked at for transparency before training
NAMES = (*EMBEDDED, "mnist", "fashion_mnist", "cifar10", "cifar100", "stl10")  # data sets known by name
HELD_OUT = 0.2  # of each class of a folder that has no test images of its own


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
    reading: Reading = field(default_factory=Reading)  # how files become pixels
    unlabelled_because: str = ""
    notes: tuple[str, ...] = ()  # what a user should know of the folder
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
            return decode_image(path.read_bytes(), self.reading)
        except (OSError, UnreadableImageError) as error:
            self.unreadable.add(path)
            what = (isinstance(error, OSError) and error.strerror) or error
            raise UnreadableImageError(f"image {shown_name(path)} cannot be read: {what}") from None

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
    if data.name in EMBEDDED:
        images = _open_embedded(data.name, split)
    elif data.name == "folder":
        images = replace(_open_folder_split(data, split), skip_bad=data.on_bad_image == "skip")
    else:
        images = _open_torchvision(data, split)
    return images.first(data.limit) if split == PRETRAIN else images


def open_training_images(recipe: Recipe) -> Images:
    """What a run trains on: all images; where labels are learnt the labelled ones that no evaluation holds out.

    data.limit is obeyed by both. Raises RecipeError for a batch that is too large, or where labels are missing.
    """
    if not recipe.method.learns_labels:
        images = open_images(recipe.data, PRETRAIN)
    else:
        try:
            images = open_images(recipe.data, TRAIN)
            require_labels(images)
        except UnlabelledError as error:
            raise RecipeError(
                f'method.name = "{recipe.method.name}" learns labels: {error}; or set method.name = "simclr"'
            ) from None
        images = images.first(recipe.data.limit)
    check_trainable(images, recipe.training.batch_size)
    return images


def open_monitor_images(recipe: Recipe) -> tuple[Images, Images]:
    """What the monitor's kNN compares: labelled training images and held-out ones of the same classes."""
    try:
        bank, queries = (open_images(recipe.data, split) for split in (TRAIN, TEST))
        require_same_classes(bank, queries)
    except SimclrPlusError as error:
        raise RecipeError(
            f"monitor.knn_every_epochs = {recipe.monitor.knn_every_epochs:g} needs labelled images, held-out ones too: "
            f"{error}. Or set monitor.knn_every_epochs = 0"
        ) from None
    return bank, queries


def notes_of(images: Images) -> list[str]:
    """What a user should know before training: what was found in the folder, and whether images are transparent."""
    notes = list(images.notes)
    if images.labels is None and images.unlabelled_because:
        notes.append(f"{images.name} counts as unlabelled: {images.unlabelled_because}")
    if images.pixels is None:
        looked_at = images.first(LOOKED_AT)
        transparent = sum(map(is_transparent, looked_at.paths))
        if transparent:
            background = images.reading.background
            done = "ignored" if background == "drop" else f"laid on {background}"
            notes.append(
                f"{transparent} of {len(looked_at)} images looked at have transparent parts, which are {done} "
                "(data.background)"
            )
    return notes


def open_folder(root: Path, data: Data | None = None) -> Images:
    """All images below a folder, sorted by path; labelled when each lies in one of several folders, one a class.

    data: how the files are read, as in the recipe's [data].
    """
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise NotFoundError(f"data folder {shown_name(root.absolute())} {what}; name a folder of images")
    paths = list_images(root)
    if not paths:
        raise NotFoundError(
            f"data folder {shown_name(root.absolute())} holds no image ({', '.join(sorted(SUFFIXES))})"
            + "".join(f"; {note}" for note in paths.notes)
        )
    labels, classes, loose = paths.first_folders()
    images = Images(name=str(root), paths=paths, reading=reading_of(data or Data()), notes=paths.notes)
    if are_parts(classes):
        return replace(images, unlabelled_because=f"its folders {', '.join(classes)} are parts and no classes")
    if len(classes) < 2:
        return images
    if loose:
        beside = f"{listed_names(loose)} lies in none of the folders {listed_names(classes)}; move it"
        return replace(images, unlabelled_because=beside)
    return replace(images, labels=labels, classes=classes)


def data_named(name: str, like: Data, root: str = "") -> Data:
    """A data set by its name, or a folder; its files are read as `like` says. root: of a data set by name."""
    usual_root = "data" if like.name in ("folder", *EMBEDDED) else like.root
    named = {"name": name, "root": root or usual_root} if name in NAMES else {"name": "folder", "root": name}
    return Data.model_validate(named | like.model_dump(include={"background", "deep_gray", "max_pixels"}))


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


def _open_embedded(name: str, split: str) -> Images:
    read = embedded.places if name == "places" else embedded.fashion_mnist
    pixels, labels, classes = read("test" if split == TEST else "train")
    return Images(name=name, pixels=_with_channels(pixels), labels=labels, classes=classes)


def _open_folder_split(data: Data, split: str) -> Images:
    """ImageNet's layout (train and val or test below root), or one folder of which a fifth is held out for tests."""
    root = Path(whole_path(data.root, "data.root"))
    parts = parts_of(root) if root.is_dir() else None
    if parts is not None:
        if split not in (PRETRAIN, TRAIN) and parts.held_out is None:
            raise NotFoundError(
                f"{shown_name(root)} has {parts.train.name} but neither val nor test; add one to evaluate"
            )
        images = open_folder(parts.train if split in (PRETRAIN, TRAIN) or not parts.held_out else parts.held_out, data)
        beside = f"folders of {shown_name(root)} beside its parts are not used: {listed_names(parts.left_out)}"
        return replace(images, notes=(*images.notes, beside)) if parts.left_out else images
    images = open_folder(root, data)
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
    root = whole_path(data.root, "data.root")
    try:
        reader = kind(root, download=data.download, **which)
    except (RuntimeError, OSError) as error:
        raise NotFoundError(
            f'data.name = "{data.name}" was not found in data.root = "{root}" ({error}); '
            "set data.download=true to download it there"
        ) from None
    if data.name == "stl10":
        labels = None if split == PRETRAIN else np.asarray(reader.labels, dtype=np.int64)
        return Images(
            data.name, np.ascontiguousarray(reader.data.transpose(0, 2, 3, 1)), (), labels, tuple(reader.classes)
        )
    pixels = _with_channels(np.asarray(reader.data, dtype=np.uint8))
    return Images(data.name, pixels, (), np.asarray(reader.targets, dtype=np.int64), tuple(reader.classes))


def _with_channels(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Gray images [N, H, W] become [N, H, W, 3]; those in color stay."""
    return pixels if pixels.ndim == 4 else np.ascontiguousarray(np.repeat(pixels[..., None], 3, axis=-1))


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
    labels = np.unique(require_labels(images))
    if len(labels) < 2:
        which = images.classes[int(labels[0])] if len(labels) and 0 <= int(labels[0]) < len(images.classes) else "none"
        raise SimclrPlusError(
            f"the {len(images)} training images of {images.name} show one class alone ({which}): nothing can be "
            "told apart; take images of two or more"
        )


def require_labels(images: Images) -> NDArray[np.int64]:
    """The labels; raises UnlabelledError."""
    if images.labels is None:
        why = f"{images.unlabelled_because}, or " if images.unlabelled_because else ""
        raise UnlabelledError(f"{images.name} has no labels: {why}{_ONE_A_CLASS}")
    return images.labels


_ONE_A_CLASS = "put the images in one folder a class"


def require_same_classes(train: Images, held_out: Images) -> None:
    """Labels are numbers, and mean the same where both have the same classes; raises SimclrPlusError naming others."""
    require_labels(train), require_labels(held_out)
    if train.classes == held_out.classes:
        return
    each = [
        f"{listed_names(sorted(set(a.classes) - set(b.classes)), 5)} of {a.name} has no image in {b.name}"
        for a, b in ((train, held_out), (held_out, train))
        if set(a.classes) - set(b.classes)
    ]
    raise SimclrPlusError(
        f"{train.name} and {held_out.name} have different classes: {'; '.join(each) or 'their order differs'}; "
        "both need one folder for each class, of the same names"
    )
