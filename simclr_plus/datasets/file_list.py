"""The image files below a folder: walked once, kept in a cache, walked again when a folder has changed.

A million paths are one string of bytes and their places in it. Links are followed, but no folder is walked twice: it
keeps the name under which it lies below the root, else that of the first link to it. Hidden files and folders are left
out. What a user should know of the folder is in `notes`.

The cache lies in $XDG_CACHE_HOME/simclr-plus/listings (~/.cache without it), one file a folder, and holds the time at
which each folder below was last changed: files added, removed or renamed change it. Deleting the cache is always safe,
and without a writable place there is none.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.machine.whole_files import write_whole

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"}
UNREAD = {".heic", ".heif", ".avif", ".jxl", ".jp2", ".psd", ".svg", ".tga", ".dng", ".cr2", ".cr3", ".nef", ".arw"}
HIDDEN = {"#recycle", "$recycle.bin", "system volume information", "__macosx", "lost+found"}  # and ".name", "@name"
WORTH_CACHING = 10_000  # files; fewer are walked in no time
SETTLED_SECONDS = 2.0  # a folder changed this recently may change again within the same tick of its clock
FORMAT = 2


class FileList(Sequence[Path]):
    """Paths below a root in the order of their parts, made when asked for. `notes`: what a user should know of it."""

    def __init__(
        self,
        root: Path,
        names: bytes,
        ends: NDArray[np.int64],
        chosen: NDArray[np.int64] | None = None,
        notes: tuple[str, ...] = (),
    ):
        self.root, self._names, self._ends = root, names, ends
        self._chosen, self.notes = chosen, notes

    def __len__(self) -> int:
        return len(self._ends) if self._chosen is None else len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> FileList: ...

    def __getitem__(self, index: int | slice) -> Path | FileList:
        if isinstance(index, slice):
            return self.subset(np.arange(*index.indices(len(self))))
        return self.root / os.fsdecode(self.name(range(len(self))[index]))

    def name(self, index: int) -> bytes:
        """The path below the root."""
        number = index if self._chosen is None else int(self._chosen[index])
        return self._names[int(self._ends[number - 1]) if number else 0 : int(self._ends[number])]

    def subset(self, indices: NDArray[Any]) -> FileList:
        """The files at `indices`, in that order."""
        indices = np.asarray(indices, dtype=np.int64)
        return FileList(self.root, self._names, self._ends, indices if self._chosen is None else self._chosen[indices])

    def joined_names(self) -> tuple[bytes, NDArray[np.int64]]:
        """All names one after the other, and the length of each."""
        lengths = np.diff(self._ends, prepend=0)
        if self._chosen is None:
            return self._names, lengths
        first = (self._ends - lengths)[self._chosen].tolist()
        last = self._ends[self._chosen].tolist()
        return b"".join(self._names[i:j] for i, j in zip(first, last, strict=True)), lengths[self._chosen]

    def first_folders(self) -> tuple[NDArray[np.int64], tuple[str, ...], tuple[str, ...]]:
        """The number of the folder right below the root that each file of a whole list lies in, and those folders.

        Files beside the folders have number -1; their names come third. The files of a folder stand together, so that
        the end of each is searched for.
        """
        assert self._chosen is None
        numbers = np.full(len(self), -1, dtype=np.int64)
        if b"/" not in self._names:
            return numbers, (), ()
        tops: list[bytes] = []
        loose: list[bytes] = []
        begin = 0
        while begin < len(self):
            top, slash, _ = self.name(begin).partition(b"/")
            end = begin + 1
            if slash:
                inside = top + slash
                end = bisect_left(range(len(self)), True, lo=end, key=lambda i: not self.name(i).startswith(inside))
                numbers[begin:end] = len(tops)
                tops.append(top)
            else:
                loose.append(top)
            begin = end
        return numbers, tuple(map(os.fsdecode, tops)), tuple(map(os.fsdecode, loose))


def list_images(root: Path, cache: Path | None = None) -> FileList:
    """The images below a folder; `cache` is the folder of the caches, the user's own if left out."""
    cached = _cache_file(root, cache)
    listed = _read(root, cached)
    if listed is not None:
        return listed
    started = time.time()
    walk = _walk(root)
    notes = walk.notes()
    walk.names.sort(key=lambda name: name.replace(b"/", b"\0"))  # a/x before a-b/x, as paths are ordered
    blob = b"".join(walk.names)
    ends = np.cumsum([len(name) for name in walk.names], dtype=np.int64)
    newest = max((changed for _, changed in walk.folders), default=0)
    settled = newest < (started - SETTLED_SECONDS) * 1e9 and not walk.broken  # a link's end may appear unseen
    if len(walk.names) >= WORTH_CACHING and settled and cached is not None:
        _write(cached, blob, ends, walk.folders, notes)
    return FileList(root, blob, ends, notes=notes)


