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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.runs import Run

PENDING, ACTIVE, GONE = "pending", "active", "gone"
SECONDS_TO_SAVE = 300  # SIGUSR2 comes so long before the time limit


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
    extra: tuple[str, ...] = ()  # further options of sbatch, as they are


def batch_script(run: Run, a: Allocation, *, max_restarts: int = 0) -> str:
    """The script that sbatch takes."""
    folder = run.path.resolve()
    options = {"job-name": run.name, "nodes": a.nodes, "output": f"{folder}/logs/slurm-%j.log"}
    supervisor = [sys.executable, "-m", "simclr_plus.supervisor", str(folder), "--processes", str(a.processes)]
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
        "output": f"{folder.resolve()}/logs/slurm-%A_%a.log",
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
    lines = [f"#SBATCH --{key}={value}" for key, value in options.items() if value]
    return "\n".join([*lines, "#SBATCH --requeue", *(f"#SBATCH {option}" for option in a.extra)])


def submit(script: Path) -> str:
    """Hand a script to sbatch; returns the job's id."""
    if shutil.which("sbatch") is None:
        raise EnvironmentNotAbleError("--slurm needs SLURM's sbatch, which is not on the PATH; log in to the cluster")
    done = subprocess.run(["sbatch", "--parsable", str(script)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimclrPlusError(f"sbatch refused {script}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip().split(";")[0]


def cancel(job: str) -> None:
    """Take a job out of the queue, or end it."""
    done = subprocess.run(["scancel", job], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SimclrPlusError(f"scancel {job} failed: {done.stderr.strip()}")


def state_of_job(job: str) -> str | None:
    """Whether a job is pending, active or gone; None where SLURM cannot be asked."""
    if shutil.which("squeue") is None:
        return None
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T"],
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        return GONE if "Invalid job id" in done.stderr else None
    words = set(done.stdout.split())
    if words & {"PENDING", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT", "SUSPENDED"}:
        return PENDING
    return ACTIVE if words & {"RUNNING", "CONFIGURING", "COMPLETING", "RESIZING", "SIGNALING", "STAGE_OUT"} else GONE


def job_here() -> dict[str, Any]:
    """The job that this process is part of; empty outside of SLURM."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return {}
    return {"job_id": job, "restart_count": int(os.environ.get("SLURM_RESTART_COUNT", "0"))}
