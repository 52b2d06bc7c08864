from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.machine.whole_files import remove_unfinished
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.trainer import train
from simclr_plus.weights import background_saving
from simclr_plus.weights.background_saving import CheckpointSaver
from simclr_plus.weights.tensor_files import write_tensors


def something(size: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of one weight and one buffer."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.arange(float(size)))
    model.register_buffer("statistics", torch.arange(5.0))
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


def some_tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "kernel": torch.randn(8, 4, 3, 3, generator=generator).to(memory_format=torch.channels_last),
        "half": torch.randn(5, generator=generator).bfloat16(),
        "double": torch.randn(3, 2, generator=generator).double(),
        "count": torch.tensor(7),
        "empty": torch.zeros(0, 3),
        "mask": torch.tensor([True, False, True]),
    }


def test_what_is_written_is_what_safetensors_reads(tmp_path: Path) -> None:
    tensors = some_tensors()
    write_tensors(tmp_path / "a.safetensors", tensors, {"b": "ä", "a": "1"})
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name
    write_tensors(tmp_path / "b.safetensors", dict(reversed(tensors.items())), {"a": "1", "b": "ä"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_saved_state_is_that_of_the_moment_of_saving(tmp_path: Path) -> None:
    model, optimizer = something(400_000)
    with CheckpointSaver() as saver:
        for i in range(3):
            expected = {name: x.clone() for name, x in model.state_dict().items()}
            path = tmp_path / f"{i}.safetensors"
            saver.save(path, model, optimizer, {"i": str(i)})
            model.statistics += 1  # a forward pass
            saver.before_update()
            model.weight.data *= 2  # an update
            assert saver.wait() == path and saver.wait() is None
            found = load_file(path)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_the_loop_goes_on_while_the_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = tmp_path / "gate"

    def slow(path: Path, tensors: dict[str, torch.Tensor], header: dict[str, str]) -> None:
        while not gate.exists():
            time.sleep(0.01)
        write_tensors(path, tensors, header)

    monkeypatch.setattr(background_saving, "write_tensors", slow)
    path = tmp_path / "a.safetensors"
    with CheckpointSaver() as saver:
        saver.save(path, *something(3), {})
        saver.before_update()
        assert saver.finished() is None and not path.exists()
        gate.touch()
        while saver.finished() is None:
            time.sleep(0.01)
        assert path.exists() and saver.finished() is None


def test_leaving_waits_for_the_file_under_way(tmp_path: Path) -> None:
    with CheckpointSaver() as saver:
        saver.save(tmp_path / "a.safetensors", *something(1_000_000), {})
    assert load_file(tmp_path / "a.safetensors")["weight"][-1] == 999_999


def test_a_save_that_fails_is_told_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with CheckpointSaver() as saver:
        saver.save(tmp_path / "file" / "a.safetensors", *something(3), {})
        with pytest.raises(EnvironmentNotAbleError, match=r"cannot write .*permissions"):
            saver.wait()
        saver.save(tmp_path / "b.safetensors", *something(3), {})
        assert saver.wait() == tmp_path / "b.safetensors"


KILLED = """
import sys, torch
from pathlib import Path
from simclr_plus.weights.background_saving import CheckpointSaver
folder = Path(sys.argv[1])
with CheckpointSaver() as saver:
    for step in (1, 2):
        weights = torch.nn.ParameterList([torch.full((1_000_000,), float(step)) for _ in range(60)])
        optimizer = torch.optim.SGD(weights, lr=1.0)
        saver.save(folder / f"step_{step}.safetensors", weights, optimizer, {"step": str(step)})
        if step == 1:
            saver.wait()
    print("second save begun", flush=True)
"""


def test_killed_while_it_saves_the_previous_checkpoint_is_intact(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.DEVNULL)
    begun: list[Path] = []
    while not begun or begun[0].stat().st_size < 1_000_000:
        assert process.poll() is None, "it ended before it could be killed"
        begun = list(tmp_path.glob(".step_2.*.part"))
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "step_2.safetensors").exists()
    found = load_file(tmp_path / "step_1.safetensors")
    assert len(found) == 60 and all(bool((x == 1).all()) for x in found.values())
    assert begun[0].exists()
    remove_unfinished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step_1.safetensors"]


@pytest.mark.slow
def test_a_run_whose_checkpoint_cannot_be_written_stops_with_the_reason(tmp_path: Path, tiny: list[str]) -> None:
    """A limit on the size of files stands for a full disk."""
    code = """
import resource, signal, sys
from pathlib import Path
from simclr_plus.augmentations.views import compile_views
from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.runs.folder import Run
from simclr_plus.training.trainer import train
run = Run(Path(sys.argv[1]))
compile_views(run.recipe().law)  # its cache is written before the disk is full
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    train(run, quiet=True)
except EnvironmentNotAbleError as error:
    print(error)
"""
    overrides = [*tiny, "checkpoints.every_epochs=0.25", "training.epochs=3"]
    run = create_run(load_recipe("demo", overrides), tmp_path, "full")
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout and "free some space" in done.stdout
    assert run.checkpoint_files() == [] and 0 < len(run.metrics()) < 24
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_a_killed_process_left_is_cleared_when_the_run_goes_on(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", tiny), tmp_path, "run")
    run.checkpoints.mkdir()
    (run.checkpoints / ".step_00000002.safetensors.77.part").write_bytes(b"half")
    assert train(run, quiet=True) == "finished"
    assert [p.name for p in run.checkpoints.iterdir()] == ["step_00000009.safetensors"]
    assert [e["step"] for e in run.events() if e["event"] == "checkpoint"] == [9]
