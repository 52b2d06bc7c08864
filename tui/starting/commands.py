"""The `simclr-plus` commands that the screens start, as words: what is shown is what is run. No Textual, no torch."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

EXPORTED = {".safetensors": "encoder", "": "timm", ".onnx": "onnx", ".pt2": "torch_export"}  # formats by ending
LAST_WORDS = 4000  # characters of what a command said


def shown(words: Sequence[str]) -> str:
    """The command as one would type it."""
    return shlex.join(["simclr-plus", *words])


def run_words(recipe: str, overrides: Mapping[str, Any], launch: Mapping[str, Any], runs: Path) -> list[str]:
    """`run` for a recipe with keys changed; `launch` holds the keys of recipe_form.LAUNCH."""
    words = ["run", recipe, *(override(key, value) for key, value in overrides.items()), "--name", str(launch["name"])]
    slurm = launch["where"] == "SLURM"
    if str(launch["processes"]) != "1":
        words += ["--nproc", str(launch["processes"])]
    if slurm:
        words.append("--slurm")
        for key in ("nodes", "gpus", "time", "partition", "account", "memory"):
            value = str(launch[key])
            if value and value != "0" and (key, value) != ("nodes", "1"):
                words += [f"--{key}", value]
    elif int(launch["restarts"]):
        words += ["--max-restarts", str(launch["restarts"])]
    words += [] if slurm else ["-d"]
    return [*words, *_folder(runs)]


def dry_run_words(recipe: str, overrides: Mapping[str, Any], processes: int) -> list[str]:
    """`run` for a recipe with keys changed, which only tells what it comes to."""
    changed = [override(key, value) for key, value in overrides.items()]
    return ["run", recipe, *changed, "--nproc", str(processes), "--dry-run", "--json"]


def resume_words(run: Path) -> list[str]:
    """`resume` for a run."""
    return ["resume", str(run), "-d"]


def evaluate_words(target: Path, evaluator: str, runs: Path) -> list[str]:
    """`evaluate` for a run or a checkpoint; `evaluator` is "knn", "linear --fast" or "linear"."""
    return ["evaluate", *evaluator.split(), str(target), *_folder(runs), "--json"]


def export_words(source: Path, output: Path) -> list[str]:
    """`export` of the encoder in a checkpoint, in the format that the ending of `output` says."""
    format = EXPORTED[output.suffix]
    return ["export", str(source), "-o", str(output), *(["--format", format] if format != "encoder" else [])]


def override(key: str, value: Any) -> str:
    """`key=value` as the command line takes it: bare words stay bare, unless they would be read as something else."""
    return f"{key}={toml_value(value)}"


def toml_value(value: Any) -> str:
    """A value in TOML, words bare where that is unambiguous."""
    if isinstance(value, str):
        try:
            tomllib.loads(f"value = {value}")
        except tomllib.TOMLDecodeError:
            return value if value.strip() == value and value else json.dumps(value)
        return json.dumps(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_quoted(x) for x in value)}]"
    if isinstance(value, dict):
        pairs = [
            f"{key if re.fullmatch('[A-Za-z0-9_-]+', key) else json.dumps(key)} = {_quoted(x)}"
            for key, x in value.items()
        ]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    return str(value) if isinstance(value, int) else f"{value:g}"


def _quoted(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else toml_value(value)


def start(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that it outlives the screen; what it says goes to `log`.

    The JSON document that it was asked for goes to a file beside the log.
    """
    with log.open("ab") as said, (answer_file(log) if "--json" in words else log).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "simclr_plus.cli", *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=said,
            env=plain_environment(),
            start_new_session=True,
        )


def plain_environment() -> dict[str, str]:
    """Of a command whose words are read again: lines of one width, no color, nothing held back."""
    return {**os.environ, "COLUMNS": "100", "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"}


def answer_file(log: Path) -> Path:
    """Where the JSON document of a command lies."""
    return log.with_suffix(".json")


def answer(log: Path) -> Any:
    """The JSON document that a command printed at last; raises ValueError or OSError where it printed none."""
    text = answer_file(log).read_text(encoding="utf-8")
    return json.loads(text[text.rfind("\n{\n") + 1 :])  # a library may have printed before


def last_words(log: Path) -> str:
    """What a command said at last: its last line, and under it all that it said."""
    try:
        text = log.read_bytes()[-LAST_WORDS:].decode(errors="replace").strip()
    except OSError as error:
        return str(error)
    lines = text.splitlines()
    return text if len(lines) < 2 else f"{lines[-1]}\n\nall that it said:\n{text}"


def new_log(folder: Path, words: Sequence[str]) -> Path:
    """An empty log for a command, its own also where several begin in one second: verb, evaluator and time."""
    verb = re.sub(r"[^a-z]+", "_", " ".join(word for word in words[:2] if "/" not in word and word != "-d")).strip("_")
    name = f"{verb}.{time.strftime('%Y%m%d-%H%M%S')}"
    folder.mkdir(parents=True, exist_ok=True)
    for again in itertools.count(1):
        log = folder / f"{name}{f'-{again}' if again > 1 else ''}.log"
        with suppress(FileExistsError):
            log.touch(exist_ok=False)
            return log
    raise AssertionError


def _folder(runs: Path) -> list[str]:
    return [] if runs == Path("runs") else ["--runs", str(runs)]
