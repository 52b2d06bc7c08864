"""A run is trained by one supervisor at a time, also where locks are missing or reach one machine only."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from launching import AT_STEP, CLI, environment, gone, pids_of, processes_naming, wait_for

from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch import start as launch
from simclr_plus.launch.order import Order
from simclr_plus.launch.start import start
from simclr_plus.machine import locks, processes, slurm
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import states
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.states import read_status, this_host, write_status

NO_LOCKS = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.{error}, "no locks here")
fcntl.flock = flock
"""
# takes the lock when the file `go` is there, says whether it has it, and keeps it until it is killed or `go` is gone
TAKE = """
import sys, time
from pathlib import Path
from simclr_plus.runs.folder import Run
run, go = Run(Path(sys.argv[1])), Path(sys.argv[2])
print("ready", flush=True)
while not go.exists():
    time.sleep(0.0005)
held = run.try_lock(renewed_within=60)
print(held is not None, flush=True)
while go.exists():
    time.sleep(0.01)
if held:
    held.release()
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(load_recipe("demo"), tmp_path, "mine")


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def without_locks(folder: Path, error: str = "ENOSYS") -> dict[str, str]:
    """The environment of processes whose file systems have no locks."""
    place = folder / "no_locks"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(NO_LOCKS.format(error=error))
    return {**environment(folder), "PYTHONPATH": str(place)}


def taking(run: Run, go: Path, variables: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", TAKE, str(run.path), str(go)]
    return subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("error", ["ENOLCK", ""])
def test_of_several_that_start_in_the_same_moment_one_has_the_run(run: Run, tmp_path: Path, error: str) -> None:
    variables = without_locks(tmp_path, error) if error else environment(tmp_path)
    go = tmp_path / "go"
    for killed in (False, True):
        those = [taking(run, go, variables) for _ in range(3)]
        assert [said(process) for process in those] == ["ready"] * 3
        go.touch()
        winners = [process for process in those if said(process) == "True"]
        assert len(winners) == 1
        if killed:
            winners[0].kill()
        else:
            go.unlink()
            assert winners[0].wait(20) == 0
        winners[0].wait()
        late = taking(run, go, variables)
        go.touch()
        assert [said(late), said(late)] == ["ready", "True"]  # let go, or known to be dead
        go.unlink()
        for process in (*those, late):
            process.communicate(timeout=120)
    assert len(list(run.path.glob("run.lock.*"))) == 1


@pytest.mark.usefixtures("no_locks")
def test_without_locks_a_claim_holds_until_it_is_released(run: Run) -> None:
    with run.locked():
        assert states.is_locked(run)
        with pytest.raises(SimclrPlusError, match="being trained by another process"), run.locked():
            pass
    assert states.is_locked(run) is False
    with run.locked():
        pass


@pytest.mark.parametrize("reach", ["none", "this machine only"])
def test_another_machine_is_believed_until_it_breaks_its_promise(
    run: Run, monkeypatch: pytest.MonkeyPatch, reach: str
) -> None:
    monkeypatch.setattr(locks, "lock_at_once", lambda *_, **__: None if reach == "none" else True)
    mine = processes.me()
    monkeypatch.setattr(processes, "me", lambda: {**mine, "host": "another", "boot_id": "of-another"})
    held = run.try_lock(renewed_within=120)
    assert held is not None
    monkeypatch.setattr(processes, "me", lambda: mine)
    assert run.try_lock(renewed_within=120) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 170)
    assert run.try_lock() is None  # 120 promised, 60 of grace
    held.renew(120)
    monkeypatch.setattr(time, "time", lambda: now + 340)
    assert run.try_lock() is None
    monkeypatch.setattr(time, "time", lambda: now + 360)
    taken = run.try_lock()
    assert taken is not None
    taken.release()


def test_a_slurm_job_that_is_started_again_elsewhere_has_its_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {"host": "another", "boot_id": "of-another", "pid": 7, "pid_started": 7}
    first, other = {"job_id": "41", "restart_count": 0}, {"job_id": "40", "restart_count": 0}
    monkeypatch.setattr(slurm, "state_of_job", lambda _: slurm.ACTIVE)
    mine = processes.me()
    for job, ours, mayhap in ((first, "1", True), (first, "0", False), (other, "1", False)):
        run.lock_file.unlink(missing_ok=True)
        for claim in run.path.glob("run.lock.*"):
            claim.unlink()
        monkeypatch.setattr(processes, "me", lambda: {**mine, **elsewhere})
        assert run.try_lock(renewed_within=120, job=job) is not None
        os.environ.pop("SLURM_JOB_ID", None)
        write_status(run, {"state": "running", "updated": time.time(), "next_in": 120, "slurm": job, **elsewhere})
        monkeypatch.setattr(processes, "me", lambda: mine)
        monkeypatch.setattr(locks, "lock_at_once", lambda *_, **__: True)
        monkeypatch.setenv("SLURM_JOB_ID", "41")
        monkeypatch.setenv("SLURM_RESTART_COUNT", ours)
        if mayhap:
            with states.locked(run):
                pass
        else:
            with pytest.raises(SimclrPlusError), states.locked(run):
                pass


def test_what_another_machine_trains_by_its_status_is_not_started_here(run: Run) -> None:
    """As supervisors before claims, or another version, left it."""
    now = time.time()
    write_status(run, {"state": "running", "updated": now, "next_in": 120, "host": "another", "boot_id": "other"})
    with pytest.raises(SimclrPlusError, match="on another"):
        start(run, Order(1))
    assert not run.logs.exists()
    write_status(run, {"state": "running", "updated": now - 200, "next_in": 120, "host": "another", "boot_id": "other"})
    with states.locked(run):
        pass
    write_status(run, {"state": "finished", "updated": now, "next_in": 120, "host": "another", "boot_id": "other"})
    with states.locked(run):
        pass


@pytest.mark.usefixtures("no_locks")
def test_without_locks_and_claim_a_dead_supervisor_of_this_machine_keeps_nobody_waiting(run: Run) -> None:
    run.lock_file.touch()
    status = {"state": "running", "updated": time.time(), "next_in": 120, **this_host()}
    write_status(run, {**status, "pid": os.getpid(), "pid_started": processes.start_time(os.getpid())})
    with pytest.raises(SimclrPlusError), states.locked(run):
        pass
    write_status(run, {**status, "pid": os.getpid(), "pid_started": 1})
    with states.locked(run):
        pass


def test_a_torn_claim_is_another_s_until_it_is_old(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "lock_at_once", lambda *_, **__: None)
    claim = run.path / "run.lock.3"
    claim.write_text('{"pid": ')
    assert run.try_lock() is None
    os.utime(claim, (time.time() - 1000,) * 2)
    held = run.try_lock()
    assert held is not None and json.loads((run.path / "run.lock.4").read_text())["pid"] == os.getpid()
    held.release()


@pytest.mark.slow
def test_a_run_without_locks_is_trained_once_killed_and_resumed(tmp_path: Path, tiny: list[str]) -> None:
    variables = without_locks(tmp_path)
    slow = tmp_path / "no_locks" / "sitecustomize.py"
    fault = AT_STEP + "at_step(0, 0, lambda: time.sleep(0.2))"
    indented = "\n".join(f"    {line}" for line in fault.splitlines())
    slow.write_text(
        slow.read_text() + f"\nimport sys\nif 'simclr_plus.training.process' in sys.orig_argv:\n{indented}\n"
    )

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        words = (*CLI, *words, "--runs", str(tmp_path))
        return subprocess.run(words, env=variables, cwd=tmp_path, capture_output=True, text=True, check=False)

    def state() -> str:
        return str(json.loads(command("ps", "--json").stdout)["runs"][0]["state"])

    assert command("run", "demo", *tiny, "training.epochs=20", "--name", "x", "-d").returncode == 0
    run = Run(tmp_path / "x")
    wait_for(run.metrics, "a step")
    pids = pids_of(run)
    again = command("resume", "x")
    assert again.returncode == 1 and "being trained by another process" in again.stderr
    assert state() == "running" and pids_of(run) == pids and not gone(pids)
    os.kill(read_status(run)["pid"], signal.SIGKILL)
    wait_for(lambda: gone(pids), "the end of its processes")
    assert state() == "lost"
    assert command("resume", "x", "-d").returncode == 0  # at once: it is known to be dead
    assert command("stop", "x").returncode == 0
    assert read_status(run)["state"] == state() == "stopped" and read_status(run)["attempt"] == 2
    wait_for(lambda: not processes_naming(run), "the end of all processes")


def test_a_status_of_an_earlier_supervisor_with_the_same_id_is_not_taken_for_this_one_s() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        begun = processes.start_time(process.pid)
        assert begun is not None
        assert launch._is_by({"pid": process.pid, "pid_started": begun}, process, begun)
        assert not launch._is_by({"pid": process.pid, "pid_started": begun - 1000}, process, begun)
        assert not launch._is_by({"pid": process.pid + 1, "pid_started": begun}, process, begun)
        assert not launch._is_by({}, process, begun)
    finally:
        process.kill()
        process.wait()


def test_on_a_full_disk_the_system_s_lock_does_and_no_claim_is_left(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def pwrite(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", pwrite)
        held = run.try_lock(renewed_within=120)
        assert held is not None and run.try_lock() is None and not list(run.path.glob("run.lock.*"))
        held.release()
    with run.locked():
        pass
