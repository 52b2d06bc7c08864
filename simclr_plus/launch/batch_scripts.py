"""SLURM: the batch script of a run, submitting it, and where a job stands. No torch.

The script starts a supervisor on each node. A while before the time limit SLURM sends SIGUSR2 to the script; it asks
the run to save and stop by its STOP file, and puts the job back into the queue when that is done.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import EnvironmentNotAbleError, RecipeError, SimclrPlusError
from simclr_plus.runs.folder import Run

PENDING, ACTIVE, GONE = "pending", "active", "gone"
SECONDS_TO_SAVE = 300  # SIGUSR2 comes so long before the time limit
SECONDS_TO_KEEP = 10.0  # what SLURM said of a job; its controller serves a whole cluster

_asking = threading.RLock()
_known: dict[str, tuple[str | None, float]] = {}  # where jobs stand, and when that was said, monotonic
_expected: set[str] = set()


@dataclass(frozen=True)
class Allocation:
    """What is asked of SLURM; empty: the cluster's default. `gpus` are those of a node, `processes` run on each."""

    nodes: int = 1
    processes: int = 1
    gpus: int = 0
    cpus: int = 0
    time: str = ""
    partition: str = ""
    account: str = ""
    memory: str = ""
    signal_seconds: int = SECONDS_TO_SAVE
    extra: tuple[str, ...] = ()  # further options of sbatch, each with its value

    def __post_init__(self) -> None:
        for name in ("time", "partition", "account", "memory"):
            _require_printable(f"--{name}", getattr(self, name))
        for option in self.extra:
            _require_printable("--sbatch", option)
            if not option.startswith("-"):
                raise RecipeError(
                    f"--sbatch {option}: give an option of sbatch with its dashes, e.g. --sbatch=--qos=high"
                )


def batch_script(run: Run, a: Allocation, *, max_restarts: int = 0) -> str:
    """The script that sbatch takes."""
    folder = run.path.resolve()
    options = {"job-name": run.name, "nodes": a.nodes, "output": f"{_as_pattern(folder)}/logs/slurm-%j.log"}
    supervisor = [sys.executable, "-m", "simclr_plus.launch.supervisor", str(folder), "--processes", str(a.processes)]
    supervisor += ["--max-restarts", str(max_restarts)] if max_restarts else []
    meeting = ""
    if a.nodes > 1:
        supervisor += ["--nodes", str(a.nodes)]
        meeting = ' --rdzv "${MASTER_ADDR:-$(hostname)}:$((20000 + SLURM_JOB_ID % 20000))"'
    quoted = shlex.join(supervisor)
    return f"""#!/bin/bash
{_directives(options, a)}

# before the time limit or a preemption: save, stop, and back into the queue
stop={shlex.quote(str(folder / "control" / "STOP"))}
trap 'mkdir -p "$(dirname "$stop")"; echo requeue > "$stop"' USR2

cd {shlex.quote(str(Path.cwd()))}
# since SLURM 22.05 srun no longer takes the job's cores a task by itself
srun --kill-on-bad-exit=1 ${{SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}} {quoted}{meeting} &
child=$!
while :; do  # wait returns at each signal
    wait $child
    code=$?
    kill -0 $child 2>/dev/null || break
done
if [ $code -eq 75 ] && ! [ -e "$stop" ]; then
    trap '' TERM USR2  # requeueing ends this script
    scontrol requeue $SLURM_JOB_ID
fi
exit $code
"""


def array_script(
    name: str, folder: Path, command: list[str], numbers: list[int], a: Allocation, *, at_once: int = 0
) -> str:
    """An array of jobs, each `command` with one of the numbers added, on one node; logs go to folder/logs.

    Before the time limit the command gets SIGINT, to save and stop, and the job goes back into the queue.
    """
    options = {
        "job-name": name,
        "nodes": 1,
        "output": f"{_as_pattern(folder.resolve())}/logs/slurm-%A_%a.log",
        "array": ",".join(map(str, numbers)) + (f"%{at_once}" if at_once else ""),
    }
    return f"""#!/bin/bash
{_directives(options, a)}

again=0
trap 'again=1; kill -INT $child' USR2

cd {shlex.quote(str(Path.cwd()))}
{shlex.join(command)} "$SLURM_ARRAY_TASK_ID" &
child=$!
while :; do  # wait returns at each signal
    wait $child
    code=$?
    kill -0 $child 2>/dev/null || break
done
if [ $code -ne 0 ] && [ $again -eq 1 ]; then
    trap '' TERM USR2  # requeueing ends this script
    scontrol requeue ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID
fi
exit $code
"""