def holds_image(folder: Path) -> bool:
    """Whether there is an image anywhere below a folder, links to folders aside."""
    for _, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if not is_hidden(name)]
        if any(_is_image(name) for name in files):
            return True
    return False


def folders_in(folder: Path) -> list[str]:
    """Names of the folders right below a folder, sorted; hidden ones are left out."""
    with os.scandir(os.fsencode(folder)) as entries:
        names = [entry.name for entry in entries if not is_hidden(entry.name) and _leads_to_folder(entry)]
    return [os.fsdecode(name) for name in sorted(names)]


def shown_name(path: str | bytes | Path) -> str:
    """A name that every terminal and every text file takes: what is no text in it, and line ends, as escapes."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed_names(names: Sequence[str | bytes | Path], most: int = 3) -> str:
    """ "a, b, c and 12 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(shown_name, names[:most])) + more


def _leads_to_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_image(name: bytes) -> bool:
    return os.path.splitext(name)[1].lower() in _SUFFIXES and not name.startswith(b".")  # noqa: PTH122 (bytes)


def is_hidden(folder: bytes) -> bool:
    """Whether a folder is one that file managers, notebooks and servers leave: no class, and no images of its own."""
    return folder.startswith((b".", b"@")) or folder.lower() in _HIDDEN


_SUFFIXES, _UNREAD, _HIDDEN = ({os.fsencode(text) for text in texts} for texts in (SUFFIXES, UNREAD, HIDDEN))


