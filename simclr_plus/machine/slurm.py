"""Talks to SLURM: hands it a script, cancels a job, asks where jobs stand."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError

PENDING, ACTIVE, GONE = "pending", "active", "gone"
SECONDS_TO_KEEP = 10.0  # what SLURM said of a job; its controller serves a whole cluster
_asking = threading.RLock()
_known: dict[str, tuple[str | None, float]] = {}  # where jobs stand, and when that was said, monotonic
_expected: set[str] = set()


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