def _directives(options: dict[str, Any], a: Allocation) -> str:
    """The script's lines for sbatch: these options and those that every script of an allocation has."""
    options |= {
        "ntasks-per-node": 1,
        "gpus-per-node": a.gpus,
        "cpus-per-task": a.cpus,
        "time": a.time,
        "partition": a.partition,
        "account": a.account,
        "mem": a.memory,
        "signal": f"B:USR2@{a.signal_seconds}",
        "open-mode": "append",
    }
    lines = [f"#SBATCH --{key}={_quoted(str(value))}" for key, value in options.items() if value]
    return "\n".join([*lines, "#SBATCH --requeue", *(f"#SBATCH {_as_line(option)}" for option in a.extra)])


def _quoted(value: str) -> str:
    """A value as sbatch reads it in a script: unlike the shell, it takes a backslash for an escape in any quotes."""
    _require_printable("SLURM's script", value)
    if not value or any(letter.isspace() or letter in "\"'\\#" for letter in value):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return value


def _as_line(option: str) -> str:
    """An option that the user gave. Where it has quotes or "--key value" it is left as it is."""
    key, equals, value = option.partition("=")
    if not equals or " " in key or any(letter in "\"'\\" for letter in value):
        return option
    return f"{key}={_quoted(value)}"


def _as_pattern(folder: Path) -> str:
    """A folder in a name that sbatch fills in: "%" is doubled. A backslash would switch that off, so it is refused."""
    if "\\" in str(folder):
        raise RecipeError(f"SLURM cannot write its log into {folder}: rename the folder with the backslash")
    return str(folder).replace("%", "%%")


def _require_printable(where: str, value: str) -> None:
    """A line break would end the line of the script, and what follows would be run."""
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp") for letter in value):
        raise RecipeError(f"{where} {value!r} holds a line break or another control character; leave it out")


def submit(script: Path) -> str:
    """Hand a script to sbatch; returns the job's id."""
    if shutil.which("sbatch") is None:
        raise EnvironmentNotAbleError("--slurm needs SLURM's sbatch, which is not on the PATH; log in to the cluster")
    done = subprocess.run(
        ["sbatch", "--parsable", str(script.resolve())], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        raise SimclrPlusError(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().split(";")[0]


def cancel(job: str) -> None:
    """Take a job out of the queue, or end it."""
    _known.pop(job, None)
    done = subprocess.run(["scancel", job], capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise SimclrPlusError(f"scancel {job} failed: {done.stderr.strip()}")


def state_of_job(job: str) -> str | None:
    """Whether a job is pending, active or gone; None where SLURM cannot be asked. It may be SECONDS_TO_KEEP old."""
    with _asking:
        if has_to_ask(job):
            _expected.add(job)
            places, now = _ask(sorted(_expected)), time.monotonic()
            _known.update({one: (places.get(one), now) for one in _expected})
            _expected.clear()
        return _known[job][0]


def has_to_ask(job: str) -> bool:
    """Whether `state_of_job` would ask SLURM, rather than say what it knows."""
    return job not in _known or time.monotonic() - _known[job][1] > SECONDS_TO_KEEP


def expect(jobs: Iterable[str]) -> None:
    """Say which jobs will be asked about too, so that SLURM is asked about all of them at once."""
    with _asking:
        _expected.update(job for job in jobs if job)


def _ask(jobs: list[str]) -> dict[str, str]:
    """Where jobs stand; those that SLURM says nothing of, for it cannot be asked, are left out."""
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--noheader", "--states=all", "--jobs", ",".join(jobs), "--format=%A %F %i %T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=20)
    except (subprocess.TimeoutExpired, OSError):
        return {}
    if done.returncode and "Invalid job id" not in done.stderr:
        return {}
    words: dict[str, set[str]] = {job: set() for job in jobs}
    for line in done.stdout.splitlines():
        *names, word = line.split()
        for name in set(names) & words.keys():
            words[name].add(word)
    return {job: _place(said) for job, said in words.items()}


def _place(words: set[str]) -> str:
    """Of a job, or of the tasks of an array."""
    if words & {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}:
        return PENDING
    return ACTIVE if words & {"RUNNING", "CONFIGURING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT"} else GONE


def job_here() -> dict[str, Any]:
    """The job that this process is part of; empty outside of SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return {}
    restarts = os.environ.get("SLURM_RESTART_COUNT", "0")
    return {"job_id": job, "restart_count": int(restarts) if restarts.isdecimal() else 0}
