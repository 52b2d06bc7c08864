"""One damaged run folder never hides the others: every file of it may hold anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from simclr_plus.tui.reading.run_list import RunList
from typer.testing import CliRunner

from simclr_plus.cli.app import app
from simclr_plus.machine import slurm
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.heartbeat import HeartbeatWriter, heartbeat_file, read_heartbeats
from simclr_plus.runs.overview import glance, whole_view
from simclr_plus.runs.states import KINDS, read_status, state_of

WRONG: list[Any] = [None, True, "7", 7, -1, 1e400, float("nan"), 10**400, [], ["x"], {}, {"job_id": 7}, {"x": None}]
ELSEWHERE = {"host": "another", "boot_id": "other", "next_in": 120}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs with two steps each; the one in the middle will be damaged."""
    monkeypatch.setattr(slurm, "state_of_job", lambda _: slurm.ACTIVE)
    for name in ("a", "damaged", "z"):
        run = create_run(load_recipe("demo"), tmp_path, name)
        run.log_event("start", steps=10, processes=1, host="h")
        for step in (1, 2):
            run.log_metrics({"step": step, "images": 8 * step, "loss": 1.5, "images_per_second": 4.0, "time": 1.0})
        status = {"state": "running", "updated": time.time(), "pid": 1, "slurm": {"job_id": "7"}, **ELSEWHERE}
        run.status_file.write_text(json.dumps({**status, "attempt": 2, "restarts": [], "why": ""}))
        run.logs.mkdir()
        (run.logs / "rank_0.log").write_text("a line\n")
        HeartbeatWriter(heartbeat_file(run.logs, 0), 60).beat(2, "step")
    return tmp_path


def lines_of(runs: Path, *words: str) -> dict[str, dict[str, Any]]:
    done = CliRunner().invoke(app, ["ps", "--runs", str(runs), *words])
    assert done.exit_code == 0, done.output
    if not words:
        assert all(name in done.output for name in ("a", "damaged", "z"))
        return {}
    return {line["run"]: line for line in json.loads(done.output)["runs"]}


def nothing_is_hidden(runs: Path, *verbs: list[str]) -> dict[str, Any]:
    """The whole list and, by these verbs, the damaged run; returns what `ps` says of it."""
    lines = lines_of(runs, "--json")
    assert set(lines) == {"a", "damaged", "z"}
    assert all((lines[name]["state"], lines[name]["loss"]) == ("running", 1.5) for name in ("a", "z"))
    assert {line.run.name for line in RunList(runs).look()} == set(lines)
    for words in verbs:
        done = CliRunner().invoke(app, [*words, "--runs", str(runs)])
        assert done.exit_code == 0 and done.output, (words, done.output, done.exception)
    return lines["damaged"]


def damage(runs: Path, key: str, value: Any, file: str = "status.json") -> None:
    path = runs / "damaged" / file
    path.write_text(json.dumps({**json.loads(path.read_text().splitlines()[-1]), key: value}) + "\n")


def test_a_status_with_values_of_any_type_is_shown(runs: Path) -> None:
    file, run = runs / "damaged" / "status.json", Run(runs / "damaged")
    whole = json.loads(file.read_text())
    for value in WRONG:
        for keys in (*([key] for key in KINDS), [*KINDS, "nodes"]):
            file.write_text(json.dumps({**whole, **dict.fromkeys(keys, value)}))
            view = whole_view(run)
            assert isinstance(view["state"], str) and view["loss"] == 1.5
            assert isinstance(read_status(run).get("processes", 1), int)
        nothing_is_hidden(runs, ["show", "damaged"])


def test_a_time_that_is_none_is_named(runs: Path) -> None:
    damage(runs, "updated", None)
    said = nothing_is_hidden(runs)
    assert said["state"] == "unreadable" and "updated = null" in said["why"]
    damage(runs, "updated", time.time())
    damage(runs, "slurm", "7")
    said = nothing_is_hidden(runs)
    assert (said["state"], said["job_id"]) == ("running", None)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{}", b"", b"[1]", b"null", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}", b" " * (2 << 20)]
)
def test_a_status_that_is_no_status_leaves_it_to_the_other_files(runs: Path, content: bytes) -> None:
    (runs / "damaged" / "status.json").write_bytes(content)
    verbs = (["show", "damaged"], ["show", "damaged", "--json"], ["logs", "damaged"])
    assert nothing_is_hidden(runs, *verbs)["state"] == "running"  # its process lives, by its heartbeat


@pytest.mark.parametrize(
    "file", ["status.json", "events.jsonl", "metrics.jsonl", "logs/rank_0.pulse", "system.h.jsonl"]
)
def test_a_folder_in_the_place_of_a_file_hides_nothing(runs: Path, file: str) -> None:
    path = runs / "damaged" / file
    path.unlink(missing_ok=True)
    path.mkdir()
    said = nothing_is_hidden(runs, ["show", "damaged"], ["logs", "damaged"])
    assert said["state"] in ("running", "starting", "unreadable")
    assert file in said["why"] if said["state"] == "unreadable" else file != "metrics.jsonl"


