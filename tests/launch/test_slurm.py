"""Runs under a real SLURM that the tests start; the script's text is tested without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from launching import AT_STEP, CLI, environment, processes_naming, wait_for
from simclr_plus.tui.reading.run_list import RunList

from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.launch.batch_scripts import Allocation, array_script, batch_script
from simclr_plus.launch.start import resubmit
from simclr_plus.machine import slurm
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run, list_runs
from simclr_plus.runs.overview import glance
from simclr_plus.runs.states import read_status, write_status

LENGTH = ["training.epochs=30", "checkpoints.every_epochs=2"]


def test_the_script_asks_for_what_was_given_and_is_valid_bash(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path / "a folder with 'quotes'", "x")
    given = Allocation(nodes=2, processes=8, gpus=8, cpus=64, time="1-00:00:00", partition="gpu", extra=("--qos=high",))
    script = batch_script(run, given, max_restarts=3)
    for line in ("--nodes=2", "--gpus-per-node=8", "--time=1-00:00:00", "--partition=gpu", "--qos=high", "--requeue"):
        assert f"#SBATCH {line}\n" in script
    assert "#SBATCH --signal=B:USR2@300\n" in script and "--processes 8 --max-restarts 3 --nodes 2" in script
    assert "--mem" not in script and "--account" not in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0


def test_a_dry_run_shows_the_script_and_starts_nothing(
    tmp_path: Path, tiny: list[str], simclr_plus: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    ask = ["--slurm", "--nodes", "2", "--gpus", "4", "--nproc", "gpu", "--time", "60", "--dry-run"]
    done = simclr_plus("run", "demo", *tiny, *ask, cwd=tmp_path)
    assert done.returncode == 0 and "#SBATCH --gpus-per-node=4" in done.stdout and "--processes 4" in done.stdout
    plan = json.loads(simclr_plus("run", "demo", *tiny, *ask, "--json", cwd=tmp_path).stdout)
    assert plan["processes"] == 8 and plan["batch_script"].startswith("#!/bin/bash\n#SBATCH")
    assert not (tmp_path / "runs").exists()
    lone = simclr_plus("run", "demo", *tiny, "--time", "60", cwd=tmp_path)
    assert lone.returncode == 2 and "go with --slurm" in lone.stderr


def directives(script: str) -> list[list[str]]:
    """The words of each #SBATCH line, as sbatch takes them: a backslash escapes in quotes of both kinds too."""
    return [words_of(line[8:]) for line in script.splitlines() if line.startswith("#SBATCH ")]


def words_of(line: str) -> list[str]:
    words, quote, letters = [""], "", iter(line)
    for letter in letters:
        if letter == "\\":
            words[-1] += next(letters)
        elif quote:
            quote, words[-1] = ("", words[-1]) if letter == quote else (quote, words[-1] + letter)
        elif letter in "\"'":
            quote = letter
        elif letter == "#":
            break
        elif letter == " ":
            words.append("")
        else:
            words[-1] += letter
    return words


@pytest.mark.parametrize("folder", ["two words", "100% %j", 'it\'s "so"', "a#b", "tab\there"])
def test_each_line_for_sbatch_holds_one_option_whatever_the_folder_is_called(tmp_path: Path, folder: str) -> None:
    run = create_run(load_recipe("demo"), tmp_path / folder, "my run 5% #2")
    if "\t" in folder:
        with pytest.raises(RecipeError, match="control character"):
            batch_script(run, Allocation())
        return
    for script in (
        batch_script(run, Allocation(partition="big gpus", extra=("--comment=two words", "--qos high"))),
        array_script(
            run.name, run.path, ["x"], [1, 2], Allocation(extra=("--comment=two words", "--qos high")), at_once=1
        ),
    ):
        words = directives(script)
        assert [len(line) for line in words] == [1] * (len(words) - 1) + [2]
        options = dict(line[0].split("=", 1) for line in words[:-1] if "=" in line[0])
        assert options["--job-name"] == run.name and options["--comment"] == "two words"
        assert options["--output"].rpartition("/logs/")[0].replace("%%", "%") == str(run.path)
        assert "%j" not in options["--output"].rpartition("/logs/")[0].replace("%%", "")
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0


