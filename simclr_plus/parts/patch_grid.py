"""Where patches lie: a square crop in cells, in each cell a smaller patch at some offset. Whole numbers, no torch."""

from __future__ import annotations

from dataclasses import dataclass

SMALLEST_SIDE = 8  # of a patch, in pixels


@dataclass(frozen=True)
class PatchGrid:
    """A square of `crop` pixels in grid x grid cells; a patch is narrower than its cell by `jitter` pixels.

    The defaults are those of Kolesnikov, Zhai, Beyer 2019 (config/jigsaw of google/revisiting-self-supervised at
    b530e3b): patches of 64 pixels in cells of 85, so that the gap between neighbours is 0 to 42 pixels.
    """

    crop: int = 255
    grid: int = 3
    jitter: int = 21

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise ValueError(f"grid = {self.grid}: patches are cut from 1 x 1 cells or more")
        if self.cell < SMALLEST_SIDE:
            raise ValueError(
                f"crop = {self.crop} has cells of crop // grid = {self.cell} pixels; patches of {SMALLEST_SIDE} "
                f"or more need a crop of {SMALLEST_SIDE * self.grid} or more, or fewer cells"
            )
        if not 0 <= self.jitter < self.cell:
            raise ValueError(
                f"jitter = {self.jitter}: a cell has crop // grid = {self.cell} pixels, of which a patch leaves "
                f"`jitter`; use 0 to {self.cell - SMALLEST_SIDE}, or a wider crop"
            )
        if self.side < SMALLEST_SIDE:
            raise ValueError(
                f"jitter = {self.jitter} leaves patches of crop // grid - jitter = {self.side} pixels, too small for a "
                f"network; {SMALLEST_SIDE} or more need a smaller jitter, a wider crop, or fewer cells"
            )

    @property
    def cell(self) -> int:
        """Side of a cell in pixels."""
        return self.crop // self.grid

    @property
    def side(self) -> int:
        """Side of a patch in pixels."""
        return self.cell - self.jitter

    @property
    def count(self) -> int:
        """M, patches of an image."""
        return self.grid**2


def proportional_grid(image_size: int, cells: int = 3) -> PatchGrid:
    """The published proportions beside views of another side: cells of 85 and patches of 64 pixels at 224."""
    cell = round(255 / cells * image_size / 224)
    return PatchGrid(crop=cells * cell, grid=cells, jitter=cell - round(64 * cell / 85))
