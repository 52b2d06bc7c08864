"""What the tests of real runs share: starting them, waiting for what they do, and faults put into their processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from places import TESTS

from simclr_plus.machine.processes import is_alive
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import read_heartbeats
from simclr_plus.runs.states import read_status

CLI = [sys.executable, "-m", "simclr_plus.cli"]


def environment(folder: Path, fault: str = "") -> dict[str, str]:
    """This process's, with one thread a process; `fault` is Python that training processes run before anything else.

    Python imports a module named sitecustomize at its start: a fault needs no hook in the program.
    """
    found = {**os.environ, "OMP_NUM_THREADS": "1"}
    if fault:
        code = "import sys\nif 'simclr_plus.training.process' in sys.orig_argv:\n" + textwrap.indent(
            textwrap.dedent(fault), "    "
        )
        place = folder / "fault"
        place.mkdir(exist_ok=True)
        (place / "sitecustomize.py").write_text(code)
        found["PYTHONPATH"] = str(place)
    return found


def in_processes(program: Path | str, *arguments: Path | str, processes: int = 2) -> None:
    """Run a program by torchrun in so many processes to its good end; it imports the tests' modules, as tests do."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    place = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
    command = [*torchrun, str(program), *map(str, arguments)]
    done = subprocess.run(
        command, env={**os.environ, **place}, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


# what a fault does at a step: `at_step(n, rank, act)` calls act() when the loss of step n (0: of any) is computed there
AT_STEP = """
import os, signal, time
import simclr_plus.losses.contrastive as losses
original, calls = losses.nt_xent, [0]
def at_step(step, rank, act):
    def nt_xent(*arguments, **named):
        calls[0] += 1
        if step in (0, calls[0]) and os.environ.get("RANK", "0") == str(rank):
            act()
        return original(*arguments, **named)
    losses.nt_xent = nt_xent
"""


def wait_for(found: Callable[[], Any], what: str, *, seconds: float = 120.0) -> Any:
    """Wait until something is true and return it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")


def pids_of(run: Run) -> dict[int, int | None]:
    """The run's supervisor and training processes with their start times, as far as they have told."""
    status = read_status(run)
    found = {p.pid: p.started for p in read_heartbeats(run.logs).values()}
    return found | ({status["pid"]: status["pid_started"]} if "pid" in status else {})


def gone(pids: dict[int, int | None]) -> bool:
    """Whether all of them have ended."""
    return not any(is_alive(pid, started) for pid, started in pids.items())


def processes_naming(run: Run) -> list[str]:
    """Command lines of all processes on this machine that name the run's folder: nothing of a run escapes this."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            line = (place / "cmdline").read_bytes()
            state = (place / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if str(run.path).encode() in line.split(b"\0") and state not in ("Z", "X") and b"simclr_plus." in line:
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def ps(folder: Path, name: str) -> dict[str, Any]:
    """What `simclr-plus ps --json` says of a run."""
    done = subprocess.run(
        [*CLI, "ps", "--runs", folder, "--json"], capture_output=True, text=True, check=True, timeout=120
    )
    return next(run for run in json.loads(done.stdout)["runs"] if run["run"] == name)


def same_bytes(one: Run, other: Run) -> bool:
    """Whether two runs ended with the same checkpoint and the same encoder."""
    names = ("encoder.safetensors", f"checkpoints/{one.checkpoint_files()[-1].name}")
    return all((one.path / name).read_bytes() == (other.path / name).read_bytes() for name in names)
