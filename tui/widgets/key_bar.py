"""The last line of a screen: the keys that there is room for, none cut off; the help has them all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from textual.app import ComposeResult
from textual.widgets import Footer

PADDING = 3  # columns around a key and its word
PALETTE = 13  # columns of Textual's own key at the right
ALWAYS = ("help", "quit")  # actions


class KeyBar(Footer):
    """A Footer that leaves out what does not fit: the palette's key first, then the last of the screen's own."""

    def compose(self) -> ComposeResult:
        """The keys that fit, in their order."""
        keys: list[Any] = list(super().compose())
        palette = [key for key in keys if key.has_class("-command-palette")]
        keys = [key for key in keys if key not in palette]
        widths = [len(key.key_display) + len(key.description) + PADDING for key in keys]
        room = self.app.size.width
        fit = fitting(widths, [key.action in ALWAYS for key in keys], room)
        yield from (key for key, fits in zip(keys, fit, strict=True) if fits)
        if all(fit) and sum(widths) + PALETTE <= room:
            yield from palette

    def on_resize(self) -> None:
        """There is room for others."""
        self.call_after_refresh(self.recompose)


def fitting(widths: Sequence[int], always: Sequence[bool], room: int) -> list[bool]:
    """Which of some neighbours stay in `room` columns: those that always do, the others from the left as they fit.

    >>> fitting([5, 5, 5, 4], [False, False, False, True], 14)
    [True, True, False, True]
    """
    room -= sum(width for width, kept in zip(widths, always, strict=True) if kept)
    hints, full = [], False
    for width, kept in zip(widths, always, strict=True):
        full = full or (not kept and width > room)
        hints.append(kept or not full)
        room -= width if not (kept or full) else 0
    return hints
