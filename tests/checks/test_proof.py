"""W processes train what one does, by the real trainer; and the proof sees what it must see."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from launching import in_processes
from parameters import rest_slow
from places import TESTS
from safetensors.torch import save_file

from simclr_plus.checks.proof import CASES, Case, compare, prove, untrained
from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch.start import launch
from simclr_plus.machine.whole_files import write_whole
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.trainer import train
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.tensor_files import read_header

# sums in another order show in float32; entries below 1 are compared absolutely
FLOAT32 = Case("lars", "float32", steps=3, learning_rate=0.01, tolerance=2e-5, scale=1.0)
OTHER_LOSSES = {
    "cross entropy": ["loss.name=cross_entropy"],
    "margin": ["loss.name=margin", "loss.semi_hard=true", "loss.negatives=other_view"],
    "NT-Logistic": ["loss.name=nt_logistic"],
    "NT-Xent of the other view": ["loss.negatives=other_view"],
    "rotation": ["method.name=rotation"],
}


QUICK = {
    **CASES,
    "LARS in float32": FLOAT32,
    **{name: Case("sgd", steps=3, overrides=tuple(keys)) for name, keys in OTHER_LOSSES.items()},
}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The run of each case, trained by the same two processes one after the other."""
    folder = tmp_path_factory.mktemp("of2")
    runs = {name: untrained(case, folder / name.replace(" ", "-")) for name, case in QUICK.items()}
    in_processes(TESTS / "train_in_turn.py", *(run.path for run in runs.values()))
    return runs


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_train_what_one_does_whatever_the_optimizer_and_the_loss(
    tmp_path: Path, of_two: dict[str, Run], name: str
) -> None:
    one = untrained(QUICK[name], tmp_path / "of1")
    assert train(one, quiet=True) == "finished"
    assert of_two[name].events()[0]["processes"] == 2
    findings = compare(one, of_two[name], QUICK[name])
    assert {f.kind for f in findings} == {"loss", "gradients", "weights", "statistics"}
    assert [f for f in findings if not f.equal] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "processes"), [*((name, n) for name in CASES for n in (3, 4)), ("LARS in float32", 4)]
)
def test_many_processes_train_what_one_does(tmp_path: Path, name: str, processes: int) -> None:
    case = replace(QUICK[name], batch=24 if processes == 3 else 32)
    findings, device = prove(case, processes, tmp_path)
    assert device == ("cuda:0" if torch.cuda.is_available() else "cpu")
    assert Run(tmp_path / f"of{processes}").events()[0]["processes"] == processes
    assert {f.kind for f in findings} == {"loss", "gradients", "weights", "statistics"}
    assert [f for f in findings if not f.equal] == []


@pytest.fixture(scope="module")
def two_equal_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    folder = tmp_path_factory.mktemp("proof")
    one, other = (untrained(CASES["SGD"], folder / name) for name in ("one", "other"))
    for run in (one, other):
        train(run, quiet=True)
    return one, other


@pytest.mark.parametrize(
    ("kind", "tensor"),
    [
        ("weights", "encoder.layer1.0.bn1.weight"),
        ("statistics", "encoder.bn1.running_var"),
        ("gradients", "optimizer.head.layers.0.weight.momentum_buffer"),
    ],
)
@pytest.mark.parametrize("change", rest_slow([1e-7, float("nan")]))
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


@pytest.mark.slow
def test_a_batch_that_the_processes_cannot_share_is_refused_before_training(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", [*tiny, "training.batch_size=33"]), tmp_path, "run")
    with pytest.raises(
        SimclrPlusError, match=r"training.batch_size = 33 does not divide by 2 processes; use 32 or 34"
    ) as e:
        launch(run, 2, quiet=True)
    assert e.value.exit_code == 2 and run.checkpoint_files() == []
