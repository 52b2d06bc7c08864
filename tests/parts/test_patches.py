"""Patches against the numbers of google/revisiting-self-supervised, their distribution, and what must not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER

from simclr_plus.augmentations.streams import Stream, words
from simclr_plus.encoders.input_law import standardized
from simclr_plus.parts.patch_grid import PatchGrid
from simclr_plus.parts.patches import central_patches, cut, grayed, random_patches

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "pretext_patches.npz")
PUBLISHED = PatchGrid()  # 64 of 85 in 255
SMALL = PatchGrid(crop=39, grid=int(GOLDEN["grid_jitter"][0]), jitter=int(GOLDEN["grid_jitter"][1]))


def pictures(name: str) -> torch.Tensor:
    """[..., H, W, 3] of the authors -> [..., 3, H, W]."""
    return torch.from_numpy(GOLDEN[name]).movedim(-1, -3)


def places(images: int, first: int = 0, seed: int = 3) -> torch.Tensor:
    """Corners [B, 9, 2], y and x, of the patches of 292-pixel images: their pixels say where they are."""
    y, x = torch.meshgrid(torch.arange(292.0), torch.arange(292.0), indexing="ij")
    image = torch.stack([y, x]).expand(images, 2, 292, 292)
    cut_out = random_patches(image, PUBLISHED, 0.0, seed=seed, indices=torch.arange(first, first + images), epochs=5)
    return cut_out[:, :, :, 0, 0].long()


def test_the_published_grid_has_patches_of_64_pixels_in_cells_of_85() -> None:
    assert (PUBLISHED.cell, PUBLISHED.side, PUBLISHED.count) == (85, 64, 9)


def test_central_patches_are_the_authors() -> None:
    assert torch.equal(central_patches(pictures("image"), SMALL), pictures("central_patches"))


def test_the_encoder_standardises_patches_as_the_authors_do() -> None:
    patches = central_patches(pictures("image").double() / 255, SMALL)
    out = standardized(patches.flatten(0, 1)).unflatten(0, (2, 9))
    assert torch.allclose(out, pictures("central_standardized").double(), atol=2e-5)


def test_patches_by_given_offsets_are_the_authors() -> None:
    patches = cut(pictures("image"), SMALL, torch.zeros(2, 2).long(), torch.from_numpy(GOLDEN["offsets_yx"]))
    assert torch.equal(patches, pictures("train_patches"))


def test_a_part_of_the_images_is_grayed_by_the_mean_of_channels() -> None:
    image = pictures("gray_in").expand(2, 3, 6, 6)
    out = grayed(image, torch.tensor([True, False]))
    assert torch.allclose(out[0], pictures("gray_out"), atol=3e-5) and torch.equal(out[1], image[1])


def test_all_patches_of_an_image_are_gray_or_none() -> None:
    images = torch.rand(600, 3, 24, 24)
    grid = PatchGrid(24, 3, 0)
    patches = random_patches(images, grid, 0.66, seed=1, indices=torch.arange(600), epochs=0)
    gray = (patches.diff(dim=2).abs().amax(dim=(2, 3, 4)) < 1e-6).float()
    assert torch.equal(gray.amin(dim=1), gray.amax(dim=1))
    assert abs(float(gray.mean()) - 0.66) < 0.06  # three deviations


def test_every_offset_occurs_in_each_patch_and_axis_and_none_tells_of_another() -> None:
    """The crop's corner, 0 to 37, and the offset in the cell, 0 to 21, both ends included; chi squared."""
    count = 4400
    drawn = words(3, Stream.PATCHES, torch.arange(count), 5, 20)
    corners, offsets = drawn[:, :2] * 38 >> 32, (drawn[:, 2:] * 22 >> 32).unflatten(1, (9, 2))
    lines = torch.arange(3) * 85
    cells = torch.cartesian_prod(lines, lines)
    assert torch.equal(places(200), (corners[:, None] + cells + offsets)[:200])
    for column in offsets.flatten(1).T:
        counts = column.bincount(minlength=22)
        assert len(counts) == 22 and float(((counts - 200) ** 2 / 200).sum()) < 49  # 21 degrees: p = 0.0005
    for column in corners.T:
        counts = column.bincount(minlength=38)
        assert len(counts) == 38 and float(((counts - count / 38) ** 2 / (count / 38)).sum()) < 72
    correlations = torch.corrcoef(torch.cat([corners, offsets.flatten(1)], dim=1).double().T)
    assert float((correlations - torch.eye(20)).abs().max()) < 4.5 / count**0.5


