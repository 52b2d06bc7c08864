"""Runs in real processes: detached, stopped, failing, hung, killed; what the run folder and the screen say of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from launching import AT_STEP, CLI, environment, gone, pids_of, processes_naming, ps, same_bytes, wait_for

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.states import read_status, state_of, this_host, write_status

Command = Callable[..., subprocess.CompletedProcess[str]]


def start(folder: Path, *arguments: str, fault: str = "", **options: Any) -> subprocess.Popen[str]:
    command = [*CLI, "run", "demo", *arguments, "--runs", str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(folder, fault), **{**pipes, **options})


def ended(process: subprocess.Popen[str], timeout: float = 240) -> tuple[int, str]:
    _, talk = process.communicate(timeout=timeout)
    return process.returncode, talk


def unbroken(folder: Path, tiny: list[str], *options: str) -> Run:
    code, talk = ended(start(folder, *tiny, "--name", "unbroken", *options))
    assert code == 0, talk
    return Run(folder / "unbroken")


def failure(run: Run) -> dict[str, Any]:
    found = read_status(run)["failure"]
    assert isinstance(found, dict)
    return found


@pytest.mark.slow
def test_a_detached_run_is_watched_stopped_and_resumed_to_the_same_bytes(
    tmp_path: Path, tiny: list[str], simclr_plus: Command
) -> None:
    tiny += ["training.epochs=4"]
    whole = unbroken(tmp_path, tiny)
    slow = AT_STEP + "at_step(0, 0, lambda: time.sleep(1))"
    process = start(tmp_path, *tiny, "--name", "x", "-d", "--json", fault=slow)
    told, _ = process.communicate(timeout=200)
    run = Run(tmp_path / "x")
    assert process.returncode == 0 and json.loads(told)["state"] == "starting"
    assert state_of(run).name == "starting"
    with pytest.raises(subprocess.CalledProcessError) as refused:
        subprocess.run([*CLI, "resume", "x", "--runs", tmp_path], capture_output=True, text=True, check=True)
    assert "being trained by another process" in refused.value.stderr
    wait_for(run.metrics, "a step")
    seen = ps(tmp_path, "x")
    assert seen["state"] == "running" and seen["steps"] == 33 and seen["step"] >= 1
    assert simclr_plus("logs", "x", "--runs", tmp_path, cwd=tmp_path).stdout.startswith("step 1/33")
    pids = pids_of(run)
    done = simclr_plus("stop", "x", "--runs", tmp_path, "--json", cwd=tmp_path)
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "stopped"
    assert not run.stop_file.exists()
    wait_for(lambda: gone(pids) and not processes_naming(run), "the processes' end", seconds=20)  # told just before it
    assert 0 < int(run.latest_checkpoint().stem[5:]) < 33
    assert ps(tmp_path, "x")["state"] == "stopped" and read_status(run)["exit_code"] == 0
    assert "not at work: stopped" in simclr_plus("stop", "x", "--runs", tmp_path, cwd=tmp_path).stderr
    again = subprocess.run(
        [*CLI, "resume", "x", "--runs", tmp_path],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert same_bytes(whole, run) and read_status(run)["attempt"] == 2
    shown = json.loads(simclr_plus("show", "x", "--runs", tmp_path, "--json", cwd=tmp_path).stdout)
    assert shown["state"] == "finished" and 0 < shown["status"]["from_step"] < 33 and shown["checkpoints"]
    figures = shown["nodes"][os.uname().nodename]
    assert 0 <= figures["cpu"] <= 1 and figures["rss"] > 10**8 and figures["memory_total"] > figures["memory_used"]


@pytest.mark.slow
def test_changed_keys_make_a_new_run_with_its_parent_named(
    tmp_path: Path, tiny: list[str], simclr_plus: Command
) -> None:
    parent = unbroken(tmp_path, tiny)
    before = {path.name: path.read_bytes() for path in parent.path.glob("*.*") if path.is_file()}
    done = simclr_plus("resume", "unbroken", "training.epochs=2", "--runs", tmp_path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    child = Run(tmp_path / "unbroken-2")
    assert json.loads(done.stdout)["run"].endswith("unbroken-2") and child.metrics()[0]["step"] == 10
    view = json.loads(simclr_plus("show", "unbroken-2", "--runs", tmp_path, "--json", cwd=tmp_path).stdout)
    assert view["parent"] == {
        "parent": "unbroken",
        "checkpoint": "step_00000009.safetensors",
        "changes": ["training.epochs=2"],
    }
    assert before == {path.name: path.read_bytes() for path in parent.path.glob("*.*") if path.is_file()}
    compared = json.loads(
        simclr_plus("compare", "unbroken", "unbroken-2", "--runs", tmp_path, "--json", cwd=tmp_path).stdout
    )
    assert compared["recipe"] == {"training.epochs": [1, 2]} and compared["last_step"] == [9, 17]
    assert compared["common_step"] is None and compared["last"]["loss"][1] == child.metrics()[-1]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "kind", "says"),
    [
        ("print(1 / 0)", "raised", "rank 1 on HOST raised ZeroDivisionError"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed", "rank 1 on HOST was killed by SIGKILL"),
        ("losses.torch.empty(1 << 50)", "out of memory", "rank 1 on HOST ran out of memory"),
        ("time.sleep(1000)", "hung", "gave no sign for"),
        ("os.kill(os.getpid(), signal.SIGSTOP)", "hung", "rank 1 on HOST gave no sign for"),
    ],
)
def test_the_rank_that_failed_is_named_in_status_and_on_screen(
    tmp_path: Path, tiny: list[str], act: str, kind: str, says: str
) -> None:
    fault = AT_STEP + f"def act():\n    {act}\nat_step(3, 1, act)"
    hung = ["monitor.hung_after_seconds=12"] if kind == "hung" else []
    process = start(tmp_path, *tiny, *hung, "--name", "x", "--nproc", "2", fault=fault)
    run = Run(tmp_path / "x")
    wait_for(lambda: len(run.metrics()) >= 2 or process.poll() is not None, "two steps")
    pids = pids_of(run)
    code, talk = ended(process)
    assert code == 1 and "Traceback" not in talk
    assert failure(run)["kind"] == kind
    if "time.sleep" not in act:  # two ranks in the same step: which one hangs stands in the stacks only
        assert failure(run)["rank"] == 1
    assert says.replace("HOST", os.uname().nodename) in talk and says.split()[-1] in ps(tmp_path, "x")["why"]
    assert ps(tmp_path, "x")["state"] == "failed"
    assert gone(pids) and not processes_naming(run)
    if "time.sleep" in act:
        assert "in act" in (run.logs / "rank_1.log").read_text()


@pytest.mark.slow
def test_process_0_is_named_when_it_hangs_in_a_save_and_the_others_wait_in_the_next_step(
    tmp_path: Path, tiny: list[str]
) -> None:
    fault = (
        "import time, simclr_plus.weights.background_saving as saving\n"
        "saving.CheckpointSaver.save = lambda *_: time.sleep(1000)"
    )
    hung = ["monitor.hung_after_seconds=12", "checkpoints.every_epochs=0.25"]
    process = start(tmp_path, *tiny, *hung, "--name", "x", "--nproc", "2", fault=fault)
    code, talk = ended(process)
    run = Run(tmp_path / "x")
    assert code == 1 and (failure(run)["kind"], failure(run)["rank"]) == ("hung", 0), talk
    assert "at step 2 (saving)" in failure(run)["message"] and not processes_naming(run)


@pytest.mark.slow
def test_a_killed_process_is_started_again_from_the_newest_checkpoint(tmp_path: Path, tiny: list[str]) -> None:
    tiny += ["training.epochs=2", "checkpoints.every_epochs=0.25"]
    whole = unbroken(tmp_path, tiny)
    once = AT_STEP + (
        "def act():\n"
        "    if not os.path.exists('killed'):\n"
        "        open('killed', 'w').close(); os.kill(os.getpid(), signal.SIGKILL)\n"
        "at_step(7, 0, act)"
    )
    code, talk = ended(start(tmp_path, *tiny, "--name", "x", "--max-restarts", "3", fault=once))
    run = Run(tmp_path / "x")
    assert code == 0, talk
    assert same_bytes(whole, run)
    restarts = read_status(run)["restarts"]
    assert len(restarts) == 1 and restarts[0]["message"] == "was killed by SIGKILL"
    assert [e["event"] for e in run.events() if e["event"] in ("start", "resume")] == ["start", "resume"]


@pytest.mark.slow
def test_a_run_is_not_started_again_twice_without_progress(tmp_path: Path, tiny: list[str]) -> None:
    always = AT_STEP + "at_step(2, 0, lambda: os.kill(os.getpid(), signal.SIGKILL))"
    code, talk = ended(start(tmp_path, *tiny, "--name", "x", "--max-restarts", "9", fault=always))
    run = Run(tmp_path / "x")
    assert code == 1 and "failed twice without a new checkpoint" in talk and "was killed by SIGKILL" in talk
    assert len(read_status(run)["restarts"]) == 1
    told = ["optimizer.name=sgd", "optimizer.learning_rate=1e30"]
    code, talk = ended(start(tmp_path, *tiny, *told, "--name", "y", "--max-restarts", "9"))
    assert code == 1 and "not finite at step" in talk and read_status(Run(tmp_path / "y"))["restarts"] == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2"])
def test_ctrl_c_twice_ends_and_three_times_kills(tmp_path: Path, tiny: list[str], processes: str) -> None:
    stuck = AT_STEP + (
        "def act():\n    while True:\n        time.sleep(0.1)\n"  # it never comes to look at the STOP file
        "at_step(3, 0, act)"
    )
    process = start(tmp_path, *tiny, "--name", "x", "--nproc", processes, fault=stuck)
    run = Run(tmp_path / "x")
    wait_for(lambda: len(run.metrics()) >= 2, "two steps")
    pids = pids_of(run)
    process.send_signal(signal.SIGINT)
    wait_for(lambda: state_of(run).name == "stopping", "stopping")
    time.sleep(1)
    assert process.poll() is None and not gone(pids)
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    code, talk = ended(process, timeout=120)
    assert code == 130 and "within 35 seconds" in talk and "killed" in talk
    assert gone(pids) and not processes_naming(run) and state_of(run).name == "stopped"


@pytest.mark.slow
def test_leaving_the_screen_does_not_end_a_run(tmp_path: Path, tiny: list[str]) -> None:
    process = start(tmp_path, *tiny, "training.epochs=30", "--name", "x")
    run = Run(tmp_path / "x")
    wait_for(run.metrics, "a step")
    process.send_signal(signal.SIGHUP)
    assert ended(process, timeout=120)[0] == -signal.SIGHUP
    seen = run.metrics()[-1]["step"]
    wait_for(lambda: run.metrics()[-1]["step"] > seen + 2, "further steps")
    assert state_of(run).name == "running"
    os.kill(read_status(run)["pid"], signal.SIGUSR2)
    wait_for(lambda: state_of(run).name == "stopped", "the end")
    assert read_status(run)["exit_code"] == 75 and read_status(run)["stopped_by"] == "SIGUSR2"
    assert run.latest_checkpoint().exists()


@pytest.mark.slow
@pytest.mark.parametrize(("when", "processes"), [("step", "1"), ("evaluation", "2"), ("save", "2")])
def test_a_stop_during_a_step_an_evaluation_or_a_slow_save_keeps_a_whole_checkpoint(
    tmp_path: Path, tiny: list[str], simclr_plus: Command, when: str, processes: str
) -> None:
    faults = {
        "step": AT_STEP + "at_step(4, 0, lambda: time.sleep(4))",
        "evaluation": (
            "import time, simclr_plus.features.metrics as metrics\noriginal = metrics.knn_scores\n"
            "def knn_scores(*a, **k):\n    time.sleep(4)\n    return original(*a, **k)\nmetrics.knn_scores = knn_scores"
        ),
        "save": (
            "import time, simclr_plus.weights.background_saving as saving\noriginal = saving.write_tensors\n"
            "def write_tensors(*a, **k):\n    time.sleep(40)\n    return original(*a, **k)\n"
            "saving.write_tensors = write_tensors"
        ),
    }
    doing = {"step": "step", "evaluation": "evaluating", "save": "saving"}[when]
    tiny += ["monitor.knn_every_epochs=0.5"] if when == "evaluation" else []
    process = start(
        tmp_path, *tiny, "training.epochs=50", "--name", "x", "--nproc", processes, "-d", fault=faults[when]
    )
    process.communicate(timeout=200)
    run = Run(tmp_path / "x")
    if when == "save":
        wait_for(lambda: len(run.metrics()) >= 9, "the first save")
    else:
        from simclr_plus.runs.heartbeat import heartbeat_file, read_heartbeat

        at = 3 if when == "step" else 4
        wait_for(
            lambda: (p := read_heartbeat(heartbeat_file(run.logs, 0))) and p.doing == doing and p.step == at,
            f"the {when}",
        )
    done = simclr_plus("stop", "x", "--runs", tmp_path, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = run.events()
    assert events[-1]["reason"] == "stopped"
    wait_for(lambda: not processes_naming(run), "the end of all processes", seconds=20)
    saved = run.latest_checkpoint()
    assert int(saved.stem[5:]) == events[-1]["step"] == run.metrics()[-1]["step"]
    from simclr_plus.weights.checkpoints import load_checkpoint

    assert load_checkpoint(saved).step == events[-1]["step"] and not list(run.checkpoints.glob(".*"))


def small_disk(folder: Path, size: str) -> Path:
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a small file system: {mounted.stderr.strip()}")
    return place


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_was_saved_is_whole(tmp_path: Path, tiny: list[str]) -> None:
    place = small_disk(tmp_path, "10m")
    try:
        many = ["training.epochs=20", "checkpoints.every_epochs=0.25", "checkpoints.keep_last=100"]
        process = subprocess.Popen(
            [*CLI, "run", "demo", *tiny, *many, "--name", "x", "--runs", str(place)],
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        code, talk = ended(process)
        run = Run(place / "x")
        assert code == 4 and "No space left on device" in talk and "Traceback" not in talk
        status = read_status(run)
        assert (status["state"], status["failure"]["kind"]) == ("failed", "told") and "No space" in status["why"]
        from simclr_plus.weights.checkpoints import load_checkpoint

        assert all(load_checkpoint(file).step for file in run.checkpoint_files())
        assert not processes_naming(run)
        for file in run.checkpoint_files()[:-1]:
            file.unlink()
        short = [*CLI, "resume", "x", "training.epochs=3", "checkpoints.keep_last=1", "--runs", str(place)]
        again = subprocess.run(short, env=environment(tmp_path), capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
def test_a_read_only_folder_is_told_before_and_while_training(tmp_path: Path, tiny: list[str]) -> None:
    place = small_disk(tmp_path, "50m")
    try:
        process = subprocess.Popen(
            [*CLI, "run", "demo", *tiny, "training.epochs=50", "--name", "x", "--runs", str(place)],
            env=environment(tmp_path),
            stderr=subprocess.PIPE,
            text=True,
        )
        run = Run(place / "x")
        wait_for(run.metrics, "a step")
        pids = pids_of(run)
        # files that are open for writing keep a file system from becoming read-only: bind it elsewhere read-only
        subprocess.run(["mount", "--bind", place, place], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        code, talk = ended(process)
        assert code != 0 and "Traceback" not in talk
        assert gone(pids)
        done = subprocess.run(
            [*CLI, "run", "demo", *tiny, "--name", "y", "--runs", str(place)],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0 and "cannot make the run folder" in done.stderr and "Read-only" in done.stderr
    finally:
        subprocess.run(["umount", "-l", place], check=False)
        subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.slow
def test_a_run_folder_that_is_deleted_ends_the_run_and_is_told(tmp_path: Path, tiny: list[str]) -> None:
    process = start(tmp_path, *tiny, "training.epochs=50", "--name", "x", "--nproc", "2")
    run = Run(tmp_path / "x")
    wait_for(run.metrics, "a step")
    pids = pids_of(run)
    run.path.rename(tmp_path / ".deleted")
    code, talk = ended(process)
    assert code == 1 and "was deleted" in talk and "Traceback" not in talk
    assert gone(pids) and not processes_naming(run) and not run.metrics_file.exists()


@pytest.mark.slow
def test_a_clock_that_jumps_ends_nothing(tmp_path: Path, tiny: list[str]) -> None:
    """The clock of the training process jumps; hung processes are found by the supervisor's own, which cannot."""
    fault = AT_STEP + (
        "real, jumps = time.time, iter([-1e6, 1e6, -1e5])\n"
        "def act():\n    jump = next(jumps, 0)\n    time.time = lambda: real() + jump\n"
        "at_step(0, 0, act)"
    )
    code, talk = ended(start(tmp_path, *tiny, "--name", "x", fault=fault))
    assert code == 0, talk
    assert state_of(Run(tmp_path / "x")).name == "finished"
    assert ps(tmp_path, "x")["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before the attempt that was killed", "after it"])
