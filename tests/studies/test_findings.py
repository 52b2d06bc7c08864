"""What a study finds over seeds: means, deviations, differences and how sure they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_up_findings import findings
from scipy.stats import t as scipy_t

from simclr_plus.studies.page import higher


def test_means_and_deviations_are_over_seeds() -> None:
    f = findings([({"a": 1}, seed, {"top1": value}) for seed, value in enumerate((0.5, 0.6, 0.7))])
    found = f.spread("top1", a=1)
    assert found is not None and found.n == 3
    assert (found.mean, found.deviation) == (pytest.approx(0.6), pytest.approx(np.std([0.5, 0.6, 0.7], ddof=1)))
    assert found.bar == pytest.approx(10) and math.isnan(
        findings([({"a": 1}, 0, {"top1": 0.5})]).spread("top1", a=1).bar
    )
    assert f.text("top1", a=1) == "60.0 ± 10.0" and f.text("top1", a=2) == "–" and math.isnan(f.value("top1", a=2))


def test_a_difference_is_paired_by_seed_and_its_interval_is_students() -> None:
    a, b = {"x": "a"}, {"x": "b"}
    noisy = [0.70, 0.50, 0.60, 0.40]
    steps = np.array([0.02, 0.021, 0.022, 0.023])
    f = findings(
        [(a, s, {"top1": v + step}) for s, (v, step) in enumerate(zip(noisy, steps, strict=True))]
        + [(b, s, {"top1": v}) for s, v in enumerate(noisy)]
        + [(b, 9, {"top1": 0.99})],  # a seed that only one place has
        test_images=10**9,
    )
    found = f.difference(a, b)
    interval = scipy_t.interval(0.95, 3, loc=steps.mean(), scale=steps.std(ddof=1) / 2)
    assert found is not None and found.n == 4 and found.value == pytest.approx(steps.mean())
    assert found.half == pytest.approx((interval[1] - interval[0]) / 2, rel=2e-3)
    assert higher(f, "a is better", a, b).verdict == "seen" and higher(f, "b is better", b, a).verdict == "not seen"
    assert higher(f, "c is better", {"x": "c"}, a).verdict == "not measured"


def test_seeds_that_agree_by_chance_are_not_surer_than_their_test_images() -> None:
    def claim(images: int) -> str:
        rows = [({"x": x}, seed, {"top1": top1}) for x, top1 in (("a", 0.62), ("b", 0.60)) for seed in range(2)]
        return higher(findings(rows, images), "a is better", {"x": "a"}, {"x": "b"}).verdict

    assert claim(2000) == "undecided" and claim(10**6) == "seen"


def test_with_one_seed_the_test_images_decide_how_sure_a_difference_is() -> None:
    def claim(images: int, figure: str = "top1") -> str:
        f = findings([({"x": "a"}, 0, {figure: 0.62}), ({"x": "b"}, 0, {figure: 0.60})], images)
        return higher(f, "a is better", {"x": "a"}, {"x": "b"}, figure=figure).verdict

    # 2 points; two standard errors are 3.1 points with 2,000 images and 0.4 with 100,000
    assert claim(2000) == "undecided" and claim(100_000) == "seen"
    assert claim(100_000, "contrastive_accuracy") == "undecided"  # of training batches: one seed tells nothing


def test_cells_that_only_one_side_has_do_not_tip_a_difference() -> None:
    """Accuracy depends on the dimension alone, and the linear head was measured at small ones only."""
    rows = [({"head": "nonlinear", "dimension": d}, 0, {"top1": d / 1000}) for d in (100, 200, 300, 400)]
    rows += [({"head": "linear", "dimension": d}, 0, {"top1": d / 1000}) for d in (100, 200)]
    found = findings(rows).difference({"head": "nonlinear"}, {"head": "linear"})
    assert found is not None and found.value == pytest.approx(0, abs=1e-12)


def test_a_change_of_a_lead_is_a_sum_with_signs() -> None:
    values = {("large", 1): 0.60, ("small", 1): 0.50, ("large", 9): 0.70, ("small", 9): 0.68}
    f = findings([({"batch": b, "epochs": e}, 0, {"top1": v}) for (b, e), v in values.items()], 10_000)
    signs = ((1, "large", 1), (-1, "small", 1), (-1, "large", 9), (1, "small", 9))
    found = f.sum_of([(sign, {"batch": b, "epochs": e}, "top1") for sign, b, e in signs])
    variance = sum(v * (1 - v) for v in values.values()) / 10_000
    assert found is not None and found.value == pytest.approx(0.08) and found.half == pytest.approx(2 * variance**0.5)