@pytest.mark.slow
def test_gaps_between_neighbours_go_from_none_to_twice_the_jitter() -> None:
    at = places(3000)[:, :, 1].view(3000, 3, 3)  # x of each patch
    gaps = at.diff(dim=2) - 64
    assert (int(gaps.min()), int(gaps.max())) == (0, 42)


def test_a_draw_depends_on_seed_epoch_and_image_alone() -> None:
    assert torch.equal(places(6)[2:4], places(2, first=2))
    assert not torch.equal(places(2), places(2, seed=4))
    images = torch.rand(1, 3, 39, 39).expand(2, 3, 39, 39)
    by_epoch = random_patches(images, SMALL, seed=0, indices=7, epochs=torch.tensor([1, 2]))
    assert not torch.equal(by_epoch[0], by_epoch[1])


def test_a_pixel_outside_every_patch_changes_nothing() -> None:
    images = torch.rand(1, 3, 45, 45, requires_grad=True)
    patches = random_patches(images, SMALL, seed=0, indices=0, epochs=0)
    (gradient,) = torch.autograd.grad(patches.sum(), images)
    seen = gradient[0].abs().sum(dim=0) > 0
    assert int(seen.sum()) == 9 * 9 * 9
    changed = torch.where(seen, images, torch.rand(1, 3, 45, 45))
    assert torch.equal(random_patches(changed, SMALL, seed=0, indices=0, epochs=0), patches)


def test_the_central_crop_has_half_of_the_spare_pixels_before_it() -> None:
    """(292 - 255) // 2 = 18, and in a cell (85 - 64) // 2 = 10; an oblong image counts each side for itself."""
    y, x = torch.meshgrid(torch.arange(292), torch.arange(300), indexing="ij")
    corners = central_patches(torch.stack([y, x])[None], PUBLISHED)[0, :, :, 0, 0]
    assert corners[0].tolist() == [28, 32] and corners[8].tolist() == [28 + 170, 32 + 170]


def test_a_row_of_patches_comes_before_the_next() -> None:
    """Row by row, as the labels of relative location count; VISSL's patches come column by column."""
    image = torch.from_numpy(GOLDEN["vissl_image"])[None]
    ours = cut(image, PatchGrid(27, 3, 0), torch.zeros(1, 2).long(), torch.zeros(1, 9, 2).long())[0]
    x, y = (torch.from_numpy(jitter) for jitter in GOLDEN["vissl_jitter_xy"])
    for place, theirs in enumerate(torch.from_numpy(GOLDEN["vissl_patches"])):
        column, row = divmod(place, 3)
        cell, top, left = ours[3 * row + column], int(y[column, row]), int(x[column, row])
        assert torch.equal(cell[:, top : top + theirs.shape[1], left : left + theirs.shape[2]], theirs)


@pytest.mark.parametrize(
    ("numbers", "words_said"),
    [
        ((255, 3, 85), ["jitter = 85", "85 pixels"]),
        ((255, 3, -1), ["jitter = -1"]),
        ((30, 3, 3), ["jitter = 3", "7 pixels", "8 or more"]),
        ((255, 0, 21), ["grid = 0"]),
        ((20, 3, 0), ["crop = 20", "6 pixels", "24 or more"]),
        ((2, 3, 21), ["crop = 2 ", "0 pixels", "24 or more"]),
    ],
)
def test_a_grid_that_leaves_no_patch_is_refused(numbers: tuple[int, int, int], words_said: list[str]) -> None:
    with pytest.raises(ValueError) as refused:
        PatchGrid(*numbers)
    assert all(word in str(refused.value) for word in words_said)


def test_images_smaller_than_the_crop_are_refused() -> None:
    with pytest.raises(ValueError, match=r"crop of 255 pixels.*254"):
        central_patches(torch.zeros(1, 3, 255, 254), PUBLISHED)
