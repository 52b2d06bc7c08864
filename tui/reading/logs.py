"""The end of a log that grows, as lines for a screen: progress bars folded, colours taken out. Pure."""

from __future__ import annotations

import re
from pathlib import Path

LAST_BYTES = 1 << 18
MOST_LINES = 2000
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[@-_]")


class LogTail:
    """The last lines of a file; `look` reads what was added: the last `added` of `lines`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self.added = 0
        self._offset, self._unfinished = 0, b""

    def look(self) -> bool:
        """Take in what was added; returns whether anything changed. A file that is not there is an empty one."""
        try:
            with self.path.open("rb") as file:
                end = file.seek(0, 2)
                if end < self._offset:
                    self._offset, self._unfinished, self.lines = 0, b"", []
                if end == self._offset:
                    return False
                begin = max(self._offset, end - LAST_BYTES)
                file.seek(begin)
                block = file.read(end - begin)
        except OSError:
            return False
        if begin > self._offset:
            block = block[block.find(b"\n") + 1 :]
            self._unfinished = b""
        self._offset = end
        *whole, self._unfinished = (self._unfinished + block).split(b"\n")
        self.added = min(len(whole), MOST_LINES)
        self.lines = [*self.lines, *map(plain, whole)][-MOST_LINES:]
        return True


def plain(line: bytes) -> str:
    """A line as it stands on a terminal at last: after the last carriage return, without escape codes."""
    text = line.decode(errors="replace").rstrip("\r")
    return ESCAPES.sub("", text.rpartition("\r")[2]).replace("\t", "    ")


def log_files(folder: Path) -> list[Path]:
    """The logs of a run: ranks first, in order, then what else spoke."""
    files = [path for path in folder.glob("*.log") if not path.name.startswith(".")]
    return sorted(files, key=lambda path: (not path.name.startswith("rank_"), len(path.name), path.name))
