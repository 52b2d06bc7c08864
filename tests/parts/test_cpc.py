"""CPC's parts against golden numbers, closed forms, what a context may see, and two processes.

torchrun starts this file itself as a program, whose two processes leave their losses and gradients in a folder.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from launching import in_processes
from places import GOLDEN_FOLDER
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.parts import cpc
from simclr_plus.parts.cpc import (
    DIRECTIONS,
    ContextNetwork,
    CPCHeads,
    CPCLoss,
    Predicted,
    Predictor,
    labels_of,
    places_of,
)

GOLDEN = np.load(GOLDEN_FOLDER / "methods" / "contrastive_cpc.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
NAMES = {"down": "top_down", "up": "bottom_up", "right": "left_right", "left": "right_left"}


def golden(name: str, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.from_numpy(GOLDEN[name]).to(dtype)


def golden_predictor(case: str, version: int, dtype: torch.dtype = torch.float64) -> Predictor:
    """With the weights of the file, whose kernels have no sides of length 1."""
    what = "predict" if version == 2 else "bilinear"
    start = f"{case}/weight/{what}"
    offsets = sorted({int(n.removeprefix(start).partition("/")[0]) for n in GOLDEN.files if n.startswith(start)})
    width, dim = GOLDEN[f"{case}/weight/block0/conv1/weight"].shape
    target = GOLDEN[f"{case}/weight/target/weight"].shape[0]
    ours = Predictor(dim, offsets, version, target_dim=target, width=width).to(dtype)  # type: ignore[arg-type]
    state = {}
    for name, parameter in ours.named_parameters():
        stored = name.replace("context.blocks.", "block").replace("predict.", what).replace(".", "/")
        state[name] = golden(f"{case}/weight/{stored}", dtype).view(parameter.shape)
    ours.load_state_dict(state)
    return ours


def latents(n: int, dim: int = 5, side: int = 5, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, dim, side, side, generator=generator, dtype=torch.float64)


def heads(version: int = 2, directions: int = 4, offsets: tuple[int, ...] = (2, 3), dim: int = 5) -> CPCHeads:
    torch.manual_seed(1)
    return CPCHeads(dim, offsets, version, directions, target_dim=4, width=6, blocks=2).double()  # type: ignore[arg-type]


def total(loss: CPCLoss, predicted: dict[str, Predicted]) -> Tensor:
    return torch.stack([loss(p) for p in predicted.values()]).mean()


def loss_and_gradient(loss: CPCLoss, z: Tensor, version: int = 2) -> list[Tensor]:
    """By z and by one weight, and the accuracy."""
    z = z.clone().requires_grad_()
    networks = heads(version)
    predicted = networks(z)
    value = total(loss, predicted)
    value.backward()
    right = torch.stack([loss.accuracy(p) for p in predicted.values()]).mean()
    weight = networks.predictors["left"].context.blocks[0].conv3.weight.grad
    return [value.detach(), z.grad, weight, right]  # type: ignore[list-item]


if __name__ == "__main__":
    distributed.start("cpu")
    here = slice(4 * distributed.rank(), 4 * distributed.rank() + 4)
    results = [loss_and_gradient(CPCLoss(g), latents(8)[here], v) for g in (0, 2) for v in (1, 2)]
    torch.save(results, Path(sys.argv[1]) / f"{distributed.rank()}.pt")
    distributed.barrier()
    distributed.stop()


# golden numbers


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("case", CASES)
def test_contexts_logits_losses_and_gradients_are_the_golden_ones(
    case: str, version: int, dtype: torch.dtype, error: float
) -> None:
    predictor = golden_predictor(case, version, dtype)
    z = golden(f"{case}/latents", dtype).requires_grad_()
    assert torch.allclose(predictor.context(z), golden(f"{case}/context", dtype), rtol=error, atol=error)
    predicted = predictor(z)
    losses = CPCLoss().by_offset(predicted)
    for offset, predictions in predicted.predictions.items():
        stored = f"{case}/v{version}/offset{offset}"
        assert labels_of(predictions, offset).tolist() == GOLDEN[f"{stored}/labels"].tolist()
        if f"{stored}/logits" in GOLDEN.files:
            logits = places_of(predictions) @ places_of(predicted.targets).T
            assert torch.allclose(logits, golden(f"{stored}/logits", dtype), rtol=error, atol=error)
        assert losses[offset].item() == pytest.approx(float(GOLDEN[f"{stored}/loss"]), rel=error)
    whole = torch.stack(list(losses.values())).sum()  # the file sums over offsets
    assert whole.item() == pytest.approx(float(GOLDEN[f"{case}/v{version}/loss"]), rel=error)
    assert CPCLoss()(predicted).item() == pytest.approx(whole.item() / len(losses), rel=1e-6)
    whole.backward()
    assert torch.allclose(z.grad, golden(f"{case}/v{version}/grad_latents", dtype), rtol=error, atol=error)
    start = f"{case}/v{version}/grad/"
    for name in (name.removeprefix(start) for name in GOLDEN.files if name.startswith(start)):
        parameter = predictor.get_parameter("context.blocks." + name.removeprefix("block").replace("/", "."))
        expected = golden(start + name, dtype).view(parameter.shape)
        assert torch.allclose(parameter.grad, expected, rtol=error, atol=error), name


@pytest.mark.parametrize("case", CASES)
def test_each_direction_is_the_golden_one(case: str) -> None:
    predictor, z = golden_predictor(case, 2), golden(f"{case}/latents")
    for direction, turned in DIRECTIONS.items():
        losses = CPCLoss().by_offset(predictor(turned(z)))
        expected = float(GOLDEN[f"{case}/v2/loss_{NAMES[direction]}"])
        assert torch.stack(list(losses.values())).sum().item() == pytest.approx(expected, rel=1e-9)


# what a context sees


@pytest.mark.parametrize("row", range(5))
def test_a_row_changes_its_own_context_and_those_below_and_none_above(row: int) -> None:
    torch.manual_seed(0)
    network = ContextNetwork(5, 6, 5).double()
    z = latents(3)
    changed = z.clone()
    changed[:, :, row] += torch.randn(3, 5, 5).double()
    with torch.no_grad():
        before, after = network(z), network(changed)
    assert torch.equal(before[:, :, :row], after[:, :, :row])  # bit for bit
    differs = (before != after).any(dim=1).any(dim=2).all(dim=0)
    assert differs[row:].all()


def test_a_context_sees_the_whole_of_its_own_row_with_blocks_enough() -> None:
    torch.manual_seed(0)
    network, z = ContextNetwork(5, 16, 5).double(), latents(1).requires_grad_()
    (gradient,) = torch.autograd.grad(network(z)[0, :, 2, 2].sum(), z)
    seen = gradient[0].abs().sum(0) > 0
    assert seen[:3].all() and not seen[3:].any()


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_no_prediction_sees_what_it_is_of_nor_anything_beyond(direction: str) -> None:
    """In the grid as it is: of what lies in the direction nothing, of the rest something."""
    networks, z = heads(offsets=(2,)), latents(1).requires_grad_()
    prediction = networks(z)[direction].predictions[2]
    (gradient,) = torch.autograd.grad(prediction[0, :, 1].sum(), z)  # made from two rows, of the fourth
    seen = gradient[0].abs().sum(0) > 0
    expected = torch.zeros(5, 5, dtype=torch.bool)
    {"down": expected[:2], "up": expected[3:], "right": expected[:, :2], "left": expected[:, 3:]}[direction][:] = True
    assert torch.equal(seen, expected)


def test_directions_and_offsets_share_no_weights() -> None:
    networks = heads()
    parameters = list(networks.parameters())
    assert len({id(p) for p in parameters}) == len(parameters)
    assert list(networks.predictors) == list(DIRECTIONS) and list(heads(directions=1).predictors) == ["down"]
    first = networks.predictors["down"]
    assert set(first.predict) == {"2", "3"} and first.predict["2"].bias is not None
    plain = heads(version=1).predictors["down"]
    assert plain.predict["2"].bias is None and plain.predict["2"].weight.shape == (5, 5, 1, 1)
    assert torch.equal(plain.target(latents(1)), latents(1))


def test_all_directions_of_a_grid_that_no_turn_changes_have_the_same_loss() -> None:
    """Symmetric under the square's eight turns and mirrors, with shared weights."""
    z = latents(3)
    turns = [torch.rot90(m, k, (2, 3)) for m in (z, z.flip(3)) for k in range(4)]
    z = torch.stack(turns).mean(0)
    networks = heads()
    for predictor in networks.predictors.values():
        predictor.load_state_dict(networks.predictors["down"].state_dict())
    losses = [CPCLoss()(p).item() for p in networks(z).values()]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-12)
    apart = [CPCLoss()(p).item() for p in networks(latents(3)).values()]
    assert len({round(loss, 6) for loss in apart}) == 4


