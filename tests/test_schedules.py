"""The schedule against the authors' rates, and against what the paper's section 2.3 says in words."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN_FOLDER

from simclr_plus.schedules import peak_learning_rate, step_count, warmup_cosine, warmup_step_count

GOLDEN = np.load(GOLDEN_FOLDER / "schedule.npz")
CONFIGS = json.loads(str(GOLDEN["config_json"]))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_rate_is_that_of_the_authors(name: str) -> None:
    config = CONFIGS[name]
    peak = peak_learning_rate(config["lr"], config["batch"], config["scaling"])
    warmup = warmup_step_count(config["warmup"], config["n"], config["batch"])
    total = config["steps"] or step_count(config["epochs"], config["n"], config["batch"])
    assert warmup == GOLDEN[f"{name}/warmup_steps"]
    assert total == GOLDEN[f"{name}/total_steps"]
    rates = [
        warmup_cosine(int(step), peak=peak, warmup_steps=warmup, total_steps=total) for step in GOLDEN[f"{name}/step"]
    ]
    np.testing.assert_allclose(rates, GOLDEN[f"{name}/lr"], rtol=2e-6, atol=2e-6 * peak)


def test_the_papers_numbers_follow_from_its_recipe() -> None:
    # section 2.3: batch 4096, learning rate 4.8 = 0.3 x 4096 / 256, 100 epochs of ImageNet, 10 of them warm-up
    assert peak_learning_rate(0.3, 4096, "linear") == pytest.approx(4.8)
    assert peak_learning_rate(0.075, 4096, "sqrt") == pytest.approx(4.8)
    assert step_count(100, 1_281_167, 4096) == 31_279
    assert warmup_step_count(10, 1_281_167, 4096) == 3127


def test_without_scaling_the_peak_is_the_rate_itself() -> None:
    assert peak_learning_rate(0.3, 4096, "none") == 0.3


def test_an_unknown_scaling_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cubic") as error:
        peak_learning_rate(0.3, 4096, "cubic")
    assert '"linear", "sqrt" or "none"' in str(error.value)


@given(
    warmup=st.integers(0, 50),
    decay=st.integers(1, 200),
    peak=st.floats(1e-3, 10),
    where=st.floats(0, 1, exclude_max=True),
)
@settings(deadline=None)
def test_the_rate_rises_by_equal_steps_and_then_falls_along_half_a_cosine(
    warmup: int, decay: int, peak: float, where: float
) -> None:
    def rate(step: int) -> float:
        return warmup_cosine(step, peak=peak, warmup_steps=warmup, total_steps=warmup + decay)

    if warmup:
        assert rate(0) == 0
        step = int(where * warmup)
        assert rate(step + 1) - rate(step) == pytest.approx(peak / warmup)
    assert rate(warmup) == pytest.approx(peak)
    # half a cosine is point-symmetric: two rates as far from its two ends add up to the peak
    step = int(where * decay)
    assert rate(warmup + step) + rate(warmup + decay - step) == pytest.approx(peak)
    assert rate(warmup + step + 1) <= rate(warmup + step)
    # its cosine by the half-angle formula
    assert rate(warmup + step) == pytest.approx(peak * math.cos(math.pi / 2 * step / decay) ** 2)


def test_after_the_last_step_the_rate_stays_zero() -> None:
    assert [warmup_cosine(s, peak=4.8, warmup_steps=3, total_steps=10) for s in (10, 11, 1000)] == [0, 0, 0]


def test_a_run_of_nothing_but_warmup_ends_at_the_peak() -> None:
    rates = [warmup_cosine(s, peak=2.0, warmup_steps=4, total_steps=4) for s in range(6)]
    assert rates == [0, 0.5, 1, 1.5, 2, 2]
