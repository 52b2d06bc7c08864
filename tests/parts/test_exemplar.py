"""Exemplar's loss against TensorFlow's numbers, brute force over triplets, closed forms and SimCLR's margin loss."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN_FOLDER
from torch import Tensor

from simclr_plus.augmentations.draws import GRAY
from simclr_plus.augmentations.finishing import finish_views
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.encoders.input_law import standardized
from simclr_plus.losses.compared import margin_triplet
from simclr_plus.parts import exemplar
from simclr_plus.parts.exemplar import embedding_deviation, exemplar_triplet_loss, nearest_is_own

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "instance_triplet.npz")
LOSSES = np.load(GOLDEN_FOLDER / "methods" / "instance_losses.npz")


@pytest.mark.parametrize("case", GOLDEN["cases"])
@pytest.mark.parametrize("at_once", [1 << 22, 100], ids=["at once", "in parts"])
def test_loss_and_gradient_are_those_of_loops_and_of_tensorflow(
    case: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exemplar, "AT_ONCE", at_once)
    settings_of_case = {"margin": float(GOLDEN[f"{case}/margin"]), "normalize": str(GOLDEN[f"{case}/normalize"])}
    labels = torch.from_numpy(GOLDEN[f"{case}/labels"])
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        z = torch.from_numpy(GOLDEN[f"{case}/logits"]).to(dtype).requires_grad_()
        loss = exemplar_triplet_loss(z, labels, **settings_of_case)
        loss.backward()
        assert z.grad is not None
        scale = float(np.abs(GOLDEN[f"{case}/grad"]).max())
        of_loops = pytest.approx(float(GOLDEN[f"{case}/loss"]), abs=min(tolerance, 1e-6))
        assert float(loss.detach()) == of_loops
        assert np.abs(z.grad.numpy() - GOLDEN[f"{case}/grad"]).max() <= tolerance * scale
        assert float(loss.detach()) == pytest.approx(float(GOLDEN[f"{case}/loss_tf"]), abs=1e-6)
        assert np.abs(z.grad.numpy() - GOLDEN[f"{case}/grad_tf"]).max() <= 1e-5 * scale


def by_brute_force(z: np.ndarray, images: list[int], margin: float) -> float:
    d = ((z[:, None] - z[None]) ** 2).sum(2)
    terms = []
    for a, p in itertools.permutations(range(len(z)), 2):
        if images[a] != images[p]:
            continue
        negatives = [n for n in range(len(z)) if images[n] != images[a]]
        farther = [d[a, n] for n in negatives if d[a, n] > d[a, p]]
        chosen = min(farther) if farther else max((d[a, n] for n in negatives), default=np.inf)
        terms.append(max(margin + d[a, p] - chosen, 0))
    return float(np.mean(terms)) if terms else 0.0


@given(
    images=st.lists(st.integers(0, 4), min_size=2, max_size=14),
    margin=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_it_is_brute_force_over_anchors_positives_and_negatives_whoever_stands_where(
    images: list[int], margin: float, seed: int
) -> None:
    """Images stand in any order, once or often; an image that stands twice in a batch is no negative of itself."""
    z = np.random.default_rng(seed).standard_normal((len(images), 3))
    loss = exemplar_triplet_loss(torch.from_numpy(z), torch.tensor(images), margin=margin, normalize="none")
    assert float(loss) == pytest.approx(by_brute_force(z, images, margin), rel=1e-9, abs=1e-12)


def rows_of(views: int, images: int, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    z = torch.randn(views * images, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z, torch.arange(images).repeat(views)


def test_a_collapse_has_the_loss_of_the_margin() -> None:
    z = torch.ones(12, 4, dtype=torch.float64)
    assert float(exemplar_triplet_loss(z, torch.arange(4).repeat(3), margin=0.7)) == pytest.approx(0.7, abs=1e-12)


@pytest.mark.parametrize(("margin", "expected"), [(0.5, 0.0), (2.0, 0.0), (2.5, 0.5)])
def test_equal_views_of_orthogonal_images_are_two_apart(margin: float, expected: float) -> None:
    z = torch.eye(4, dtype=torch.float64).repeat(3, 1) * 7
    assert float(exemplar_triplet_loss(z, torch.arange(4).repeat(3), margin=margin)) == pytest.approx(expected)


def test_with_two_views_it_is_twice_simclrs_semi_hard_margin_loss_at_half_the_margin() -> None:
    z, images = rows_of(2, 9)
    ours = exemplar_triplet_loss(z, images, margin=0.5)
    theirs = margin_triplet(*z.chunk(2), margin=0.25, negatives="both_views", semi_hard=True)
    assert float(ours) == pytest.approx(2 * float(theirs), rel=1e-12)


@pytest.mark.parametrize("normalize", ["rows", "columns", "none"])
def test_the_order_of_rows_and_the_numbers_of_images_do_not_matter(normalize: str) -> None:
    z, images = rows_of(3, 5)
    loss = exemplar_triplet_loss(z, images, normalize=normalize)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(1))
    shuffled = exemplar_triplet_loss(z[order], 1000 - 7 * images[order], normalize=normalize)
    assert float(shuffled) == pytest.approx(float(loss), rel=1e-12)


def test_groups_are_batches_of_their_own_weighed_by_their_pairs() -> None:
    z, images = rows_of(4, 3)
    z, images = z.view(4, 3, 6).transpose(0, 1).flatten(0, 1), images.view(4, 3).T.flatten()
    numbers = torch.tensor([0, 0, 0, 0, 1, 1, 7, 7, 2, 2, 2, 3])  # 12 + 2 + 2 pairs, and 6
    for normalize in ("rows", "columns"):
        parts = [exemplar_triplet_loss(z[i : i + 6], numbers[i : i + 6], normalize=normalize) for i in (0, 6)]
        pairs = [12 + 2, 2 + 6]
        both = exemplar_triplet_loss(z, numbers, normalize=normalize, group_rows=6)
        expected = sum(float(p) * n for p, n in zip(parts, pairs, strict=True)) / sum(pairs)
        assert float(both) == pytest.approx(expected, rel=1e-12)
    assert images.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"margin": -1.0}, "margin = -1.0"),
        ({"normalize": "both"}, "'both'"),
        ({"group_rows": 5}, "group_rows = 5"),
        ({"images": torch.zeros(3)}, r"\(3,\)"),
    ],
)
def test_other_arguments_are_refused_by_value(changes: dict[str, object], words: str) -> None:
    z, images = rows_of(2, 4)
    with pytest.raises(ValueError, match=words):
        exemplar_triplet_loss(**{"z": z, "images": images, **changes})


def test_half_precision_is_computed_in_full() -> None:
    """Distances of near rows would cancel: |a|^2 + |b|^2 - 2 ab."""
    z, images = rows_of(2, 6)
    near = (10 + 0.01 * z).bfloat16().float()
    with torch.autocast("cpu", torch.bfloat16):
        loss = exemplar_triplet_loss(near.bfloat16(), images, normalize="none", margin=0.001)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(by_brute_force(near.double().numpy(), images.tolist(), 0.001), rel=1e-2)


def test_the_deviation_is_0_of_a_point_and_1_of_directions_that_cancel() -> None:
    assert float(embedding_deviation(torch.ones(5, 3))) == pytest.approx(0, abs=1e-6)
    assert float(embedding_deviation(torch.cat([torch.eye(3), -2 * torch.eye(3)]))) == pytest.approx(1)


def test_nearest_is_own_counts_rows_that_find_their_image() -> None:
    z, images = rows_of(3, 5, seed=4)
    unit = F.normalize(z).numpy()
    d = ((unit[:, None] - unit[None]) ** 2).sum(2) + 9 * np.eye(15)
    expected = np.mean([images[int(row.argmin())] == images[i] for i, row in enumerate(d)])
    assert float(nearest_is_own(z, images)) == pytest.approx(expected)


# the input law


def golden_images(name: str) -> Tensor:
    return torch.from_numpy(LOSSES[f"exemplar/{name}"]).movedim(-1, 1)


def test_gray_is_the_mean_of_the_channels() -> None:
    images = golden_images("image")
    parameters = torch.zeros(len(images), 16)
    parameters[:, GRAY] = 1
    views = finish_views(images, parameters, ViewLaw(8, gray_law="mean", gray_first=True, jitter_prob=0, blur_prob=0))
    torch.testing.assert_close(views, golden_images("gray").expand_as(views).float(), rtol=0, atol=1e-6)


def test_the_encoders_standardisation_is_tensorflows_but_for_images_of_one_color() -> None:
    """Of gray levels, where the deviation's floor is lower than of [0, 1] or [-1, 1]: image 1 is almost constant."""
    ours, unit, signed = (
        standardized(golden_images("image").double()),
        golden_images("standardized"),
        golden_images("standardized_from_minus1_1"),
    )
    others = [0, 2, 3, 4, 5]
    assert torch.allclose(ours[others], unit[others], atol=1e-5)
    assert torch.allclose(ours[others], signed[others], atol=1e-5)
    assert ours[1].std(correction=0) == pytest.approx(1, abs=1e-3) and float(unit[1].std()) < 0.1
