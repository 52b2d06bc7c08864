"""Our parts in Lightly's own loops: each swapped alone into plain PyTorch and into Lightning's DDP, on real images.

The programs are in lightly_programs/; each runs once, in a process of its own, and leaves what the tests look at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from places import TESTS
from torch import Tensor

import simclr_plus

PROGRAMS = TESTS / "lightly_programs"
PARTS = ("transform", "head", "loss", "lars", "global_batch_norm")
NAMES = ("none", *PARTS, "all")
LARS_RATE, SGD_RATE, TRUST = 5.0, 0.06, 0.001  # as in lightly_programs/parts.py


def run(program: str, *arguments: str | Path) -> None:
    command = [sys.executable, str(PROGRAMS / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("plain")
    run("plain.py", out, "all")
    return {name: torch.load(out / f"{name}.pt", weights_only=True) for name in NAMES}


@pytest.fixture(scope="module")
def longer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The same with two epochs each."""
    out = tmp_path_factory.mktemp("longer")
    run("plain.py", out, *NAMES)
    return {name: torch.load(out / f"{name}.pt", weights_only=True) for name in NAMES}


@pytest.fixture(scope="module")
def ddp(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("lightning")
    run("lightning.py", out)
    return {name: [torch.load(out / f"{name}.{rank}.pt", weights_only=True) for rank in (0, 1)] for name in NAMES}


# plain PyTorch


def test_lightlys_loop_learns_with_all_our_parts(plain: dict[str, dict[str, Any]]) -> None:
    losses = plain["all"]["losses"]
    assert len(losses) == 8 and sum(losses[4:]) < sum(losses[:4])  # two epochs of four batches


@pytest.mark.slow
@pytest.mark.parametrize("part", ["none", *PARTS])
def test_lightlys_loop_learns_with_any_part_of_ours(longer: dict[str, dict[str, Any]], part: str) -> None:
    losses = longer[part]["losses"]
    assert len(losses) == 8 and sum(losses[4:]) < sum(losses[:4])  # two epochs of four batches


def test_our_loss_gives_the_losses_and_weights_that_lightlys_gives(plain: dict[str, dict[str, Any]]) -> None:
    theirs, ours = plain["none"], plain["loss"]
    assert ours["losses"][:2] == pytest.approx(theirs["losses"][:2], rel=1e-4)
    assert_close(ours["after_one"], theirs["after_one"])


def test_global_batch_norm_alone_changes_the_running_variance_and_nothing_else(
    plain: dict[str, dict[str, Any]],
) -> None:
    theirs, ours = plain["none"]["after_one"], plain["global_batch_norm"]["after_one"]
    assert plain["global_batch_norm"]["losses"][:2] == pytest.approx(plain["none"]["losses"][:2], rel=1e-4)
    variance = "backbone.1.running_var"
    assert_close({k: v for k, v in ours.items() if "running_var" not in k}, theirs)
    n, kept = 32 * 16 * 16, 0.9**2  # values of a channel behind the stem; what two views leave of the first variance, 1
    torch.testing.assert_close(ours[variance], kept + (theirs[variance] - kept) * (n - 1) / n, rtol=0, atol=1e-6)
    assert not torch.allclose(ours[variance], theirs[variance], rtol=0, atol=1e-7)


def test_our_head_takes_lightlys_weights_and_starts_from_the_same_loss(plain: dict[str, dict[str, Any]]) -> None:
    theirs, ours = plain["none"], plain["head"]
    assert ours["losses"][0] == pytest.approx(theirs["losses"][0], rel=1e-6)
    assert theirs["end"].keys() - ours["end"].keys() == {"projection_head.layers.4.bias"}
    assert_close({k: v for k, v in ours["after_one"].items() if "running_var" not in k}, theirs["after_one"])


def test_lars_moves_each_matrix_by_its_own_length_and_the_rest_as_sgd_does(plain: dict[str, dict[str, Any]]) -> None:
    start, ours, theirs = (plain["lars"]["start"], plain["lars"]["after_one"], plain["none"]["after_one"])
    for name in start:
        if "running" in name or "num_batches" in name:
            continue
        moved, moved_by_sgd = ours[name] - start[name], theirs[name] - start[name]
        if start[name].ndim > 1:  # weight decay 1e-6 is too small to see
            share = float(moved.norm() / start[name].norm())
            assert share == pytest.approx(LARS_RATE * TRUST, rel=1e-3), name
        else:
            torch.testing.assert_close(moved, moved_by_sgd * (LARS_RATE / SGD_RATE), rtol=1e-3, atol=1e-5)


def test_our_views_stay_in_zero_to_one_and_lightlys_are_standardised(plain: dict[str, dict[str, Any]]) -> None:
    ours, theirs = plain["transform"]["views"], plain["none"]["views"]
    assert ours.shape == theirs.shape == (2, 32, 3, 32, 32)
    assert ours.min() >= 0 and ours.max() <= 1 and theirs.min() < -1
    assert not torch.equal(ours[0], ours[1])


# Lightning, two processes


@pytest.mark.slow
@pytest.mark.parametrize("part", NAMES)
def test_two_lightning_processes_keep_equal_weights_on_different_images(
    ddp: dict[str, list[dict[str, Any]]], part: str
) -> None:
    first, second = ddp[part]
    assert len(first["losses"]) == len(second["losses"]) == 4
    assert all(torch.isfinite(torch.tensor(r["losses"])).all() for r in (first, second))
    assert not torch.equal(first["views"], second["views"])
    trained = {k: v for k, v in first["end"].items() if "running" not in k}
    assert_close(trained, second["end"], 0)


@pytest.mark.slow
def test_our_loss_gathers_as_lightlys_does_under_ddp(ddp: dict[str, list[dict[str, Any]]]) -> None:
    for rank in (0, 1):
        ours, theirs = ddp["loss"][rank], ddp["none"][rank]
        assert ours["losses"][:2] == pytest.approx(theirs["losses"][:2], rel=1e-4)
        assert_close(ours["after_one"], theirs["after_one"])


@pytest.mark.slow
def test_only_global_batch_norm_gives_both_processes_the_same_statistics(ddp: dict[str, list[dict[str, Any]]]) -> None:
    name = "backbone.1.running_mean"
    local, everywhere = ([r["after_one"][name] for r in ddp[part]] for part in ("none", "global_batch_norm"))
    torch.testing.assert_close(everywhere[0], everywhere[1], rtol=0, atol=0)
    assert not torch.allclose(local[0], local[1])
    torch.testing.assert_close(everywhere[0], (local[0] + local[1]) / 2, rtol=0, atol=1e-6)  # of equal batches


@pytest.mark.slow
def test_our_head_and_lars_keep_their_rules_under_ddp(ddp: dict[str, list[dict[str, Any]]]) -> None:
    name = "projection_head.layers.1.running_mean"  # the head's own norms are global
    local, everywhere = ([r["after_one"][name] for r in ddp[part]] for part in ("none", "head"))
    torch.testing.assert_close(everywhere[0], everywhere[1], rtol=0, atol=0)
    assert not torch.allclose(local[0], local[1])
    assert "projection_head.layers.4.bias" not in ddp["all"][0]["end"]
    for matrix in ("projection_head.layers.0.weight", "backbone.0.weight"):
        start = ddp["lars"][0]["start"][matrix]
        share = (ddp["lars"][0]["after_one"][matrix] - start).norm() / start.norm()
        assert float(share) == pytest.approx(LARS_RATE * TRUST, rel=1e-3)


# the README


def test_the_readmes_script_trains(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands there, but for the folder, the size of images, batch and network, and the workers."""
    readme = (PROGRAMS.parent.parent / "README.md").read_text()
    script = readme.partition("## In a Lightly script")[2].partition("```python\n")[2].partition("```")[0]
    smaller = {
        '"PHOTOS"': repr(str(photos)),
        "input_size=224": "input_size=32",
        "batch_size=256": "batch_size=16",
        "ResNet(50)": "ResNet(18, 0.25)",
        "(2048, 2048, 128)": "(128, 128, 16)",
        "num_workers=8": "num_workers=0",
        "256**0.5": "16**0.5",
    }
    for old, new in smaller.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    losses: list[float] = []
    monkeypatch.setattr(torch.Tensor, "backward", _noting(losses))
    exec(compile(script, "README.md", "exec"), {})
    assert len(losses) == 3 and all(0 < loss < 10 for loss in losses)


def _noting(losses: list[float]) -> Any:
    backward = torch.Tensor.backward

    def noted(loss: Tensor, *arguments: Any, **options: Any) -> None:
        losses.append(loss.item())
        backward(loss, *arguments, **options)

    return noted


# Lightly's evaluators


@pytest.mark.slow
def test_our_encoder_is_evaluated_by_lightlys_linear_and_knn_classifiers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = tmp_path / "encoder.safetensors"
    simclr_plus.save_encoder(simclr_plus.ResNet(18, 0.25), encoder)
    run("evaluators.py", encoder, tmp_path)
    found = json.loads((tmp_path / "found.json").read_text())
    theirs = {key: value for part in found["knn"] for key, value in part.items()}
    assert theirs["val_knn_top1/dataloader_idx_1"] == pytest.approx(found["knn_ours"]["top1"], abs=1e-6)
    assert theirs["val_knn_top5/dataloader_idx_1"] == pytest.approx(found["knn_ours"]["top5"], abs=1e-6)
    assert found["encoder_unchanged"]
    assert found["linear"][-1] > 0.25  # chance is 0.1
    assert found["linear"][-1] == pytest.approx(found["linear_by_hand"], abs=1e-6)


def assert_close(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    """Float32 sums in another order: within a share of each tensor's largest entry, entries below 0.01 absolutely."""
    assert len(ours) > 5
    for name, tensor in ours.items():
        difference = float((tensor - theirs[name]).abs().max())
        assert difference <= tolerance * max(0.01, float(theirs[name].abs().max())), name