def test_a_job_that_is_started_again_heeds_only_a_stop_of_its_own(tmp_path: Path, tiny: list[str], when: str) -> None:
    run = create_run(load_recipe("demo", tiny), tmp_path, "x")
    run.ask_to_stop("requeue")
    late = 10 if when.startswith("before") else -10
    write_status(run, {"state": "stopping", "updated": time.time() + late, "next_in": 0, "attempt": 1, **this_host()})
    command = [sys.executable, "-m", "simclr_plus.launch.supervisor", str(run.path), "--processes", "1"]
    job = {"SLURM_JOB_ID": "1", "SLURM_RESTART_COUNT": "1"}
    done = subprocess.run(command, env={**environment(tmp_path), **job}, check=False)
    last = run.events()[-1]
    assert (done.returncode, last["reason"], last["step"]) == ((0, "finished", 9) if late > 0 else (75, "stopped", 0))
    assert read_status(run)["state"] == ("finished" if late > 0 else "queued") and not run.stop_file.exists()


@pytest.mark.slow
def test_two_runs_that_begin_in_one_second_both_begin(tmp_path: Path, tiny: list[str]) -> None:
    still = 'import time\ntime.strftime = lambda form, *_: "20260101-000000"\n'  # the second in a run's name
    (tmp_path / "sitecustomize.py").write_text(still)
    variables = {**environment(tmp_path), "PYTHONPATH": str(tmp_path)}
    command = [*CLI, "run", "demo", *tiny, "-d", "--runs", str(tmp_path / "runs")]
    both = [subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    names = sorted(Path(path.strip()).name for path in told)
    assert names == ["demo-20260101-000000", "demo-20260101-000000-2"]
    for name in names:
        wait_for(lambda name=name: state_of(Run(tmp_path / "runs" / name)).name == "finished", "the end")
