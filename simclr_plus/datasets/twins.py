"""Images that are in two sets at once, byte for byte: a test image that was trained on tells nothing.

Files are compared by size, then by their ends, and what agrees in both is read whole; images in memory by their pixels.
Pictures that merely look alike are not found.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from simclr_plus.datasets.images import Images

END = 4096  # bytes at the end of a file: of compressed pictures they are all but unique
AT_ONCE = 16  # questions to the file system: a network answers each after a while


def twins(a: Images, b: Images) -> list[tuple[int, int]]:
    """For each image of `b` that is in `a` too: its first place in `a`, and its place in `b`."""
    if a.pixels is not None and b.pixels is not None:
        places: dict[bytes, int] = {}
        for i, image in enumerate(a.pixels):
            places.setdefault(hashlib.sha256(image.tobytes()).digest(), i)
        pairs = ((places.get(hashlib.sha256(image.tobytes()).digest()), j) for j, image in enumerate(b.pixels))
        return [(i, j) for i, j in pairs if i is not None]
    if a.pixels is not None or b.pixels is not None:
        return []
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="twins") as pool:
        sizes_a, sizes_b = (list(pool.map(_size, images.paths)) for images in (a, b))
        both = (set(sizes_a) & set(sizes_b)) - {0}
        ends_a, ends_b = (
            dict(zip(numbers, pool.map(lambda i, paths=images.paths: _end(paths[i]), numbers), strict=True))
            for images, numbers in (
                (a, [i for i, size in enumerate(sizes_a) if size in both]),
                (b, [j for j, size in enumerate(sizes_b) if size in both]),
            )
        )
    candidates: dict[tuple[int, bytes], list[int]] = {}
    for i, end in ends_a.items():
        candidates.setdefault((sizes_a[i], end), []).append(i)
    return [
        (same, j)
        for j, end in ends_b.items()
        if (same := _first_same(a, candidates.get((sizes_b[j], end), []), b.paths[j])) is not None
    ]


def told_twins(a: Images, b: Images) -> str:
    """A sentence about the images of `b` that are in `a` too; "" without any."""
    pairs = twins(a, b)
    if not pairs:
        return ""
    i, j = pairs[0]
    example = f", e.g. {b.paths[j]} is {a.paths[i]}" if b.pixels is None else f", e.g. number {j} is number {i}"
    return (
        f"{len(pairs):,} of {len(b):,} test images are among those of training or validation, byte for byte{example}; "
        "they make the accuracy too high"
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # reading it will say so
        return 0


def _end(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(-min(END, os.fstat(file.fileno()).st_size), os.SEEK_END)
            return hashlib.sha256(file.read()).digest()
    except OSError:
        return os.fsencode(path)


def _first_same(a: Images, places: list[int], path: Path) -> int | None:
    if not places:
        return None
    try:
        content = path.read_bytes()
        return next((i for i in places if a.paths[i].read_bytes() == content), None)
    except OSError:
        return None
