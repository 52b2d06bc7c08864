"""Labelled sets with training, validation and test images: the paper's twelve (B.8), any of torchvision's, any folder.

Each of the twelve is read in the layout in which it is distributed, by torchvision's reader where it has one that knows
the split. Those without validation images of their own hold out a seeded share of each class. Sizes are BYOL's
(Grill et al. 2020, table of appendix D), which names what SimCLR's "held-out subset" leaves open.
"""

from __future__ import annotations

import inspect
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets.decoding import Reading
from simclr_plus.datasets.file_list import is_hidden
from simclr_plus.datasets.images import (
    TEST,
    TRAIN,
    Images,
    held_out_indices,
    open_folder,
    open_images,
    require_labels,
    require_same_classes,
)
from simclr_plus.errors import EnvironmentNotAbleError, NotFoundError, RecipeError
from simclr_plus.recipe.keys import Data

TOP1, MEAN_PER_CLASS, MAP11 = "top1", "mean_per_class", "map11"
CALTECH_TRAIN, CALTECH_VALIDATION = 30, 5  # a class; the validation images are among the 30
TESTED_ON_VAL = ("ImageNet", "Imagenette")  # torchvision's readers of sets whose test labels are not public
OTHER_HELD_OUT = 0.1  # of each class, for validation, where no publication says how many


