"""W processes train what one does, by the real trainer; and the proof sees what it must see."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from simclr_plus.checkpoints import load_checkpoint, read_header
from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch import launch
from simclr_plus.proof import CASES, Case, compare, prove, trained
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import Run, create_run
from simclr_plus.whole_files import write_whole

# sums in another order show in float32; entries below 1 are compared absolutely
FLOAT32 = Case("lars", "float32", steps=3, learning_rate=0.01, tolerance=2e-5, scale=1.0)
OTHER_LOSSES = {
    "cross entropy": ["loss.name=cross_entropy"],
    "margin": ["loss.name=margin", "loss.semi_hard=true", "loss.negatives=other_view"],
    "NT-Logistic": ["loss.name=nt_logistic"],
    "NT-Xent of the other view": ["loss.negatives=other_view"],
}


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("case", [*CASES.values(), FLOAT32], ids=[*CASES, "LARS in float32"])
def test_processes_train_what_one_does(tmp_path: Path, case: Case, processes: int) -> None:
    findings, device = prove(case, processes, tmp_path)
    assert device == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert Run(tmp_path / f"of{processes}").events()[0]["processes"] == processes
    assert {f.kind for f in findings} == {"loss", "gradients", "weights", "statistics"}
    assert [f for f in findings if not f.equal] == []


@pytest.mark.parametrize("name", OTHER_LOSSES)
def test_processes_train_what_one_does_whatever_the_loss(tmp_path: Path, name: str) -> None:
    findings, _ = prove(Case("sgd", steps=3, overrides=tuple(OTHER_LOSSES[name])), 2, tmp_path)
    assert {f.kind for f in findings} == {"loss", "gradients", "weights", "statistics"}
    assert [f for f in findings if not f.equal] == []


@pytest.fixture(scope="module")
def two_equal_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("proof")
    one, other = (trained(CASES["SGD"], 1, folder / name) for name in ("one", "other"))
    return one, other


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("weights", "encoder.layer1.0.bn1.weight"),
        ("statistics", "encoder.bn1.running_var"),
        ("gradients", "optimizer.head.layers.0.weight.momentum_buffer"),
    ],
)
@pytest.mark.parametrize("change", [1e-7, float("nan")])
def test_a_changed_entry_is_found_and_named(
    two_equal_runs: tuple[Run, Run], kind: str, tensor: str, change: float
) -> None:
    one, other = two_equal_runs
    assert all(f.difference == 0 for f in compare(one, other, CASES["SGD"]))
    file = other.checkpoint_files()[3]
    untouched, checkpoint = file.read_bytes(), load_checkpoint(file)
    entry = checkpoint.tensors[tensor].view(-1)
    entry[0] += change * entry.abs().max()
    try:
        header = read_header(file)
        write_whole(file, lambda path: save_file(checkpoint.tensors, path, header))
        found = {f.kind: f for f in compare(one, other, CASES["SGD"])}
    finally:
        file.write_bytes(untouched)
    assert not found[kind].equal and found[kind].where.endswith(tensor)
    assert all(f.equal for other_kind, f in found.items() if other_kind != kind)


def test_a_batch_that_the_processes_cannot_share_is_refused_before_training(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", [*tiny, "training.batch_size=33"]), tmp_path, "run")
    with pytest.raises(
        SimclrPlusError, match=r"training.batch_size = 33 does not divide by 2 processes; use 32 or 34"
    ) as e:
        launch(run, 2, quiet=True)
    assert e.value.exit_code == 2 and run.checkpoint_files() == []
