"""Growing .jsonl files: a line is added, new lines are read without ever reading a byte twice. No torch.

A line without its end waits for it; a line that is no JSON object is counted and left out; a file that was cut or
replaced is read again from its beginning.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

CHUNK = 1 << 20
FINGERPRINT = 64
TOO_LARGE = 1e300  # to be reckoned with


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value from a file is a finite number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < TOO_LARGE


class Tail:
    """Reads a file as it grows; the file need not exist yet."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bad_lines = 0
        self.restarts = 0  # times the file turned out to be another one
        self.more = False  # the last `read` left something, for it had its fill
        self._offset, self._inode, self._beginning = 0, 0, b""

    def skip(self) -> None:
        """Leave out what is there now."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            while end > 0:  # back to the end of a line
                begin = max(0, end - CHUNK)
                file.seek(begin)
                newline = file.read(end - begin).rfind(b"\n")
                if newline >= 0:
                    self._offset = begin + newline + 1
                    break
                end = begin
            self._inode, self._beginning = os.fstat(file.fileno()).st_ino, os.pread(file.fileno(), FINGERPRINT, 0)

    def read(self, limit: int = 0) -> list[dict[str, Any]]:
        """The objects of the complete lines that were added since the last call; of about `limit` bytes, 0: of all."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return []
        try:
            self._look_for_another_file(descriptor)
            lines: list[dict[str, Any]] = []
            begin = self._offset
            while True:
                self.more = False
                block = self._complete_lines(descriptor)
                if not block:
                    return lines
                lines += self._objects(block)
                self.more = True
                if limit and self._offset - begin >= limit:
                    return lines
        finally:
            os.close(descriptor)

    def _look_for_another_file(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        beginning = os.pread(descriptor, FINGERPRINT, 0)
        same = status.st_ino == self._inode and status.st_size >= self._offset and beginning.startswith(self._beginning)
        if self._offset and not (same and os.pread(descriptor, 1, self._offset - 1) == b"\n"):
            self._offset = 0
            self.restarts += 1
        self._inode, self._beginning = status.st_ino, beginning

    def _complete_lines(self, descriptor: int) -> bytes:
        """Bytes up to the end of a line; at least one line, if there is a whole one."""
        block = b""
        while True:
            more = os.pread(descriptor, CHUNK, self._offset + len(block))
            block += more
            end = block.rfind(b"\n") + 1
            if end or not more:
                self._offset += end
                return block[:end]

    def _objects(self, block: bytes) -> list[dict[str, Any]]:
        lines = [line for line in block.split(b"\n") if line.strip()]
        try:  # all at once takes half the time of one by one
            values = json.loads(b"[" + b",".join(lines) + b"]")
            if len(values) == len(lines) and all(type(value) is dict for value in values):
                return list(values)
        except (ValueError, RecursionError):
            pass
        objects = []
        for line in lines:
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if isinstance(value, dict):
                objects.append(value)
            else:
                self.bad_lines += 1
        return objects


def last_objects(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file from the last one backwards, read from its end."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            rest = b""
            while end > 0:
                begin = max(0, end - (CHUNK >> 4))
                file.seek(begin)
                lines = (file.read(end - begin) + rest).split(b"\n")
                rest, end = lines[0] if begin else b"", begin
                for line in reversed(lines[1:] if begin else lines):
                    try:
                        value = json.loads(line)
                    except (ValueError, RecursionError):
                        continue
                    if isinstance(value, dict):
                        yield value
    except FileNotFoundError:
        return


def append_line(path: Path, values: dict[str, Any]) -> None:
    """Add a line; where the last one was torn it is ended first."""
    line = json.dumps(without_nan(values)) + "\n"
    torn = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + line if torn else line)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def without_nan(value: Any) -> Any:
    """NaN and infinities become null, which every JSON reader takes."""
    if isinstance(value, dict):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
