"""What the terminal UI reads of a run: headers, logs, the list, samples of long files."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simclr_plus.tui.reading.feed import Feed
from simclr_plus.tui.reading.logs import LogTail, log_files, plain
from simclr_plus.tui.reading.run_list import RunList, samples
from simclr_plus.tui.screens.plots import PLOTS, curves_of, discarded_curves

from simclr_plus.errors import CheckpointError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.weights.file_header import read_file_header


def test_a_header_is_read_without_the_tensors(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "a.safetensors"
    save_file({"w": np.zeros((3, 4), np.float32), "s": np.zeros((), np.int64)}, path, {"step": "7"})
    header = read_file_header(path)
    assert header.metadata == {"step": "7"}
    assert {(t.name, t.dtype, t.shape, t.count) for t in header.tensors} == {
        ("w", "F32", (3, 4), 12),
        ("s", "I64", (), 1),
    }


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 10**12), struct.pack("<Q", 4) + b"[[[[", b"x" * 99])
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors"):
        read_file_header(path)


def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "cut.safetensors"
    save_file({"w": np.zeros(1000, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut off"):
        read_file_header(path)


def test_a_log_folds_bars_loses_colours_and_follows(tmp_path: Path) -> None:
    path = tmp_path / "rank_0.log"
    tail = LogTail(path)
    assert not tail.look()
    path.write_bytes(b"10 %\r50 %\r100 %\n\x1b[31mred\x1b[0m\nhalf")
    assert tail.look() and tail.lines == ["100 %", "red"] and tail.added == 2
    with path.open("ab") as file:
        file.write(b" done\n")
    assert tail.look() and tail.lines[-1] == "half done" and tail.added == 1
    assert not tail.look()
    path.write_bytes(b"new\n")
    assert tail.look() and tail.lines == ["new"]


def test_of_a_huge_log_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "big.log"
    path.write_bytes(b"".join(b"line %d\n" % i for i in range(200_000)))
    tail = LogTail(path)
    tail.look()
    assert tail.lines[-1] == "line 199999" and len(tail.lines) == 2000
    assert plain(b"\xff\xfe") != ""


def test_ranks_come_first_in_order(tmp_path: Path) -> None:
    for name in ("launcher.x.log", "rank_10.log", "rank_2.log", ".hidden.log"):
        (tmp_path / name).touch()
    assert [path.name for path in log_files(tmp_path)] == ["rank_2.log", "rank_10.log", "launcher.x.log"]


def write_lines(run: Run, count: int, **values: Any) -> None:
    with run.metrics_file.open("a") as file:
        for i in range(1, count + 1):
            line = {"step": i, "epoch": i / 10, "images": i * 8, "time": 1e9 + 36 * i, "loss": 5 / i, **values}
            file.write(json.dumps(line) + "\n")


def test_the_list_reads_again_only_what_changed(tmp_path: Path) -> None:
    for i in range(20):
        run = create_run(load_recipe("demo"), tmp_path, f"run{i}")
        run.log_event("start", steps=10)
        write_lines(run, 10)
        run.log_event("exit", reason="finished")
    found = RunList(tmp_path)
    assert len(found.look()) == 20 and found.read == 20
    found.look()
    assert found.read == 0
    Run(tmp_path / "run3").log_metrics({"step": 11, "loss": 0.25})
    lines = {line.run.name: line for line in found.look()}
    assert found.read == 1 and lines["run3"].glance["loss"] == 0.25 and lines["run3"].losses[-1] == 0.25


def test_damaged_and_vanished_runs_are_told_and_do_no_harm(tmp_path: Path) -> None:
    import shutil

    for name in ("good", "bad_recipe", "bad_metrics", "bad_status", "gone"):
        write_lines(create_run(load_recipe("demo"), tmp_path, name), 3)
    (tmp_path / "bad_recipe" / "recipe.toml").write_text("not = [toml")
    (tmp_path / "bad_metrics" / "metrics.jsonl").write_bytes(b'\x00\xff{"step": "x", "loss": {}}\n[1]\n"a"\n')
    (tmp_path / "bad_status" / "status.json").write_text('{"state": "running", "updated": "never", "boot_id": 3}')
    (tmp_path / "bad_status" / "events.jsonl").write_text("nothing\n{}\n")
    found = RunList(tmp_path)
    lines = {line.run.name: line for line in found.look()}
    assert set(lines) == {"good", "bad_recipe", "bad_metrics", "bad_status", "gone"}
    assert lines["bad_recipe"].state == "unreadable" and "recipe.toml" in lines["bad_recipe"].trouble
    assert lines["good"].losses
    shutil.rmtree(tmp_path / "gone")
    assert "gone" not in {line.run.name for line in found.look()}
    feed = Feed(Run(tmp_path / "gone"))
    feed.look()
    assert feed.facts.glance["state"] == "gone"
    feed = Feed(Run(tmp_path / "bad_metrics"))
    feed.look()
    assert "no JSON" in feed.facts.trouble


def test_samples_of_a_long_file_follow_its_curve(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": i, "loss": float(i)}) + "\n" for i in range(20_000)))
    found = samples(path, "loss", 10)
    assert len(found) == 11 and found[0] == 0 and found[-1] == 19_999
    assert np.allclose(np.diff(found), 2000, atol=300)
    assert samples(tmp_path / "none", "loss") == []


def test_the_x_of_a_curve_is_what_was_asked_for(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "r")
    write_lines(run, 100)
    feed = Feed(run)
    feed.look()
    assert feed.axis("step")[-1] == 100 and feed.axis("images")[-1] == 800 and feed.axis("epoch")[-1] == 10
    assert feed.axis("time")[-1] == pytest.approx(0.99)
    raw, line = curves_of(PLOTS[0], feed, "step", 5)
    assert raw.faint and not line.faint and np.allclose(raw.y, 5 / np.arange(1, 101))
    (only,) = curves_of(PLOTS[0], feed, "step", 0)
    assert np.array_equal(only.y, raw.y)


def test_what_a_resumed_run_went_through_again_is_kept_apart(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "r")
    for begin, end, loss, start in ((1, 91, 1.0, 1e9), (81, 101, 2.0, 1e9 + 3600)):
        for step in range(begin, end):
            run.log_metrics({"step": step, "epoch": step / 10, "time": start + step, "loss": loss})
        run.log_event("resume", from_step=80)
    feed = Feed(run)
    while feed.look():
        pass
    assert feed.columns("loss")["loss"].tolist() == [1.0] * 80 + [2.0] * 20
    (curve,) = discarded_curves(PLOTS[0], feed, "step")
    assert curve.faint and curve.x.tolist() == list(range(81, 91)) and (curve.y == 1.0).all()
    assert feed.resumes("step") == [81] and feed.resumes("epoch") == [8.1]
    (in_time,) = discarded_curves(PLOTS[0], feed, "time")  # each pass stands where it took place
    assert in_time.x[0] == pytest.approx(80 / 3600) and feed.resumes("time") == [pytest.approx(1 + 80 / 3600)]
    assert discarded_curves(PLOTS[1], feed, "step") == [] == discarded_curves(PLOTS[0], feed, "images")


def test_a_million_lines_are_read_in_slices(tmp_path: Path) -> None:
    """Between two slices the screen has its turn: no slice may take much longer than it promises."""
    run = create_run(load_recipe("demo"), tmp_path, "r")
    block = "".join(json.dumps({"step": i, "loss": 1.5}) + "\n" for i in range(1_000_000, 1_100_000))
    with run.metrics_file.open("w") as file:
        for i in range(4):
            file.write(block.replace('"step": 1', f'"step": {i + 1}'))
    feed = Feed(run)
    slices = 1
    while feed.look():
        slices += 1
    assert feed.lines == 400_000 and slices > 3
    before = feed.version
    os.utime(run.metrics_file)
    assert not feed.look() and feed.version == before
