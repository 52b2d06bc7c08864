"""Which training images may keep their labels: the authors' lists, or a seeded class-balanced share.

A list is a text file of one image name a line, as the authors' `imagenet_subsets/1percent.txt` for ImageNet. A seeded
share takes the first images of one permutation of each class, so that 1 % lies inside 10 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets import Images, require_labels
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
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise NotFoundError(f"no readable list {file}: {error.strerror}") from None
    if images.pixels is not None:
        raise RecipeError(
            f"{images.name} has no file names, so that the list {file} cannot name its images: use --share"
        )
    places = {path.name: i for i, path in enumerate(images.paths)}
    missing = [name for name in names if Path(name).name not in places]
    if missing:
        raise SimclrPlusError(
            f"{len(missing)} of {len(names)} images of {file} are not in {images.name}, e.g. {missing[0]}"
        )
    if len(places) < len(images):
        raise SimclrPlusError(
            f"{images.name} has several files of one name, so that {file} does not say which are meant"
        )
    return np.unique([places[Path(name).name] for name in names])


def as_list(images: Images, indices: NDArray[np.int64]) -> str:
    """The list of these images, one a line: file names, or numbers where there are none."""
    if images.pixels is not None:
        return "".join(f"{i}\n" for i in indices)
    return "".join(f"{images.paths[i].name}\n" for i in indices)
