"""Frames, bars and every other character in ASCII, for a terminal that shows nothing else."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from rich.cells import cell_len
from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

KEYS = {"↑": "up", "↓": "down", "←": "left", "→": "right", "⌫": "backspace", "⏎": "enter"}
KNOWN = {"·": "-", "•": "o", "●": "*", "…": ".", "█": "#", "▶": ">", "▼": "v", "🔍": "/"}


class AsciiOnly(LineFilter):
    """Replaces each character by one of ASCII for each cell that it takes."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same line in ASCII; what controls the terminal stays."""
        return [
            Segment(in_ascii(segment.text), segment.style) if not segment.control and segment.text else segment
            for segment in segments
        ]


@lru_cache(maxsize=4096)
def in_ascii(text: str) -> str:
    """Text of the same width."""
    return text if text.isascii() else "".join(map(_character, text))


def _character(character: str) -> str:
    if character.isascii():
        return character
    width = cell_len(character)
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return (KNOWN.get(character) or _line(character) or plain[:width] or "?" * width).ljust(width)


def _line(character: str) -> str:
    """For what frames and bars are made of."""
    name = unicodedata.name(character, "")
    if not (name.startswith("BOX DRAWINGS") or "BLOCK" in name):
        return ""
    if "BLOCK" in name:  # a side of a cell
        return "|" if "LEFT" in name or "RIGHT" in name else "_" if "LOWER" in name else "-"
    if "HORIZONTAL" in name and "VERTICAL" not in name:
        return "-"
    return "|" if "VERTICAL" in name and "HORIZONTAL" not in name and " AND " not in name else "+"
