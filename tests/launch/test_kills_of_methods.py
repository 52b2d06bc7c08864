"""SIGKILL of two processes that train a method, then resume, to the bytes of an unbroken run.

Methods with a memory of their own in every long run, the others in `make soak`. That every method goes on from any of
its checkpoints to the same bytes, in one process, is tested in training/.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from launching import CLI, environment, gone, pids_of, processes_naming, same_bytes, wait_for
from method_settings import TINY as OF_METHOD

from simclr_plus.recipe.method_keys import METHODS
from simclr_plus.runs.folder import Run
from simclr_plus.runs.states import state_of

# banks, queues, networks that follow, vectors of spectral norms, a prior
WITH_MEMORY = [n for n in ("moco", "instdist", "pirl", "cmc", "bigan", "colorization") if n in METHODS]
LENGTH = ["training.epochs=4", "checkpoints.every_epochs=0.5", "checkpoints.keep_last=9"]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in WITH_MEMORY else pytest.mark.soak) for n in METHODS],
)
def test_a_killed_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, tiny: list[str], name: str) -> None:
    keys = [f"method.name={name}", *tiny, *OF_METHOD[name], *LENGTH, "--nproc", "2", "--runs", str(tmp_path)]
    for run, how in (("unbroken", []), ("killed", ["--detach"])):
        command = [*CLI, "run", "demo", *keys, "--name", run, *how]
        done = subprocess.run(
            command, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
    unbroken, killed = Run(tmp_path / "unbroken"), Run(tmp_path / "killed")
    wait_for(lambda: len(killed.checkpoint_files()) >= 2, "two checkpoints")
    pids = pids_of(killed)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: gone(pids) and not processes_naming(killed), "the end of all processes", seconds=60)
    wait_for(lambda: state_of(killed).name != "running", "the lock of the process that was killed", seconds=10)
    assert state_of(killed).name == "lost" and len(killed.checkpoint_files()) < len(unbroken.checkpoint_files())
    command = [*CLI, "resume", "killed", "--runs", str(tmp_path)]
    again = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False, timeout=300)
    assert again.returncode == 0, again.stderr
    assert same_bytes(unbroken, killed) and state_of(killed).name == "finished"
