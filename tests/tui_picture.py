"""A picture of a run's screen, cell by cell: `python tests/tui_picture.py RUN OUT.png`, as docs/tui.png was made.

Screenshots of Textual name a font in which few machines have braille of the same width; here the dots are painted.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from rich.cells import cell_len
from rich.color import Color
from rich.style import Style
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from textual.strip import Strip

from simclr_plus.runs.folder import Run

SIZE = (120, 34)
WIDE, HIGH, POINTS = 10, 20, 16  # pixels of a cell, height of its letters
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
BRAILLE = ((0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (0, 3), (1, 3))  # column and row of each bit
Rgb = tuple[int, int, int]


async def strips_of(run: Run) -> list[Strip]:
    """The screen of a run, when its charts are drawn and a processor's figures have been seen a few times."""
    app = SimclrPlusApp(run.path.parent, ascii_only=False)
    app.animation_level = "none"
    async with app.run_test(size=SIZE) as pilot:
        app.open_run(run)
        while not all(chart.drawings and chart.curves for chart in app.screen.query(LineChart) if chart.display):
            await pilot.pause(0.2)
        await pilot.pause(float(sys.argv[3]) if len(sys.argv) > 3 else 1)
        return list(app.screen._compositor.render_strips())


def paint(strips: list[Strip]) -> Image.Image:
    """Each cell with its background and its letter or dots."""
    fonts = {
        bold: ImageFont.truetype(FONTS / f"DejaVuSansMono{'-Bold' if bold else ''}.ttf", POINTS)
        for bold in (False, True)
    }
    image = Image.new("RGB", (SIZE[0] * WIDE, len(strips) * HIGH))
    draw = ImageDraw.Draw(image)
    for row, strip in enumerate(strips):
        column = 0
        for text, style, _ in strip:
            style = style or Style()
            front, back = _rgb(style.color, (224, 224, 224)), _rgb(style.bgcolor, (18, 18, 18))
            if style.reverse:
                front, back = back, front
            for character in text:
                x, y, cells = column * WIDE, row * HIGH, cell_len(character)
                draw.rectangle((x, y, x + cells * WIDE - 1, y + HIGH - 1), back)
                if 0x2800 <= ord(character) < 0x2900:
                    _paint_dots(draw, x, y, ord(character) - 0x2800, front)
                else:
                    draw.text((x, y), character, front, fonts[bool(style.bold)])
                column += cells
    return image


def _paint_dots(draw: ImageDraw.ImageDraw, x: int, y: int, bits: int, color: Rgb) -> None:
    for bit, (column, row) in enumerate(BRAILLE):
        if bits >> bit & 1:
            left, top = x + 1 + column * WIDE // 2, y + 1 + row * HIGH // 4
            draw.ellipse((left, top, left + 2, top + 2), color)


def _rgb(color: Color | None, otherwise: Rgb) -> Rgb:
    return otherwise if color is None or color.is_default else tuple(color.get_truecolor())


if __name__ == "__main__":
    paint(asyncio.run(strips_of(Run(Path(sys.argv[1]))))).save(sys.argv[2], optimize=True)
