"""The parts of the terminal UI that need no terminal: dots, ticks, forms, commands, headers, logs, alarms, lists."""

from __future__ import annotations

import json
import math
import os
import shlex
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from simclr_plus.tui.charts.raster import Window, characters, level, points, raster, spans
from simclr_plus.tui.charts.ticks import decades, labels, percent, short, spark, ticks
from simclr_plus.tui.reading.alarms import alarms
from simclr_plus.tui.reading.feed import Feed, expected_figures
from simclr_plus.tui.reading.logs import LogTail, log_files, plain
from simclr_plus.tui.reading.machines import Machines
from simclr_plus.tui.reading.run_list import RunList, samples
from simclr_plus.tui.screens.compare import colors_of
from simclr_plus.tui.screens.plots import PLOTS, Plot, curves_of, discarded_curves, future_rate, levels_of, plots_of
from simclr_plus.tui.starting.commands import export_words, override, shown
from simclr_plus.tui.starting.recipe_form import LAUNCH, Form, found_recipes, rows_of
from simclr_plus.tui.widgets.key_bar import fitting

from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.machine.words import duration
from simclr_plus.recipe import find_recipe, load_recipe, parse_recipe, shipped_recipes
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.schedules import warmup_cosine
from simclr_plus.weights.file_header import read_file_header

# dots


def test_a_curve_passes_through_the_dots_that_a_plain_loop_finds() -> None:
    generator = np.random.default_rng(0)
    x = np.sort(generator.uniform(0, 10, 300))
    y = generator.normal(size=300).cumsum()
    W, H, window = 40, 24, Window(0.0, 10.0, -8.0, 12.0)
    expected = np.zeros((H, W), dtype=bool)
    fine = np.unique(np.concatenate([np.linspace(x[0], x[-1], 40_001), x]))
    for at, value in zip(fine, np.interp(fine, x, y), strict=True):
        if window.y0 <= value <= window.y1:
            row = round((window.y1 - value) / (window.y1 - window.y0) * (H - 1))
            expected[row, min(W - 1, int(at / 10 * W))] = True
    found = raster(x, y, window, W, H)
    assert (expected & ~found).sum() == 0  # everything that the fine walk touches
    assert (found & ~expected).sum() <= 2  # and hardly a dot more: edges between columns


def test_missing_values_are_gaps_and_are_not_bridged() -> None:
    x, y = np.arange(10.0), np.array([1, 1, 1, np.nan, np.nan, np.nan, 1, 1, np.inf, 1])
    low, high = spans(x, y, 0.0, 9.0, 9)
    assert np.isnan(low[3:6]).all() and np.isfinite(low[[0, 1, 6]]).all()
    assert np.array_equal(np.isnan(low), np.isnan(high))


def test_a_single_spike_among_a_hundred_thousand_points_is_drawn() -> None:
    y = np.zeros(100_000)
    y[54_321] = 1.0
    dots = raster(np.arange(100_000.0), y, Window(0, 99_999, 0, 1), 100, 20)
    assert dots[0].nonzero()[0].tolist() == [54]


def test_braille_has_the_dots_of_the_unicode_block() -> None:
    dots = np.zeros((4, 4), dtype=bool)
    dots[0, 0] = dots[3, 1] = dots[1, 2] = True
    assert "".join(characters(dots)[0]) == chr(0x2800 + 0x01 + 0x80) + chr(0x2800 + 0x02)
    assert "".join(characters(np.zeros((4, 2), dtype=bool))[0]) == " "
    assert "".join(characters(np.array([[True, False, True], [False, True, True]]), "ascii")[0]) == "'.|"


def test_a_level_outside_the_window_is_not_drawn() -> None:
    assert level(5.0, Window(0, 1, 0, 4), 10, 8).sum() == 0
    assert level(4.0, Window(0, 1, 0, 4), 8, 8)[0].sum() == 4


def test_four_series_of_a_hundred_thousand_points_cost_little_more_than_of_a_thousand() -> None:
    """By the ratio to a sort of the same points, which is fair on a busy machine."""
    generator = np.random.default_rng(0)
    x = np.arange(100_000.0)
    series = [generator.normal(size=100_000).cumsum() for _ in range(4)]

    def best(what: Any) -> float:
        times = []
        for _ in range(5):
            begin = time.process_time()
            what()
            times.append(time.process_time() - begin)
        return min(times)

    drawing = best(lambda: [characters(raster(x, y, Window(0, 1e5, -500, 500), 300, 160)) for y in series])
    sorting = best(lambda: [np.sort(y) for y in series for _ in range(10)])
    assert drawing < 3 * sorting


