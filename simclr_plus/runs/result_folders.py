"""Which folder takes the results of an encoder, what it says of itself, and which file a result is. No torch.

A file within a run folder (encoder.safetensors, checkpoints/step_*.safetensors) is the run's: so are its results. Those
of any other file, or of another library's network, go to runs/NAME-DIGEST, eight digits of the encoder's digest, so
that no two encoders share one; `weights.json` in it says whose results these are:
    {"schema": 1, "weights": "file or torchvision:NAME", "digest": "...", "encoder": "ResNet-50 (1x), ..."}
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from simclr_plus.errors import NotFoundError
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.runs.folder import Run
from simclr_plus.runs.result_names import plain

NOTE = "weights.json"
LONGEST_NAME = 100  # of a folder, before its digest


def run_of(file: Path) -> Run | None:
    """The run that a file lies in, links followed; None for a file elsewhere."""
    real, given = file.resolve(), file.absolute()
    for depth in (0, 1):
        folder = real.parents[depth] if len(real.parents) > depth else real.parent
        if _is_run(folder) and (depth == 0 or real.parent.name == "checkpoints"):
            named = given.parents[depth]
            return Run(named if named.resolve() == folder else folder)
    return None


def _is_run(folder: Path) -> bool:
    """A recipe alone may lie beside a file anywhere: training leaves more."""
    trained = (folder / "checkpoints").is_dir() or (folder / "events.jsonl").is_file()
    return trained and (folder / "recipe.toml").is_file()


def folder_of(weights: str, file: Path | None, digest: str, runs: Path) -> Run:
    """Where the results of an encoder go; where its run cannot be written, as if the file lay elsewhere."""
    run = run_of(file) if file else None
    if run and os.access(run.path, os.W_OK):
        return run
    name = plain(file.stem if file else weights, keep="_.")[:LONGEST_NAME]
    return Run(runs / f"{name}-{digest[:8]}")


def write_note(folder: Run, weights: str, digest: str, title: str) -> None:
    """Say whose results are in a folder that is no run."""
    file = folder.path / NOTE
    if not folder.exists and not file.exists():
        note = {"schema": 1, "weights": weights, "digest": digest, "encoder": title}
        write_text_whole(file, json.dumps(note, indent=2) + "\n")


def noted(folder: Path) -> dict[str, Any]:
    """What a folder of results says of itself; empty where it says nothing."""
    return read_result(folder / NOTE) or {}


def find_results(name: str, runs: Path) -> Run:
    """A folder that holds results, no run, by path, name or unique beginning; raises NotFoundError."""
    for path in (Path(name), runs / name):
        if (path / "results").is_dir():
            return Run(path)
    folders = [path.parent for path in runs.glob(f"*/{NOTE}")] if runs.is_dir() else []
    matching = sorted(path for path in folders if path.name.startswith(name) or noted(path).get("weights") == name)
    if len(matching) == 1:
        return Run(matching[0])
    if matching:
        raise NotFoundError(f"{name!r} is ambiguous in {runs}: {', '.join(path.name for path in matching)}")
    raise NotFoundError(f"no results of {name!r} in {runs}")


def key_of(*facts: Any) -> str:
    """Digest of all that an evaluation depends on: two of one key are the same evaluation."""
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()[:32]


def name_for(folder: Run, name: str, key: str) -> str:
    """The name of a result: with the key's beginning where another evaluation has taken the name itself."""
    earlier = read_result(folder.results / f"{name}.json") or {}
    return name if earlier.get("key", key) == key else f"{name}-{key[:8]}"


def read_result(file: Path) -> dict[str, Any] | None:
    """What a result file says; None where it is not there or says nothing that can be read."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None
