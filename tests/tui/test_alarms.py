"""Alarms name their causes; a healthy run has none."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from simclr_plus.tui.reading.alarms import alarms

CHANCE = math.log(2 * 128 - 1)


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