# ticks and words


@pytest.mark.parametrize(("low", "high", "most"), [(0, 1, 5), (-3.2, 17.9, 4), (1e-9, 3e-9, 6), (1e6, 2.5e7, 3)])
def test_ticks_are_round_within_the_range_and_not_too_many(low: float, high: float, most: int) -> None:
    found = ticks(low, high, most)
    assert 1 <= len(found) <= most + 1 and all(low - 1e-12 <= value <= high * (1 + 1e-9) for value in found)
    if len(found) > 1:
        step = found[1] - found[0]
        assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5, 10)


def test_ticks_of_nothing_are_none() -> None:
    assert ticks(1, 1, 5) == ticks(math.nan, 1, 5) == ticks(0, math.inf, 5) == []


def test_decades_are_powers_of_ten_where_there_are_two() -> None:
    assert decades(-3, 2, 10) == [-3, -2, -1, 0, 1, 2]
    assert [round(10**value) for value in decades(math.log10(2), math.log10(9), 4)] == [2, 4, 6, 8]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (4.3121, "4.31"),
        (0, "0"),
        (12500, "12.5k"),
        (1_300_000, "1.3M"),
        (3e-5, "3e-05"),
        (3.25e-5, "3.2e-05"),
        (100, "100"),
        (9999, "9999"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text


@pytest.mark.parametrize(
    ("values", "form", "texts"),
    [
        ([0, 0.5, 1, 1.5], short, ["0", "0.5", "1", "1.5"]),
        ([2.412, 2.414], short, ["2.412", "2.414"]),
        ([12_340, 12_350], short, ["12.34k", "12.35k"]),
        ([0.1 + 0.2, 0.4], percent, ["30%", "40%"]),
        ([0.005, 0.01], percent, ["0.5%", "1.0%"]),
        ([], short, []),
    ],
)
def test_the_values_of_an_axis_are_told_apart_in_few_digits(values: list[float], form: Any, texts: list[str]) -> None:
    assert labels(values, form) == texts


def test_points_lie_on_the_line_that_joins_them() -> None:
    x, y, window = np.array([0.0, 1, 2, 9]), np.array([0.0, 4, np.nan, 2]), Window(0, 4, 0, 4)
    rows, columns = points(x, y, window, 40, 20)
    assert rows.tolist() == [19, 0] and columns.tolist() == [0, 10]
    assert raster(x, y, window, 40, 20)[rows, columns].all()


@pytest.mark.parametrize("room", range(60))
def test_of_the_keys_some_always_stay_and_the_others_from_the_left(room: int) -> None:
    widths, always = [9, 3, 14, 5, 8, 7], [False, False, False, False, True, True]
    fit = fitting(widths, always, room)
    taken = sum(width for width, fits in zip(widths, fit, strict=True) if fits)
    assert fit[4:] == [True, True] and fit[:4] == sorted(fit[:4], reverse=True) and taken <= max(room, 15)
    first = fit.index(False) if False in fit else None
    assert first is None or taken + widths[first] > room  # no key is left out that there was room for


def test_what_is_not_there_is_a_dash() -> None:
    assert short(None) == short(math.nan) == duration(None) == "-"


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (187, "3:07 min"), (7500, "2:05 h"), (90000, "1 d 1 h")])
def test_durations_are_read_at_a_glance(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_sparkline_has_its_extremes_and_gaps() -> None:
    assert spark([0, 7, math.nan, 3.5], 4) == "▁█ ▅"
    assert spark([], 5) == spark([math.nan], 5) == ""
    assert len(spark(list(range(1000)), 12)) == 12


# forms and commands


def form_of(name: str, folder: Path) -> Form:
    return Form(name, find_recipe(name).read_text(), folder)


def test_every_key_of_every_recipe_survives_the_form(tmp_path: Path) -> None:
    for path in shipped_recipes():
        form = form_of(path.stem, tmp_path)
        shown_keys = [key.name for key, _, _ in rows_of(form)]
        of_the_method = [f"method.{key}" for key in type(form.base.method).model_fields]
        assert [key for key in shown_keys if key.startswith("method.")] == of_the_method
        for key in shown_keys:
            assert key in LAUNCH or form.problem(key, form.value(key)) == "", key


def test_a_changed_key_stands_in_the_command_and_the_command_means_it(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path / "my runs")
    form.change("training.epochs", "7")
    form.change("data.root", "/a folder/with blanks")
    form.change("monitor.wandb_project", "123")
    form.change("start.processes", "2")
    words = shlex.split(shown(form.words()))
    assert words[:3] == ["simclr-plus", "run", "demo"] and words[-2:] == ["--runs", str(tmp_path / "my runs")]
    given = [word for word in words[3:] if "=" in word]
    recipe = parse_recipe(find_recipe("demo").read_text(), given)
    assert recipe == form.recipe()
    assert (recipe.training.epochs, recipe.data.root) == (7, "/a folder/with blanks")
    assert recipe.monitor.wandb_project == "123"
    assert words[words.index("--nproc") + 1] == "2"


def test_a_value_set_back_is_no_change(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("training.epochs", "7")
    form.change("training.epochs", "22")
    assert form.overrides == {} and form.changes() == []


def test_a_variant_changes_the_keys_that_follow_it(tmp_path: Path) -> None:
    form = form_of("r50_1x", tmp_path)
    form.change("head.output_dim", "64")
    form.change("variant", "tf2")
    changed = {key: now for key, _, now in form.changes()}
    assert changed["variant"] == "tf2" and changed["head.output_dim"] == "64" and changed["head.num_layers"] == "3"
    assert form.words().index("variant=tf2") < form.words().index("head.output_dim=64")


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("optimizer.name", "larss", "did you mean lars?"),
        ("training.epochs", "-1", "greater than 0"),
        ("training.warmup_epochs", "100", "longer than training.epochs"),
        ("training.batch_sise", "3", "did you mean training.batch_size?"),
        ("start.processes", "many", "whole number"),
        ("start.where", "moon", "this machine or SLURM"),
        ("start.name", "a/b", "plain folder name"),
    ],
)
def test_what_cannot_stand_is_said_and_changes_nothing(tmp_path: Path, key: str, text: str, said: str) -> None:
    form = form_of("demo", tmp_path)
    before = form.words()
    assert said in form.problem(key, text)
    with pytest.raises(RecipeError):
        form.change(key, text)
    assert form.words() == before


