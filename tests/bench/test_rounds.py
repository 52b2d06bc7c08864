"""The benchmarks: how they count, and that each command compares what it says; no test asserts a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from simclr_plus.bench.data import needs
from simclr_plus.bench.rounds import compare, in_turns, peak_memory, times_as_fast

Command = Callable[..., subprocess.CompletedProcess[str]]
CPU = torch.device("cpu")


def test_contenders_take_turns_and_none_always_follows_the_same_one() -> None:
    order: list[str] = []
    contenders = {name: (lambda name=name: order.append(name)) for name in "abc"}
    in_turns(contenders, 3)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"


def test_a_contender_may_count_its_own_seconds() -> None:
    seconds = in_turns({"own": lambda: 7.0, "measured": lambda: None}, 4, clock=iter(range(100)).__next__)
    assert seconds == {"own": [7.0] * 4, "measured": [1.0] * 4}


def test_a_ratio_is_the_median_of_the_ratios_of_the_rounds() -> None:
    """The machine is three times slower in the last rounds: medians of unlike moments would say 1 or 6."""
    seconds = {"fast": [1.0, 1.0, 3.0, 3.0, 3.0], "slow": [2.0, 2.0, 6.0, 6.0, 6.0]}
    assert times_as_fast(seconds, "fast", "slow") == 2
    fast, slow = compare("", seconds, base="slow", items="", count=12).rows
    assert (fast.seconds, fast.low, fast.high, fast.per_second, fast.times_base) == (3, 1, 3, 4, 2)
    assert (slow.times_base, slow.per_second) == (1, 2)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux to tell the peak")
def test_peak_memory_is_what_was_held_at_once_and_not_in_all() -> None:
    def six_times() -> None:
        for _ in range(6):
            torch.ones(25_000_000)

    found = peak_memory(six_times, CPU)
    assert found is not None and 90e6 < found < 300e6  # the system may count pages late
    assert (peak_memory(lambda: None, CPU) or 0) < 20e6


@pytest.mark.parametrize(
    ("delivered", "says"),
    [
        (2300, "the step takes 1,480 images/s, 8 threads deliver 2,300: data is not the bottleneck"),
        (1500, "just enough"),
        (1000, "give a process 14 cores"),  # 1.1 x 1480 / 125 = 13.02
    ],
)
def test_the_verdict_says_whether_data_is_the_bottleneck_and_what_to_do(delivered: float, says: str) -> None:
    assert says in needs(1480, delivered, 8, 125)


def report(simclr_plus: Command, cwd: Path, *arguments: str) -> dict[str, object]:
    done = simclr_plus("bench", *arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == 1 and found["name"] == arguments[0] and found["verdicts"]
    assert {"processor", "cores", "torch", "lightly"} <= found["machine"].keys()
    for table in found["comparisons"]:
        assert table["base"] in [row["name"] for row in table["rows"]]
        assert all(0 < row["low"] <= row["seconds"] <= row["high"] for row in table["rows"])
    return found


@pytest.mark.slow
def test_bench_loss_finds_lightlys_gradients_in_half_the_memory(simclr_plus: Command, tmp_path: Path) -> None:
    found = report(simclr_plus, tmp_path, "loss", "-n", "2048", "--rounds", "1")
    assert found["ratios"]["gradient_difference"] < 1e-5
    if sys.platform == "linux":
        assert found["ratios"]["memory_of_lightly"] < 0.5


def test_bench_optimizer_compares_with_sgd_and_with_lightly(simclr_plus: Command, tmp_path: Path) -> None:
    found = report(simclr_plus, tmp_path, "optimizer", "--depth", "18", "--rounds", "1")
    assert found["ratios"].keys() == {"of_sgd_foreach", "of_sgd_default", "of_lightly"}
    assert "11.2 M parameters" in found["comparisons"][0]["title"]


def test_bench_checkpoint_leaves_no_file_behind(simclr_plus: Command, tmp_path: Path) -> None:
    found = report(simclr_plus, tmp_path, "checkpoint", "r50_1x", "encoder.width=0.125", "--rounds", "2")
    assert found["settings"]["bytes"] > 1e6 and "stop_of_plain_save" in found["ratios"]
    assert list(tmp_path.iterdir()) == []
    refused = simclr_plus("bench", "checkpoint", "--folder", tmp_path / "nowhere", cwd=tmp_path)
    assert refused.returncode == 4 and "name another --folder" in refused.stderr


@pytest.mark.slow
def test_bench_data_takes_a_users_folder(simclr_plus: Command, tmp_path: Path, photos: Path) -> None:
    found = report(
        simclr_plus, tmp_path, "data", str(photos), "--size", "32", "--files", "8", "--rounds", "1", "--needed", "1e9"
    )
    assert found["settings"]["images"] == f"8 images of {photos}"
    assert "data is the bottleneck" in found["verdicts"][1]
    assert [len(table["rows"]) for table in found["comparisons"]] == [3, 2, 3]


def test_bench_step_says_what_it_used_where_the_data_is_missing(simclr_plus: Command, tmp_path: Path) -> None:
    found = report(
        simclr_plus, tmp_path, "step", "cifar10_r18", "training.batch_size=8", "encoder.width=0.125", "--rounds", "1"
    )
    assert "cifar10 is not here" in found["settings"]["images"]
    assert found["ratios"]["images_per_second"] > 0 and 0 <= found["ratios"]["data_wait"] <= 1
