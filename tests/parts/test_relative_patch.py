"""Rows and labels of relative patch location against the authors' numbers, closed forms, mirrors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from places import GOLDEN_FOLDER
from torch import nn

from simclr_plus.parts.counted_dropout import dropout_keys
from simclr_plus.parts.patch_grid import PatchGrid
from simclr_plus.parts.patches import cut
from simclr_plus.parts.relative_patch import PAIRS, RelativePatchHead, pair_labels, pairs

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "pretext_patches.npz")


def head(**settings: float) -> RelativePatchHead:
    torch.manual_seed(0)
    return RelativePatchHead(12, embedding_dim=7, hidden_dim=32, **settings)  # type: ignore[arg-type]


def test_rows_are_the_authors() -> None:
    """Whose columns go channel by channel: the first and the second patch of a pair stand side by side in each."""
    embeddings = torch.from_numpy(GOLDEN["embedding"]).unflatten(0, (2, 9))
    theirs = torch.from_numpy(GOLDEN["location_rows"]).unflatten(1, (4, 2)).transpose(1, 2).flatten(1)
    assert torch.equal(pairs(embeddings), theirs)
    assert [list(pair) for pair in PAIRS] == GOLDEN["location_pairs"].tolist()


def test_labels_say_where_the_first_patch_lies_from_the_second() -> None:
    """Row by row around the centre, as the author of the task numbers them; his second patch is our first."""
    offsets = {
        tuple(xy): int(label) for xy, label in zip(GOLDEN["doersch_offset_xy"], GOLDEN["doersch_label"], strict=True)
    }
    for label, (patch, centre) in zip(pair_labels(1).tolist(), PAIRS, strict=True):
        dy, dx = patch // 3 - centre // 3, patch % 3 - centre % 3
        assert offsets[(dx, dy)] == label


def test_labels_are_balanced_and_image_by_image() -> None:
    assert pair_labels(3).tolist() == [0, 1, 2, 3, 4, 5, 6, 7] * 3


def test_logits_that_tell_nothing_have_the_loss_of_chance() -> None:
    module = head()
    nn.init.zeros_(module.classifier.weight)
    logits = module(torch.randn(9 * 4, 12))
    assert logits.shape == (32, 8)
    assert float(F.cross_entropy(logits.detach(), pair_labels(4))) == pytest.approx(math.log(8), rel=1e-6)


def test_the_mirrored_image_with_mirrored_offsets_exchanges_left_and_right() -> None:
    grid = PatchGrid(39, 3, 4)
    image, offsets = torch.rand(1, 3, 39, 39), torch.randint(0, 5, (1, 9, 2))
    corner = torch.zeros(1, 2).long()
    mirrored = offsets.unflatten(1, (3, 3)).flip(2).flatten(1, 2).clone()
    mirrored[..., 1] = 4 - mirrored[..., 1]
    straight = cut(image, grid, corner, offsets)
    of_mirror = cut(image.flip(3), grid, corner, mirrored)
    rows, back = (pairs(patches.flatten(2)) for patches in (straight, of_mirror.flip(4)))
    assert torch.equal(rows[[2, 1, 0, 4, 3, 7, 6, 5]], back)


def test_a_neighbour_and_the_centre_decide_a_row_and_nothing_else() -> None:
    module = head().eval()
    h = torch.randn(9, 12)
    other = h.clone()
    other[3] += 1  # left of the centre: label 3
    changed = (module(h) != module(other)).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [3]


def test_dropout_follows_keys_in_training_and_is_off_in_evaluation() -> None:
    module, h = head(), torch.randn(18, 12)
    keys = dropout_keys(0, torch.arange(2), 0, 8).flatten()
    torch.manual_seed(1)
    once = module(h, keys)
    torch.manual_seed(2)
    assert torch.equal(module(h, keys), once) and not torch.equal(module(h), once)
    assert not torch.equal(module(h, keys + 1), once)
    module.eval()
    assert torch.equal(module(h, keys), module(h))
    with pytest.raises(ValueError, match=r"dropout = 1.0"):
        head(dropout=1.0)


def test_heads_start_as_the_authors_do() -> None:
    torch.manual_seed(0)
    module = RelativePatchHead(64)
    assert module.embedding.weight.shape == (1000, 64) and module.hidden.weight.shape == (4096, 2000)
    assert float(module.hidden.weight.detach().abs().max()) <= 0.01  # cut at two deviations
    assert float(module.hidden.weight.detach().std()) == pytest.approx(0.005 * 0.8796, rel=0.01)
    assert torch.equal(module.hidden.bias, torch.full((4096,), 0.1)) and not module.classifier.bias.any()


def test_the_head_learns_places_that_embeddings_tell() -> None:
    """Rows whose h says their place are told within a few steps: the head loses nothing on the way."""
    module = head(dropout=0.5)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    h = torch.eye(9, 12).repeat(16, 1)
    for step in range(60):
        keys = dropout_keys(0, torch.arange(16), step, 8).flatten()
        loss = F.cross_entropy(module(h, keys), pair_labels(16))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float((module.eval()(h).argmax(dim=1) == pair_labels(16)).float().mean()) == 1.0