@dataclass(frozen=True)
class LabelledSet:
    """Images to fit on, to choose on and to test on; `metric` ("top1", "mean_per_class", "map11") is the set's own.

    expected: published numbers of images of the three, 0 where none are. choices: what no source fixes and we chose.
    notes: what is amiss with the images.
    """

    name: str
    train: Images
    validation: Images
    test: Images
    metric: str = TOP1
    expected: tuple[int, int, int] = (0, 0, 0)
    choices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels."""
        return self.train.classes

    @property
    def train_and_validation(self) -> Images:
        """What the chosen classifier is fitted on in the end."""
        return joined(self.train, self.validation)

    def without_bad_images(self) -> LabelledSet:
        """The same set, whose unreadable images are left out."""
        parts = (self.train, self.validation, self.test)
        train, validation, test = (replace(part, skip_bad=True) for part in parts)
        return replace(self, train=train, validation=validation, test=test)

    def read_as(self, reading: Reading) -> LabelledSet:
        """The same set, whose files become pixels as `reading` says."""
        parts = (self.train, self.validation, self.test)
        train, validation, test = (replace(part, reading=reading) for part in parts)
        return replace(self, train=train, validation=validation, test=test)

    def found(self) -> str:
        """How many images of how many, for people."""
        named = zip(
            ("train", "validation", "test"), (self.train, self.validation, self.test), self.expected, strict=True
        )
        parts = [f"{len(i):,}{f' of {n:,}' if n and n != len(i) else ''} {name}" for name, i, n in named]
        return f"{self.name}: {', '.join(parts)} images in {len(self.classes)} classes"


def joined(a: Images, b: Images) -> Images:
    """The images of both, those of `a` first."""
    labels = None if a.labels is None or b.labels is None else np.concatenate([a.labels, b.labels])
    if a.pixels is not None and b.pixels is not None:
        return replace(a, pixels=np.concatenate([a.pixels, b.pixels]), labels=labels)
    return replace(a, paths=(*a.paths, *b.paths), labels=labels)


def open_labelled_set(name: str, root: str | Path = "data", *, test: str = "", seed: int = 0) -> LabelledSet:
    """A set by name: one of the twelve, "torchvision:CLASS", a set that recipes know, or a labelled folder.

    `root` is the folder that holds the data set's own folder; `test` a second labelled folder with the test images.
    Raises NotFoundError where the images are not there.
    """
    if name in TWELVE:
        return TWELVE[name](Path(root), seed)
    if name.startswith("torchvision:"):
        return _any_of_torchvision(name.removeprefix("torchvision:"), Path(root), seed)
    if name in _OF_RECIPES:
        data = Data.model_validate({"name": name, "root": str(root)})
        return _with_held_out(name, open_images(data, TRAIN), open_images(data, TEST), OTHER_HELD_OUT, seed)
    if not Path(name).is_dir():
        raise NotFoundError(
            f"--data {name} is neither a folder nor a data set: name a folder with one folder for each class, "
            f"torchvision:CLASS, or one of {', '.join((*TWELVE, *_OF_RECIPES))}"
        )
    data = Data.model_validate({"name": "folder", "root": name})
    if test:
        return _with_held_out(name, open_folder(Path(name)), open_folder(Path(test)), OTHER_HELD_OUT, seed)
    return _with_held_out(name, open_images(data, TRAIN), open_images(data, TEST), OTHER_HELD_OUT, seed)


def _with_held_out(
    name: str,
    train: Images,
    test: Images,
    share: float,
    seed: int,
    metric: str = TOP1,
    expected: tuple[int, int, int] = (0, 0, 0),
) -> LabelledSet:
    """A set whose validation images are a seeded share of each training class."""
    train, test = _of_same_classes(train, test)
    labels = require_labels(train)
    held, kept = held_out_indices(labels, share, seed)
    choice = f"validation: {share:.0%} of each training class, seed {seed} (no source says which images)"
    return LabelledSet(name, train.subset(kept), train.subset(held), test, metric, expected, (choice,))


def _official(
    name: str,
    part: Callable[[str], Images],
    metric: str,
    expected: tuple[int, int, int],
    choices: tuple[str, ...] = (),
) -> LabelledSet:
    """A set that is distributed with validation images of its own."""
    train, validation, test = _of_same_classes(*map(part, ("train", "val", "test")))
    return LabelledSet(name, train, validation, test, metric, expected, choices)


def _of_same_classes(*parts: Images) -> tuple[Images, ...]:
    """The parts, whose labels are numbers and must mean the same; SimclrPlusError where their classes differ.

    Classes without names are numbers, and a part need not show the last ones.
    """
    for part in parts:
        require_labels(part)
    most = max((part.classes for part in parts), key=len)
    if most == _numbered(len(most)):
        return tuple(replace(p, classes=most) if p.classes == most[: len(p.classes)] else p for p in parts)
    for part in parts[1:]:
        require_same_classes(parts[0], part)
    return parts


def _numbered(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(map(str, range(count)))


# ---- files and labels of torchvision's readers


def _torchvision(name: str, root: Path, **which: Any) -> Any:
    from torchvision import datasets

    try:
        return getattr(datasets, name)(str(root), **which)
    except (RuntimeError, OSError, KeyError) as error:
        if "scipy" in str(error).lower():
            raise EnvironmentNotAbleError(f"{name} keeps its labels in .mat files: pip install scipy") from None
        values = ", ".join(f"{key}={value!r}" for key, value in which.items())
        raise NotFoundError(
            f"torchvision's {name}({values}) does not find its files below {root}: {error}; unpack the archives of the "
            "data set there, in the folders in which they are distributed"
        ) from None
    except ModuleNotFoundError as error:
        raise EnvironmentNotAbleError(f"{name} keeps its labels in .mat files: pip install scipy ({error})") from None
    except (TypeError, ValueError) as error:  # a reader that wants more, or knows no such split
        values = ", ".join(f"{key}={value!r}" for key, value in which.items())
        raise RecipeError(
            f"torchvision's {name} cannot be read with {values or 'its folder alone'} ({error}); copy its images into "
            "one folder for each class, and name that folder"
        ) from None


def _images_of(reader: Any, name: str, classes: Sequence[str] | None = None) -> Images:
    """Files or pixels and labels of a torchvision reader, whatever it calls them."""
    names = tuple(map(str, classes if classes is not None else getattr(reader, "classes", ())))
    for files in ("_samples", "samples"):
        if hasattr(reader, files):
            pairs = list(getattr(reader, files))
            return _shown(_files(name, [path for path, _ in pairs], [label for _, label in pairs], names), reader)
    for files in ("_image_files", "_images"):
        if hasattr(reader, files):
            return _shown(_files(name, getattr(reader, files), reader._labels, names), reader)
    labels = getattr(reader, "targets", getattr(reader, "labels", None))
    if getattr(reader, "data", None) is None or labels is None:
        raise RecipeError(
            f"torchvision's {type(reader).__name__} has no list of labelled images; copy its images into one folder "
            "for each class and name that folder"
        )
    data = np.asarray(reader.data)
    if data.dtype.kind == "U":
        return _files(name, data.tolist(), labels, names)
    if data.ndim not in (3, 4):
        raise RecipeError(
            f"torchvision's {type(reader).__name__} holds arrays of shape {data.shape}, which are no images"
        )
    return _pixels(name, data, np.asarray(labels, dtype=np.int64), names)


def _shown(images: Images, reader: Any) -> Images:
    """The images without those in hidden folders, of which torchvision makes classes of their own."""
    root = Path(str(reader.root))
    hidden = [_is_hidden(path, root) for path in images.paths]
    if not any(hidden):
        return images
    kept = images.subset(np.flatnonzero(~np.array(hidden)))
    labels = require_labels(kept)
    ghosts = [i for i, name in enumerate(images.classes) if is_hidden(os.fsencode(name)) and not (labels == i).any()]
    left = [i for i in range(len(images.classes)) if i not in ghosts]
    number = np.full(len(images.classes), -1)
    number[left] = np.arange(len(left))
    return replace(kept, labels=number[labels], classes=tuple(images.classes[i] for i in left))


def _is_hidden(path: Path, root: Path) -> bool:
    """Whether a file, or a folder between the root and it, is left out of folders too."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-2:]
    return parts[-1].startswith(".") or any(is_hidden(os.fsencode(part)) for part in parts[:-1])


