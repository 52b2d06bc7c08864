"""Draws the pictures of docs/augmentations.md from one of the photographs that ship: `python tests/doc_pictures.py`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from simclr_plus.augmentations.further_operations import apply_operations
from simclr_plus.augmentations.law import OPERATIONS, simclr_law
from simclr_plus.datasets.decoding import decode_image
from simclr_plus.results.curves import preview_grid, save_png

ROOT = Path(__file__).parent.parent
PHOTOGRAPH = ROOT / "simclr_plus" / "datasets" / "embedded" / "places" / "city4.jpg"
SIDE, COLUMNS, GAP, TITLE = 160, 5, 6, 18


def main() -> None:
    photograph = decode_image(PHOTOGRAPH.read_bytes())
    law = simclr_law(SIDE)
    save_png(preview_grid(photograph, law, pairs=5, seed=2), ROOT / "docs" / "views.png")
    height, width = photograph.shape[:2]
    square = photograph[:, (width - height) // 2 : (width + height) // 2]
    plain = np.asarray(Image.fromarray(square).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    image = torch.from_numpy(plain).permute(2, 0, 1)[None, None]
    drawn = {"the image": plain}
    for name in OPERATIONS:
        counters = {"epochs": np.zeros(1, dtype=np.int64), "indices": np.full(1, 3)}
        view = apply_operations(image, replace(law, operations=(name,), operations_on="first"), seed=5, **counters)
        drawn[name] = view[0, 0].permute(1, 2, 0).numpy()
    rows = -(-len(drawn) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + TITLE + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (name, view) in enumerate(drawn.items()):
        left, top = GAP + number % COLUMNS * (SIDE + GAP), GAP + number // COLUMNS * (SIDE + TITLE + GAP)
        pen.text((left, top), name, "black", font)
        sheet.paste(Image.fromarray(np.rint(view.clip(0, 1) * 255).astype(np.uint8)), (left, top + TITLE))
    sheet.save(ROOT / "docs" / "operations.png", optimize=True)


if __name__ == "__main__":
    main()