# the loss


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("candidates", "images"), [(0, 6), (2, 2), (6, 6)])
def test_equal_features_everywhere_have_the_loss_of_chance(version: int, candidates: int, images: int) -> None:
    z = latents(1, side=1).expand(6, 5, 5, 5)
    for predicted in heads(version)(z).values():
        for loss in CPCLoss(candidates).by_offset(predicted).values():
            assert loss.item() == pytest.approx(math.log(images * 25), rel=1e-12)


@pytest.mark.parametrize("candidates", [0, 2, 4])
def test_it_is_the_mean_of_cross_entropies_by_loops(candidates: int) -> None:
    predicted = heads(directions=1)(latents(4))["down"]
    targets, losses = predicted.targets, CPCLoss(candidates).by_offset(predicted)
    group = candidates or 4
    for offset, p in predicted.predictions.items():
        terms = []
        for i in range(4):
            members = targets[i // group * group : (i // group + 1) * group]
            for r in range(5 - offset):
                for j in range(5):
                    scores = torch.einsum("d,ndhw->nhw", p[i, :, r, j], members)
                    terms.append(scores.logsumexp((0, 1, 2)) - scores[i % group, r + offset, j])
        assert losses[offset].item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-12)


def test_what_is_predicted_exactly_is_found() -> None:
    """Targets apart, predictions that are the targets of rows below: accuracy 1; of the wrong rows: 0."""
    targets = 9 * torch.eye(2 * 9).view(2, 3, 3, 18).permute(0, 3, 1, 2).double()
    right = Predicted(targets, {1: targets[:, :, 1:], 2: targets[:, :, 2:]})
    assert CPCLoss().accuracy(right) == 1
    assert CPCLoss()(right).item() == pytest.approx(math.log(1 + 17 * math.exp(-81)), abs=1e-12)
    wrong = Predicted(targets, {1: targets[:, :, :2], 2: targets[:, :, 2:]})
    assert CPCLoss().accuracy(wrong) == 0.5