def _files(name: str, paths: Iterable[Any], labels: Iterable[int], classes: tuple[str, ...]) -> Images:
    numbers = np.asarray(list(labels), dtype=np.int64)
    classes = classes or _numbered(int(numbers.max(initial=-1)) + 1)
    return Images(name, paths=tuple(map(Path, paths)), labels=numbers, classes=classes)


def _pixels(name: str, data: NDArray[Any], labels: NDArray[np.int64], classes: tuple[str, ...]) -> Images:
    if data.ndim == 3:
        data = np.repeat(data[..., None], 3, axis=-1)
    elif data.shape[1] == 3 and data.shape[-1] != 3:  # SVHN and STL-10 keep channels first
        data = data.transpose(0, 2, 3, 1)
    classes = classes or _numbered(int(labels.max(initial=-1)) + 1)
    return Images(name, np.ascontiguousarray(data, dtype=np.uint8), (), labels, classes)


def _any_of_torchvision(kind: str, root: Path, seed: int) -> LabelledSet:
    """Any classification set of torchvision by the name of its class; without a split of its own a fifth is tested."""
    from torchvision import datasets

    reader = getattr(datasets, kind, None)
    if kind.startswith("_") or not inspect.isclass(reader):
        raise RecipeError(f"--data torchvision:{kind}: torchvision.datasets has no {kind}")
    names, keys = f"torchvision:{kind}", inspect.signature(reader).parameters
    variant = _split_of_its_own(kind, keys)
    if variant:
        which = ", ".join(f"{key}={value}" for key, value in variant.items())
        choice = f"{names}: its variant {which}"
        train, test = (_images_of(_torchvision(kind, root, **variant, train=t), names) for t in (True, False))
        labelled = _with_held_out(names, train, test, OTHER_HELD_OUT, seed)
        return replace(labelled, choices=(choice, *labelled.choices))
    if "train" in keys:
        train, test = (_images_of(_torchvision(kind, root, train=t), names) for t in (True, False))
    elif "split" in keys:
        tested = "val" if kind in TESTED_ON_VAL else "test"
        train, test = (_images_of(_torchvision(kind, root, split=s), names) for s in ("train", tested))
    else:
        images = _images_of(_torchvision(kind, root), names)
        held, kept = held_out_indices(require_labels(images), 0.2, seed)
        train, test = images.subset(kept), images.subset(held)
    return _with_held_out(names, train, test, OTHER_HELD_OUT, seed)


def _split_of_its_own(kind: str, keys: Mapping[str, inspect.Parameter]) -> dict[str, str]:
    """What else a reader with a split asks for: EMNIST holds six sets, of which "balanced" is taken."""
    return {"split": "balanced"} if kind == "EMNIST" and {"split", "kwargs"} <= keys.keys() else {}


# ---- the twelve


def _food101(root: Path, seed: int) -> LabelledSet:
    """food-101/: images/CLASS/NUMBER.jpg, meta/train.json, meta/test.json."""
    train, test = (_images_of(_torchvision("Food101", root, split=s), "food101") for s in ("train", "test"))
    return _with_held_out("food101", train, test, 0.1, seed, expected=(68_175, 7_575, 25_250))