@pytest.mark.parametrize(
    "given",
    [
        {"partition": "gpu\ntouch owned"},
        {"account": "a\rb"},
        {"time": "1\n"},
        {"memory": "1G\x0b"},
        {"extra": ("--qos=x\nrm",)},
        {"extra": ("qos=x",)},
    ],
)
def test_a_value_that_would_become_a_line_of_the_script_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        Allocation(**given)


def test_a_folder_with_a_backslash_is_refused_for_sbatch_would_no_longer_fill_in_the_name(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path / "back\\slash", "x")
    with pytest.raises(RecipeError, match="backslash"):
        batch_script(run, Allocation())


@pytest.fixture
def squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in: its calls go to a file, and jobs of even numbers are waiting, those of 90 and more unknown."""
    place = tmp_path / "bin"
    place.mkdir()
    program = place / "squeue"
    program.write_text(
        f"""#!/bin/bash
echo "$*" >> {tmp_path}/calls
for word; do [[ $word == [0-9]* ]] && jobs=$word; done
for job in ${{jobs//,/ }}; do
    [ $job -ge 90 ] || echo $job $job $job $([ $((job % 2)) -eq 0 ] && echo PENDING || echo RUNNING)
done
"""
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_known", {})
    return tmp_path / "calls"


def test_slurm_is_asked_once_about_all_jobs_of_a_list(
    tmp_path: Path, squeue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for job in [*range(1, 21), 95]:
        run = create_run(load_recipe("demo"), tmp_path / "runs", f"r{job:02}")
        write_status(run, {"state": "queued", "slurm": {"job_id": str(job)}, "updated": time.time()})
    for _ in range(3):
        states = [glance(run)["state"] for run in list_runs(tmp_path / "runs")]
        assert sorted(states) == sorted(["queued", "starting"] * 10 + ["lost"])
    assert len(RunList(tmp_path / "runs").look()) == 21
    assert len(squeue.read_text().splitlines()) == 1
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + slurm.SECONDS_TO_KEEP + 1)
    for run in list_runs(tmp_path / "runs"):
        glance(run)
    assert len(squeue.read_text().splitlines()) == 2


@pytest.mark.usefixtures("squeue")
def test_a_run_that_waits_in_the_queue_is_not_submitted_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted: list[Path] = []
    monkeypatch.setattr(slurm, "submit", lambda script: submitted.append(script) or "93")
    run = create_run(load_recipe("demo"), tmp_path, "x")
    (run.path / "slurm.sh").touch()
    write_status(run, {"state": "queued", "slurm": {"job_id": "2"}, "updated": time.time()})
    with pytest.raises(SimclrPlusError, match="SLURM job 2"):
        resubmit(run)
    assert not submitted and read_status(run)["slurm"]["job_id"] == "2"
    write_status(run, {"state": "queued", "slurm": {"job_id": "92"}, "updated": time.time()})  # gone
    assert resubmit(run) == "93" and read_status(run)["slurm"]["job_id"] == "93" and len(submitted) == 1


def test_the_batch_script_of_version_0_1_0_still_trains_its_run(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", tiny), tmp_path, "x")
    script = batch_script(run, Allocation()).replace("-m simclr_plus.launch.supervisor", "-m simclr_plus.supervisor")
    assert " -m simclr_plus.supervisor " in script
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done; exec "$@"\n')
    srun.chmod(0o755)
    variables = {**environment(tmp_path), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=script, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_status(run)["state"] == "finished" and (run.path / "encoder.safetensors").is_file()


def test_the_array_script_of_version_0_1_0_still_reaches_a_cell(tmp_path: Path) -> None:
    outcomes = []
    for module in ("simclr_plus.study_cell", "simclr_plus.studies.running.cell"):
        script = array_script("x", tmp_path, [sys.executable, "-m", module, str(tmp_path)], [0], Allocation())
        variables = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(["bash"], input=script, env=variables, capture_output=True, text=True, check=False)
        outcomes.append((done.returncode, done.stderr))
    assert outcomes[0] == outcomes[1] and outcomes[0][0] == 3 and "is no folder of a study" in outcomes[0][1]


def command(
    cluster: slurm_cluster.Cluster, folder: Path, *arguments: str, fault: str = ""
) -> subprocess.CompletedProcess[str]:
    variables = {**cluster.environment, **environment(folder, fault), "PATH": slurm_cluster.PATH}
    return subprocess.run(
        [*CLI, *arguments, "--runs", str(folder / "runs")],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def submitted(cluster: slurm_cluster.Cluster, folder: Path, *arguments: str, fault: str = "") -> tuple[Run, str]:
    done = command(cluster, folder, "run", "demo", *arguments, "--slurm", "--name", "x", "--json", fault=fault)
    assert done.returncode == 0, done.stderr
    return Run(folder / "runs" / "x"), json.loads(done.stdout)["slurm"]["job_id"]


def ps(cluster: slurm_cluster.Cluster, folder: Path) -> dict[str, object]:
    done = command(cluster, folder, "ps", "--json")
    found = json.loads(done.stdout)["runs"][0]
    assert isinstance(found, dict)
    return found


def log_of(run: Run) -> str:
    return "\n".join(path.read_text() for path in sorted(run.logs.glob("*.log")))


@pytest.mark.slow
def test_a_job_that_nears_its_limit_saves_returns_to_the_queue_and_resumes_to_the_end(
    cluster: slurm_cluster.Cluster, tmp_path: Path, tiny: list[str]
) -> None:
    run, job = submitted(cluster, tmp_path, *tiny, *LENGTH, "--time", "60")
    assert read_status(run)["slurm"]["job_id"] == job and ps(cluster, tmp_path)["state"] in ("queued", "starting")
    wait_for(lambda: len(run.metrics()) > 20, "steps of the job")
    seen = ps(cluster, tmp_path)
    assert (seen["state"], seen["job_id"]) == ("running", job)
    cluster.command("scancel", "--batch", "--signal=USR2", job)  # as SLURM does before the limit
    wait_for(lambda: run.events()[-1].get("reason") == "stopped", "the stop")
    wait_for(lambda: read_status(run)["state"] == "queued", "the return to the queue")
    assert ps(cluster, tmp_path)["state"] in ("queued", "starting")
    wait_for(lambda: read_status(run)["state"] == "finished", f"the end of the resumed job; {log_of(run)}")
    status = read_status(run)
    assert (status["slurm"]["job_id"], status["slurm"]["restart_count"], status["attempt"]) == (job, 1, 2)
    kinds = [e["event"] for e in run.events() if e["event"] in ("start", "resume")]
    assert kinds == ["start", "resume"] and run.metrics()[-1]["step"] == 241
    plain = subprocess.run(
        [*CLI, "run", "demo", *tiny, *LENGTH, "--name", "plain", "--runs", tmp_path / "runs"],
        env=environment(tmp_path),
        cwd=tmp_path,
        check=False,
    )
    unbroken = Run(tmp_path / "runs" / "plain")
    assert plain.returncode == 0 and unbroken.latest_checkpoint().read_bytes() == run.latest_checkpoint().read_bytes()


@pytest.mark.soak
def test_slurms_own_signal_before_the_limit_sends_the_job_back(
    cluster: slurm_cluster.Cluster, tmp_path: Path, tiny: list[str]
) -> None:
    """Two minutes, the signal a minute before their end, a run of some 80 seconds: one requeue by the clock."""
    slow = AT_STEP + "at_step(0, 0, lambda: time.sleep(0.25))"
    limit = ["--time", "2", "--sbatch=--signal=B:USR2@60"]
    run, job = submitted(cluster, tmp_path, *tiny, *LENGTH, *limit, fault=slow)
    wait_for(lambda: read_status(run)["state"] == "finished", f"the end; {log_of(run)}", seconds=400)
    status = read_status(run)
    assert status["slurm"]["job_id"] == job and status["slurm"]["restart_count"] >= 1
    assert run.metrics()[-1]["step"] == 241
    assert "resume" in [event["event"] for event in run.events()]


@pytest.mark.slow
def test_stop_ends_a_job_that_runs_and_cancels_one_that_waits(
    cluster: slurm_cluster.Cluster, tmp_path: Path, tiny: list[str]
) -> None:
    run, job = submitted(cluster, tmp_path, *tiny, "training.epochs=500", "--sbatch", "--exclusive")
    wait_for(run.metrics, f"a step; {log_of(run)}")
    done = command(cluster, tmp_path, "stop", "x", "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["state"] == "stopped", done.stderr
    wait_for(lambda: job not in cluster.command("squeue", "--noheader", "--format=%i").split(), "the job's end")
    assert read_status(run)["state"] == "stopped" and run.latest_checkpoint().exists()
    other = tmp_path / "other"
    other.mkdir()
    waiting, job = submitted(cluster, other, *tiny, "--sbatch", "--hold")
    assert ps(cluster, other)["state"] == "queued"
    assert command(cluster, other, "stop", "x").returncode == 0
    assert cluster.command("squeue", "--noheader", "--format=%i", "--jobs", job).strip() == ""
    assert read_status(waiting)["state"] == "stopped" and ps(cluster, other)["state"] == "stopped"


@pytest.mark.slow
def test_a_job_of_two_nodes_trains_one_run(cluster: slurm_cluster.Cluster, tmp_path: Path, tiny: list[str]) -> None:
    os.environ.pop("MASTER_ADDR", None)
    run, _ = submitted(cluster, tmp_path, *tiny, "--nodes", "2")
    wait_for(lambda: read_status(run)["state"] in ("finished", "failed"), "the end")
    assert read_status(run)["state"] == "finished", log_of(run)
    assert run.events()[0]["processes"] == 2 and run.metrics()[-1]["step"] == 9
    wait_for(lambda: not processes_naming(run), "no process left", seconds=30)


@pytest.mark.slow
def test_sbatch_that_refuses_is_told(cluster: slurm_cluster.Cluster, tmp_path: Path, tiny: list[str]) -> None:
    done = command(cluster, tmp_path, "run", "demo", *tiny, "--slurm", "--name", "x", "--partition", "nowhere")
    assert done.returncode == 1 and "sbatch refused" in done.stderr and "partition" in done.stderr
    assert ps(cluster, tmp_path)["state"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "array"])
def test_sbatch_writes_the_log_into_a_folder_of_any_name(
    cluster: slurm_cluster.Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The job itself is a line of shell: what is tried is how sbatch and bash read the script."""
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, cluster.environment[name])
    run = create_run(load_recipe("demo"), tmp_path / 'it\'s "so" 100% %j #1', "my run %x 'q' \"d\"")
    run.logs.mkdir()
    monkeypatch.chdir(run.path)
    program = run.path / "say it.sh"
    program.write_text('#!/bin/bash\necho "here: $*"; pwd\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    given = Allocation(extra=("--comment=two words",))
    script = run.path / "slurm.sh"
    array = array_script(run.name, run.path, [sys.executable, str(run.path)], [3], given)
    script.write_text(batch_script(run, given) if kind == "run" else array)
    job = slurm.submit(script)
    assert slurm.state_of_job(job) in (slurm.PENDING, slurm.ACTIVE, slurm.GONE)
    shown = cluster.command("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%j|%k").strip()
    assert shown == f"{run.name}|two words"
    log = run.logs / (f"slurm-{job}.log" if kind == "run" else f"slurm-{job}_3.log")
    said = wait_for(lambda: log.exists() and str(run.path) in log.read_text() and log.read_text(), "the log")
    assert f"{run.path}\n" in said and ("3\n" in said if kind == "array" else "--processes 1" in said)
    assert [path.name for path in run.logs.iterdir()] == [log.name]
