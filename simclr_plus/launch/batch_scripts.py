"""SLURM: the batch script of a run or of an array of jobs. No torch.

The script starts a supervisor on each node. A while before the time limit SLURM sends SIGUSR2 to the script; it asks
the run to save and stop by its STOP file, and puts the job back into the queue when that is done.
"""

from __future__ import annotations

import shlex
import sys
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.errors import RecipeError
from simclr_plus.runs.folder import Run

SECONDS_TO_SAVE = 300  # SIGUSR2 comes so long before the time limit
_WAIT_FOR_CHILD = """child=$!
while :; do  # wait returns at each signal
    wait $child
    code=$?
    kill -0 $child 2>/dev/null || break
done"""


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
{_WAIT_FOR_CHILD}
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
{_WAIT_FOR_CHILD}
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