def test_candidates_are_places_of_the_own_image_too() -> None:
    """A place of the own image that looks the same doubles the denominator."""
    targets = 30 * torch.eye(9, dtype=torch.float64).view(1, 3, 3, 9).permute(0, 3, 1, 2)
    targets[:, :, 0, 0] = targets[:, :, 2, 0]
    loss = CPCLoss()(Predicted(targets, {2: targets[:, :, 2:]}))
    assert loss.item() == pytest.approx(math.log(2) / 3)


def test_images_in_another_order_have_the_same_loss() -> None:
    z, order = latents(6), torch.tensor([3, 1, 5, 4, 0, 2])
    networks = heads()
    expected = total(CPCLoss(), networks(z)).item()
    assert total(CPCLoss(), networks(z[order])).item() == pytest.approx(expected, rel=1e-12)
    assert total(CPCLoss(2), networks(z)).item() < expected


def test_scores_held_a_part_at_a_time_give_the_same_loss_and_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = loss_and_gradient(CPCLoss(), latents(6))
    monkeypatch.setattr(cpc, "CHUNK_ELEMENTS", 7 * 6 * 25)
    for ours, whole in zip(loss_and_gradient(CPCLoss(), latents(6)), expected, strict=True):
        assert torch.allclose(ours, whole, rtol=1e-10, atol=1e-14)


def test_halves_are_scored_in_float32() -> None:
    predicted = heads(directions=1)(latents(4))["down"]
    halves = Predicted(predicted.targets.bfloat16(), {o: x.bfloat16() for o, x in predicted.predictions.items()})
    with torch.autocast("cpu", torch.bfloat16):
        loss = CPCLoss()(halves)
    exact = CPCLoss()(Predicted(halves.targets.double(), {o: x.double() for o, x in halves.predictions.items()}))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact.item(), rel=1e-5)


def test_its_gradient_is_that_of_differences() -> None:
    networks = heads(directions=1, offsets=(2,))

    def loss(z: Tensor) -> Tensor:
        return total(CPCLoss(), networks(z))

    assert torch.autograd.gradcheck(loss, latents(2, side=4).requires_grad_())


def test_features_of_version_two_are_scaled_and_those_of_version_one_are_not() -> None:
    """Scores: 0.1 (P c)' (T z) and z' W c, by hand."""
    z = latents(2)
    for version in (1, 2):
        predictor = heads(version, directions=1).predictors["down"]
        predicted, c = predictor(z), predictor.context(z)
        layer = predictor.predict["3"]
        weight = layer.weight[:, :, 0, 0]
        p = torch.einsum("df,nfhw->ndhw", weight, c[:, :, :2])
        p = p if layer.bias is None else 0.1 * (p + layer.bias[:, None, None])
        assert torch.allclose(predicted.predictions[3], p, atol=1e-12)
    assert torch.allclose(c, F.relu(predictor.context.blocks(z)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"offset 5.*5 rows"):
        heads(offsets=(2, 5))(latents(1))
    with pytest.raises(ValueError, match=r"3 images.*candidates = 2"):
        CPCLoss(2)(heads(directions=1)(latents(3))["down"])
    for arguments in ({"offsets": ()}, {"offsets": (0, 2)}, {"version": 3}, {"directions": 2}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            heads(**arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(1, 4, 3, 5\).*\(1, 4, 5, 5\)"):
        CPCLoss()(Predicted(torch.zeros(1, 4, 5, 5), {3: torch.zeros(1, 4, 3, 5)}))
    with pytest.raises(ValueError, match="candidates = -1"):
        CPCLoss(-1)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path: Path) -> None:
    in_processes(__file__, tmp_path)
    both = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    settings = [(g, v) for g in (0, 2) for v in (1, 2)]
    for (g, v), first, second in zip(settings, *both, strict=True):
        loss, gradient, weight, right = loss_and_gradient(CPCLoss(g), latents(8), v)
        assert float((first[0] + second[0]) / 2) == pytest.approx(float(loss), rel=1e-12)
        assert torch.allclose(torch.cat([first[1], second[1]]) / 2, gradient, rtol=1e-9, atol=1e-14)
        assert torch.allclose((first[2] + second[2]) / 2, weight, rtol=1e-9, atol=1e-14)
        assert float((first[3] + second[3]) / 2) == pytest.approx(float(right), rel=1e-12)
