from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from simclr_plus.machine.json_lines import Tail, last_objects
from simclr_plus.runs.metrics_table import MOST_DISCARDED, MetricsTable


def test_a_line_is_read_once_and_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    with path.open("ab", buffering=0) as file:
        file.write(b'{"a": 1}\n{"a": 2')
        assert tail.read() == [{"a": 1}]
        assert tail.read() == []
        file.write(b"}\n")
        assert tail.read() == [{"a": 2}] and tail.bad_lines == 0


def test_text_written_in_random_pieces_is_read_as_it_was_written(tmp_path: Path) -> None:
    path, draw = tmp_path / "x.jsonl", random.Random(0)
    objects = [{"n": i, "text": "é" * draw.randrange(200), "nan": None} for i in range(300)]
    data = "".join(json.dumps(o, ensure_ascii=False) + "\n" for o in objects).encode()
    tail, found = Tail(path), []
    with path.open("ab", buffering=0) as file:
        while data:
            n = draw.randrange(1, 400)
            file.write(data[:n])
            data = data[n:]
            found += tail.read(limit=draw.choice((0, 50)))
    found += tail.read()
    assert found == objects


@pytest.mark.parametrize("garbage", [b"\x00\xff\xfe", b"{", b"[1, 2]", b'"a", "b"', b"nonsense", b"7", b"[" * 100_000])
def test_garbage_is_counted_and_left_out(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"a": 1}\n' + garbage + b'\n\n{"a": 2}\n')
    tail = Tail(path)
    assert tail.read() == [{"a": 1}, {"a": 2}] and tail.bad_lines == 1


def test_a_file_that_was_cut_or_replaced_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    tail = Tail(path)
    assert len(tail.read()) == 2
    path.write_text('{"a": 3}\n')  # cut
    assert tail.read() == [{"a": 3}] and tail.restarts == 1
    path.rename(tmp_path / "x.1")  # rotated
    assert tail.read() == []
    path.write_text('{"b": 4}\n{"b": 5}\n{"b": 6}\n')
    assert [o["b"] for o in tail.read()] == [4, 5, 6] and tail.restarts == 2
    path.write_text('{"other": 7}\n{"other": 8}\n{"other": 9}\n')  # same inode, grown beyond the old place
    assert len(tail.read()) == 3 and tail.restarts == 3


def test_skipping_leaves_out_what_is_there_but_no_line_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n{"a": 2')
    tail = Tail(path)
    tail.skip()
    with path.open("a") as file:
        file.write("}\n")
    assert tail.read() == [{"a": 2}] and tail.restarts == 0


def test_objects_come_from_the_end_across_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    lines = [json.dumps({"n": i, "pad": "x" * (i * 37 % 3000)}) for i in range(500)]
    path.write_text("\n".join(lines) + '\n{"torn": 1')
    assert [o["n"] for o in last_objects(path)] == list(range(499, -1, -1))
    assert list(last_objects(tmp_path / "none")) == []


def test_the_table_holds_each_step_once_as_gone_through_last(tmp_path: Path) -> None:
    """Against the plain way: go through all lines, a dict a step, later attempts drop what they pass again."""
    path, draw = tmp_path / "metrics.jsonl", random.Random(1)
    table, expected, step = MetricsTable(path), {}, 0
    dropped: list[list[dict[str, Any]]] = []
    with path.open("a") as file:
        for _ in range(400):
            step = step + draw.randrange(1, 4) if draw.random() < 0.97 else draw.randrange(1, step + 2)
            line = {"step": step, "loss": draw.choice((None, math.nan, draw.random()))}
            if draw.random() < 0.1:
                line["knn_accuracy"] = draw.random()
            file.write(json.dumps(line) + "\n" + draw.choice(("", "", "garbage\n", '{"step": "x"}\n', "{}\n")))
            again = [v for s, v in expected.items() if s >= step]
            dropped += [again] if again else []
            expected = {s: v for s, v in expected.items() if s < step} | {step: line}
            if draw.random() < 0.2:
                file.flush()
                table.look()
    table.look()
    assert list(table.steps) == list(expected)
    for s, line in expected.items():
        numbers = {k: v for k, v in line.items() if k != "step" and v is not None and not math.isnan(v)}
        assert table.at(s) == numbers
    assert all(len(column) == len(table.steps) for column in table.columns.values())
    assert table.at(10**6) == {}
    assert len(dropped) > 3
    assert [list(stretch["step"]) for stretch in table.discarded] == [[v["step"] for v in again] for again in dropped]
    losses = [[math.nan if v["loss"] is None else v["loss"] for v in again] for again in dropped]
    np.testing.assert_array_equal(np.concatenate([s["loss"] for s in table.discarded]), np.concatenate(losses))


def test_of_steps_that_ever_go_back_only_the_last_are_kept_in_mind(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1000, 0, -1)))
    table = MetricsTable(path)
    table.look()
    assert list(table.steps) == [1] and len(table.discarded) == MOST_DISCARDED
    path.write_text('{"step": 3}\n')  # another file
    table.look()
    assert list(table.steps) == [3] and table.discarded == []


def test_words_and_new_keys_do_not_disturb_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "word": "a", "big": 1e999, "loss": 1}\n{"step": 2, "new": 5, "loss": true}\n')
    table = MetricsTable(path)
    table.look()
    assert table.at(1) == {"big": math.inf, "loss": 1.0} and table.at(2) == {"new": 5.0}
    path.write_text('{"step": 1, "loss": 2}\n')
    table.look()
    assert list(table.steps) == [1] and table.at(1) == {"loss": 2.0}


@pytest.mark.slow
def test_a_million_lines_are_read_in_slices_and_the_next_line_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = '{"step": %d, "epoch": 1.5, "loss": 4.25, "contrastive_accuracy": 0.5, "learning_rate": 0.3, "knn": null}\n'
    with path.open("w") as file:
        file.writelines(line % i for i in range(1_000_000))
    table = MetricsTable(path)
    slices, longest = 0, 0.0
    while True:
        before = time.process_time()
        more = table.look(seconds=0.05)
        longest, slices = max(longest, time.process_time() - before), slices + 1
        if not more:
            break
    assert len(table.steps) == 1_000_000 and table.at(999_999)["loss"] == 4.25
    assert slices > 10 and longest < 1  # seconds of one core: a viewer stays alive meanwhile
    with path.open("a") as file:
        file.write(line % 1_000_000)
    before = time.process_time()
    assert table.look() is False
    assert time.process_time() - before < 0.05 and table.steps[-1] == 1_000_000
    before = time.process_time()
    assert next(last_objects(path))["step"] == 1_000_000
    assert time.process_time() - before < 0.05
