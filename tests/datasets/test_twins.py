"""Images that are in the training and in the test part are found, whatever they are called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from simclr_plus.datasets import Images, open_folder
from simclr_plus.datasets.twins import twins
from simclr_plus.results.evaluate_on_sets import _opened


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    """train/ and val/ of two classes; val/b/copy.png is train/a/1.png; the two a/0.bmp differ in one pixel."""
    generator = np.random.default_rng(0)
    for part, each in (("train", 10), ("val", 4)):
        for label in ("a", "b"):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(1, each):
                pixels = generator.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{i}.png")
    pixels = generator.integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "train/a/0.bmp")
    pixels[-1, 0] ^= 1  # a bmp begins with its last row: sizes and ends agree
    Image.fromarray(pixels).save(tmp_path / "val/a/0.bmp")
    (tmp_path / "val/b/copy.png").write_bytes((tmp_path / "train/a/1.png").read_bytes())
    return tmp_path / "train", tmp_path / "val"


def test_equal_files_are_found_and_those_that_only_end_alike_are_not(parts: tuple[Path, Path]) -> None:
    train, val = map(open_folder, parts)
    found = [(train.paths[i], val.paths[j]) for i, j in twins(train, val)]
    assert found == [(parts[0] / "a/1.png", parts[1] / "b/copy.png")]


def test_equal_pixels_are_found() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    a, b = Images("a", pixels[:6]), Images("b", pixels[4:])
    assert twins(a, b) == [(4, 0), (5, 1)]


def test_an_evaluation_says_that_test_images_were_trained_on(parts: tuple[Path, Path]) -> None:
    said: list[str] = []
    target = SimpleNamespace(digest="", data=None)
    found = _opened(target, str(parts[0].parent), "data", "", 0, False, said.append)
    assert len(found.notes) == 1 and found.notes[0].startswith("1 of 8 ") and any("copy.png" in text for text in said)
    (parts[1] / "b/copy.png").unlink()
    assert _opened(target, str(parts[0].parent), "data", "", 0, False, said.append).notes == ()
