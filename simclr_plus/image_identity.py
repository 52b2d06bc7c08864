"""Which images are these? Digests that tell one data set from another. No image is decoded.

`listing_digest` looks at names, order, labels and classes: a millisecond for a thousand files, on every process.
`images_digest` looks at sizes too, so that a file replaced by another is seen; it asks the file system once a file.
Of images in memory both look at the pixels.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from simclr_plus.datasets import Images
from simclr_plus.file_list import FileList

AT_ONCE = 16  # questions to the file system: a network answers each after a while


def listing_digest(images: Images) -> str:
    """32 hex digits; the same for a copy of the folder elsewhere, another for other names, order, labels or classes."""
    digest = hashlib.sha256()
    if images.pixels is not None:
        digest.update(f"{images.pixels.shape}".encode())
        digest.update(np.ascontiguousarray(images.pixels).data)
    for name in _names(images):
        digest.update(name + b"\0")
    digest.update("\0".join(images.classes).encode(errors="surrogateescape"))
    if images.labels is not None:
        digest.update(np.ascontiguousarray(images.labels).data)
    return digest.hexdigest()[:32]


def images_digest(images: Images, *, times: bool = False) -> str:
    """`listing_digest` and the size of each file, and on request the time of its last change."""
    digest = hashlib.sha256(listing_digest(images).encode())
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sizes") as pool:
        for size, changed in pool.map(_size_and_time, images.paths if images.pixels is None else ()):
            digest.update(f"{size} {changed if times else 0}\n".encode())
    return digest.hexdigest()[:32]


def _names(images: Images) -> list[bytes]:
    """Names below the folder, so that the folder may move; whole paths where the images come from several places."""
    if images.pixels is not None:
        return []
    if isinstance(images.paths, FileList):
        return [images.paths.name(index) for index in range(len(images.paths))]
    return [os.fsencode(path) for path in images.paths]


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        known = path.stat()
    except OSError:
        return -1, 0
    return known.st_size, known.st_mtime_ns
