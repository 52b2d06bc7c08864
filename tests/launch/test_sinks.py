"""Metrics on their way to TensorBoard and Weights & Biases; a sink that fails leaves training alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from launching import environment, processes_naming

from simclr_plus.launch.sinks import TensorBoard, pass_on
from simclr_plus.recipe import Recipe, load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.states import read_status


class Listed:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.taken: list[tuple[int, dict[str, float]]] = []
        self.closed = False

    def take(self, step: int, numbers: dict[str, float]) -> None:
        self.taken.append((step, numbers))

    def close(self) -> None:
        self.closed = True

    def made(self, run: Run, recipe: Recipe, last_step: int) -> Listed:
        return self


def test_lines_are_passed_on_once_also_over_a_restart(tmp_path: Path) -> None:
    run, first, second = create_run(load_recipe("demo"), tmp_path, "x"), Listed(), Listed()
    run.logs.mkdir()
    for step in (1, 2):
        run.log_metrics({"step": step, "time": 5.0, "loss": step / 2, "knn": None, "word": "a"})
    pass_on(run, "listed", first.made, lambda: True)
    assert first.taken == [(1, {"loss": 0.5}), (2, {"loss": 1.0})] and first.closed
    ending: list[int] = []
    thread = threading.Thread(target=pass_on, args=(run, "listed", second.made, lambda: bool(ending)))
    thread.start()
    run.log_metrics({"step": 2, "loss": 7.0})  # the resumed run goes through it again
    time.sleep(0.3)
    run.log_metrics({"step": 3, "loss": 8.0})
    ending.append(1)
    thread.join(20)
    assert second.taken == [(2, {"loss": 7.0}), (3, {"loss": 8.0})] and second.closed


def test_tensorboard_shows_the_steps_gone_through_last(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = create_run(load_recipe("demo"), tmp_path, "x")
    run.logs.mkdir()
    for step in (1, 2, 3):
        run.log_metrics({"step": step, "loss": float(step)})
    pass_on(run, "tensorboard", TensorBoard, lambda: True)
    time.sleep(1.1)  # files are named by the second
    for step in (2, 3, 4):
        run.log_metrics({"step": step, "loss": 10.0 * step})
    pass_on(run, "tensorboard", TensorBoard, lambda: True)
    shown = EventAccumulator(str(run.path / "tensorboard"))
    shown.Reload()
    assert [(e.step, e.value) for e in shown.Scalars("loss")] == [(1, 1.0), (2, 20.0), (3, 30.0), (4, 40.0)]


@pytest.mark.slow
def test_wandb_takes_a_run_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    run = create_run(load_recipe("demo", ["monitor.wandb=offline"]), tmp_path, "x")
    run.logs.mkdir()
    for step in (1, 2):
        run.log_metrics({"step": step, "loss": 0.5})
    code = (
        "import sys; from pathlib import Path; from simclr_plus.runs.folder import Run;"
        "from simclr_plus.launch.sinks import *;"
        "run = Run(Path(sys.argv[1])); pass_on(run, 'wandb', wanted(run.recipe())['wandb'], lambda: True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.path],
        env={**os.environ, "WANDB_SILENT": "true"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(kept) == 1 and b"train_step" in kept[0].read_bytes() and b"loss" in kept[0].read_bytes()
    assert json.loads((run.logs / "sink.wandb.json").read_text()) == {"lines": 2, "step": 2}


@pytest.mark.slow
def test_sinks_that_fail_or_hang_leave_training_alone(
    tmp_path: Path,
    tiny: list[str],
    simclr_plus: Callable[..., subprocess.CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as in `environment`: the same sums in the same order
    command = ["run", "demo", *tiny, "--name", "plain"]
    assert simclr_plus(*command, cwd=tmp_path).returncode == 0
    broken = tmp_path / "broken"
    for package, body in (("tensorboard", "raise ImportError('gone')"), ("wandb", "import time; time.sleep(1000)")):
        (broken / package).mkdir(parents=True)
        (broken / package / "__init__.py").write_text(body)
    code = "from simclr_plus.launch import sinks, supervisor; sinks.SECONDS_FOR_SINKS = 2.0; supervisor.main()"
    run = create_run(
        load_recipe("demo", [*tiny, "monitor.tensorboard=true", "monitor.wandb=offline"]), tmp_path / "runs", "x"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run.path, "--processes", "1"],
        env={**environment(tmp_path), "PYTHONPATH": str(broken)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert read_status(run)["state"] == "finished" and not processes_naming(run)
    assert "pip install 'simclr-plus[tensorboard]'" in (run.logs / "sink.tensorboard.log").read_text()
    plain = Run(tmp_path / "runs" / "plain")
    assert plain.metrics()[-1]["loss"] == run.metrics()[-1]["loss"]
