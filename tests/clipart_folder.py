"""Makes a small labelled colour set of Debian's openclipart-png: eight of its categories on white, 48 pixels a side.

python tests/clipart_folder.py FOLDER     then: simclr-plus study augmentations data.name=folder data.root=FOLDER

FOLDER/train and FOLDER/test hold one folder a category; a fifth of each is held out. Which images are taken, at most
600 of a category, and which are held out, follows from their names alone, so that everyone gets the same set.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from pathlib import Path

from PIL import Image

SOURCE = Path("/usr/share/openclipart/png")
CATEGORIES = (
    *("animals", "computer", "food", "people"),
    *("recreation", "shapes", "signs_and_symbols", "transportation"),
)
MOST, HELD_OUT, SIDE = 600, 0.2, 48


def make_clipart_folder(folder: Path, source: Path = SOURCE, most: int = MOST) -> tuple[int, int]:
    """Write the set; returns the numbers of training and test images. What PIL cannot read is left out."""
    counts = [0, 0]
    for category in CATEGORIES:
        files = sorted((source / category).rglob("*.png"), key=lambda file: _digest(file.relative_to(source)))[:most]
        for number, file in enumerate(files):
            is_test = number < HELD_OUT * len(files)
            image = square_on_white(file)
            if image is None:
                continue
            target = folder / ("test" if is_test else "train") / category / f"{number:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            image.save(target)
            counts[is_test] += 1
    return counts[0], counts[1]


def square_on_white(file: Path) -> Image.Image | None:
    """The picture, its longer side shrunk to SIDE, in the middle of a white square; None for a damaged or huge one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(file).convert("RGBA")
    except (OSError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SIDE, SIDE), "white")
    square.alpha_composite(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return square.convert("RGB")


def _digest(name: Path) -> str:
    return hashlib.sha256(name.as_posix().encode()).hexdigest()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/clipart_folder.py FOLDER")
    if not SOURCE.is_dir():
        sys.exit(f"{SOURCE} is not there; install Debian's package openclipart-png")
    print("{} training and {} test images".format(*make_clipart_folder(Path(sys.argv[1]))))
