"""Permutations, rows and draws of jigsaw puzzles: independent numbers, closed forms, what must not matter."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.transforms.jigsaw import Jigsaw
from PIL import Image
from places import GOLDEN_FOLDER
from torch import nn

from simclr_plus.encoders import ResNet
from simclr_plus.parts.counted_dropout import dropout_keys
from simclr_plus.parts.jigsaw import JigsawHead, drawn_labels
from simclr_plus.parts.patch_grid import PatchGrid
from simclr_plus.parts.patch_head import rows_of
from simclr_plus.parts.patches import cut
from simclr_plus.parts.permutation_set import checked_permutations, largest_mean_distance, permutation_set

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "pretext_jigsaw.npz")
PATCHES = np.load(GOLDEN_FOLDER / "methods" / "pretext_patches.npz")


def distances(rows: np.ndarray) -> np.ndarray:
    """Hamming distances of all pairs of different rows."""
    return (rows[:, None] != rows[None]).sum(axis=2)[~np.eye(len(rows), dtype=bool)]


def slow_set(count: int, patches: int) -> list[tuple[int, ...]]:
    """The law in plain loops."""
    every = list(permutations(range(patches)))
    chosen = [every[0]]
    while len(chosen) < count:

        def rank(row: tuple[int, ...]) -> tuple[int, int]:
            apart = [sum(a != b for a, b in zip(row, other, strict=True)) for other in chosen]
            return sum(apart), min(apart)

        left = [row for row in every if row not in chosen]
        best = max(map(rank, left))
        chosen.append(next(row for row in left if rank(row) == best))
    return chosen


@pytest.mark.parametrize(("name", "patches"), [("law_100", 9), ("law_2x2", 4)])
def test_permutations_are_the_golden_ones(name: str, patches: int) -> None:
    rows = permutation_set(len(GOLDEN[name]), patches)
    assert np.array_equal(rows, GOLDEN[name])


@pytest.mark.parametrize(("count", "patches"), [(24, 4), (12, 4), (23, 4), (60, 5), (2, 3), (1, 9)])
def test_permutations_are_those_of_plain_loops(count: int, patches: int) -> None:
    assert [tuple(row) for row in permutation_set(count, patches).tolist()] == (
        slow_set(count, patches) if count > 1 else [tuple(range(patches))]
    )


def test_the_set_is_valid_and_as_far_apart_as_a_set_can_be() -> None:
    rows = permutation_set(100, 9)
    assert (np.sort(rows, axis=1) == np.arange(9)).all() and len(np.unique(rows, axis=0)) == 100
    assert distances(rows).mean() == pytest.approx(largest_mean_distance(100, 9), abs=1e-12) == pytest.approx(8.08)
    assert distances(rows).min() == 4
    assert round(largest_mean_distance(1000, 9), 3) == 8.008
    assert np.array_equal(permutation_set(30, 9), rows[:30])


@pytest.mark.parametrize(
    ("count", "patches", "reached"), [(12, 4, True), (23, 4, True), (100, 6, True), (60, 5, False)]
)
def test_the_bound_of_the_mean_distance_holds(count: int, patches: int, reached: bool) -> None:
    mean, bound = distances(permutation_set(count, patches)).mean(), largest_mean_distance(count, patches)
    assert mean == pytest.approx(bound, abs=1e-12) if reached else mean < bound


@pytest.mark.parametrize("patches", [4, 9])
def test_a_published_set_is_greedy_too(patches: int) -> None:
    """Of FAIR's script: each row has the largest sum of distances among those left; how it breaks ties is rounding."""
    rows = GOLDEN[f"vissl_max_avg_{patches}"].astype(int)
    every = np.array(list(permutations(range(patches))))
    assert np.array_equal(every[int(GOLDEN[f"vissl_max_avg_{patches}_first"])], rows[0])
    sums = np.zeros(len(every), dtype=int)
    for before, row in pairwise(rows):
        sums += (every != before).sum(axis=1)
        sums[(every == before).all(axis=1)] = -(10**6)
        assert sums[(every == row).all(axis=1)] == sums.max()


@pytest.mark.parametrize(("count", "patches"), [(0, 9), (25, 4), (2, 10)])
def test_sets_that_do_not_exist_are_refused(count: int, patches: int) -> None:
    with pytest.raises(ValueError, match=r"count = (0|25)|patches = 10"):
        permutation_set(count, patches)


