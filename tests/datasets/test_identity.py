"""One digest for the same images, another for any other: whatever makes labels or pixels mean something else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simclr_plus.datasets import PRETRAIN, Images, open_folder, open_images
from simclr_plus.datasets.decoding import Reading
from simclr_plus.datasets.identity import images_digest, listing_digest
from simclr_plus.recipe.keys import Data

NAMES = ("a/1.jpg", "a/2.jpg", "b/12.jpg", "b/3.jpg", "b/4.jpg")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i, name in enumerate(NAMES):
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_bytes(bytes(10 + i))
    return tmp_path / "root"


def both(images: Images) -> tuple[str, str]:
    return listing_digest(images), images_digest(images)


def test_a_copy_elsewhere_is_the_same_and_so_is_a_part_that_holds_everything(root: Path, tmp_path: Path) -> None:
    images = open_folder(root)
    shutil.copytree(root, tmp_path / "copy" / "deep")
    assert both(images) == both(open_folder(tmp_path / "copy" / "deep"))
    assert both(images) == both(images.subset(np.arange(len(images))))
    assert both(images) == both(images)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file renamed": lambda root: (root / "a/1.jpg").rename(root / "a/0.jpg"),
    "a file moved to another class": lambda root: (root / "a/2.jpg").rename(root / "b/0.jpg"),
    "a file more": lambda root: (root / "b/5.jpg").write_bytes(b"x"),
    "a file less": lambda root: (root / "b/4.jpg").unlink(),
    "a class renamed": lambda root: (root / "b").rename(root / "c"),
    "the same letters cut elsewhere": lambda root: (
        (root / "b/12.jpg").rename(root / "b/1.jpg"),
        (root / "b/3.jpg").rename(root / "b/23.jpg"),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_other_names_are_other_images(root: Path, change: str) -> None:
    before = both(open_folder(root))
    CHANGES[change](root)
    after = both(open_folder(root))
    assert before[0] != after[0] and before[1] != after[1]


def test_a_file_replaced_by_another_is_seen_by_its_size_or_its_time(root: Path) -> None:
    before, timed = both(open_folder(root)), images_digest(open_folder(root), times=True)
    os.utime(root / "a/1.jpg", (1, 1))
    assert both(open_folder(root)) == before and images_digest(open_folder(root), times=True) != timed
    (root / "a/1.jpg").write_bytes(b"another")
    after = both(open_folder(root))
    assert after[0] == before[0] and after[1] != before[1]
    (root / "a/1.jpg").unlink()
    (root / "a/1.jpg").symlink_to("nowhere")
    assert images_digest(open_folder(root)) not in (before[1], after[1])


def test_order_labels_classes_and_reading_count(root: Path) -> None:
    images = open_folder(root)
    assert images.labels is not None
    others = [
        images.subset(np.array([1, 0, 2, 3, 4])),
        images.subset(np.array([0, 1, 2, 3])),
        replace(images, labels=1 - images.labels),
        replace(images, labels=None),
        replace(images, classes=("a", "c")),
        replace(images, reading=Reading("drop")),
    ]
    digests = [listing_digest(each) for each in (images, *others)]
    assert len(set(digests)) == len(digests)


def test_images_of_several_folders_are_told_by_their_whole_paths(root: Path) -> None:
    paths = tuple(open_folder(root).paths)
    assert listing_digest(Images("x", paths=paths)) != listing_digest(Images("x", paths=paths[::-1]))
    (root / paths[0]).write_bytes(b"y")
    assert images_digest(Images("x", paths=paths)) != images_digest(Images("x", paths=paths[1:]))


def test_of_images_in_memory_the_pixels_count() -> None:
    images = open_images(Data(limit=20), PRETRAIN)
    assert images.pixels is not None
    other = images.pixels.copy()
    other[19, 27, 27, 2] ^= 1
    assert both(images) == both(open_images(Data(limit=20), PRETRAIN))
    assert listing_digest(images) != listing_digest(replace(images, pixels=other))


def test_names_that_are_no_text_count_too(root: Path) -> None:
    before = both(open_folder(root))
    os.rename(os.fsencode(root) + b"/a/1.jpg", os.fsencode(root) + b"/a/\xff.jpg")  # noqa: PTH104
    assert both(open_folder(root)) != before
