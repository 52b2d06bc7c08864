"""Random numbers by counters: the same whatever stands beside them, well distributed, none shared by streams."""

from __future__ import annotations

import pytest
import torch

from simclr_plus.augmentations.streams import Stream, normals, permutations, uniforms, whole_numbers, words


def test_a_row_depends_on_its_counters_alone() -> None:
    together = words(3, Stream.NOISE, torch.arange(10), 7, 9)
    alone = words(3, Stream.NOISE, 4, [7], 9)
    assert torch.equal(together[4:5], alone) and together.unique().numel() == together.numel()
    assert torch.equal(words(3, Stream.NOISE, 4, 7, 5), alone[:, :5])
    for other in (words(4, Stream.NOISE, 4, 7, 9), words(3, Stream.LATENTS, 4, 7, 9), words(3, Stream.NOISE, 7, 4, 9)):
        assert not (other == alone).any()
    assert torch.equal(
        permutations(3, Stream.PERMUTATIONS, [5, 6], 1, 9)[1:], permutations(3, Stream.PERMUTATIONS, 6, 1, 9)
    )


def test_numbers_are_distributed_as_they_should() -> None:
    u = uniforms(0, Stream.PLACES, torch.arange(1000), 0, 100)
    assert float(u.min()) >= 0 and float(u.max()) < 1 and abs(float(u.mean()) - 0.5) < 0.004
    assert torch.equal(u.float().double(), u)
    n = normals(0, Stream.NOISE, torch.arange(1000), 0, 101)
    assert n.shape == (1000, 101) and torch.isfinite(n).all()
    assert abs(float(n.mean())) < 0.015 and abs(float(n.std()) - 1) < 0.01 and abs(float((n**4).mean()) - 3) < 0.1
    assert abs(float(torch.corrcoef(n.T[[0, 51]])[0, 1])) < 0.1
    counts = whole_numbers(0, Stream.NEGATIVES, torch.arange(1000), 0, 22, below=22).flatten().bincount()
    assert len(counts) == 22 and float(((counts - 1000) ** 2 / 1000).sum()) < 50  # chi squared of 21


def test_every_order_is_as_likely() -> None:
    rows = permutations(1, Stream.PERMUTATIONS, torch.arange(6000), 0, 3)
    assert torch.equal(rows.sort(dim=1).values, torch.arange(3).expand(6000, 3))
    counts = (rows @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1]
    assert len(counts) == 6 and float(((counts - 1000) ** 2 / 1000).sum()) < 25
    long = permutations(1, Stream.KEY_ORDER, 0, 5, 257)
    assert torch.equal(long.sort(dim=1).values[0], torch.arange(257)) and (long[0] != torch.arange(257)).any()


@pytest.mark.parametrize("below", [0, -1, 2**31 + 1])
def test_limits_without_meaning_are_refused(below: int) -> None:
    with pytest.raises(ValueError, match=f"below = {below}"):
        whole_numbers(0, Stream.NEGATIVES, 0, 0, 1, below=below)
    with pytest.raises(ValueError, match="n = 0"):
        permutations(0, Stream.PERMUTATIONS, 0, 0, 0)
