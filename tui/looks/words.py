"""Text from outside on the screen: as it is, never read as markup, and nothing in it steers the terminal."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from rich.cells import cell_len
from rich.segment import Segment
from rich.text import Text
from textual.color import Color
from textual.filter import LineFilter
from textual.widgets import Static

from simclr_plus.machine.printing import UNPRINTABLE, visible


def plain(value: object, *, lines: bool = False) -> Text:
    """A value as text to show; what would steer the terminal is shown by its code."""
    if not isinstance(value, Text):
        return Text(visible(str(value), lines=lines))
    shown = visible(value.plain, lines=lines)
    return value if shown == value.plain else Text(shown, style=value.style)


class Words(Static):
    """A Static for text from outside; of several lines."""

    def __init__(self, content: str | Text = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(plain(content, lines=True), id=id, classes=classes, markup=False)

    def update(self, content: Any = "", *, layout: bool = True) -> None:
        """Show another text."""
        super().update(plain(content, lines=True) if isinstance(content, str | Text) else content, layout=layout)


class NothingRaw(LineFilter):
    """The last look at every line: whatever a widget drew, nothing in it steers the terminal or cannot be written."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The same line, of the same width."""
        return [
            segment
            if segment.control or segment.text.isprintable()
            else Segment(_harmless(segment.text), segment.style)
            for segment in segments
        ]


@lru_cache(maxsize=4096)
def _harmless(text: str) -> str:
    return UNPRINTABLE.sub(lambda found: "?" * cell_len(found[0]), text)