def test_lines_of_metrics_with_values_of_any_type_are_shown(runs: Path) -> None:
    file, run = runs / "damaged" / "metrics.jsonl", Run(runs / "damaged")
    whole = file.read_text()
    for value in WRONG:
        for key in ("step", "epoch", "loss", "images", "images_per_second", "time"):
            file.write_text(whole)
            damage(runs, key, value, "metrics.jsonl")
            view = glance(run)
            for name in ("step", "epoch", "loss", "images_per_second", "time", "seconds_left"):
                shown = view[name]
                assert shown is None or (type(shown) in (int, float) and abs(shown) < 1e300)
        nothing_is_hidden(runs, ["compare", "damaged", "a"])


def test_events_with_values_of_any_type_are_shown(runs: Path) -> None:
    run = Run(runs / "damaged")
    run.status_file.unlink()
    heartbeat_file(run.logs, 0).unlink()
    keys = ("steps", "from_step", "processes", "host", "time", "reason", "message", "changes", "parent")
    for value in WRONG:
        for kind in ("start", "resume", "exit", "branch", value):
            run.events_file.write_text(json.dumps({"event": kind, **dict.fromkeys(keys, value)}) + "\n")
            assert whole_view(run)["state"] in ("lost", "queued")
        nothing_is_hidden(runs)
    nothing_is_hidden(runs, ["show", "damaged"])


@pytest.mark.parametrize("content", [b"\xff\xfe", b"[[", b"x = 1\n"])
def test_a_recipe_that_cannot_be_read_hides_nothing(runs: Path, content: bytes) -> None:
    (runs / "damaged" / "recipe.toml").write_bytes(content)
    nothing_is_hidden(runs)
    done = CliRunner().invoke(app, ["compare", "damaged", "a", "--runs", str(runs)])
    assert done.exit_code and "recipe.toml" in str(done.exception)


def test_a_run_that_vanishes_while_the_list_is_read_is_left_out(runs: Path) -> None:
    (runs / "dangling").mkdir()
    (runs / "dangling" / "recipe.toml").symlink_to(runs / "nowhere")
    assert {"a", "damaged", "z"} <= set(lines_of(runs, "--json"))


def test_figures_of_a_machine_of_any_type_are_shown(runs: Path) -> None:
    file = runs / "damaged" / "system.h.jsonl"
    gpu = {"index": 0, "utilisation": "x", "memory_used": None, "power": [1]}
    lines = [dict.fromkeys(("time", "cpu", "memory_used", "memory_total", "gpus"), value) for value in WRONG]
    for line in (*lines, {"gpus": [gpu, 7]}):
        file.write_text(json.dumps(line) + "\n")
        done = CliRunner().invoke(app, ["show", "damaged", "--runs", str(runs)])
        assert done.exit_code == 0, done.output


def test_a_heartbeat_of_any_type_is_no_heartbeat(runs: Path) -> None:
    file = heartbeat_file(runs / "damaged" / "logs", 0)
    whole = json.loads(file.read_text())
    for key in whole:
        for value in (None, "x", [], True, float("nan")):
            file.write_text(json.dumps({**whole, key: value}))
            good = {"started": [None], "doing": [], "host": ["x"]}.get(key, [])
            assert (list(read_heartbeats(file.parent)) == [0]) is (value in good)
    (file.parent / "rank_x.pulse").write_text(json.dumps(whole))
    file.write_text(json.dumps(whole))
    assert list(read_heartbeats(file.parent)) == [0]


def test_a_stop_file_of_any_bytes_asks_to_stop(runs: Path) -> None:
    run = Run(runs / "damaged")
    run.ask_to_stop()
    run.stop_file.write_bytes(b"\xff\xfe" * 1000)
    assert run.stop_word() is not None and state_of(run).name == "stopping"


def test_checkpoints_of_other_names_are_no_checkpoints(runs: Path) -> None:
    run = Run(runs / "a")
    run.checkpoints.mkdir()
    for name in ("step_00000009", "step_100000000", "step_best", "step_00000010_copy"):
        (run.checkpoints / f"{name}.safetensors").touch()
    assert [file.stem for file in run.checkpoint_files()] == ["step_00000009", "step_100000000"]


def test_a_status_that_may_not_be_read_hides_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who is not root, whom no mode keeps out."""
    opened, locked = Path.open, runs / "damaged" / "status.json"

    def denying(path: Path, *arguments: Any, **options: Any) -> Any:
        if path == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", denying)
    nothing_is_hidden(runs)


def test_a_name_that_is_not_utf8_is_printed_by_its_codes_and_hides_nothing(runs: Path) -> None:
    damage(runs, "state", "failed")
    damage(runs, "why", os.fsdecode(b"caf\xe9.jpg cannot be read"))
    command = [sys.executable, "-m", "simclr_plus.cli", "ps", "--runs", str(runs)]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # as in most languages
    done = subprocess.run(command, env=strict, capture_output=True, check=False)
    assert done.returncode == 0 and rb"caf\xe9.jpg cannot be read" in done.stdout and b" z " in done.stdout