def _cifar(kind: str, root: Path, seed: int) -> LabelledSet:
    """cifar-10-batches-py/ or cifar-100-python/: pickled batches, which torchvision checks by their sums."""
    train, test = (_images_of(_torchvision(kind, root, train=t), kind.lower()) for t in (True, False))
    return _with_held_out(kind.lower(), train, test, 0.1, seed, expected=(45_000, 5_000, 10_000))


def _birdsnap(root: Path, seed: int) -> LabelledSet:
    """birdsnap/: species.txt, images.txt and test_images.txt (tab-separated, one line of names first) and the images
    that are still found on the web, download/images/SPECIES/NUMBER.jpg, as its own script lays them (readme of 1.1).
    """
    base = root / "birdsnap"
    listed = _column(base / "images.txt", "path")
    tested = set(_column(base / "test_images.txt", "path"))
    species = _column(base / "species.txt", "dir")
    folder = next((f for f in (base / "download" / "images", base / "images") if f.is_dir()), None)
    if folder is None:
        raise NotFoundError(f"birdsnap's images are expected in {base / 'download' / 'images'}/SPECIES/NUMBER.jpg")
    number = {name: i for i, name in enumerate(species)}
    here = [path for path in listed if (folder / path).is_file()]

    def part(paths: list[str]) -> Images:
        labels = [number[path.split("/")[0]] for path in paths]
        return _files("birdsnap", (folder / path for path in paths), labels, tuple(species))

    train, test = part([p for p in here if p not in tested]), part([p for p in here if p in tested])
    return _with_held_out("birdsnap", train, test, 0.1, seed, expected=(42_405, 4_981, 2_443))


def _column(path: Path, name: str) -> list[str]:
    lines = _lines(path)
    column = lines[0].split("\t").index(name) if name in lines[0].split("\t") else 0
    return [line.split("\t")[column].strip() for line in lines[1:]]


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    except OSError as error:
        raise NotFoundError(f"no readable {path} ({error.strerror}); it is part of the data set's archive") from None


def _sun397(root: Path, seed: int) -> LabelledSet:
    """SUN397/: ClassName.txt, a/abbey/sun_*.jpg; Training_01.txt and Testing_01.txt of the archive Partitions.zip."""
    base = root / "SUN397"
    classes = [line.strip() for line in _lines(base / "ClassName.txt")]  # "/a/abbey"
    number = {name: i for i, name in enumerate(classes)}
    partitions = next(
        (f for f in (base, base / "Partitions", root / "Partitions") if (f / "Training_01.txt").is_file()), base
    )

    def part(file: str) -> Images:
        listed = [line.strip() for line in _lines(partitions / file)]
        here = [path for path in listed if (base / path.lstrip("/")).is_file()]
        labels = [number[path.rpartition("/")[0]] for path in here]
        names = tuple(name[3:] for name in classes)
        return _files("sun397", (base / path.lstrip("/") for path in here), labels, names)

    train, test = part("Training_01.txt"), part("Testing_01.txt")
    return _with_held_out("sun397", train, test, 0.2, seed, expected=(15_880, 3_970, 19_850))


def _cars(root: Path, seed: int) -> LabelledSet:
    """stanford_cars/: cars_train/, cars_test/, devkit/cars_train_annos.mat, cars_test_annos_withlabels.mat."""
    train, test = (_images_of(_torchvision("StanfordCars", root, split=s), "cars") for s in ("train", "test"))
    return _with_held_out("cars", train, test, 0.2, seed, expected=(6_494, 1_650, 8_041))


def _aircraft(root: Path, _seed: int) -> LabelledSet:
    """fgvc-aircraft-2013b/data/: images/, variants.txt, images_variant_train.txt and so on; classes are variants."""

    def part(split: str) -> Images:
        return _images_of(_torchvision("FGVCAircraft", root, split=split), "aircraft")

    return _official("aircraft", part, MEAN_PER_CLASS, (3_334, 3_333, 3_333))


