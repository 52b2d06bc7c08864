"""AMDIM's parts against the authors' numbers, a sum over places in loops, closed forms, and two processes.

torchrun starts this file itself as a program, whose two processes leave their losses and gradients in a folder.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launching import in_processes
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus import distributed
from simclr_plus.parts import amdim
from simclr_plus.parts.amdim import AMDIMHeads, AMDIMLoss, PlaceNet, Scales, on_grid, place_accuracy, places_found

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "contrastive_amdim.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
TERMS = ("loss_1t5", "loss_1t7", "loss_5t5", "regulariser")


def golden(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(GOLDEN[name]).to(dtype)


def views(
    n: int, d: int = 6, sides: tuple[int, int] = (2, 3), *, seed: int = 0, scale: float = 1.0
) -> tuple[Scales, Scales, Tensor, Tensor]:
    """Random features of two views, and a place in the coarse map of each."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(n, d), *((n, d, side, side) for side in sides)]
    first, second = (
        Scales(*(scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))
        for _ in range(2)
    )
    places = torch.randint(sides[0] ** 2, (2, n), generator=generator)
    return first, second, places[0], places[1]


def loss_and_gradients(
    first: Scales, second: Scales, *places: Tensor, loss: AMDIMLoss | None = None, rows: slice | None = None
) -> list[Tensor]:
    """Of the total, for all six features; `rows`: of the images of one process."""
    rows = rows or slice(None)
    leaves = [x[rows].clone().requires_grad_() for x in (*first, *second)]
    total = (loss or AMDIMLoss())(Scales(*leaves[:3]), Scales(*leaves[3:]), *(place[rows] for place in places))
    total.backward()
    return [total.detach(), *(leaf.grad for leaf in leaves)]


if __name__ == "__main__":
    distributed.start("cpu")
    here = slice(3 * distributed.rank(), 3 * distributed.rank() + 3)
    first, second, *places = views(6)
    right = place_accuracy(first.whole[here], second.coarse[here])
    results = [*loss_and_gradients(first, second, *places, rows=here), right]
    torch.save(results, Path(sys.argv[1]) / f"{distributed.rank()}.pt")
    distributed.barrier()
    distributed.stop()


# the authors' numbers


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_each_term_and_the_gradient_of_their_sum_are_the_authors(case: str, dtype: torch.dtype, error: float) -> None:
    names = [f"r{side}_x{view}" for view in (1, 2) for side in (1, 5, 7)]
    leaves = {name: golden(f"{case}/{name}", dtype).requires_grad_() for name in names}
    first, second = (
        Scales(leaves[f"r1_x{view}"].flatten(1), leaves[f"r5_x{view}"], leaves[f"r7_x{view}"]) for view in (1, 2)
    )
    places = [torch.from_numpy(GOLDEN[f"{case}/place_x{view}"]) for view in (1, 2)]
    terms = AMDIMLoss(clip=float(GOLDEN[f"{case}/tclip"])).terms(first, second, *places)
    terms.total.backward()
    for name, term in zip(TERMS, terms[:4], strict=True):
        assert float(term.detach()) == pytest.approx(float(GOLDEN[f"{case}/{name}"]), rel=error, abs=error), name
    for name in names:
        expected = golden(f"{case}/grad_{name}", dtype)
        assert torch.allclose(leaves[name].grad, expected, rtol=error, atol=error * float(expected.abs().max())), name


@pytest.mark.parametrize("net", ["net_square", "net_wider"])
def test_the_network_of_places_is_the_authors(net: str) -> None:
    x = golden(f"{net}/x").requires_grad_()
    width = GOLDEN[f"{net}/before/conv1.weight"].shape
    ours = PlaceNet(width[1], width[0]).double()
    before = {
        name.removeprefix(f"{net}/before/").replace("bn_out.bn", "bn"): torch.from_numpy(GOLDEN[name])
        for name in GOLDEN.files
        if name.startswith(f"{net}/before/")
    }
    ours.load_state_dict(before)
    y = ours(x)
    (y * golden(f"{net}/grad_of")).sum().backward()
    assert torch.allclose(y, golden(f"{net}/y"), atol=1e-9, rtol=1e-9)
    assert torch.allclose(x.grad, golden(f"{net}/grad_x"), atol=1e-9, rtol=1e-9)
    assert torch.allclose(ours.bn.running_mean, golden(f"{net}/after/bn_out.bn.running_mean"), atol=1e-9)
    rows = y[:, 0].numel()  # ours keeps the biased variance, PyTorch's own layers the unbiased one
    unbiased = (ours.bn.running_var - 0.9) * rows / (rows - 1) + 0.9
    start = golden(f"{net}/before/bn_out.bn.running_var")
    assert torch.equal(start, torch.ones_like(start))
    assert torch.allclose(unbiased, golden(f"{net}/after/bn_out.bn.running_var"), atol=1e-9)


