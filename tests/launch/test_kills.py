"""SIGKILL at random moments: of a rank, of torchrun, of the supervisor, of all; then resume, to the same bytes.

`make test-all` does it 3 times, `make soak` 20 times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from launching import CLI, environment, gone, pids_of, processes_naming, ps, same_bytes, wait_for

from simclr_plus.machine.processes import start_time
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import read_heartbeats
from simclr_plus.runs.states import read_status, state_of

VICTIMS = ("rank", "torchrun", "supervisor", "all")
LENGTH = ["training.epochs=8", "checkpoints.every_epochs=0.5", "checkpoints.keep_last=3"]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import TINY

    folder = tmp_path_factory.mktemp("unbroken")
    command = [*CLI, "run", "demo", *TINY, *LENGTH, "--nproc", "2", "--name", "unbroken", "--runs", str(folder)]
    done = subprocess.run(command, env=environment(folder), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Run(folder / "unbroken")


def child_of(pid: int) -> list[int]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(place.name))
    return found


def victims(run: Run, kind: str, draw: random.Random) -> list[int]:
    supervisor = int(read_status(run)["pid"])
    ranks = [heartbeat.pid for heartbeat in read_heartbeats(run.logs).values()]
    agents = child_of(supervisor)
    chosen = {"rank": [draw.choice(ranks)] if ranks else [], "torchrun": agents, "supervisor": [supervisor]}
    return chosen.get(kind, [*ranks, *agents, supervisor])


def kill_and_resume(folder: Path, unbroken: Run, keys: list[str], seed: int, processes: int = 2) -> None:
    draw, kind = random.Random(seed), VICTIMS[seed % len(VICTIMS)]
    name = f"x{seed}"
    command = [*CLI, "run", "demo", *keys, "--nproc", str(processes), "--name", name, "-d", "--runs", str(folder)]
    subprocess.run(command, env=environment(folder), capture_output=True, check=True, timeout=120)
    run = Run(folder / name)
    if draw.random() < 0.8:  # else before the first step
        wait_for(run.metrics, "a step")
    time.sleep(draw.uniform(0, 5))
    pids = pids_of(run) | {pid: start_time(pid) for pid in child_of(int(read_status(run)["pid"]))}
    for pid in victims(run, kind, draw):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    wait_for(lambda: gone(pids), f"the end of all processes after the kill of {kind}", seconds=60)
    wait_for(lambda: not processes_naming(run), "no orphan", seconds=20)
    wait_for(lambda: state_of(run).name != "running", "the lock of the process that was killed", seconds=10)
    state, seen = state_of(run).name, ps(folder, name)["state"]
    assert state == seen
    if run.events() and run.events()[-1].get("reason") == "finished":  # it was too late
        assert state == "finished"
    else:
        assert state == ("lost" if kind in ("supervisor", "all") else "failed"), (kind, state, read_status(run))
        again = subprocess.run(
            [*CLI, "resume", name, "--runs", str(folder)],
            env=environment(folder),
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert again.returncode == 0, again.stderr
    assert same_bytes(unbroken, run) and state_of(run).name == "finished"
    assert not processes_naming(run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_kill_at_a_random_moment_costs_nothing_but_time(
    tmp_path: Path, tiny: list[str], unbroken: Run, seed: int
) -> None:
    kill_and_resume(tmp_path, unbroken, [*tiny, *LENGTH], seed)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [3, pytest.param(4, marks=pytest.mark.soak)])
def test_a_kill_costs_nothing_but_time_where_the_order_of_sums_could_matter(
    tmp_path: Path, tiny: list[str], processes: int
) -> None:
    """From 3 processes on a sum depends on its order; see training/trainer.py for what could change it."""
    keys = [*tiny, *LENGTH, "training.batch_size=48", "data.limit=240"]
    command = [*CLI, "run", "demo", *keys, "--nproc", str(processes), "--name", "unbroken", "--runs", str(tmp_path)]
    subprocess.run(command, env=environment(tmp_path), capture_output=True, check=True, timeout=300)
    kill_and_resume(tmp_path, Run(tmp_path / "unbroken"), keys, seed=processes, processes=processes)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(100, 120))
def test_twenty_kills_at_random_moments_cost_nothing_but_time(
    tmp_path: Path, tiny: list[str], unbroken: Run, seed: int
) -> None:
    kill_and_resume(tmp_path, unbroken, [*tiny, *LENGTH], seed)
