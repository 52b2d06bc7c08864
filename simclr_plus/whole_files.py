"""Files that appear whole or not at all: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from simclr_plus.errors import EnvironmentNotAbleError


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then put it in place; on failure nothing is left and the old file stays.

    Raises EnvironmentNotAbleError naming the file when the disk is full or the folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except Exception as error:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        # safetensors wraps the system's error in its own
        if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
            raise EnvironmentNotAbleError(
                f"cannot write {path}: {error}; free some space or check the folder's permissions. "
                "What was saved before is intact"
            ) from error
        raise


def write_text_whole(path: Path, text: str) -> None:
    """`write_whole` for text."""

    def write(aside: Path) -> None:
        aside.write_text(text, encoding="utf-8")

    write_whole(path, write)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder; nobody may be writing there."""
    for aside in folder.glob(".*.part"):
        aside.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
