"""The twelve data sets in the layouts in which they are distributed, in miniature: two to four images a class.

Layouts: torchvision's readers (which read the same trees here), the readme of Birdsnap 1.1, SUN397's archives
(SUN397.tar.gz and Partitions.zip), Caltech's 101_ObjectCategories.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets

from simclr_plus.datasets import Images
from simclr_plus.datasets.transfer_sets import TWELVE, LabelledSet, joined, open_labelled_set
from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError

drawn = np.random.default_rng(0)


def jpeg(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    return path


def lines(path: Path, text: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(text) + "\n")


def food101(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "food-101"
    listed: dict[str, dict[str, list[str]]] = {"train": {}, "test": {}}
    for name in ("apple_pie", "waffles"):
        for split, count in (("train", 4), ("test", 2)):
            ids = [f"{name}/{1000 + i + 50 * (split == 'test')}" for i in range(count)]
            listed[split][name] = ids
            for image in ids:
                jpeg(base / "images" / f"{image}.jpg")
    (base / "meta").mkdir()
    for split, classes in listed.items():
        (base / "meta" / f"{split}.json").write_text(json.dumps(classes))


def cifar(kind: str, folder: str, key: str, files: dict[str, int]) -> Callable[[Path, pytest.MonkeyPatch], None]:
    """Batches of pickled rows of 3072 bytes; torchvision checks their sums, which are the miniature's here."""

    def make(root: Path, patch: pytest.MonkeyPatch) -> None:
        base, sums = root / folder, {}
        base.mkdir(parents=True)
        for file, count in files.items():
            entry = {"data": drawn.integers(0, 256, (count, 3072), dtype=np.uint8), key: [i % 2 for i in range(count)]}
            (base / file).write_bytes(pickle.dumps(entry))
            sums[file] = hashlib.md5((base / file).read_bytes()).hexdigest()
        reader = getattr(datasets, kind)
        meta = dict(reader.meta)
        (base / meta["filename"]).write_bytes(pickle.dumps({meta["key"]: ["cat", "dog"]}))
        meta["md5"] = hashlib.md5((base / meta["filename"]).read_bytes()).hexdigest()
        patch.setattr(reader, "meta", meta)
        patch.setattr(reader, "train_list", [[f, sums[f]] for f in files if "test" not in f])
        patch.setattr(reader, "test_list", [[f, sums[f]] for f in files if "test" in f])

    return make