def _voc2007(root: Path, _seed: int) -> LabelledSet:
    """VOCdevkit/VOC2007/: JPEGImages/, Annotations/*.xml, ImageSets/Main/train.txt, val.txt, test.txt.

    Labels [N, 20]: 1 where an image shows the class, -1 (left out) where all of its objects are "difficult", else 0.
    """

    def part(image_set: str) -> Images:
        reader = _torchvision("VOCDetection", root, year="2007", image_set=image_set)
        labels = np.stack([_voc_labels(Path(target)) for target in reader.targets])
        return Images("voc2007", paths=tuple(map(Path, reader.images)), labels=labels, classes=VOC_CLASSES)

    choice = "20 one-vs-rest classifiers with one penalty (the paper does not say how several labels are fitted)"
    return _official("voc2007", part, MAP11, (2_501, 2_510, 4_952), (choice,))


VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


def _voc_labels(path: Path) -> NDArray[np.int64]:
    labels = np.zeros(len(VOC_CLASSES), dtype=np.int64)
    for thing in ElementTree.parse(path).getroot().iter("object"):
        number = VOC_CLASSES.index(str(thing.findtext("name")))
        difficult = thing.findtext("difficult", "0").strip() == "1"
        labels[number] = 1 if labels[number] == 1 or not difficult else -1
    return labels


def _dtd(root: Path, _seed: int) -> LabelledSet:
    """dtd/dtd/: images/CLASS/*.jpg, labels/train1.txt, val1.txt, test1.txt (the first of ten splits)."""

    def part(split: str) -> Images:
        return _images_of(_torchvision("DTD", root, split=split, partition=1), "dtd")

    return _official("dtd", part, TOP1, (1_880, 1_880, 1_880))


def _pets(root: Path, seed: int) -> LabelledSet:
    """oxford-iiit-pet/: images/*.jpg, annotations/trainval.txt, test.txt."""
    train, test = (_images_of(_torchvision("OxfordIIITPet", root, split=s), "pets") for s in ("trainval", "test"))
    return _with_held_out("pets", train, test, 0.2, seed, MEAN_PER_CLASS, (2_940, 740, 3_669))


def _caltech101(root: Path, seed: int) -> LabelledSet:
    """caltech101/101_ObjectCategories/CLASS/image_0001.jpg, BACKGROUND_Google among the classes: 102 of them.

    Thirty images of each class, drawn without replacement, five of them for validation; all others are tested.
    """
    images = open_folder(root / "caltech101" / "101_ObjectCategories")
    labels = require_labels(images)
    generator = np.random.Generator(np.random.Philox(seed))
    train, validation, test = [], [], []
    for label in range(len(images.classes)):
        members = generator.permutation(np.flatnonzero(labels == label))
        validation.append(members[:CALTECH_VALIDATION])
        train.append(members[CALTECH_VALIDATION:CALTECH_TRAIN])
        test.append(members[CALTECH_TRAIN:])
    first, second, third = (images.subset(np.sort(np.concatenate(p))) for p in (train, validation, test))
    choice = f"split: 30 images of each of 102 classes, background among them, drawn with seed {seed}"
    return LabelledSet("caltech101", first, second, third, MEAN_PER_CLASS, (2_550, 510, 6_084), (choice,))


def _flowers102(root: Path, _seed: int) -> LabelledSet:
    """flowers-102/: jpg/image_00001.jpg, imagelabels.mat, setid.mat."""

    def part(split: str) -> Images:
        return _images_of(_torchvision("Flowers102", root, split=split), "flowers102", [str(i + 1) for i in range(102)])

    return _official("flowers102", part, MEAN_PER_CLASS, (1_020, 1_020, 6_149))


TWELVE: dict[str, Callable[[Path, int], LabelledSet]] = {  # in the order of the paper's tables
    "food101": _food101,
    "cifar10": lambda root, seed: _cifar("CIFAR10", root, seed),
    "cifar100": lambda root, seed: _cifar("CIFAR100", root, seed),
    "birdsnap": _birdsnap,
    "sun397": _sun397,
    "cars": _cars,
    "aircraft": _aircraft,
    "voc2007": _voc2007,
    "dtd": _dtd,
    "pets": _pets,
    "caltech101": _caltech101,
    "flowers102": _flowers102,
}
_OF_RECIPES = ("embedded", "places", "mnist", "fashion_mnist", "stl10")
