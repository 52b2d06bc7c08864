"""Which training images may keep their labels: the authors' lists, or a seeded class-balanced share.

A list is a text file of one image a line: a file name, as the authors' `imagenet_subsets/1percent.txt` for ImageNet has
them, or as much of the path's end as tells it from the others (`class_0/000.jpg`). A seeded share takes the first
images of one permutation of each class, so that 1 % lies inside 10 %.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets.file_list import FileList
from simclr_plus.datasets.images import Images, require_labels
from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError


def share_indices(images: Images, share: float, seed: int = 0) -> NDArray[np.int64]:
    """Sorted places of `share` of the images, equally many of each class (one more or less where it does not divide).

    Which classes get one more is drawn too; every class keeps at least one image.
    """
    labels = require_labels(images)
    if not 0 < share <= 1:
        raise RecipeError(f"--share {share}: give a share of the labels above 0 and up to 1, e.g. 0.01")
    generator = np.random.Generator(np.random.Philox(seed))
    members = [generator.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    turn = generator.permutation(len(members))  # who is first to get an image more
    total = max(len(members), round(share * len(images)))
    counts = np.zeros(len(members), dtype=np.int64)
    sizes = np.array([len(m) for m in members])
    while counts.sum() < total:  # rounds of one image a class, while it has one left
        open_ones = turn[counts[turn] < sizes[turn]]
        each = max(1, min(int((total - counts.sum()) // len(open_ones)), int((sizes - counts)[open_ones].min())))
        counts[open_ones[: total - counts.sum()]] += each
    return np.sort(np.concatenate([m[:n] for m, n in zip(members, counts, strict=True)]))


def listed_indices(images: Images, file: Path) -> NDArray[np.int64]:
    """Sorted places of the images that a list names, by their file names or their paths' ends."""
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # names are bytes, as the file system has them
    except OSError as error:
        raise NotFoundError(f"no readable list {file}: {error.strerror}") from None
    names = [line.strip() for line in text.splitlines() if line.strip()]
    if not names:
        raise RecipeError(f"the list {file} is empty: name the images that keep their labels, one a line")
    if images.pixels is not None:
        raise RecipeError(
            f"{images.name} has no file names, so that the list {file} cannot name its images: use --share"
        )
    ends = [_parts_below(images, i) for i in range(len(images))]
    named: dict[str, list[int]] = {}
    for i, parts in enumerate(ends):
        named.setdefault(parts[-1], []).append(i)
    places, missing = [], []
    for name in names:
        parts = PurePosixPath(name).parts
        meant = [i for i in named.get(parts[-1], ()) if _ends_alike(parts, ends[i])]
        if len(meant) > 1:
            raise SimclrPlusError(
                f"{name} in {file} is {len(meant)} images of {images.name} ({images.paths[meant[0]]}, "
                f"{images.paths[meant[1]]}): write more of the path's end, such as {'/'.join(ends[meant[0]][-2:])}"
            )
        places += meant
        missing += [] if meant else [name]
    if missing:
        raise SimclrPlusError(
            f"{len(missing)} of {len(names)} images of {file} are not in {images.name}, e.g. {missing[0]}"
        )
    return np.unique(places)


def _parts_below(images: Images, index: int) -> tuple[str, ...]:
    """An image's path below its folder; the whole path where images come from several places."""
    paths = images.paths  # a million of them: no Path is made where the list holds names
    return tuple(os.fsdecode(paths.name(index)).split("/")) if isinstance(paths, FileList) else paths[index].parts


def _ends_alike(a: tuple[str, ...], b: tuple[str, ...]) -> bool:
    """Whether two paths agree from their ends on, as far as the shorter one reaches."""
    shorter = min(len(a), len(b))
    return a[-shorter:] == b[-shorter:]


def as_list(images: Images, indices: NDArray[np.int64]) -> str:
    """A list of these images that `listed_indices` reads: file names, or where images share one their paths below the
    folder; numbers where there are no files.
    """
    if images.pixels is not None:
        return "".join(f"{i}\n" for i in indices)
    names = [images.paths[i].name for i in indices]
    if len({_parts_below(images, i)[-1] for i in range(len(images))}) < len(images):
        names = ["/".join(_parts_below(images, int(i))) for i in indices]
    return "".join(f"{name}\n" for name in names)
