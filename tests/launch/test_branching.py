"""`resume RUN key=value`: a run with keys changed can go on, with its parent's processes, or is not made at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from simclr_plus.cli.app import app
from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch import start
from simclr_plus.launch.order import Order
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import folder as runs
from simclr_plus.runs.folder import Run, branch_run, create_run
from simclr_plus.runs.states import write_status
from simclr_plus.training.trainer import train
from simclr_plus.weights.tensor_files import read_header, write_tensors


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import TINY

    run = create_run(load_recipe("demo", TINY), tmp_path_factory.mktemp("runs"), "parent")
    train(run, quiet=True)
    return run


@pytest.fixture
def parent(trained: Run, tmp_path: Path) -> Run:
    """A run of 9 steps that 2 processes trained, in a folder of its own."""
    run = Run(tmp_path / "parent")
    shutil.copytree(trained.path, run.path)
    write_status(run, {"state": "finished", "processes": 2})
    return run


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Run, Order]]:
    """What is started in place of training."""
    started: list[tuple[Run, Order]] = []

    def note(run: Run, order: Order, **_named: Any) -> int:
        started.append((run, order))
        return 0

    monkeypatch.setattr(start, "launch", note)
    return started


def resume(run: Run, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["resume", run.name, "--runs", str(run.path.parent), *arguments])


@pytest.mark.parametrize(
    "arguments",
    [
        ["training.batch_size=64"],
        ["training.seed=1", "training.epochs=2"],
        ["training.epochs=0.5"],
        ["training.init_from=x.safetensors", "training.epochs=2"],
        ["data.limit=128", "training.epochs=2"],
        ["encoder.width=0.25", "training.epochs=2"],
        ["head.num_layers=3", "training.epochs=2"],
        ["training.probe=false", "training.epochs=2"],
        ["loss.name=cross_entropy", "training.epochs=2"],
        ["training.epochs=2", "--nproc", "3"],
        ["training.epochs=2", "--slurm"],
        ["training.epochs=2", "--name", "a/b"],
        ["training.epochs=2", "--nodes", "2"],
        ["training.epochs=2", "data.name=folder", "data.root=/nowhere"],
    ],
)
def test_what_cannot_go_on_leaves_no_run_behind(
    parent: Run, orders: list[tuple[Run, Order]], arguments: list[str]
) -> None:
    done = resume(parent, *arguments)
    assert done.exit_code != 0 and not orders
    assert [path.name for path in parent.path.parent.iterdir()] == ["parent"]


def test_a_dry_run_of_a_branch_writes_nothing(parent: Run, orders: list[tuple[Run, Order]]) -> None:
    done = resume(parent, "training.epochs=2", "--dry-run")
    assert done.exit_code == 0 and not orders and "parent-2" in done.output
    assert [path.name for path in parent.path.parent.iterdir()] == ["parent"]


def test_a_branch_and_its_branch_keep_the_parents_processes(parent: Run, orders: list[tuple[Run, Order]]) -> None:
    folder = parent.path.parent
    assert resume(parent, "training.epochs=2").exit_code == 0
    assert resume(Run(folder / "parent-2"), "training.epochs=3").exit_code == 0
    assert resume(parent, "training.epochs=2", "--nproc", "4", "--name", "other").exit_code == 0
    assert [(run.name, order.processes) for run, order in orders] == [("parent-2", 2), ("parent-2-2", 2), ("other", 4)]
    assert Run(folder / "parent-2-2").recipe().training.epochs == 3
    newest = parent.checkpoint_files()[-1]
    assert Run(folder / "parent-2-2").checkpoint_file(9).read_bytes() == newest.read_bytes()


def test_a_folder_that_moved_is_the_same_data_and_an_early_checkpoint_cannot_tell(
    tmp_path: Path, tiny: list[str], photos: Path, orders: list[tuple[Run, Order]]
) -> None:
    for name in ("here", "there"):
        shutil.copytree(photos, tmp_path / "photos" / name)
    data = ["data.name=folder", "data.limit=0", "training.batch_size=16", "training.warmup_epochs=0"]
    recipe = load_recipe("demo", [*tiny, *data, f"data.root={tmp_path / 'photos' / 'here'}"])
    run = create_run(recipe, tmp_path / "runs", "parent")
    train(run, quiet=True)
    moved = ["training.epochs=2", f"data.root={tmp_path / 'photos' / 'there'}"]
    assert resume(run, *moved).exit_code == 0 and len(orders) == 1
    (tmp_path / "photos" / "there" / "sea" / "00.jpg").rename(tmp_path / "photos" / "there" / "sea" / "x.jpg")
    assert resume(run, *moved).exit_code != 0 and len(orders) == 1
    path = run.latest_checkpoint()
    header = {key: value for key, value in read_header(path).items() if not key.endswith("_digest")}
    from safetensors.torch import load_file

    write_tensors(path, load_file(path), header)
    (tmp_path / "photos" / "there" / "sea" / "x.jpg").rename(tmp_path / "photos" / "there" / "sea" / "00.jpg")
    assert resume(run, *moved).exit_code != 0 and len(orders) == 1
    assert resume(run, "training.epochs=2").exit_code == 0 and len(orders) == 2


def test_a_checkpoint_that_the_parent_drops_meanwhile_is_replaced_by_its_newest(
    parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = parent.checkpoint_file(18)
    link = runs.os.link

    def dropped_before(source: Path, target: Path) -> None:
        if source.name == "step_00000009.safetensors":
            source.rename(newer)
        link(source, target)

    monkeypatch.setattr(runs.os, "link", dropped_before)
    branch = branch_run(parent, parent.recipe(), "branch", [])
    assert [file.name for file in branch.checkpoint_files()] == [newer.name]
    assert sorted(path.name for path in parent.path.parent.iterdir()) == ["branch", "parent"]


def test_a_checkpoint_that_cannot_be_copied_leaves_no_half_run(parent: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runs.os, "link", full)
    monkeypatch.setattr(runs.shutil, "copyfile", full)
    with pytest.raises((SimclrPlusError, OSError), match="No space left"):
        branch_run(parent, parent.recipe(), "branch", [])
    assert [path.name for path in parent.path.parent.iterdir()] == ["parent"]