def birdsnap(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "birdsnap"
    species = ["Acadian_Flycatcher", "Zone_tailed_Hawk"]
    rows = [f"{i + 1}\tName\tLatin\t{name}" for i, name in enumerate(species)]
    lines(base / "species.txt", ["id\tcommon\tscientific\tdir", *rows])
    paths = [f"{name}/{i}.jpg" for name in species for i in range(6)]
    lines(base / "images.txt", ["url\tmd5\tpath\tspecies_id", *(f"http://x\t0\t{path}\t1" for path in paths)])
    lines(base / "test_images.txt", ["path", *(path for path in paths if path.endswith(("/4.jpg", "/5.jpg")))])
    for path in paths:
        if path != "Zone_tailed_Hawk/5.jpg":  # a link that died
            jpeg(base / "download" / "images" / path)


def sun397(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "SUN397"
    names = ["/a/abbey", "/a/apartment_building/outdoor"]
    lines(base / "ClassName.txt", names)
    paths = {name: [f"{name}/sun_a{i}.jpg" for i in range(7)] for name in names}
    for name in names:
        for path in paths[name]:
            jpeg(base / path[1:])
    lines(base / "Partitions" / "Training_01.txt", [p for name in names for p in paths[name][:4]])
    lines(base / "Partitions" / "Testing_01.txt", [p for name in names for p in paths[name][4:6]])


def cars(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "stanford_cars"
    fields = [("bbox_x1", "O"), ("bbox_y1", "O"), ("bbox_x2", "O"), ("bbox_y2", "O"), ("class", "O"), ("fname", "O")]
    (base / "devkit").mkdir(parents=True)
    for split, count, file in (
        ("train", 8, "devkit/cars_train_annos.mat"),
        ("test", 4, "cars_test_annos_withlabels.mat"),
    ):
        names = [f"{i + 1:05}.jpg" for i in range(count)]
        for name in names:
            jpeg(base / f"cars_{split}" / name)
        rows = np.array([(1, 1, 9, 9, i % 2 + 1, name) for i, name in enumerate(names)], dtype=fields)
        savemat(base / file, {"annotations": rows[None]})
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012"], dtype=object)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": names[None]})


def aircraft(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    lines(base / "variants.txt", ["707-320", "Yak-42"])
    number = 0
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        rows = []
        for name in ("707-320", "Yak-42"):
            for _i in range(count):
                number += 1
                jpeg(base / "images" / f"{number:07}.jpg")
                rows.append(f"{number:07} {name}")
        lines(base / f"images_variant_{split}.txt", rows)


def voc2007(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "VOCdevkit" / "VOC2007"
    things = [
        [("dog", 0), ("dog", 1)],  # difficult and not: counts as a dog
        [("cat", 1)],  # difficult only: left out of cats
        [("person", 0), ("cat", 0)],
    ]
    number = 0
    for image_set, count in (("train", 3), ("val", 3), ("test", 3)):
        ids = []
        for i in range(count):
            number += 1
            ids.append(f"{number:06}")
            jpeg(base / "JPEGImages" / f"{ids[-1]}.jpg")
            objects = "".join(
                f"<object><name>{name}</name><pose>Left</pose><difficult>{hard}</difficult></object>"
                for name, hard in things[i]
            )
            lines(
                base / "Annotations" / f"{ids[-1]}.xml", [f"<annotation><folder>VOC2007</folder>{objects}</annotation>"]
            )
        lines(base / "ImageSets" / "Main" / f"{image_set}.txt", ids)


def dtd(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "dtd" / "dtd"
    for split, count in (("train", 3), ("val", 2), ("test", 2)):
        names = [f"{name}/{name}_{split}{i}.jpg" for name in ("banded", "zigzagged") for i in range(count)]
        for name in names:
            jpeg(base / "images" / name)
        lines(base / "labels" / f"{split}1.txt", names)


def pets(root: Path, _: pytest.MonkeyPatch) -> None:
    base = root / "oxford-iiit-pet"
    for split, first, count in (("trainval", 1, 5), ("test", 100, 3)):
        rows = []
        for number, name in enumerate(("Abyssinian", "yorkshire_terrier"), start=1):
            for i in range(first, first + count):
                jpeg(base / "images" / f"{name}_{i}.jpg")
                rows.append(f"{name}_{i} {number} {number} 1")
        lines(base / "annotations" / f"{split}.txt", rows)


def caltech101(root: Path, _: pytest.MonkeyPatch) -> None:
    for name in ("BACKGROUND_Google", "Faces", "accordion"):
        for i in range(33):
            jpeg(root / "caltech101" / "101_ObjectCategories" / name / f"image_{i + 1:04}.jpg")


def flowers102(root: Path, patch: pytest.MonkeyPatch) -> None:
    base = root / "flowers-102"
    for i in range(1, 13):
        jpeg(base / "jpg" / f"image_{i:05}.jpg")
    savemat(base / "imagelabels.mat", {"labels": np.array([[1 + i % 2 for i in range(12)]])})
    savemat(base / "setid.mat", {"trnid": [[1, 2, 3, 4]], "valid": [[5, 6]], "tstid": [list(range(7, 13))]})
    sums = {name: hashlib.md5((base / name).read_bytes()).hexdigest() for name in ("imagelabels.mat", "setid.mat")}
    known = dict(datasets.Flowers102._file_dict)
    known |= {"label": ("imagelabels.mat", sums["imagelabels.mat"]), "setid": ("setid.mat", sums["setid.mat"])}
    patch.setattr(datasets.Flowers102, "_file_dict", known)


CIFAR10_FILES = {f"data_batch_{i}": 8 for i in range(1, 6)} | {"test_batch": 6}
# name: what makes the tree, number of classes, images to train, validate, test on, metric
MINIATURES = {
    "food101": (food101, 2, (6, 2, 4), "top1"),
    "cifar10": (cifar("CIFAR10", "cifar-10-batches-py", "labels", CIFAR10_FILES), 2, (36, 4, 6), "top1"),
    "cifar100": (cifar("CIFAR100", "cifar-100-python", "fine_labels", {"train": 40, "test": 6}), 2, (36, 4, 6), "top1"),
    "birdsnap": (birdsnap, 2, (6, 2, 3), "top1"),
    "sun397": (sun397, 2, (6, 2, 4), "top1"),
    "cars": (cars, 2, (6, 2, 4), "top1"),
    "aircraft": (aircraft, 2, (6, 4, 4), "mean_per_class"),
    "voc2007": (voc2007, 20, (3, 3, 3), "map11"),
    "dtd": (dtd, 2, (6, 4, 4), "top1"),
    "pets": (pets, 2, (8, 2, 6), "mean_per_class"),
    "caltech101": (caltech101, 3, (75, 15, 9), "mean_per_class"),
    "flowers102": (flowers102, 102, (4, 2, 6), "mean_per_class"),
}


def parts(found: LabelledSet) -> tuple[Images, Images, Images]:
    return found.train, found.validation, found.test


@pytest.fixture
def made(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, LabelledSet]:
    name: str = request.param
    MINIATURES[name][0](tmp_path, monkeypatch)
    return name, open_labelled_set(name, tmp_path)


@pytest.mark.parametrize("made", list(TWELVE), indirect=True)
def test_each_of_the_twelve_is_read_from_its_own_layout(made: tuple[str, LabelledSet]) -> None:
    name, found = made
    _, classes, counts, metric = MINIATURES[name]
    assert tuple(map(len, parts(found))) == counts
    assert len(found.classes) == classes and found.metric == metric
    for images in parts(found):
        assert images.labels is not None and len(images.labels) == len(images)
        assert images.read(0).shape[2] == 3
    keys = [
        [images.pixels[i].tobytes() for i in range(len(images))] if images.pixels is not None else list(images.paths)
        for images in parts(found)
    ]
    everything = [key for part in keys for key in part]
    assert len(set(everything)) == len(everything), "an image is in two parts"
    assert "of " in found.found(), "the published number of images is named where fewer are found"


@pytest.mark.parametrize("made", ["food101", "sun397", "cars", "aircraft", "dtd", "pets", "birdsnap"], indirect=True)
def test_labels_are_those_that_file_names_and_lists_say(made: tuple[str, LabelledSet], tmp_path: Path) -> None:
    name, found = made
    for images in parts(found):
        assert images.labels is not None
        for path, label in zip(images.paths, images.labels, strict=True):
            said = found.classes[label]
            if name == "cars":
                assert said == ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"][(int(path.stem) - 1) % 2]
            elif name == "aircraft":
                rows = "".join(f.read_text() for f in (tmp_path / "fgvc-aircraft-2013b/data").glob("images_variant_*"))
                assert f"{path.stem} {said}\n" in rows
            elif name == "pets":
                assert path.stem.rpartition("_")[0].lower() == said.lower().replace(" ", "_")
            elif name == "sun397":
                assert path.parent.as_posix().endswith(said)
            else:
                assert path.parent.name == said.replace(" ", "_")


@pytest.mark.parametrize("made", ["caltech101"], indirect=True)
def test_caltechs_split_has_thirty_of_each_class_and_the_background(
    made: tuple[str, LabelledSet], tmp_path: Path
) -> None:
    _, found = made
    assert "BACKGROUND_Google" in found.classes
    for images, each in zip(parts(found), (25, 5, 3), strict=True):
        assert images.labels is not None and np.bincount(images.labels).tolist() == [each] * 3
    again, other = open_labelled_set("caltech101", tmp_path), open_labelled_set("caltech101", tmp_path, seed=1)
    assert list(again.test.paths) == list(found.test.paths) != list(other.test.paths)


@pytest.mark.parametrize("made", ["voc2007"], indirect=True)
def test_classes_that_are_only_difficult_are_left_out(made: tuple[str, LabelledSet]) -> None:
    _, found = made
    labels = found.train.labels
    assert labels is not None and labels.shape == (3, 20)
    names = found.classes
    dog, cat, person = names.index("dog"), names.index("cat"), names.index("person")
    assert labels[:, dog].tolist() == [1, 0, 0]
    assert labels[:, cat].tolist() == [0, -1, 1]
    assert labels[:, person].tolist() == [0, 0, 1]


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for name in TWELVE:
        with pytest.raises(NotFoundError, match=str(tmp_path)):
            open_labelled_set(name, tmp_path)
    with pytest.raises(NotFoundError, match="neither a folder nor a data set"):
        open_labelled_set("food", tmp_path)
    with pytest.raises(RecipeError, match="has no Nonsense"):
        open_labelled_set("torchvision:Nonsense", tmp_path)


def test_any_classification_set_of_torchvision_is_read(tmp_path: Path) -> None:
    for i in range(10):
        for name in ("AnnualCrop", "Forest"):
            jpeg(tmp_path / "eurosat" / "2750" / name / f"{name}_{i}.jpg")
    found = open_labelled_set("torchvision:EuroSAT", tmp_path)
    assert tuple(map(len, parts(found))) == (14, 2, 4) and found.classes == ("AnnualCrop", "Forest")


def test_any_labelled_folder_is_a_set(photos: Path) -> None:
    found = open_labelled_set(str(photos))
    assert found.classes == ("sand", "sea") and sum(map(len, parts(found))) == 48
    both = joined(found.train, found.validation)
    assert both.labels is not None and len(both) == len(both.labels) == len(found.train_and_validation)


def test_a_reader_that_asks_for_more_is_read_or_refused_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Like:
        """A reader of torchvision's kind, of pictures in memory."""

        classes: tuple[str, ...] = ()

        def __init__(self, labels: list[int]) -> None:
            self.data, self.targets = np.zeros((len(labels), 8, 8), np.uint8), labels

    class Emnist(Like):
        classes = ("0", "A", "b")

        def __init__(self, root: str, split: str, **kwargs: object) -> None:
            assert split == "balanced"
            super().__init__([0, 1, 2, 0, 1, 2] if kwargs["train"] else [2, 1, 0])

    class Wanting(Like):
        def __init__(self, root: str, another: str) -> None: ...

    class Unnamed(Like):
        """Its classes have no names, and its test images show the first two of three alone."""

        def __init__(self, root: str, train: bool = True) -> None:
            super().__init__([0, 1, 2, 0, 1, 2] if train else [0, 1])

    class Split(Like):
        """Each part has other classes behind the same numbers."""

        def __init__(self, root: str, train: bool = True) -> None:
            super().__init__([0, 1, 0, 1])
            self.classes = ("cat", "dog") if train else ("dog", "cat")

    for kind, reader in (("EMNIST", Emnist), ("Wanting", Wanting), ("Unnamed", Unnamed), ("Split", Split)):
        monkeypatch.setattr(datasets, kind, reader, raising=False)
    found = open_labelled_set("torchvision:EMNIST", tmp_path)
    assert found.classes == ("0", "A", "b") and len(found.test) == 3 and "balanced" in found.choices[0]
    assert open_labelled_set("torchvision:Unnamed", tmp_path).test.classes == ("0", "1", "2")
    with pytest.raises(RecipeError, match="another"):
        open_labelled_set("torchvision:Wanting", tmp_path)
    with pytest.raises(SimclrPlusError, match="different classes"):
        open_labelled_set("torchvision:Split", tmp_path)


def test_hidden_folders_are_no_classes_of_torchvisions_readers(tmp_path: Path) -> None:
    for label in ("Forest", ".ipynb_checkpoints", "River", "@eaDir"):
        for i in range(5):
            jpeg(tmp_path / "set" / label / f"{i}.jpg")
    jpeg(tmp_path / "set" / "River" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
    found = open_labelled_set("torchvision:ImageFolder", tmp_path / "set")
    assert found.classes == ("Forest", "River")
    for part, each in ((found.train_and_validation, 4), (found.test, 1)):
        assert part.labels is not None and np.bincount(part.labels).tolist() == [each, each]
        for path, label in zip(part.paths, part.labels, strict=True):
            assert path.parent.name == found.classes[label]
