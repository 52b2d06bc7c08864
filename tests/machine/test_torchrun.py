"""Whose variables are WORLD_SIZE and RANK? torchrun's alone count, and its children get no one else's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from simclr_plus.distributed import collective_timeout
from simclr_plus.errors import AnotherProcessError, EnvironmentNotAbleError, NotFoundError
from simclr_plus.launch import supervisor
from simclr_plus.launch.order import Order
from simclr_plus.machine import torchrun
from simclr_plus.machine.cores import default_threads
from simclr_plus.machine.printing import say
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.failures import failure_of, root_cause
from simclr_plus.runs.folder import create_run
from simclr_plus.runs.heartbeat import LONG

OF_A_SCHEDULER = {
    "WORLD_SIZE": "64",
    "RANK": "5",
    "LOCAL_RANK": "5",
    "LOCAL_WORLD_SIZE": "64",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "23456",
    "PET_NNODES": "8",
}
OF_TORCHRUN = {**OF_A_SCHEDULER, "TORCHELASTIC_RUN_ID": "none"}


def set_all(patch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


def test_a_schedulers_variables_make_no_group(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    set_all(monkeypatch, {**OF_A_SCHEDULER, "LOCAL_WORLD_SIZE": "many"})
    assert torchrun.place() == torchrun.Place(0, 1, 0, 1) and not torchrun.started_this_process()
    monkeypatch.setattr("simclr_plus.machine.cores.cpu_count", lambda: 6)
    assert default_threads() == 6
    say("heard")
    assert capsys.readouterr().err == "heard\n" and "WORLD_SIZE = 64" in torchrun.disregarded()


def test_torchruns_variables_make_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    set_all(monkeypatch, OF_TORCHRUN)
    assert torchrun.place() == torchrun.Place(5, 64, 5, 64)
    monkeypatch.setattr("simclr_plus.machine.cores.cpu_count", lambda: 128)
    assert default_threads() == 2
    say("not heard")
    assert capsys.readouterr().err == "" == torchrun.disregarded()


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_group_that_is_not_whole_is_refused_by_the_name_of_what_lacks(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    set_all(monkeypatch, OF_TORCHRUN)
    monkeypatch.delenv(name)
    with pytest.raises(EnvironmentNotAbleError, match=name):
        torchrun.place()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_runs_processes_do_not_inherit_another_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    set_all(monkeypatch, {**OF_TORCHRUN, "MY_OWN": "kept"})
    started: list[dict[str, str]] = []

    def note(_command: list[str], *, env: dict[str, str], **_named: Any) -> None:
        started.append(env)

    run = create_run(load_recipe("demo"), tmp_path, "run")
    run.logs.mkdir()
    monkeypatch.setattr(subprocess, "Popen", note)
    supervision = supervisor.Supervision(run, Order(processes), None, {})
    supervisor._start(supervision, tmp_path / "exits.json")
    assert not OF_TORCHRUN.keys() & started[0].keys() and started[0]["MY_OWN"] == "kept"


def test_collectives_wait_for_longer_than_the_supervisor_does() -> None:
    for hung_after in (1.0, 1800.0, 20_000.0):
        assert collective_timeout(hung_after).total_seconds() > LONG * hung_after
    assert collective_timeout(0).days == 7


def test_a_process_that_ends_for_another_is_not_the_cause() -> None:
    cause = failure_of(NotFoundError("data folder /photos does not exist"), 1)
    follower = failure_of(AnotherProcessError("process 1 failed: data folder /photos does not exist"), 0)
    assert root_cause([follower, cause], []) == cause
    assert "/photos" in root_cause([follower], []).sentence()