def test_a_set_of_ones_own_may_count_from_0_or_from_1() -> None:
    rows = permutation_set(24, 4)
    for given in (rows, rows + 1, rows.astype(np.int32)):
        assert np.array_equal(checked_permutations(given, 24, 4), rows)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((2, 4)), "float64"),
        (np.zeros((2, 9), dtype=int), r"shape \(2, 9\)"),
        (np.array([[0, 1, 2, 3]]), "1 permutations, not 2"),
        (np.array([[0, 1, 2, 3], [0, 1, 2, 2]]), "in row 1"),
        (np.array([[0, 1, 2, 3], [1, 2, 3, 4]]), "in row 1"),
        (np.array([[0, 1, 2, 3], [0, 1, 2, 3]]), "twice"),
        (np.array([[2, 3, 4, 5], [3, 2, 4, 5]]), "from 2"),
        (np.array([[-1, 0, 1, 2], [0, -1, 1, 2]]), "from -1"),
    ],
)
def test_a_set_that_is_none_is_refused(rows: np.ndarray, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        checked_permutations(rows, 2, 4)


def test_rows_are_the_authors() -> None:
    """Whose columns go channel by channel."""
    embeddings = torch.from_numpy(PATCHES["embedding"]).unflatten(0, (2, 9))
    theirs = torch.from_numpy(PATCHES["jigsaw_rows"]).unflatten(1, (4, 9)).transpose(1, 2).flatten(1)
    assert torch.equal(rows_of(embeddings, torch.from_numpy(PATCHES["permutations"])[None]), theirs)


def test_a_row_has_the_embeddings_in_the_order_of_its_permutation() -> None:
    embeddings, orders = torch.randn(2, 4, 5), torch.tensor([[[2, 0, 3, 1]], [[3, 2, 1, 0]]])
    rows = rows_of(embeddings, orders)
    for image in range(2):
        assert torch.equal(rows[image], torch.cat([embeddings[image, patch] for patch in orders[image, 0]]))


def head(**settings: int) -> JigsawHead:
    torch.manual_seed(0)
    return JigsawHead(32, permutations=24, patches=4, embedding_dim=6, hidden_dim=16, **settings)


def test_permuting_patches_then_encoding_is_encoding_then_permuting() -> None:
    torch.manual_seed(0)
    encoder, module = ResNet(18, 1 / 16, stem="cifar").eval(), head().eval()
    patches = torch.rand(3, 4, 3, 12, 12)
    orders = torch.from_numpy(permutation_set(24, 4)).long()[drawn_labels(0, torch.arange(3), 0, 5, 24)]
    once = module(encoder(patches.flatten(0, 1)), orders)
    shuffled = torch.gather(
        patches[:, None].expand(-1, 5, -1, -1, -1, -1), 2, orders[..., None, None, None].expand(-1, -1, -1, 3, 12, 12)
    )
    straight = torch.arange(4).expand(15, 1, 4)
    again = module(encoder(shuffled.flatten(0, 2)), straight)
    assert torch.allclose(once, again, atol=1e-5)


def test_a_head_that_sums_over_places_cannot_tell_permutations_apart() -> None:
    """All orders of an image then have the same logits: the best of them is the chance among those drawn."""
    module = head().eval()
    with torch.no_grad():
        block = module.hidden.weight[:, :6].clone()
        module.hidden.weight.copy_(block.repeat(1, 4))
    orders = torch.from_numpy(permutation_set(24, 4)).long()[drawn_labels(0, torch.arange(3), 0, 8, 24)]
    logits = module(torch.randn(12, 32), orders).unflatten(0, (3, 8))
    assert torch.allclose(logits, logits[:, :1].expand_as(logits), atol=1e-6)


def test_logits_that_tell_nothing_have_the_loss_of_chance() -> None:
    torch.manual_seed(0)
    module = JigsawHead(12, embedding_dim=3, hidden_dim=16)
    nn.init.zeros_(module.classifier.weight)
    labels = drawn_labels(0, torch.arange(2), 0, 8, 100)
    orders = torch.from_numpy(permutation_set(100, 9)).long()[labels]
    logits = module(torch.randn(18, 12), orders, dropout_keys(0, torch.arange(2), 0, 8).flatten()).detach()
    assert logits.shape == (16, 100)
    assert float(F.cross_entropy(logits, labels.flatten())) == pytest.approx(math.log(100), rel=1e-6)


def test_orders_of_an_image_are_different_and_all_as_likely() -> None:
    labels = drawn_labels(0, torch.arange(5000), 3, 8, 20)
    assert (labels.sort(dim=1).values.diff(dim=1) > 0).all() and int(labels.min()) == 0 and int(labels.max()) == 19
    for column in (*labels.T, labels.flatten()):
        expected = len(column) / 20
        counts = column.bincount(minlength=20)
        assert float(((counts - expected) ** 2 / expected).sum()) < 45  # 19 degrees: p = 0.0007
    firsts = (labels[:, 0] * 20 + labels[:, 1]).bincount(minlength=400).view(20, 20)
    assert not firsts.diagonal().any()
    expected = 5000 / 380
    assert float(((firsts - expected) ** 2 / expected).sum() - 20 * expected) < 470  # 379 degrees


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    together = drawn_labels(1, torch.arange(10), torch.arange(10) + 4, 8, 100)
    assert torch.equal(together[6:7], drawn_labels(1, 6, 10, 8, 100))
    assert not torch.equal(together, drawn_labels(2, torch.arange(10), torch.arange(10) + 4, 8, 100))
    assert sorted(drawn_labels(1, 0, 0, 24, 24)[0].tolist()) == list(range(24))
    with pytest.raises(ValueError, match=r"count = 9.*from 8"):
        drawn_labels(0, 0, 0, 9, 8)


def test_lightlys_transform_gives_the_same_patches_in_an_order_that_it_does_not_tell() -> None:
    """Made for PIRL: it returns one tensor, by numpy's global generator."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (255, 255, 3), dtype=np.uint8))
    np.random.seed(5)
    theirs = Jigsaw()(image)
    np.random.seed(5)
    down, right = np.random.randint(0, 22, 9), np.random.randint(0, 22, 9)
    order = np.random.permutation(9)
    offsets = torch.from_numpy(np.stack([down, right], axis=1))[None]
    pixels = torch.from_numpy(np.asarray(image).copy()).movedim(2, 0)[None].float() / 255
    ours = cut(pixels, PatchGrid(), torch.zeros(1, 2).long(), offsets)[0]
    assert isinstance(theirs, torch.Tensor) and torch.allclose(theirs, ours[order], atol=1e-6)