def test_processes_that_do_not_divide_the_batch_are_pointed_out(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("start.processes", "3")
    with pytest.raises(RecipeError, match="does not divide by 3 processes"):
        form.comes_to()


def test_what_a_recipe_comes_to_is_what_the_plan_says(tmp_path: Path) -> None:
    rows = dict(form_of("r50_1x", tmp_path).comes_to())
    assert rows["steps"].startswith("312,778") or rows["steps"].startswith(f"{1281167 * 1000 // 4096 + 1:,}")
    assert rows["peak rate"] == "4.8 (lars)"


def test_slurm_has_its_keys_and_no_detaching(tmp_path: Path) -> None:
    form = form_of("r50_1x", tmp_path)
    assert "start.time" not in {key.name for key, _, _ in rows_of(form)}
    form.change("start.where", "SLURM")
    for key, value in (("start.nodes", "8"), ("start.gpus", "8"), ("start.time", "1-00:00:00")):
        form.change(key, value)
    assert dict(form.comes_to())["global batch"] == "4,096, 64 a process"
    words = form.words()
    assert "--slurm" in words and "-d" not in words and words[words.index("--nodes") + 1] == "8"
    assert "start.time" in {key.name for key, _, _ in rows_of(form)}


def test_an_edited_recipe_becomes_ones_own(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("loss.temperature", "0.5")
    form.save_as(tmp_path / "mine.toml")
    assert load_recipe(tmp_path / "mine.toml") == form.recipe()
    assert found_recipes(tmp_path)[0] == (str(tmp_path / "mine.toml"), tmp_path / "mine.toml")
    with pytest.raises(RecipeError, match="exists"):
        form.save_as(tmp_path / "mine.toml")


def test_a_toml_file_that_is_no_recipe_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "broken.toml").write_text("[[[")
    assert [name for name, _ in found_recipes(tmp_path)] == [path.stem for path in shipped_recipes()]


@pytest.mark.parametrize(
    "value",
    ["plain", "two words", "1", "true", "", " x", "[1]", 3, 2.5, False, (0.1, 0.2, 0.3), ("crop", "a b"), ()],
)
def test_an_override_is_read_back_as_the_value(value: Any) -> None:
    import tomllib

    text = override("k", value).partition("=")[2]
    try:
        found = tomllib.loads(f"k = {text}")["k"]
    except tomllib.TOMLDecodeError:
        found = text
    assert found == (list(value) if isinstance(value, tuple) else value)


def test_a_list_of_words_is_edited_as_it_is_written(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("augmentation.operations", '["crop", "sobel"]')
    assert form.recipe().augmentation.operations == ("crop", "sobel")
    assert form.value("augmentation.operations") == '["crop", "sobel"]'
    assert 'augmentation.operations=["crop", "sobel"]' in form.words()
    assert '["crop", "color"]' in form.problem("augmentation.operations", "crop")


# files


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


# runs


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


GIB = 2**30


def test_a_machine_is_told_in_a_line() -> None:
    machines = Machines()
    line = {"time": 1, "cpu": 0.5, "memory_used": 3 * GIB, "memory_total": 8 * GIB}
    assert machines.in_words({"a": line}, ascii_only=True) == ["CPU - 50%  3.0 of 8.0 GiB"]
    assert machines.in_words({"a": line}, ascii_only=True) == ["CPU - 50%  3.0 of 8.0 GiB"]  # the same look
    (said,) = machines.in_words({"a": line | {"time": 2, "cpu": 1.0}}, ascii_only=True)
    assert said.startswith("CPU -# 100%")
    assert machines.in_words({"a": {}}, ascii_only=True) == []
    gpu = {
        "index": 0,
        "utilisation": 0.93,
        "memory_used": GIB,
        "memory_total": 80 * GIB,
        "temperature": 61,
        "power": 300.4,
    }
    assert machines.in_words({"a": {"gpus": [gpu]}}, ascii_only=True) == ["GPU0 93% 1.0 of 80.0 GiB 61 C 300 W"]
    many = [
        gpu | {"index": i, "utilisation": i / 7, "memory_used": (i + 1) * GIB, "temperature": 60 + i} for i in range(8)
    ]
    assert machines.in_words({"a": {"gpus": many}, "b": {"gpus": "?"}}, ascii_only=False) == [
        "a  8 GPUs ▁▂▃▄▅▆▇█ 50% 8.0 of 80.0 GiB 67 C"
    ]


CHANCE = math.log(2 * 128 - 1)
OTHERS = ("nt_logistic", "margin", "cross_entropy")


def test_the_lines_of_reference_are_chance_and_the_stated_scores() -> None:
    (chance,) = levels_of(PLOTS[0], load_recipe("demo"))
    assert chance.y == pytest.approx(math.log(255)) == CHANCE
    (fewer,) = levels_of(PLOTS[0], load_recipe("demo", ["loss.negatives=other_view"]))
    assert fewer.y == pytest.approx(math.log(128))
    assert [levels_of(PLOTS[0], load_recipe("demo", [f"loss.name={name}"])) for name in OTHERS] == [[], [], []]
    assert levels_of(PLOTS[2], load_recipe("r50_1x")) == []  # the chart draws no linear evaluation
    assert expected_figures("measured, 3 seeds: kNN 80.6 % (pixels 77.6), linear 84.8 % (pixels 82.7)") == {
        "kNN": ("measured", pytest.approx(0.806)),
        "linear": ("measured", pytest.approx(0.848)),
    }
    assert expected_figures("not run by us") == expected_figures("depends on the images") == {}


def task_of(*recipes: Recipe) -> Plot:
    """The chart of the task of runs of these recipes."""
    feeds = [Feed(Run(Path(str(i)))) for i in range(len(recipes))]
    for feed, recipe in zip(feeds, recipes, strict=True):
        feed.facts.recipe = recipe
    return next(plot for plot in plots_of(feeds) if plot.key == "task")


def test_the_chart_of_the_task_has_the_name_and_the_chance_of_its_method() -> None:
    simclr, rotation, labels = (load_recipe("demo", [f"method.name={n}"]) for n in ("simclr", "rotation", "supervised"))
    assert [task_of(recipe).title for recipe in (simclr, rotation)] == ["contrastive accuracy", "rotation accuracy"]
    assert task_of(simclr, rotation).title == task_of(labels).title == "task accuracy"
    assert task_of(simclr, rotation).columns == {
        "contrastive_accuracy": "contrastive accuracy",
        "pretext_accuracy": "rotation accuracy",
    }
    found = [[level.y for level in levels_of(task_of(recipe), recipe)] for recipe in (simclr, rotation, labels)]
    assert found == [[1 / 128], [0.25], []]
    (loss,) = levels_of(PLOTS[0], rotation)
    assert loss.y == pytest.approx(math.log(4))


def test_the_form_shows_the_keys_of_the_method_that_is_chosen(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    assert "method.angles" not in [key.name for key, _, _ in rows_of(form)]
    form.change("method.name", "rotation")
    form.change("method.angles", "[0, 180]")
    assert ("method.angles", "[0, 180]", True) in [(key.name, value, changed) for key, value, changed in rows_of(form)]
    assert form.recipe().method.pixels(form.recipe()) == 2
    form.change("method.name", "simclr")
    assert "method.angles" not in [key.name for key, _, _ in rows_of(form)]


@pytest.mark.parametrize("overrides", [[], ["checkpoints.every_epochs=7", "training.round_up_to_checkpoint=true"]])
def test_the_learning_rate_to_come_is_the_plans(tmp_path: Path, overrides: list[str]) -> None:
    recipe = load_recipe("demo", overrides)
    plan = make_plan(recipe, 10_000)
    run = create_run(recipe, tmp_path, "r")
    run.log_event("start", steps=plan.total_steps)
    for step in range(10, 110, 10):
        run.log_metrics({"step": step, "epoch": step * 128 / 10_000, "images": step * 128, "learning_rate": 0.003})
    feed = Feed(run)
    feed.look()
    ahead = future_rate(feed, "step")
    assert ahead is not None and ahead.x[0] == 100 and ahead.x[-1] == plan.total_steps
    expected = [  # of the update before, for a line counts its own
        warmup_cosine(int(x) - 1, peak=0.003, warmup_steps=plan.warmup_steps, total_steps=plan.schedule_steps)
        for x in ahead.x
    ]
    np.testing.assert_allclose(ahead.y, expected, rtol=1e-12)
    run.log_metrics({"step": plan.total_steps, "epoch": plan.total_steps * 128 / 10_000, "images": 1})
    feed.look()
    assert future_rate(feed, "step") is None


def test_colours_of_runs_are_stable_and_differ() -> None:
    names = [f"run{i}" for i in range(8)]
    assert sorted(colors_of(names)) == list(range(8))
    assert colors_of(["a", "b"])[0] == colors_of(["a"])[0]


# alarms


def columns(count: int = 100, **values: Any) -> dict[str, Any]:
    healthy = {
        "step": np.arange(1.0, count + 1),
        "epoch": np.arange(count) / 20,
        "time": np.arange(count) * 2.0,
        "loss": np.linspace(5, 2, count),
        "contrastive_accuracy": np.linspace(0, 0.9, count),
        "feature_std": np.full(count, 0.6),
        "effective_rank": np.full(count, 60.0),
        "data_wait": np.zeros(count),
    }
    return healthy | values


RUNNING = {"state": "running"}


def test_a_healthy_run_has_no_alarm() -> None:
    assert alarms(RUNNING, columns(), CHANCE, 1.0) == []
    assert alarms({"state": "queued"}, {}, None, None) == []


@pytest.mark.parametrize(
    ("changes", "silent", "said"),
    [
        ({"loss": np.r_[np.ones(60), np.full(40, np.nan)]}, 1.0, "not finite since step 61"),
        ({"feature_std": np.r_[np.full(50, 0.6), np.linspace(0.6, 0.01, 45), np.full(5, 0.01)]}, 1.0, "collapse"),
        ({"effective_rank": np.r_[np.full(50, 60.0), np.full(50, 3.0)]}, 1.0, "effective rank fell from 60 to 3"),
        ({"loss": np.full(100, CHANCE)}, 1.0, "still at chance, 5.54"),
        ({"data_wait": np.full(100, 0.45)}, 1.0, "data wait 45.0%"),
        ({}, 120.0, "no progress for 2:00 min"),
    ],
)
def test_an_alarm_names_its_cause(changes: dict[str, Any], silent: float, said: str) -> None:
    (sentence,) = alarms(RUNNING, columns(**changes), CHANCE, silent)
    assert said in sentence


def test_a_loss_without_a_chance_level_cannot_stay_at_it() -> None:
    assert alarms(RUNNING, columns(loss=np.full(100, CHANCE)), None, 1.0) == []


def test_a_failure_is_told_by_its_cause() -> None:
    (sentence,) = alarms({"state": "failed", "why": "rank 1 on b: out of memory\nmore"}, columns(), CHANCE, 9e9)
    assert sentence == "failed: rank 1 on b: out of memory"


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("e.safetensors", []),
        ("e.onnx", ["--format", "onnx"]),
        ("e.pt2", ["--format", "torch_export"]),
        ("folder", ["--format", "timm"]),
    ],
)
def test_an_export_is_in_the_format_that_its_ending_says(name: str, words: list[str]) -> None:
    assert export_words(Path("step.safetensors"), Path(name)) == ["export", "step.safetensors", "-o", name, *words]