@dataclass
class _Walk:
    """What lies below a folder. Names are bytes below it, those of folders end in "/"; `ids` are device and inode."""

    top: bytes
    names: list[bytes] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("Q"))  # two for each name
    folders: list[tuple[bytes, int]] = field(default_factory=list)  # with the time of the last change
    links: list[bytes] = field(default_factory=list)  # to folders, not followed yet
    seen: set[object] = field(default_factory=set)  # folders
    repeated: list[bytes] = field(default_factory=list)
    broken: list[bytes] = field(default_factory=list)
    hidden: list[bytes] = field(default_factory=list)
    special: list[bytes] = field(default_factory=list)  # pipes and the like, called as images are
    unread: Counter[str] = field(default_factory=Counter)

    def enter(self, first: bytes, *, linked: bool) -> None:
        """Walk a folder with all below it that is no link."""
        waiting = [first]
        while waiting:
            below = waiting.pop()
            folder = os.path.join(self.top, below)  # noqa: PTH118 (bytes)
            try:
                known = os.stat(folder)  # noqa: PTH116 (bytes)
                identity = (known.st_dev, known.st_ino) if known.st_ino else os.path.realpath(folder)
                if linked and identity in self.seen:
                    self.repeated.append(below)
                    continue
                self.seen.add(identity)
                self.folders.append((below, known.st_mtime_ns))
                with os.scandir(folder) as entries:
                    waiting += [below + e.name + b"/" for e in entries if self._is_folder(e, below, known.st_dev)]
            except OSError as error:
                raise EnvironmentNotAbleError(
                    f"folder {shown_name(folder)} cannot be read: {error.strerror}; make it readable, or "
                    f"move it out of {shown_name(self.top)}"
                ) from None

    def _is_folder(self, entry: os.DirEntry[bytes], below: bytes, device: int) -> bool:
        """Whether it is a folder to walk; anything else is noted as what it is."""
        name, path = entry.name, below + entry.name
        inode = entry.inode()
        if entry.is_symlink():
            try:
                target = os.stat(os.path.join(self.top, path))  # noqa: PTH116, PTH118 (bytes)
            except OSError:
                if not name.startswith(b"."):
                    self.broken.append(path)
                    if _is_image(name):
                        self._add(path, device, inode)  # reading it will fail, and name it
                return False
            is_folder, is_file = stat.S_ISDIR(target.st_mode), stat.S_ISREG(target.st_mode)
            device, inode = target.st_dev, target.st_ino
        else:
            is_folder, is_file = entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False)
        if is_folder:
            if is_hidden(name):
                self.hidden.append(path)
                return False
            if entry.is_symlink():
                self.links.append(path + b"/")
                return False
            return True
        if _is_image(name):
            if is_file:
                self._add(path, device, inode)
            else:
                self.special.append(path)
        else:
            suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (bytes)
            if suffix in _UNREAD and not name.startswith(b"."):
                self.unread[os.fsdecode(suffix)] += 1
        return False

    def _add(self, path: bytes, device: int, inode: int) -> None:
        self.names.append(path)
        self.ids.extend((device, inode))

    def _twins(self) -> list[bytes]:
        """Names of files that have another name here too, but for one name of each."""
        ids = np.array(self.ids, dtype=np.uint64).reshape(-1, 2)
        order = np.lexsort((ids[:, 0], ids[:, 1]))
        same = (ids[order][1:] == ids[order][:-1]).all(axis=1) & (ids[order][1:, 1] != 0)
        return sorted(self.names[i] for i in order[1:][same])

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the folder, in sentences."""
        root, twins = shown_name(self.top), self._twins()
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(self.unread.items()))
        sentences = (
            (twins, f"{len(twins):,} images of {root} are there under another name too (links): {listed_names(twins)}"),
            (self.broken, f"{len(self.broken):,} links in {root} lead nowhere: {listed_names(sorted(self.broken))}"),
            (
                self.repeated,
                f"links in {root} to folders listed already are left out: {listed_names(sorted(self.repeated))}",
            ),
            (self.hidden, f"hidden folders of {root} are left out: {listed_names(sorted(self.hidden))}"),
            (self.special, f"these are no files and are left out: {listed_names(sorted(self.special))}"),
            (kinds, f"{root} holds pictures of kinds that are not read: {kinds}"),
        )
        return tuple(sentence for there, sentence in sentences if there)


def _walk(root: Path) -> _Walk:
    """All below the root; what lies there itself comes before what links lead to."""
    walk = _Walk(os.fsencode(root))
    for folder in root.resolve().parents:  # a link to one of them leads back here
        with suppress(OSError):
            above = folder.stat()
            walk.seen.add((above.st_dev, above.st_ino))
    walk.enter(b"", linked=False)
    while walk.links:
        walk.links.sort(reverse=True)
        walk.enter(walk.links.pop(), linked=True)
    return walk


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
            notes = tuple(json.loads(arrays["notes"].tobytes()))
            return FileList(root, arrays["names"].tobytes(), arrays["ends"], notes=notes)
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        BadZipFile,
    ):  # damaged, of another form, or a folder is gone: walk again
        return None


def _write(
    cached: Path, names: bytes, ends: NDArray[np.int64], folders: list[tuple[bytes, int]], notes: tuple[str, ...]
) -> None:
    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez(
                file,
                format=np.array(FORMAT),
                names=np.frombuffer(names, dtype=np.uint8),
                ends=ends,
                folders=np.frombuffer(b"\0".join(below for below, _ in folders), dtype=np.uint8),
                changed=np.array([changed for _, changed in folders], dtype=np.int64),
                notes=np.frombuffer(json.dumps(notes).encode(), dtype=np.uint8),
            )

    with suppress(EnvironmentNotAbleError):  # a cache that cannot be written costs a walk at the next start, no more
        write_whole(cached, write)
