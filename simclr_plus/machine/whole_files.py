"""Files that appear whole or not at all: written aside, flushed to disk, then renamed.

The file aside has a name that nobody else has, here or in another container with the same process ids, and is locked
while it is written: so who cleans up a folder tells it from what a killed process left.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.machine.locks import lock_at_once

SECONDS_TO_BE_LEFT = 600.0  # where there are no locks, a file that nobody wrote to for so long is nobody's


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; on failure nothing is left and the old file stays.

    Raises EnvironmentNotAbleError naming the file when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _aside(path) as aside:
            write(aside)
            with aside.open("rb") as file:
                os.fsync(file.fileno())
            aside.replace(path)
        _flush_folder(path.parent)
    except Exception as error:
        # safetensors wraps the system's error in its own
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise EnvironmentNotAbleError(
                f"cannot write {path}: {error}; free some space or check the folder's permissions. "
                "What was saved before is intact"
            ) from error
        raise


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for text; names of files that are not UTF-8 keep their bytes."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8", errors="surrogateescape")

    write_whole(path, write)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder; what a living one is writing stays."""
    for aside in folder.glob(".*.part"):
        with suppress(OSError):  # it may be gone by now
            descriptor = os.open(aside, os.O_RDWR)
            try:
                locked = lock_at_once(descriptor)
                untouched = time.time() - os.fstat(descriptor).st_mtime
                if locked or (locked is None and untouched > SECONDS_TO_BE_LEFT):
                    aside.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, locked, with the permissions that new files have; gone at the end if still there."""
    while True:
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        if lock_at_once(descriptor) is not False and aside.exists():
            break
        os.close(descriptor)  # who cleans up here saw it before it was locked, and deletes it
    try:
        yield aside
    finally:
        os.close(descriptor)
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
