"""What red, green and the other named colours look like in a theme that is not the terminal's own."""

from __future__ import annotations

from rich.terminal_theme import TerminalTheme

Rgb = tuple[int, int, int]

_DARK: list[Rgb] = [
    *((48, 48, 48), (224, 92, 92), (94, 190, 122), (214, 178, 72)),
    *((98, 168, 234), (204, 120, 196), (86, 190, 200), (208, 208, 208)),
]
_LIGHT: list[Rgb] = [
    *((32, 32, 32), (184, 40, 40), (28, 122, 60), (146, 104, 0)),
    *((24, 98, 178), (148, 52, 140), (0, 118, 130), (120, 120, 120)),
]
DARK = TerminalTheme((18, 18, 18), (224, 224, 224), _DARK, _DARK)
LIGHT = TerminalTheme((240, 240, 240), (32, 32, 32), _LIGHT, _LIGHT)
