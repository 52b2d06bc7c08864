"""Dropout by counters: its shares, its independence, what it does not depend on."""

from __future__ import annotations

import pytest
import torch

from simclr_plus.parts.counted_dropout import counted_dropout, dropout_keys

ROWS, WIDTH = 2000, 512


def kept(seed: int = 0, epoch: int = 0, probability: float = 0.5) -> torch.Tensor:
    keys = dropout_keys(seed, torch.arange(ROWS // 8), epoch, 8).flatten()
    return (counted_dropout(torch.ones(ROWS, WIDTH), keys, probability) > 0).float()


@pytest.mark.parametrize("probability", [0.25, 0.5, 0.9])
def test_the_share_that_is_dropped_and_the_scale_of_the_rest(probability: float) -> None:
    mask = kept(probability=probability)
    spread = (probability * (1 - probability)) ** 0.5
    assert abs(float(mask.mean()) - (1 - probability)) < 4 * spread / mask.numel() ** 0.5
    for dim, count in ((0, ROWS), (1, WIDTH)):  # of each column, of each row
        assert float((mask.mean(dim=dim) - (1 - probability)).abs().max()) < 5 * spread / count**0.5
    x = torch.randn(8, WIDTH, dtype=torch.float64)
    out = counted_dropout(x, dropout_keys(0, 0, 0, 8)[0], probability)
    assert torch.equal(out[out != 0], (x / (1 - probability))[out != 0]) and out.dtype == x.dtype


def test_rows_and_columns_tell_nothing_of_each_other() -> None:
    mask = kept() * 2 - 1
    columns, rows = mask.T @ mask / ROWS, mask @ mask.T / WIDTH
    assert float((columns - torch.eye(WIDTH)).abs().max()) < 5.5 / ROWS**0.5
    assert float((rows - torch.eye(ROWS)).abs().max()) < 6 / WIDTH**0.5
    for other in (kept(seed=1), kept(epoch=1)):
        assert abs(float((mask * (2 * other - 1)).mean())) < 4 / mask.numel() ** 0.5


def test_a_row_drops_the_same_wherever_it_stands() -> None:
    x = torch.randn(16, WIDTH)
    keys = dropout_keys(0, torch.tensor([4, 9]), torch.tensor([1, 2]), 8).flatten()
    alone = counted_dropout(x[8:], dropout_keys(0, 9, 2, 8)[0], 0.5)
    assert torch.equal(counted_dropout(x, keys, 0.5)[8:], alone)


def test_the_gradient_goes_where_numbers_were_kept() -> None:
    x = torch.randn(4, WIDTH, requires_grad=True)
    out = counted_dropout(x, dropout_keys(0, 0, 0, 4)[0], 0.5)
    out.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, torch.where(out != 0, 2.0, 0.0))
