"""PIRL's parts against the authors' numbers, closed forms, InstDist, what must not matter, and Lightly's transform."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from PIL import Image
from places import GOLDEN_FOLDER
from torch import Tensor

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.parts.instdist import InstDistLoss
from simclr_plus.parts.memory_bank import unit
from simclr_plus.parts.patch_grid import proportional_grid
from simclr_plus.parts.patches import random_patches
from simclr_plus.parts.pirl import PIRLHead, PIRLLoss, PIRLPatchHead, distorted_patches, drawn_orders

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "contrastive_pirl.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
EXACT = {torch.float64: 1e-9, torch.float32: 1e-5}
NOTHING = ViewLaw(16, flip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0)


def golden(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.from_numpy(GOLDEN[name])
    return x if x.dtype == torch.int64 else x.to(dtype)


def close(ours: Tensor, theirs: Tensor, error: float) -> bool:
    """By the larger of 1 and each value."""
    return bool(((ours - theirs).abs() <= error * theirs.abs().clamp_min(1)).all())


def random_units(*shape: int, seed: int = 0) -> Tensor:
    return unit(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


# the authors' numbers


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("kind", ["infonce", "vissl_nce", "vissl_cross_entropy"])
@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_memory_of_each_step_are_the_authors(case: str, kind: str, dtype: torch.dtype) -> None:
    memory, error = golden(f"{case}/memory", dtype), EXACT[dtype]
    objective, temperature = "nce" if kind == "vissl_nce" else "infonce", float(GOLDEN[f"{case}/temperature"])
    criterion = PIRLLoss(*memory.shape, objective=objective, negatives=3, temperature=temperature).to(dtype)
    criterion.memory.bank.memory.copy_(memory)
    for t in range(2):
        f, g = (golden(f"{case}/{name}", dtype)[t].requires_grad_() for name in "fg")
        images, drawn = golden(f"{case}/images")[t], (golden(f"{case}/negatives_{name}")[t] for name in "fg")
        of_image, of_patches = (torch.cat([images[:, None], negatives], dim=1) for negatives in drawn)
        terms = criterion.compare(unit(f), unit(g), of_image, of_image if kind == "infonce" else of_patches)
        terms.loss.backward()
        criterion.update(images, unit(f))
        step = f"{case}/{kind}/step{t}"
        results = {"loss": terms.loss.detach(), "grad_f": f.grad, "grad_g": g.grad}
        results["memory"] = criterion.memory.bank.memory
        if objective == "nce":
            assert criterion.memory.constant is not None
            z = float(GOLDEN[f"{step}/Z"])
            assert float(criterion.memory.constant.log_z.exp()) == pytest.approx(z, rel=error)
        for name, ours in results.items():
            assert close(ours, golden(f"{step}/{name}", dtype), error), name


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("name", ["head_linear", "head_mlp"])
def test_the_head_of_patches_is_the_authors(name: str, dtype: torch.dtype) -> None:
    head = PIRLPatchHead(7, 4, 9, mlp=name == "head_mlp").to(dtype)
    layers = {"fc1": "first", "fc2": "together"}
    weights = {
        file.removeprefix(f"{name}/weight/"): golden(file, dtype) for file in GOLDEN.files if f"{name}/w" in file
    }
    head.load_state_dict({layers[key[:3]] + key[3:]: value for key, value in weights.items()})
    x = golden(f"{name}/x", dtype).requires_grad_()
    z = head(x, golden(f"{name}/order"))
    (z * golden(f"{name}/grad_of", dtype)).sum().backward()
    assert close(z.detach(), golden(f"{name}/z", dtype), EXACT[dtype])
    assert close(x.grad, golden(f"{name}/grad_x", dtype), EXACT[dtype])


# the loss


@pytest.mark.parametrize("k", [1, 7, 40])
def test_scores_of_no_difference_have_the_loss_of_chance(k: int) -> None:
    u, v, indices = random_units(5, 8), random_units(5, 8, seed=1), torch.arange(5)
    nce, infonce = (
        PIRLLoss(40, 8, objective=objective, negatives=k, temperature=1e9).double() for objective in ("nce", "infonce")
    )
    chance = math.log(1 + k) + k * math.log(1 + 1 / k)
    assert float(nce(u, v, indices, 0)) == pytest.approx(chance, rel=1e-5)
    assert float(infonce(u, v, indices, 0)) == pytest.approx(math.log(1 + k), rel=1e-7)


def test_float32s_epsilon_is_added_to_the_divisors_of_nce() -> None:
    u, n = random_units(4, 8), 20_000
    criterion = PIRLLoss(n, 8, weight=0, objective="nce", negatives=1, temperature=0.1).double()
    assert criterion.memory.constant is not None
    criterion.memory.constant.log_z.fill_(math.log(n) + 9)
    candidates = criterion.candidates(torch.arange(4), 0)
    p = (torch.einsum("bd,bkd->bk", u, criterion.memory.bank.memory[candidates]) * 10 - math.log(n) - 9).exp()
    q, e = 1 / n, 2.0**-23
    expected = -((p[:, 0] / (p[:, 0] + q + e)).log() + (q / (p[:, 1] + q + e)).log()).mean()
    assert float(criterion.compare(u, None, candidates).loss) == pytest.approx(float(expected), rel=1e-8)


def test_one_row_that_is_orthogonal_to_u_drawn_k_times() -> None:
    """log(1 + K exp(-1 / T))."""
    memory, k, t = torch.eye(6, 4, dtype=torch.float64), 11, 0.3
    criterion = PIRLLoss(6, 4, weight=0, negatives=k, temperature=t).double()
    criterion.memory.bank.memory.copy_(memory)
    candidates = torch.tensor([[0] + [2] * k])
    found = criterion.compare(memory[:1], None, candidates).loss
    assert float(found) == pytest.approx(math.log(1 + k * math.exp(-1 / t)), rel=1e-12)


def test_the_loss_is_linear_in_the_weight() -> None:
    u, v, indices = random_units(5, 8), random_units(5, 8, seed=1), torch.arange(5)
    image, half, patches = (
        float(PIRLLoss(40, 8, weight=w, negatives=9).double()(u, v, indices, 3)) for w in (0, 0.25, 1)
    )
    assert half == pytest.approx(0.75 * image + 0.25 * patches, rel=1e-12) and abs(image - patches) > 0.1


@pytest.mark.parametrize(
    ("objective", "loss", "negatives"), [("infonce", "softmax", 9), ("infonce", "softmax", 0), ("nce", "nce", 9)]
)
def test_without_patches_it_is_instdist(objective: str, loss: str, negatives: int) -> None:
    u, indices = random_units(5, 8).requires_grad_(), torch.arange(5)
    ours = PIRLLoss(40, 8, weight=0, objective=objective, negatives=negatives, seed=2).double()
    theirs = InstDistLoss(40, 8, loss=loss, negatives=negatives, seed=2, epsilon=2.0**-23).double()
    for step in range(3):
        losses = ours(u, None, indices + step, step), theirs(u, indices + step, step)
        assert torch.equal(*losses) and torch.equal(*(torch.autograd.grad(x, u)[0] for x in losses))
        ours.update(indices + step, u)
        theirs.update(indices + step, u)
    assert torch.equal(ours.memory.bank.memory, theirs.bank.memory)


def test_the_memory_follows_u_alone_and_after_both_terms() -> None:
    u, v, indices = random_units(3, 8), random_units(3, 8, seed=1), torch.tensor([7, 2, 9])
    criterion = PIRLLoss(20, 8, negatives=5).double()
    before = criterion.memory.bank.memory.clone()
    criterion(u, v, indices, 0)
    assert torch.equal(criterion.memory.bank.memory, before)
    criterion.update(indices, u)
    after = criterion.memory.bank.memory
    assert torch.allclose(after[indices], unit(0.5 * before[indices] + 0.5 * u), atol=1e-12)
    unseen = [i for i in range(20) if i not in (7, 2, 9)]
    assert torch.equal(after[unseen], before[unseen])


def test_there_are_no_more_negatives_than_images_and_u_and_v_share_them() -> None:
    criterion = PIRLLoss(20, 8)
    assert criterion.candidates(torch.arange(3), 0).shape == (3, 21)
    same, indices = random_units(3, 8), torch.arange(3)
    terms = PIRLLoss(20, 8, negatives=5).double().compare(same, same, criterion.candidates(indices, 0))
    alone = PIRLLoss(20, 8, negatives=5, weight=0).double().compare(same, None, criterion.candidates(indices, 0))
    assert float(terms.loss) == pytest.approx(float(alone.loss)) and alone.patches_found is None
    assert terms.patches_found is not None and float(terms.patches_found) == float(terms.images_found)


@pytest.mark.parametrize("settings", [{"objective": "hinge"}, {"weight": 1.5}, {"objective": "nce", "negatives": 0}])
def test_settings_of_no_sense_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="use one of"):
        PIRLLoss(20, 8, **settings)  # type: ignore[arg-type]


def test_a_loss_with_patches_wants_their_embedding() -> None:
    with pytest.raises(ValueError, match=r"weight = 0\.5.*weight=0"):
        PIRLLoss(20, 8)(random_units(2, 8), None, torch.arange(2), 0)


# the heads


def test_an_order_of_patches_and_the_same_order_of_the_last_layers_columns_change_nothing() -> None:
    head, moved = PIRLPatchHead(7, 4, 9).double(), PIRLPatchHead(7, 4, 9).double()
    h, orders = torch.rand(18, 7, dtype=torch.float64), drawn_orders(0, torch.arange(2), torch.zeros(2), 9)
    order = drawn_orders(1, torch.arange(1), torch.zeros(1), 9)[0]
    moved.load_state_dict(head.state_dict())
    with torch.no_grad():
        moved.together.weight.copy_(head.together.weight.unflatten(1, (9, 4))[:, order].flatten(1))
    assert torch.allclose(head(h, orders), moved(h, orders[:, order]), atol=1e-12)
    assert not torch.allclose(head(h, orders), head(h, orders[:, order]), atol=1e-3)


def test_of_nine_equal_patches_the_order_does_not_matter() -> None:
    head, h = PIRLPatchHead(7, 4, 9), torch.rand(2, 7).repeat_interleave(9, dim=0)
    orders = drawn_orders(0, torch.arange(2), torch.zeros(2), 9)
    assert torch.allclose(head(h, orders), head(h, torch.arange(9).expand(2, 9)), atol=1e-6)


def test_the_two_heads_share_nothing_and_the_nine_patches_a_layer() -> None:
    image, patches = PIRLHead(7, 4), PIRLPatchHead(7, 4, 9)
    assert sum(p.numel() for p in image.parameters()) == 8 * 4
    assert sum(p.numel() for p in patches.parameters()) == 8 * 4 + 37 * 4
    assert sum(p.numel() for p in PIRLHead(7, 4, mlp=True).parameters()) == 8 * 7 + 8 * 4
    u = image(torch.rand(3, 7))
    assert torch.allclose(u.norm(dim=1), torch.ones(3), atol=1e-6)


def test_each_image_has_an_order_of_its_own_and_all_orders_occur() -> None:
    orders = drawn_orders(0, torch.arange(6000), torch.tensor(3), 4)
    counts = [int((orders == torch.tensor(order)).all(dim=1).sum()) for order in permutations(range(4))]
    assert sum(counts) == 6000 and sum((count - 250) ** 2 / 250 for count in counts) < 50  # 23 degrees: p = 0.001
    assert torch.equal(drawn_orders(0, torch.arange(7, 9), torch.tensor(3), 4), orders[7:9])
    assert not torch.equal(drawn_orders(0, torch.arange(6000), torch.tensor(4), 4), orders)


# patches


@pytest.mark.parametrize(
    ("size", "crop", "cell", "side"), [(224, 255, 85, 64), (96, 108, 36, 27), (64, 72, 24, 18), (32, 36, 12, 9)]
)
def test_patches_keep_the_published_proportions(size: int, crop: int, cell: int, side: int) -> None:
    grid = proportional_grid(size)
    assert (grid.crop, grid.cell, grid.side, grid.count) == (crop, cell, side, 9)


def test_no_patch_is_wider_than_its_cell() -> None:
    grids = [proportional_grid(size) for size in range(28, 300)]
    assert all(0 < grid.jitter < grid.cell and grid.crop == 3 * grid.cell for grid in grids)


def test_each_patch_is_distorted_by_itself_by_seed_epoch_and_image() -> None:
    patch = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    patches = patch.expand(2, 9, 3, 16, 16)
    law, indices = ViewLaw(224, gray_prob=0.2, jitter_prob=1.0, blur_prob=0), torch.tensor([4, 5])
    epochs = torch.tensor([1, 1])
    done = distorted_patches(patches, law, seed=0, indices=indices, epochs=epochs)
    rows = done.flatten(0, 1).flatten(1)
    assert float(torch.cdist(rows, rows).fill_diagonal_(1).min()) > 0.01 and done.shape == patches.shape
    again = distorted_patches(patches[1:], law, seed=0, indices=indices[1:], epochs=epochs[1:])
    assert torch.allclose(again[0], done[1], atol=1e-6)
    for seed, epoch in ((1, 1), (0, 2)):
        other = distorted_patches(patches, law, seed=seed, indices=indices, epochs=torch.tensor([epoch, epoch]))
        assert not torch.allclose(other, done, atol=1e-2)
    assert float(done.min()) >= 0 and float(done.max()) <= 1


def test_a_law_of_nothing_leaves_patches_as_they_are_and_flips_are_half() -> None:
    patches, many = torch.rand(40, 9, 3, 8, 8), torch.arange(40)
    same = distorted_patches(patches, NOTHING, seed=0, indices=many, epochs=torch.zeros(40, dtype=torch.int64))
    assert torch.allclose(same, patches, atol=1e-6)
    law = ViewLaw(16, flip_prob=0.5, jitter_prob=0, gray_prob=0, blur_prob=0)
    done = distorted_patches(patches, law, seed=0, indices=many, epochs=torch.zeros(40, dtype=torch.int64))
    flipped = (done - patches.flip(4)).abs().amax(dim=(2, 3, 4)) < 1e-6
    kept = (done - patches).abs().amax(dim=(2, 3, 4)) < 1e-6
    assert bool((flipped ^ kept).all()) and 0.4 < float(flipped.float().mean()) < 0.6


def test_lightlys_transform_reads_a_corner_and_cuts_patches_as_wide_as_their_cells() -> None:
    """Of a photo of 192 pixels it sees the first 64, and no patch moves; ours move, in a crop of the whole."""
    from lightly.transforms import PIRLTransform

    lines = np.arange(192, dtype=np.uint8)
    photo = np.stack([np.broadcast_to(lines[:, None], (192, 192)), np.broadcast_to(lines, (192, 192))] * 2, axis=-1)
    pixels = np.ascontiguousarray(photo[:, :, :3])
    transform = PIRLTransform(64, cj_prob=0, random_gray_scale=0, hf_prob=0, normalize=None)
    corners = set()
    for _ in range(4):
        patches = (transform(Image.fromarray(pixels))[1] * 255).round()
        assert float(patches.max()) < 64 and patches.shape == (9, 3, 21, 21)
        corners |= {tuple(corner) for corner in patches[:, :2, 0, 0].int().tolist()}
    assert corners == {(y, x) for y in (0, 21, 42) for x in (0, 21, 42)}
    crop = torch.from_numpy(pixels).permute(2, 0, 1)[None, :, 60:132, 60:132].float()
    indices, epochs = torch.arange(30), torch.zeros(30, dtype=torch.int64)
    ours = random_patches(
        crop.expand(30, 3, 72, 72), proportional_grid(64), 0.0, seed=0, indices=indices, epochs=epochs
    )
    of_first_cell = {tuple(corner) for corner in ours[:, 0, :2, 0, 0].int().tolist()}
    assert len(of_first_cell) > 15 and float(ours.max()) > 120
    with pytest.raises(RuntimeError):  # a smaller photo
        transform(Image.fromarray(pixels[:50, :50]))