# a slow sum, closed forms


def slow_loss(first: Scales, second: Scales, places: list[Tensor], clip: float, weight: float) -> float:
    """The law in loops: positives of one image do not meet, places of the own image are no negatives."""
    total = 0.0
    for source, target, place in ((first, second, places[0]), (second, first, places[1])):
        coarse = source.coarse.flatten(2)
        at_place = [coarse[i, :, int(place[i])] for i in range(len(place))]
        for rows, maps in ((source.whole, target.coarse), (source.whole, target.fine), (at_place, target.coarse)):
            columns = maps.flatten(2)
            n, d, count = columns.shape
            raw = [
                [[float(rows[i] @ columns[j, :, k]) / math.sqrt(d) for k in range(count)] for j in range(n)]
                for i in range(n)
            ]
            total += weight * sum(s * s for i in raw for j in i for s in j) / (n * n * count) / 2
            for i in range(n):
                others = sum(math.exp(clip * math.tanh(s / clip)) for j in range(n) if j != i for s in raw[i][j])
                for s in raw[i][i]:
                    own = math.exp(clip * math.tanh(s / clip))
                    total -= math.log(own / (own + others)) / (n * count) / 2
    return total


@given(
    n=st.integers(2, 4),
    sides=st.sampled_from([(1, 2), (2, 3), (3, 2)]),
    clip=st.sampled_from([0.5, 4.0, 20.0]),
    weight=st.sampled_from([0.0, 0.05, 1.0]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=25)
def test_it_is_the_sum_over_images_and_places(
    n: int, sides: tuple[int, int], clip: float, weight: float, seed: int
) -> None:
    first, second, *places = views(n, 5, sides, seed=seed)
    loss = AMDIMLoss(clip, weight)(first, second, *places)
    assert float(loss) == pytest.approx(slow_loss(first, second, places, clip, weight), rel=1e-9)


@pytest.mark.parametrize("n", [2, 3, 9])
def test_features_of_zeros_have_the_loss_of_chance(n: int) -> None:
    first, second, *places = views(n, 8, (5, 7), scale=0.0)
    terms = AMDIMLoss().terms(first, second, *places)
    expected = [math.log(1 + 25 * (n - 1)), math.log(1 + 49 * (n - 1)), math.log(1 + 25 * (n - 1)), 0.0]
    assert [float(term) for term in terms[:4]] == pytest.approx(expected, rel=1e-12)


def test_features_without_bound_have_a_bounded_loss() -> None:
    """At most 2c + log(1 + L (B - 1)), which is reached where a positive is at -c and all others at c."""
    first, second, *places = views(4, scale=1e6)
    for term, count in zip(AMDIMLoss(10.0).terms(first, second, *places), (4, 9, 4), strict=False):
        assert 0 <= float(term) <= 20 + math.log(1 + count * 3)
    opposed = -torch.eye(3, dtype=torch.float64) * 2e6 + 1e6
    loss, _ = places_found(opposed, torch.eye(3, dtype=torch.float64)[:, :, None], clip=10.0)
    assert float(loss) == pytest.approx(20 + math.log(2 + math.exp(-20)), rel=1e-12)


def test_the_views_may_be_swapped_and_the_images_come_in_any_order() -> None:
    first, second, place0, place1 = views(5)
    loss, order = float(AMDIMLoss()(first, second, place0, place1)), torch.tensor([3, 1, 4, 0, 2])
    assert float(AMDIMLoss()(second, first, place1, place0)) == pytest.approx(loss, rel=1e-12)
    permuted = [Scales(*(x[order] for x in view)) for view in (first, second)]
    assert float(AMDIMLoss()(*permuted, place0[order], place1[order])) == pytest.approx(loss, rel=1e-12)
    assert float(AMDIMLoss()(*permuted, place0, place1)) != pytest.approx(loss, rel=1e-6)


def test_a_clip_that_nothing_reaches_is_the_plain_cross_entropy() -> None:
    first, second, *_ = views(4)
    columns = second.coarse.flatten(2)
    loss, square = places_found(first.whole, columns, clip=1e7)
    scores = torch.einsum("nd,mdl->nml", first.whole, columns) / 6**0.5
    expected = 0.0
    for i in range(4):
        others = torch.cat([scores[i, j] for j in range(4) if j != i])
        for k in range(4):
            logits = torch.cat([scores[i, i, k : k + 1], others])
            expected += float(nn.functional.cross_entropy(logits[None], torch.tensor([0]))) / 16
    assert float(loss) == pytest.approx(expected, rel=1e-9)
    assert float(square) == pytest.approx(float(scores.square().mean()), rel=1e-12)


def test_places_of_the_own_image_are_no_negatives() -> None:
    """Where the score of one place is far above all others, what is left is the loss of the other place, unchanged."""
    row, columns = torch.eye(3, dtype=torch.float64)[:1], views(2, 3)[1].coarse.flatten(2)[:, :, :2].clone()
    columns[0, :, 1] += row[0] * 50
    scores = torch.einsum("d,mdl->ml", row[0], columns) / 3**0.5
    others, place = scores[1].logsumexp(0), scores[0, 0]
    loss, _ = places_found(row, columns, clip=1e9)
    assert 2 * float(loss) == pytest.approx(float(torch.logaddexp(place, others) - place), rel=1e-6)


def test_the_regulariser_is_of_scores_before_the_clip_and_of_the_own_image_too() -> None:
    first, second, *places = views(3, scale=30.0)
    gentle, hard = (AMDIMLoss(clip).terms(first, second, *places) for clip in (100.0, 1.0))
    assert float(gentle.regulariser) == pytest.approx(float(hard.regulariser), rel=1e-12)
    assert float(gentle.whole_to_fine) != pytest.approx(float(hard.whole_to_fine), rel=1e-3)
    own = torch.zeros(2, 4, dtype=torch.float64)
    own[0, 0] = 2.0
    columns = torch.zeros(2, 4, 1, dtype=torch.float64)
    columns[0, 0] = 3.0
    assert float(places_found(own, columns, clip=20.0)[1]) == pytest.approx((2 * 3 / 2) ** 2 / 4)


def test_its_gradient_is_that_of_differences() -> None:
    first, second, *places = views(3, 3, (1, 2))

    def loss(*features: Tensor) -> Tensor:
        return AMDIMLoss(2.0, 0.5)(Scales(*features[:3]), Scales(*features[3:]), *places)

    assert torch.autograd.gradcheck(loss, tuple(x.requires_grad_() for x in (*first, *second)))


def test_scores_held_a_part_at_a_time_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = loss_and_gradients(*views(7))
    right = place_accuracy(views(7)[0].whole, views(7)[1].fine)
    monkeypatch.setattr(amdim, "CHUNK_ELEMENTS", 2 * 7 * 9)
    for ours, whole in zip(loss_and_gradients(*views(7)), expected, strict=True):
        assert torch.allclose(ours, whole, rtol=1e-12, atol=1e-14)
    assert place_accuracy(views(7)[0].whole, views(7)[1].fine) == right


def test_halves_are_scored_in_float32() -> None:
    first, second, *places = views(4)
    halves = [Scales(*(x.bfloat16() for x in view)) for view in (first, second)]
    with torch.autocast("cpu", torch.bfloat16):
        loss = AMDIMLoss()(*halves, *places)
    exact = AMDIMLoss()(*(Scales(*(x.double() for x in view)) for view in halves), *places)
    assert loss.dtype == torch.float32 and float(loss) == pytest.approx(float(exact), rel=1e-5)


# places, networks, accuracy


@pytest.mark.parametrize(
    ("length", "expected"), [(14, [1, 3, 5, 7, 9, 11, 13]), (8, [0, 1, 2, 4, 5, 6, 7]), (4, [0, 1, 2, 3])]
)
def test_a_map_is_read_in_the_middle_of_equal_cells(length: int, expected: list[int]) -> None:
    """At floor((k + 1/2) length / side); a map without so many places stays as it is."""
    rows = torch.arange(length)[None, None, :, None].expand(2, 3, length, length)
    assert on_grid(rows, 7)[0, 0, :, 0].tolist() == expected
    assert torch.equal(on_grid(rows, 7), on_grid(rows.transpose(2, 3), 7).transpose(2, 3))


@pytest.mark.parametrize(("input_dim", "units"), [(4, 4), (3, 8)])
def test_it_starts_as_its_normalised_shortcut_which_is_nearly_the_identity(input_dim: int, units: int) -> None:
    net, x = PlaceNet(input_dim, units), torch.randn(16, input_dim, 3, 3)
    assert not net.conv2.weight.any() and torch.equal(net(x), net.bn(net.shortcut(x)))
    weight = net.shortcut.weight[:, :, 0, 0]
    assert torch.equal(weight.diag(), torch.ones(input_dim))
    off = weight[~torch.eye(units, input_dim, dtype=torch.bool)]
    assert 0 < off.abs().max() <= 0.01
    y = net.shortcut(x)[:, :input_dim] - net.shortcut.bias[None, :input_dim, None, None]
    assert torch.allclose(y, x, atol=0.01 * 4 * input_dim)


def test_the_whole_is_h_behind_a_batch_norm_unless_units_are_named() -> None:
    h, coarse, fine = torch.randn(8, 6), torch.randn(8, 6, 2, 2), torch.randn(8, 3, 4, 4)
    heads = AMDIMHeads(6, 6, 3)
    whole = heads(h, coarse, fine).whole
    assert torch.allclose(whole, (h - h.mean(0)) / (h.var(0, correction=0) + 1e-5).sqrt(), atol=1e-5)
    assert [tuple(x.shape) for x in AMDIMHeads(6, 6, 3, 5)(h, coarse, fine)] == [(8, 5), (8, 5, 2, 2), (8, 5, 4, 4)]
    assert heads.coarse.conv1.weight is not heads.fine.conv1.weight  # an own network for each scale


def test_the_accuracy_counts_places_that_beat_those_of_all_other_images() -> None:
    maps = torch.eye(4)[:, :, None, None].repeat(1, 1, 2, 2)
    assert float(place_accuracy(torch.eye(4), maps)) == 1.0
    maps[0, :, 0, 1] = torch.eye(4)[2]  # one of 16 places looks like another image, which then has a rival everywhere
    assert float(place_accuracy(torch.eye(4), maps)) == pytest.approx((3 + 4 + 0 + 4) / 16)
    assert float(place_accuracy(torch.zeros(4, 4), maps)) == 0.0  # equal scores tell nothing


def test_places_that_are_not_given_are_drawn_by_pytorch() -> None:
    first, second, *_ = views(4)
    torch.manual_seed(3)
    drawn = [torch.randint(4, (4,)) for _ in range(2)]
    torch.manual_seed(3)
    assert float(AMDIMLoss()(first, second)) == pytest.approx(float(AMDIMLoss()(first, second, *drawn)), rel=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    first, second, *places = views(4)
    with pytest.raises(ValueError, match=r"\(4, 6, 2, 2\)"):
        AMDIMLoss()(first, second._replace(coarse=second.fine), *places)
    with pytest.raises(ValueError, match="two images or more"):
        AMDIMLoss()(*(Scales(*(x[:1] for x in view)) for view in (first, second)))
    with pytest.raises(ValueError, match="clip = 0"):
        AMDIMLoss(clip=0)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_processes(__file__, tmp_path)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    first, second, *places = views(6)
    whole = loss_and_gradients(first, second, *places)
    assert float((both[0][0] + both[1][0]) / 2) == pytest.approx(float(whole[0]), rel=1e-12)
    for ours, expected in zip(zip(both[0][1:-1], both[1][1:-1], strict=True), whole[1:], strict=True):
        assert torch.allclose(torch.cat(ours) / 2, expected, rtol=1e-10, atol=1e-14)
    assert (both[0][-1] + both[1][-1]) / 2 == place_accuracy(first.whole, second.coarse)
