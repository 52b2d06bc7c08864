"""What is done to single patches: where squares are cut, what is moved, how often, and that counters alone decide."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from simclr_plus.augmentations.operations import to_grayscale
from simclr_plus.parts import cpc_patches
from simclr_plus.parts.cpc_patches import _matrices, distorted, inner_squares

C30, C15, S15 = math.cos(math.pi / 6), math.cos(math.pi / 12), math.sin(math.pi / 12)
COUNTERS = {"seed": 3, "indices": torch.arange(40), "epochs": 0}


def pictures(side: int, images: int = 40, patches: int = 4) -> Tensor:
    return torch.rand(images, patches, 3, side, side, generator=torch.Generator().manual_seed(0)).double() * 0.8 + 0.1


@pytest.mark.parametrize(("side", "inner"), [(8, 7), (16, 15), (48, 45), (64, 60)])
def test_a_smaller_square_is_padded_back_with_zeros(side: int, inner: int) -> None:
    """60 of 64 pixels as in the paper; every place occurs, none other does."""
    patches = pictures(side, images=20)
    squares = inner_squares(patches, seed=3, indices=torch.arange(20), epochs=0)
    before = (side - inner) // 2
    kept = squares[..., before : before + inner, before : before + inner]
    assert squares.shape == patches.shape and int((squares != 0).sum()) == kept.numel() and (kept != 0).all()
    places = set()
    for image in range(20):
        for patch in range(4):
            cuts = patches[image, patch].unfold(1, inner, 1).unfold(2, inner, 1)  # [3, places, places, inner, inner]
            same = (cuts == kept[image, patch][:, None, None]).all(-1).all(-1).all(0).nonzero()
            assert len(same) == 1
            places.add(tuple(same[0].tolist()))
    assert len(places) == min((side - inner + 1) ** 2, len(places)) and len({y for y, _ in places}) == side - inner + 1


@pytest.mark.parametrize("change", [inner_squares, distorted])
def test_counters_alone_decide(change) -> None:  # type: ignore[no-untyped-def]
    """The same image has the same draws in any batch, others in another epoch, seed, and for each patch."""
    patches = pictures(16, patches=6)
    whole = change(patches, **COUNTERS)
    assert torch.equal(change(patches[7:9], seed=3, indices=torch.tensor([7, 8]), epochs=0), whole[7:9])
    for other in ({"seed": 4}, {"epochs": 1}, {"indices": torch.arange(40) + 100}):
        assert not torch.equal(change(patches, **(COUNTERS | other)), whole)
    alike = change(patches[:1, :1].expand(40, 6, -1, -1, -1), **COUNTERS)
    assert not torch.equal(alike[:, 0], alike[:, 1]) and not torch.equal(alike[0], alike[1])


def test_operations_come_as_often_as_they_are_said_to_and_stay_in_range() -> None:
    patches = pictures(8, images=1000)
    out = distorted(patches, seed=0, indices=torch.arange(1000), epochs=0)
    assert out.shape == patches.shape and out.min() >= 0 and out.max() <= 1
    is_gray = (out == out[:, :, :1]).flatten(2).all(2)
    unchanged = (out == patches).flatten(2).all(2)
    assert float(is_gray.double().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(unchanged.double().mean()) == pytest.approx(0.5 * 0.2 * 0.75, abs=0.015)
    only_gray = (out == to_grayscale(patches.flatten(0, 1)).view(patches.shape)).flatten(2).all(2)
    assert float(only_gray.double().mean()) == pytest.approx(0.5 * 0.2 * 0.25, abs=0.01)


def test_patches_a_part_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    patches = pictures(8)
    whole = distorted(patches, **COUNTERS)
    monkeypatch.setattr(cpc_patches, "PIXELS_AT_ONCE", 7 * 3 * 64)
    assert torch.equal(distorted(patches, **COUNTERS), whole)


@pytest.mark.parametrize(
    ("kind", "amount", "first", "expected"),
    [
        (0.1, 1.0, True, [[C30, -0.5, 0], [0.5, C30, 0]]),
        (0.1, -0.5, False, [[C15, S15, 0], [-S15, C15, 0]]),
        (0.5, 1.0, True, [[1, 0.3, 0], [0, 1, 0]]),
        (0.5, -1.0, False, [[1, 0, 0], [-0.3, 1, 0]]),
        (0.9, 1.0, True, [[1, 0, 2 / 3], [0, 1, 0]]),  # a third of the side: places go from -1 to 1
        (0.9, -0.5, False, [[1, 0, 0], [0, 1, -1 / 3]]),
    ],
)
def test_a_patch_is_turned_or_sheared_or_shifted(
    kind: float, amount: float, first: bool, expected: list[list[float]]
) -> None:
    matrix = _matrices(torch.tensor([kind]).double(), torch.tensor([amount]).double(), torch.tensor([first]))
    assert torch.allclose(matrix[0], torch.tensor(expected).double(), atol=1e-12)
