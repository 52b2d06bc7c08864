"""The doctor finds what is there, says what to do where something is wrong, and proves the processes."""

from __future__ import annotations

import json
import subprocess
from collections import namedtuple
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from simclr_plus.checks import doctor
from simclr_plus.checks.doctor import GIB, Look, look_around
from simclr_plus.checks.proof import Finding
from simclr_plus.cli.app import app

Command = Callable[..., subprocess.CompletedProcess[str]]
Usage = namedtuple("Usage", "total used free")


def looks(runs: Path) -> dict[str, Look]:
    return {look.name: look for look in look_around(runs)}


@pytest.mark.slow
def test_two_processes_are_proved_to_equal_one_on_this_machine(simclr_plus: Command, tmp_path: Path) -> None:
    done = simclr_plus("doctor", "--nproc", "2", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["proved"] is True
    proof = [look for look in found["looks"] if "2 processes equal 1" in look["group"]]
    assert sorted(look["name"] for look in proof) == sorted(["loss", "gradients", "statistics", "weights"] * 2)
    assert all(look["found"].startswith("differ by") and not look["remedy"] for look in proof)
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_versions_and_places_are_those_of_this_process(tmp_path: Path) -> None:
    found = looks(tmp_path / "runs")
    assert found["torch"].found == version("torch") and found["lightly"].found == version("lightly")
    assert f"runs go to {tmp_path / 'runs'}" in found and not (tmp_path / "runs").exists()
    assert {look.group for look in found.values()} == {"versions", "this machine", "devices", "disk", "terminal"}


def test_little_disk_and_shared_memory_come_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: Usage(64 * 2**20, 0, 60 * 2**20))
    found = looks(tmp_path)
    assert "--shm-size" in found["shared memory"].remedy
    assert "--runs ELSEWHERE" in found[f"runs go to {tmp_path}"].remedy


def test_compiled_loops_that_cannot_be_kept_come_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    assert looks(tmp_path)["compiled loops"] == Look("this machine", "compiled loops", f"kept in {tmp_path / 'cache'}")
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "NUMBA_CACHE_DIR" in looks(tmp_path)["compiled loops"].remedy


def test_each_gpu_is_named_with_what_it_can(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gpus = [SimpleNamespace(name="New", total_memory=80 * GIB, major=9, minor=0)]
    gpus += [SimpleNamespace(name="Old", total_memory=16 * GIB, major=7, minor=0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: gpus[i])
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    found = looks(tmp_path)
    assert "New, 80 GiB, compute capability 9.0, bfloat16" in found["GPU 0"].found and not found["GPU 0"].remedy
    assert "Old, 16 GiB" in found["GPU 1"].found and "refused" in found["GPU 1"].remedy
    assert "NCCL" in found["NCCL"].remedy


def test_a_failed_proof_is_told_with_its_place_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    findings = [Finding("loss", 1e-12, "step 1", 1e-9), Finding("weights", 0.5, "step 2, head.layers.0.weight", 1e-9)]
    monkeypatch.setattr("simclr_plus.checks.proof.prove", lambda *_: (findings, "cpu"))
    done = CliRunner().invoke(app, ["doctor", "--nproc", "2", "--runs", str(tmp_path)])
    assert done.exit_code == 1
    assert "do NOT train what one does" in done.stderr and "step 2, head.layers.0.weight" in done.stdout
    answer = CliRunner().invoke(app, ["doctor", "--nproc", "2", "--runs", str(tmp_path), "--json"])
    assert answer.exit_code == 1 and json.loads(answer.stdout)["proved"] is False
