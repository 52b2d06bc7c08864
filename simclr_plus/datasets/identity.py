"""Which images are these? Digests that tell one data set from another. No image is decoded.

`listing_digest` looks at names, order, labels, classes and how files become pixels: a second for a million files, on
every process. `images_digest` looks at sizes too, so that a file replaced by another is seen; it asks the file system
once a file. Of images in memory both look at the pixels.
"""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simclr_plus.datasets.file_list import FileList
from simclr_plus.datasets.images import Images

AT_ONCE = 16  # questions to the file system: a network answers each after a while
IN_TURN = 1000  # files that a thread asks for before it takes others


def listing_digest(images: Images) -> str:
    """32 hex digits; the same for a copy of the folder elsewhere, another for other names, order, labels or classes."""
    digest = hashlib.sha256()
    if images.pixels is not None:
        digest.update(f"{images.pixels.shape}".encode())
        digest.update(np.ascontiguousarray(images.pixels).data)
    else:
        names, lengths = _names(images)
        digest.update(f"{images.reading}".encode())
        digest.update(names)
        digest.update(lengths.astype("<i8").data)
    digest.update("\0".join(images.classes).encode(errors="surrogateescape"))
    if images.labels is not None:
        digest.update(np.ascontiguousarray(images.labels).data)
    return digest.hexdigest()[:32]


def images_digest(images: Images, *, times: bool = False) -> str:
    """`listing_digest` and the size of each file, and on request the time of its last change."""
    digest = hashlib.sha256(listing_digest(images).encode())
    parts = [images.paths[i : i + IN_TURN] for i in range(0, len(images), IN_TURN)] if images.pixels is None else []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sizes") as pool:
        for sizes in pool.map(lambda part: _sizes(part, times=times), parts):
            digest.update(sizes)
    return digest.hexdigest()[:32]


def _names(images: Images) -> tuple[bytes, NDArray[np.int64]]:
    """Names below the folder, so that the folder may move; whole paths where the images come from several places.

    One after the other, and the length of each.
    """
    if isinstance(images.paths, FileList):
        return images.paths.joined_names()
    names = [os.fsencode(path) for path in images.paths]
    return b"".join(names), np.array([len(name) for name in names], dtype=np.int64)


def _sizes(paths: Sequence[Path], *, times: bool) -> bytes:
    """Size of each file, and on request the time of its last change; -1 and 0 where there is none."""
    numbers = array("q")
    for path in _whole_names(paths):
        try:
            status = os.stat(path)  # noqa: PTH116 (a million Path objects take seconds)
        except OSError:
            numbers.extend((-1, 0))
        else:
            numbers.extend((status.st_size, status.st_mtime_ns if times else 0))
    return numbers.tobytes()


def _whole_names(paths: Sequence[Path]) -> Iterator[bytes]:
    if not isinstance(paths, FileList):
        yield from map(os.fsencode, paths)
        return
    top = os.fsencode(paths.root) + b"/"
    yield from (top + paths.name(index) for index in range(len(paths)))
