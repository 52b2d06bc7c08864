"""The log, the lists and the line of progress tell the same time left, whatever the figures are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import line

from simclr_plus.machine.words import duration
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.runs.overview import glance
from simclr_plus.runs.progress import TrainingProgress, figures
from simclr_plus.runs.time_left import lines_of_a_start, seconds_left


def test_the_log_and_the_lists_tell_the_same_time_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "one")
    run.log_event("start", steps=1000)
    progress = TrainingProgress("one", 0, 1000)
    for i, seconds in enumerate(np.cumsum([5, *[2.0] * 10, 9, *[2.0] * 20])):
        values = line(10 * (i + 1), time=1.7e9 + float(seconds), images_per_second=1e6)
        run.log_metrics(values)
        progress._last_line = -1e9
        progress.show(values)
    left = glance(run)["seconds_left"]
    assert left == pytest.approx((1000 - 320) * (10 * 2 + 9 + 20 * 2) / 310, abs=1)
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"{duration(left)} left")
    run.log_event("resume", from_step=320, steps=1000)
    run.log_metrics(line(330, time=1.8e9, images_per_second=64.0))
    assert glance(run)["seconds_left"] == pytest.approx((1000 - 330) * 128 / 64, abs=1)  # not by the night between


@pytest.mark.parametrize("nasty", [None, "x", math.nan, math.inf, -1, [], 10**400])
def test_no_figure_of_a_file_stops_the_reckoning_of_the_time_left(nasty: Any) -> None:
    for key in ("step", "time", "images", "images_per_second"):
        lines = [line(10), line(20), {**line(30), key: nasty}]
        left = seconds_left(lines, 100)
        assert left is None or math.isfinite(left)
        lines_of_a_start(reversed(lines), nasty)
    assert seconds_left([line(10)], nasty) is None or nasty == -1
    assert seconds_left([], 100) is None


def test_null_figures_are_dashes_in_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    values = dict.fromkeys(line(0)) | {"step": 30, "knn_accuracy": None}
    progress = TrainingProgress("one", 0, 30)
    progress.show(values)
    progress.show({"step": None})
    progress.show(json.loads('{"step": 30, "loss": NaN, "epoch": "x"}'))
    assert "loss -" in capsys.readouterr().out and "kNN -" in figures(values)
