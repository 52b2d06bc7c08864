"""The image files below a folder: walked once, kept in a cache, walked again when a folder has changed.

A million paths are one string of bytes and their places in it. The cache lies in $XDG_CACHE_HOME/simclr-plus/listings
(~/.cache without it), one file a folder, and holds the time at which each folder below was last changed: files added,
removed or renamed change it. Deleting the cache is always safe, and without a writable place there is none.
"""

from __future__ import annotations

import hashlib
import os
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.whole_files import write_whole

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"}
WORTH_CACHING = 10_000  # files; fewer are walked in no time
SETTLED_SECONDS = 2.0  # a folder changed this recently may change again within the same tick of its clock
FORMAT = 1


class FileList(Sequence[Path]):
    """Paths below a root in the order of their parts, made when asked for."""

    def __init__(self, root: Path, names: bytes, ends: NDArray[np.int64], chosen: NDArray[np.int64] | None = None):
        self.root, self._names, self._ends = root, names, ends
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._ends) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> FileList: ...

    def __getitem__(self, index: int | slice) -> Path | FileList:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        return self.root / os.fsdecode(self.name(range(len(self))[index]))

    def name(self, index: int) -> bytes:
        """The path below the root."""
        number = index if self._chosen is None else int(self._chosen[index])
        return self._names[int(self._ends[number - 1]) if number else 0 : int(self._ends[number])]

    def subset(self, indices: NDArray[Any]) -> FileList:
        """The files at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return FileList(self.root, self._names, self._ends, indices if self._chosen is None else self._chosen[indices])

    def first_folders(self) -> tuple[NDArray[np.int64], tuple[str, ...]] | None:
        """The number of the folder right below the root that each file of a whole list lies in, and those folders.

        None where a file lies in none. The files of a folder stand together, so that the end of each is searched for.
        """
        assert self._chosen is None
        numbers = np.empty(len(self), dtype=np.int64)
        tops: list[bytes] = []
        begin = 0
        while begin < len(self):
            top, slash, _ = self.name(begin).partition(b"/")
            if not slash:
                return None
            inside = top + slash
            end = bisect_left(range(len(self)), True, lo=begin, key=lambda i: not self.name(i).startswith(inside))
            numbers[begin:end] = len(tops)
            tops.append(top)
            begin = end
        return numbers, tuple(os.fsdecode(top) for top in tops)


def list_images(root: Path, cache: Path | None = None) -> FileList:
    """The images below a folder; `cache` is the folder of the caches, the user's own if left out."""
    cached = _cache_file(root, cache)
    found = _read(root, cached)
    if found is not None:
        return found
    started = time.time()
    names, folders = _walk(root)
    blob = b"".join(names)
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    newest = max((changed for _, changed in folders), default=0)
    if len(names) >= WORTH_CACHING and newest < (started - SETTLED_SECONDS) * 1e9 and cached is not None:
        _write(cached, blob, ends, folders)
    return FileList(root, blob, ends)


def _walk(root: Path) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """Names below the root in the order of their parts; the folders with the times of their last change."""
    names: list[bytes] = []
    folders: list[tuple[bytes, int]] = []
    top = os.fsencode(root)
    wanted = {os.fsencode(suffix) for suffix in SUFFIXES}
    for folder, _, files in os.walk(top, followlinks=True):
        below = os.path.relpath(folder, top) + b"/" if folder != top else b""
        folders.append((below, os.stat(folder).st_mtime_ns))  # noqa: PTH116 (bytes)
        names += [
            below + name
            for name in files
            if os.path.splitext(name)[1].lower() in wanted and not name.startswith(b".")  # noqa: PTH122 (bytes)
        ]
    names.sort(key=lambda name: name.replace(b"/", b"\0"))  # a/x before a-b/x, as paths are ordered
    return names, folders


def _cache_file(root: Path, cache: Path | None) -> Path | None:
    try:
        folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "simclr-plus" / "listings"
        return folder / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]}.npz"
    except (OSError, RuntimeError):  # no home
        return None


def _read(root: Path, cached: Path | None) -> FileList | None:
    """The cached list if it is there, whole, and every folder still as it was."""
    if cached is None or not cached.is_file():
        return None
    try:
        with cached.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if int(arrays["format"]) != FORMAT:
                return None
            folders = arrays["folders"].tobytes().split(b"\0")
            for below, changed in zip(folders, arrays["changed"].tolist(), strict=True):
                if os.stat(os.path.join(os.fsencode(root), below)).st_mtime_ns != changed:  # noqa: PTH116, PTH118
                    return None
            return FileList(root, arrays["names"].tobytes(), arrays["ends"])
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        BadZipFile,
    ):  # damaged, of another form, or a folder is gone: walk again
        return None


def _write(cached: Path, names: bytes, ends: NDArray[np.int64], folders: list[tuple[bytes, int]]) -> None:
    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                names=np.frombuffer(names, dtype=np.uint8),
                ends=ends,
                folders=np.frombuffer(b"\0".join(below for below, _ in folders), dtype=np.uint8),
                changed=np.array([changed for _, changed in folders], dtype=np.int64),
            )

    with suppress(EnvironmentNotAbleError):  # a cache that cannot be written costs a walk at the next start, no more
        write_whole(cached, write)
