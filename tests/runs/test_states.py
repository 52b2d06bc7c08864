"""In what state a run is, for every way its folder can look; no training."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch import supervisor
from simclr_plus.launch.hanging import behind_the_others, hung
from simclr_plus.launch.order import Order, meets_here, torchrun_options
from simclr_plus.machine import processes, slurm
from simclr_plus.machine.processes import is_stopped, start_time
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import states
from simclr_plus.runs.failures import Exit, Failure, failure_of, note_failure, noted_failures, root_cause
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.heartbeat import HeartbeatWriter, heartbeat_file, read_heartbeat, read_heartbeats
from simclr_plus.runs.states import state_of, this_host, write_status

ELSEWHERE = {"host": "another", "boot_id": "of-another"}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(load_recipe("demo"), tmp_path, "mine")


def test_a_run_that_nobody_started_is_queued(run: Run) -> None:
    assert state_of(run) == states.State("queued", "not started yet")


def test_what_the_supervisor_says_holds_while_it_holds_the_lock(run: Run) -> None:
    lock = run.try_lock()
    assert lock is not None
    write_status(run, {"state": "starting", **this_host()})
    assert state_of(run).name == "starting"
    heartbeat = HeartbeatWriter(heartbeat_file(run.logs, 0), 60)
    heartbeat.beat(0, "preparing")
    write_status(run, {"state": "running", **this_host()})
    assert state_of(run).name == "starting"
    heartbeat.beat(3, "step")
    assert state_of(run).name == "running"
    run.ask_to_stop()
    assert state_of(run).name == "stopping"
    lock.release()
    assert state_of(run).name == "lost" and "resume" in state_of(run).why


@pytest.mark.parametrize("name", ["stopped", "finished", "failed"])
def test_an_end_is_an_end_until_someone_holds_the_lock_again(run: Run, name: str) -> None:
    write_status(run, {"state": name, "why": "so it was", **this_host()})
    assert state_of(run) == states.State(name, "so it was")
    with run.locked():
        assert state_of(run).name == "starting"
    assert state_of(run).name == name


def test_a_run_that_finished_after_its_supervisor_was_killed_is_finished(run: Run) -> None:
    write_status(run, {"state": "running", "events_before": states.events_size(run), **this_host()})
    run.log_event("start")
    assert state_of(run).name == "lost"
    run.log_event("exit", reason="finished")
    assert state_of(run).name == "finished"
    write_status(run, {"state": "running", "events_before": states.events_size(run), **this_host()})  # another attempt
    assert state_of(run).name == "lost"


def test_a_run_of_this_machine_before_it_was_started_anew_is_lost(run: Run) -> None:
    write_status(run, {"state": "running", "host": socket.gethostname(), "boot_id": "an earlier one"})
    assert state_of(run).name == "lost" and "started anew" in state_of(run).why


def test_another_machines_run_is_believed_until_it_breaks_its_promise(run: Run) -> None:
    now = time.time()
    write_status(run, {"state": "running", "updated": now, "next_in": 120, **ELSEWHERE})
    HeartbeatWriter(heartbeat_file(run.logs, 0), 300).beat(7, "step")
    assert state_of(run).name == "running"
    assert state_of(run, now=now + 170).name == "running"  # 120 promised, 60 of grace
    stale = state_of(run, now=now + 190)
    assert stale.name == "stale" and "another is silent" in stale.why and stale.is_alive
    assert state_of(run, now=now - 10_000).name == "running"  # a clock that jumped back


def test_where_there_are_no_locks_the_promise_decides(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "is_locked", lambda _: None)
    write_status(run, {"state": "running", "updated": time.time(), "next_in": 120, **this_host()})
    HeartbeatWriter(heartbeat_file(run.logs, 0), 60).beat(7, "step")
    assert state_of(run).name == "running" and state_of(run, now=time.time() + 1000).name == "stale"


@pytest.mark.parametrize(
    ("job", "said", "name"),
    [
        (slurm.PENDING, "queued", "queued"),
        (slurm.ACTIVE, "queued", "starting"),
        (slurm.GONE, "queued", "lost"),
        (None, "queued", "queued"),
        (slurm.GONE, "running", "lost"),
        (slurm.ACTIVE, "running", "running"),
    ],
)
def test_slurm_is_asked_about_its_jobs(
    run: Run, monkeypatch: pytest.MonkeyPatch, job: str | None, said: str, name: str
) -> None:
    monkeypatch.setattr(slurm, "state_of_job", lambda _: job)
    write_status(run, {"state": said, "slurm": {"job_id": "7"}, "updated": time.time(), "next_in": 60, **ELSEWHERE})
    HeartbeatWriter(heartbeat_file(run.logs, 0), 60).beat(7, "step")
    assert state_of(run).name == name


def test_a_loop_without_supervisor_runs_while_its_process_lives(run: Run) -> None:
    run.log_event("start")
    assert state_of(run).name == "lost"
    HeartbeatWriter(heartbeat_file(run.logs, 0), 60).beat(7, "step")
    assert state_of(run).name == "running"
    path = heartbeat_file(run.logs, 0)
    path.write_text(path.read_text().replace(f'"started": {start_time(os.getpid())}', '"started": 1'))
    assert state_of(run).name == "lost"


def test_a_torn_status_is_no_status(run: Run) -> None:
    run.status_file.write_text('{"state": "runn')
    assert state_of(run).name == "queued"


def test_a_heartbeat_tells_who_and_what_and_a_torn_one_nothing(run: Run) -> None:
    path = heartbeat_file(run.logs, 3)
    HeartbeatWriter(path, 30).beat(12, "evaluating")
    heartbeat = read_heartbeat(path)
    assert heartbeat is not None and (heartbeat.step, heartbeat.doing, heartbeat.next_in, heartbeat.pid) == (
        12,
        "evaluating",
        120,
        os.getpid(),
    )
    assert heartbeat.started == start_time(os.getpid()) and not is_stopped(os.getpid())
    assert list(read_heartbeats(run.logs)) == [3]
    path.write_bytes(path.read_bytes()[:100])
    assert read_heartbeat(path) is None and read_heartbeats(run.logs) == {}


def test_the_rank_that_keeps_others_waiting_is_named(run: Run) -> None:
    for rank, (step, doing) in enumerate([(5, "step"), (5, "data"), (5, "step")]):
        HeartbeatWriter(heartbeat_file(run.logs, rank), 10).beat(step, doing)
    heartbeats, seen = read_heartbeats(run.logs), {}
    assert behind_the_others(heartbeats) == 1
    assert hung(heartbeats, seen, 100.0) is None and hung(heartbeats, seen, 109.0) is None
    found = hung(heartbeats, seen, 111.0)
    assert found is not None and found.rank == 1 and "at step 5 (data)" in found.message
    HeartbeatWriter(heartbeat_file(run.logs, 1), 10).beat(5, "step")  # it went on, and now nobody is behind
    found = hung(read_heartbeats(run.logs), seen, 111.0)
    assert found is not None and found.rank is None and "not known" in found.message
    for rank in range(3):
        HeartbeatWriter(heartbeat_file(run.logs, rank), 10).beat(6, "done")
    assert hung(read_heartbeats(run.logs), seen, 1000.0) is None


def raised(error: BaseException, rank: int, at: float) -> Failure:
    try:
        raise error
    except BaseException as caught:
        failure = failure_of(caught, rank)
    return Failure(**{**failure.as_dict(), "time": at})


def test_the_cause_is_a_kill_else_the_earliest_failure_that_is_not_about_others(tmp_path: Path) -> None:
    lost = raised(RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1"), 0, at=1.0)
    own = raised(ZeroDivisionError("division by zero"), 2, at=2.0)
    for failure in (own, lost):
        note_failure(tmp_path, failure)
    noted = noted_failures(tmp_path)
    assert [f.rank for f in noted] == [0, 2]
    assert root_cause(noted, [Exit(0, 1), Exit(2, 1)]) == own
    assert "rank 2" in own.sentence() and "ZeroDivisionError" in own.sentence() and "test_states.py" in own.sentence()
    killed = root_cause([lost], [Exit(0, 1), Exit(1, -9)])
    assert (killed.kind, killed.rank, killed.message) == ("killed", 1, "was killed by SIGKILL")
    assert root_cause([lost], [Exit(1, -9)], memory_kills=1).kind == "out of memory"
    assert root_cause([lost], [Exit(0, 1)]) == lost
    assert root_cause([lost], [Exit(0, 1), Exit(1, 7)]).rank == 1
    assert root_cause([own], [Exit(2, -6), Exit(0, 1)]) == own  # it spoke before it crashed
    assert "exit code 3" in root_cause([], [Exit(1, 3)]).sentence()


def test_what_would_happen_again_is_told_apart() -> None:
    assert raised(FileNotFoundError(2, "No such file", "x"), 0, 0).would_happen_again
    assert not raised(ConnectionResetError("reset"), 0, 0).would_happen_again
    assert not raised(ValueError("odd"), 0, 0).would_happen_again
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")):
        assert raised(error, 1, 0).kind == "out of memory"


def test_torchrun_is_told_where_the_nodes_meet(run: Run) -> None:
    options = torchrun_options(run, Order(4, "2:3", "node1:29500", 5))
    text = " ".join(options)
    assert "--nnodes 2:3 --nproc-per-node 4" in text and "--rdzv-endpoint node1:29500" in text
    assert f"--rdzv-id {run.name} --max-restarts 5" in text
    assert torchrun_options(run, Order(2))[0] == "--standalone"
    assert Order(1).is_alone and not Order(2).is_alone and not Order(1, "2", "h:1").is_alone
    assert meets_here("127.0.0.1:29500") and meets_here("[::1]:1") and not meets_here("192.0.2.1:29500")


@pytest.mark.parametrize(
    ("holder", "joins"),
    [
        ({"state": "running", "rdzv": ""}, False),
        ({"state": "running"}, False),
        ({"state": "running", "rdzv": "127.0.0.1:2"}, False),
        ({"state": "finished", "rdzv": "127.0.0.1:1"}, False),
        ({"state": "starting", "rdzv": "127.0.0.1:1"}, True),
    ],
)
def test_a_second_supervisor_where_nodes_meet_is_let_in_only_to_those_that_meet_there(
    run: Run, monkeypatch: pytest.MonkeyPatch, holder: dict[str, str], joins: bool
) -> None:
    monkeypatch.setattr(supervisor, "SECONDS_TO_SPEAK", 0.3)
    monkeypatch.setattr(supervisor, "SECONDS_TO_TAKE", 0.1)
    several = Order(1, "2", "127.0.0.1:1")
    with run.locked():
        write_status(run, {**holder, **processes.me(), "updated": time.time(), "next_in": 120})
        if joins:
            assert supervisor._take_lock(run, several) is None
        else:
            with pytest.raises(SimclrPlusError, match="being trained by another process"):
                supervisor._take_lock(run, several)
        with pytest.raises(SimclrPlusError, match="being trained by another process"):
            supervisor._take_lock(run, Order(1))
    lock = supervisor._take_lock(run, several)
    assert lock is not None
    lock.release()


def test_a_stop_from_before_the_last_word_is_forgotten_and_a_later_one_kept(run: Run) -> None:
    now = time.time()
    for word in ("", "requeue", "now"):
        run.ask_to_stop(word)
        write_status(run, {"state": "stopping", "updated": now + 5, **this_host()})  # by an attempt that was killed
        supervisor._forget_old_stop(run)
        assert run.stop_word() is None
        write_status(run, {"state": "queued", "updated": now - 5})  # the submission
        run.ask_to_stop(word)
        supervisor._forget_old_stop(run)
        assert run.stop_word() == word
        run.status_file.unlink()
        supervisor._forget_old_stop(run)
        assert run.stop_word() == word


def test_a_process_is_known_by_its_start_and_a_zombie_is_gone() -> None:
    process = subprocess.Popen(["sleep", "60"])
    started = start_time(process.pid)
    assert started is not None and abs(started - 100 * (time.time() - psutil.boot_time())) < 500
    assert int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]) == started  # as before
    assert processes.is_alive(process.pid, started) and not processes.is_alive(process.pid, started - 1000)
    assert not any(processes.is_alive(pid, started) for pid in (None, True, "1", -1, 0, 1 << 40))
    os.kill(process.pid, signal.SIGSTOP)
    end = time.monotonic() + 10
    while not is_stopped(process.pid) and time.monotonic() < end:
        time.sleep(0.01)
    assert is_stopped(process.pid)
    processes.kill(process.pid, started - 1000)  # an earlier process with its id
    assert processes.is_alive(process.pid, started)
    processes.kill(process.pid, started)
    while start_time(process.pid) is not None and time.monotonic() < end:
        time.sleep(0.01)
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE and start_time(process.pid) is None
    process.wait()
    assert start_time(process.pid) is None


def test_where_the_start_of_a_machine_is_a_time_a_clock_that_is_set_is_allowed_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "boot_id", lambda: "booted 1000")
    assert [processes.is_this_boot(x) for x in ("booted 1000", "booted 1059", "booted 1100", "x", "", None)] == [
        *(True, True),
        *[False] * 4,
    ]
    monkeypatch.setattr(processes, "boot_id", lambda: "")
    assert not processes.is_this_boot("")


def test_words_of_failing_processes_may_hold_anything(tmp_path: Path) -> None:
    note_failure(tmp_path, Failure("raised", "good", rank=1, time=2.0))
    for number, text in enumerate(("[]", '{"kind": "x", "message": 7}', '{"kind": "x", "message": "m", "time": "x"}')):
        (tmp_path / f"rank_{number + 5}.failure.json").write_text(text)
    assert [failure.message for failure in noted_failures(tmp_path)] == ["good"]


def test_a_process_that_trains_alone_is_not_told_of_others_by_what_is_left_over(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "rank ${RANK-none} world ${WORLD_SIZE-none} at ${MASTER_ADDR-none}"\n')
    program.chmod(0o755)
    monkeypatch.setattr(supervisor.sys, "executable", str(program))
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "nowhere"}.items():
        monkeypatch.setenv(name, value)
    run.logs.mkdir()
    s = supervisor.Supervision(run, Order(1), None, {})
    assert supervisor._start(s, tmp_path / "exits").wait(20) == 0
    assert (run.logs / f"launcher.{socket.gethostname()}.log").read_text() == "rank none world none at none\n"
