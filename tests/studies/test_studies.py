"""The paper's studies as plans and as pages: what would be run, and what is said of what was found."""

from __future__ import annotations

import json
import math
import re
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parameters import rest_slow
from scipy.stats import spearmanr
from scipy.stats import t as scipy_t

from simclr_plus.augmentations.draws import FLIP, draw_views
from simclr_plus.augmentations.further_operations import draws_of
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.launch.batch_scripts import Allocation, array_script
from simclr_plus.recipe import Recipe, load_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.studies.catalogue import STUDIES, find_study
from simclr_plus.studies.findings import Findings, Found
from simclr_plus.studies.measures import MEASURES
from simclr_plus.studies.page import Claim, higher
from simclr_plus.studies.paper import augmentations, losses, supervised_augmentation, temperature
from simclr_plus.studies.report import Setting, write_report
from simclr_plus.studies.running import cell as study_cell
from simclr_plus.studies.running import cost
from simclr_plus.studies.running.cells import plan_study, record
from simclr_plus.studies.running.setting import setting_of
from simclr_plus.studies.study import Cell, changed

IMAGENET = 1_281_167


def cells_of(name: str, scale: str) -> list[Cell]:
    study = find_study(name)
    recipe, changes = study.bases[scale]
    return study.cells(load_recipe(recipe, list(changes)), scale, study.seeds[scale])


# runs at the paper's scale: Figure 5 is 7 x 7; Table 1 has 6 policies for two kinds of training; Figure 8 has no head,
# and two heads of 7 widths; Table 4 searches 5 rates and 4 settings of 5 losses; Table B.1 is 6 x 4 by 2 rules;
# Figure 7 has 13 networks, 3 of them also for 1000 epochs, and 3 supervised; Table B.2 3 widths by 2;
# Table B.3 2 x 3 x 3
PAPER_RUNS = {
    "augmentations": 49,
    "color-strength": 12,
    "projection-head": 15,
    "what-h-keeps": 4,
    "losses": 100,
    "temperature": 6,
    "batch-and-epochs": 48,
    "model-size": 19,
    "broader-augmentation": 6,
    "supervised-augmentation": 18,
}


PAPERS = [name for name in STUDIES if not name.startswith("comparison")]  # studies of SimCLR's paper


@pytest.mark.parametrize("name", PAPERS)
def test_the_plan_at_the_papers_scale_has_the_papers_runs(name: str) -> None:
    cells = cells_of(name, "paper")
    assert len(cells) == PAPER_RUNS[name]
    for cell in cells:
        recipe = cell.recipe
        assert recipe.data.expected_images == IMAGENET and recipe.augmentation.image_size == 224
        assert recipe.encoder.depth == 50 or name == "model-size"
        assert recipe.training.batch_size == 4096 or name == "batch-and-epochs"
        if recipe.method.name == "supervised":
            assert (recipe.optimizer.name, recipe.optimizer.learning_rate) == ("sgd", 0.1)
            assert recipe.optimizer.weight_decay == 1e-4
        else:
            assert recipe.optimizer.name == "lars" and recipe.optimizer.weight_decay == 1e-6
            if name != "losses":
                assert make_plan(recipe, IMAGENET).peak_learning_rate == pytest.approx(
                    4.8 * (recipe.training.batch_size / 4096) ** (0.5 if cell.place.get("rule") == "sqrt" else 1)
                )
        if recipe.method.name == "supervised" and name in ("color-strength", "model-size"):
            assert recipe.training.epochs == 90
        if recipe.method.name == "supervised" and name == "model-size":
            assert recipe.augmentation.jitter_prob == recipe.augmentation.blur_prob == 0
    usual = {"color-strength", "model-size", "batch-and-epochs", "broader-augmentation", "supervised-augmentation"}
    if name not in usual:
        assert {cell.recipe.training.epochs for cell in cells} == {100.0}


def test_the_axes_at_the_papers_scale_are_the_papers() -> None:
    batches = Counter(
        (c.recipe.training.batch_size, c.recipe.training.epochs) for c in cells_of("batch-and-epochs", "paper")
    )
    assert batches == {(b, e): 2 for b in (256, 512, 1024, 2048, 4096, 8192) for e in (100.0, 200.0, 400.0, 800.0)}
    heads = [(c.recipe.head.num_layers, c.recipe.head.output_dim) for c in cells_of("projection-head", "paper")]
    dimensions = [32, 64, 128, 256, 512, 1024, 2048]
    assert heads == [(0, 2048), *((1, d) for d in dimensions), *((2, d) for d in dimensions)]
    table_5 = [(c.recipe.loss.normalize, c.recipe.loss.temperature) for c in cells_of("temperature", "paper")]
    assert table_5 == [(True, 0.05), (True, 0.1), (True, 0.5), (True, 1.0), (False, 10.0), (False, 100.0)]
    of_losses = cells_of("losses", "paper")
    assert {c.recipe.optimizer.learning_rate for c in of_losses} == {0.01, 0.1, 0.3, 0.5, 1.0}
    assert {c.recipe.loss.margin for c in of_losses if c.recipe.loss.name == "margin"} == {0.0, 0.4, 0.8, 1.6}
    assert {c.recipe.loss.temperature for c in of_losses if c.recipe.loss.name == "nt_logistic"} == {0.1, 0.2, 0.5, 1.0}
    assert {c.recipe.loss.negatives for c in of_losses} == {"other_view"}
    assert Counter((c.recipe.loss.name, c.recipe.loss.semi_hard) for c in of_losses) == {
        ("margin", False): 20,
        ("margin", True): 20,
        ("nt_logistic", False): 20,
        ("nt_logistic", True): 20,
        ("nt_xent", False): 20,
    }
    strengths = [c.recipe.augmentation.strength for c in cells_of("color-strength", "paper")[:4]]
    assert strengths == [1 / 8, 1 / 4, 1 / 2, 1]
    lengths = {(c.place["width"], c.recipe.training.epochs) for c in cells_of("supervised-augmentation", "paper")}
    assert lengths == {(w, e) for w in (1, 4) for e in (90.0, 500.0, 1000.0)}
    long = [c for c in cells_of("model-size", "paper") if c.recipe.training.epochs == 1000]
    assert [(c.recipe.encoder.depth, c.recipe.encoder.width) for c in long] == [(50, 1), (50, 2), (50, 4)]


def test_figure_5_augments_one_branch_of_one_crop() -> None:
    cells = cells_of("augmentations", "small")
    assert [tuple(c.place.values()) for c in cells[:3]] == [("crop", "crop"), ("crop", "cutout"), ("crop", "color")]
    for cell in cells:
        a = cell.recipe.augmentation
        assert a.same_crop and a.operations_on == "first" and a.operation_prob == 1.0
        assert a.flip_prob == 0.5 and a.jitter_prob == a.gray_prob == a.blur_prob == 0
        first, second = cell.place["first"], cell.place["second"]
        assert a.operations == ((first,) if first == second else (first, second))


def test_the_studied_crop_flips_half_of_its_views_and_the_shared_crop_flips_both() -> None:
    (cell,) = [c for c in cells_of("augmentations", "small") if set(c.place.values()) == {"crop"}]
    numbers = np.arange(2000)
    rows = draws_of(0, cell.recipe.law, seed=0, epochs=numbers * 0, indices=numbers, views=1).rows
    assert 0.45 < float(rows[:, FLIP].mean()) < 0.55
    pairs = draw_views(0, numbers * 0, numbers, heights=48, widths=48, law=cell.recipe.law)
    assert np.array_equal(pairs[:, 0], pairs[:, 1]) and 0.45 < float(pairs[:, 0, FLIP].mean()) < 0.55
    assert cell.recipe.law.crop_and_flip_only().flip_prob == 0.5  # what linear evaluation trains on


@pytest.mark.parametrize("name", PAPERS)
def test_every_cell_at_small_scale_sees_60000_images_has_a_name_of_its_own_and_known_measures(name: str) -> None:
    cells = cells_of(name, "small")
    assert len({cell.name for cell in cells}) == len(cells)
    assert all(re.fullmatch(r"[\w.-]+", cell.name) for cell in cells)
    for cell in cells:
        plan = make_plan(cell.recipe, 10_000)
        assert plan.total_steps * plan.global_batch >= 60_000
        assert cell.recipe.training.seed == cell.seed and set(cell.measures) <= set(MEASURES)


@pytest.mark.parametrize("name", PAPERS)
def test_a_network_by_name_is_studied_or_refused_by_the_key_that_it_does_not_read(name: str, tmp_path: Path) -> None:
    study, recipe = find_study(name), load_recipe("study", ["encoder.name=timm:test_vit"])
    if name == "model-size":
        with pytest.raises(RecipeError, match=r"encoder.depth = 18 means nothing to encoder.name = .timm:test_vit"):
            plan_study(tmp_path, study, "small", 1, recipe)
        return
    planned = plan_study(tmp_path, study, "small", 1, recipe)
    (dimension,) = {cell.recipe.feature_dim for cell in planned.cells}
    assert dimension == 64
    assert dict(setting_of(planned).facts)["network"].startswith("timm:test_vit at 32 pixels")
    by_h = {
        cell.recipe.head.output_dim
        for cell in planned.cells
        if cell.place.get("head") == "none" or "task" in cell.place
    }
    assert by_h <= {dimension}
    assert {cell.place["width"] for cell in planned.cells if "width" in cell.place} <= {1.0}


def test_widths_of_a_network_by_name_are_refused_at_the_papers_scale(tmp_path: Path) -> None:
    recipe = load_recipe("r50_1x", ["encoder.name=timm:test_vit", "augmentation.image_size=32"])
    for name in ("broader-augmentation", "supervised-augmentation"):
        with pytest.raises(RecipeError, match=r"encoder.width = 1.0 means nothing .*width=2.0|width=4.0"):
            plan_study(tmp_path, find_study(name), "paper", 1, recipe)


def test_a_network_that_there_is_not_is_refused_before_a_cell_is_run(tmp_path: Path) -> None:
    for overrides, error, says in (
        (["encoder.name=timm:test_vitt"], NotFoundError, "test_vitt"),
        (["encoder.name=timm:test_vit", "augmentation.image_size=40"], RecipeError, "image_size"),
        (["encoder.name=torchvision:squeezenet1_1", "training.activation_checkpointing=true"], RecipeError, "none of"),
    ):
        with pytest.raises(error, match=says):
            plan_study(tmp_path, find_study("temperature"), "small", 1, load_recipe("study", overrides))


def test_a_network_by_name_is_timed_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "TIMED_WORK", {"cpu": 1.0, "cuda": 1.0})  # of one image there is too much
    recipe = load_recipe("study", ["encoder.name=timm:test_vit", "encoder.width=4"])
    planned = plan_study(tmp_path, find_study("temperature"), "small", 1, recipe, ["temperature=0.1", "l2=yes"])
    said: list[str] = []
    found = cost.cost_of(planned, at_once=1, processes=1, say=said.append)
    assert said == ["timing timm:test_vit on 32 pixels"] and found.seconds > 0


def test_both_rules_of_the_learning_rate_agree_at_the_recipes_batch() -> None:
    for scale, batch, peak in (("small", 128, 0.003), ("paper", 4096, 4.8)):
        found = [
            make_plan(c.recipe, 100_000).peak_learning_rate
            for c in cells_of("batch-and-epochs", scale)
            if c.recipe.training.batch_size == batch
        ]
        assert found == pytest.approx([peak] * len(found))


def test_a_changed_recipe_is_checked() -> None:
    with pytest.raises(RecipeError, match=r"training.batch_sise"):
        changed(load_recipe("study"), {"training.batch_sise": 3})


def test_a_part_of_the_grid_can_be_asked_for_and_mistakes_are_named(tmp_path: Path) -> None:
    study, recipe = find_study("temperature"), load_recipe("study")
    planned = plan_study(tmp_path, study, "small", 2, recipe, ["l2=yes", "temperature=0.1,0.5"])
    assert [(c.place["temperature"], c.seed) for c in planned.cells] == [(0.1, 0), (0.5, 0), (0.1, 1), (0.5, 1)]
    for where, complaint in (("tau=1", "has the axes l2, temperature"), ("temperature=0.3", "has the values 0.05")):
        with pytest.raises(RecipeError, match=complaint):
            plan_study(tmp_path, study, "small", 1, recipe, [where])
    with pytest.raises(RecipeError, match="leaves no cell"):
        plan_study(tmp_path, study, "small", 1, recipe, ["l2=yes", "temperature=10.0"])
    with pytest.raises(NotFoundError, match=r"there are augmentations, color-strength"):
        find_study("figure-5")


def test_a_folder_keeps_to_its_recipe_and_takes_more_seeds(tmp_path: Path) -> None:
    study, recipe = find_study("temperature"), load_recipe("study")
    record(plan_study(tmp_path, study, "small", 1, recipe), 1)
    record(plan_study(tmp_path, study, "small", 3, recipe), 3)
    record(plan_study(tmp_path, study, "small", 2, recipe), 2)
    assert json.loads((tmp_path / "study.json").read_text())["seeds"] == 3
    other = load_recipe("study", ["training.epochs=9"])
    with pytest.raises(RecipeError, match=r"training.epochs = 6.0 \(now 9.0\); give the same again, or another --name"):
        record(plan_study(tmp_path, study, "small", 1, other), 1)


def findings(rows: list[tuple[dict[str, Any], int, dict[str, float]]], test_images: int = 2000) -> Findings:
    return Findings([Found(place, seed, numbers) for place, seed, numbers in rows], "small", test_images)


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


def test_the_setting_of_a_loss_is_chosen_on_validation_images_never_on_test_images() -> None:
    def row(searched: float, validation: float, test: float) -> tuple[dict[str, Any], int, dict[str, float]]:
        numbers = {"validation_top1": validation, "top1": test}
        return {"loss": "NT-Xent", "searched": searched, "rate": 1.0}, 0, numbers

    f = findings([row(0.1, 0.70, 0.50), row(0.5, 0.60, 0.90)])
    assert losses.chosen(f, "NT-Xent")["searched"] == 0.1
    assert losses.chosen(findings([row(0.1, 0.7, 0.9), row(0.5, 0.6, 0.1)]), "NT-Xent")["searched"] == 0.1


def from_table(values: Any) -> Findings:
    names = augmentations.OPERATIONS
    return findings(
        [
            ({"first": a, "second": b}, 0, {"top1": values[i][j] / 100})
            for i, a in enumerate(names)
            for j, b in enumerate(names)
        ]
    )


def test_the_papers_own_figures_confirm_the_claims_of_figure_5_and_a_shuffled_table_does_not() -> None:
    claims = augmentations.page(replace(from_table(augmentations.PAPER), test_images=50_000)).claims
    # 56.3 against 46.2 and 40.0
    assert [claim.verdict for claim in claims] == ["seen"] * 3 and "correlation 1.00" in claims[2].evidence
    shuffled = np.random.default_rng(1).permutation(np.array(augmentations.PAPER).ravel()).reshape(7, 7)
    other = augmentations.page(replace(from_table(shuffled), test_images=50_000)).claims
    expected = spearmanr(np.array(augmentations.PAPER).ravel(), shuffled.ravel()).statistic
    assert float(other[2].evidence.split()[2]) == pytest.approx(expected, abs=0.02)  # ties apart
    assert other[0].verdict == "not seen" and other[2].verdict == "undecided"


def test_the_papers_table_with_its_operations_swapped_has_not_the_papers_order() -> None:
    """Its rows and columns still hang together, which a test that takes cells for independent would follow."""
    table, seen = np.array(augmentations.PAPER), 0
    for draw in range(20):
        order = np.random.default_rng(draw).permutation(7)
        seen += augmentations.page(from_table(table[np.ix_(order, order)])).claims[2].verdict == "seen"
    assert seen <= 2


def test_the_papers_own_figures_confirm_the_claims_of_table_b3_by_width() -> None:
    study = find_study("supervised-augmentation")
    rows = [
        ({"width": float(w), "epochs": float(e), "policy": policy}, 0, {"top1": value / 100})
        for (w, e), values in supervised_augmentation.TABLE.items()
        for policy, value in zip(supervised_augmentation.POLICIES, values, strict=True)
    ]
    claims = study.page(replace(findings(rows), test_images=50_000)).claims
    # 76.5 to 75.6; 76.4 to 75.8; 78.3 to 77.9, within the error of 50,000 images; 76.5 to 75.8
    assert [claim.verdict for claim in claims] == ["seen", "seen", "undecided", "seen"]
    one_length = study.page(findings([row for row in rows if row[0]["epochs"] == 90])).claims
    assert len(one_length) == 1 and "1x, 90 epochs" in one_length[0].sentence


def test_a_part_of_a_grid_with_one_value_of_an_axis_judges_nothing_by_that_axis() -> None:
    study = find_study("batch-and-epochs")
    rows = [({"rule": rule, "batch": 64, "epochs": 6.0}, 0, {"top1": 0.5}) for rule in ("linear", "sqrt")]
    verdicts = [claim.verdict for claim in study.page(findings(rows)).claims]
    assert verdicts == ["not measured", "not measured", "undecided", "not measured"]


def test_h_against_chance_is_decided_by_one_seed() -> None:
    f = findings([({"task": "rotation"}, 0, {"from_h": 0.676, "from_z": 0.256, "chance": 0.25})])
    assert higher(f, "", {"task": "rotation"}, {"task": "rotation"}, figure="from_h", other="chance").verdict == "seen"


def test_a_temperature_that_is_best_by_both_accuracies_must_lead_beyond_doubt() -> None:
    def verdict(lead: float) -> str:
        rows = [
            ({"l2": "yes" if n else "no", "temperature": t}, 0, {"top1": best, "contrastive_accuracy": best})
            for n, t in temperature.PAPER
            for best in (0.5 + lead * ((n, t) == (True, 0.1)),)
        ]
        return temperature.page(findings(rows)).claims[0].verdict

    assert (verdict(0.2), verdict(0.01)) == ("not seen", "undecided")


@pytest.mark.parametrize(("draws", "most"), [(5, 3), pytest.param(20, 12, marks=pytest.mark.slow)])
def test_noise_alone_confirms_few_claims(draws: int, most: int) -> None:
    """Nothing differs, and each accuracy has the error of 2,000 test images: verdicts must not follow the noise."""
    seen = dict.fromkeys(("augmentations", "temperature", "color-strength"), 0)
    for draw in range(draws):
        rng = np.random.default_rng(draw)
        for name in seen:
            cells = find_study(name).cells(load_recipe("study"), "small", 1)
            rows = [
                (dict(c.place), 0, {"top1": rng.normal(0.6, 0.011), "contrastive_accuracy": rng.normal(0.2, 0.01)})
                for c in cells
            ]
            seen[name] += sum(claim.verdict == "seen" for claim in find_study(name).page(findings(rows)).claims)
    # draws of 3 or 4 claims; 5 % of either side, more where the best of several is compared
    assert all(count <= most for count in seen.values()), seen


def test_the_papers_own_figures_confirm_the_claims_of_table_5() -> None:
    rows = [
        (
            {"l2": "yes" if n else "no", "temperature": t},
            s,
            {
                "contrastive_entropy": e,
                "contrastive_accuracy": c / 100 + wobble,
                "top1": a / 100 + wobble,
            },
        )
        for (n, t), (e, c, a) in temperature.PAPER.items()
        for s, wobble in enumerate((-0.001, 0.0, 0.001))
    ]
    page = temperature.page(replace(findings(rows), test_images=50_000))
    assert [claim.verdict for claim in page.claims] == ["seen"] * 4


def made_up(name: str, scale: str = "small", *, seeds: int = 2) -> Findings:
    """Figures for every cell of a study, from a generator."""
    shipped, changes = find_study(name).bases[scale]
    recipe = load_recipe(shipped, list(changes))
    rng = np.random.default_rng(0)
    figures = ["top1", "top1_z", "validation_top1", "contrastive_accuracy", "contrastive_entropy", "from_h", "from_z"]
    figures += ["chance", "top1_1pct", "top1_10pct", "top1_100pct", "top1_knn", "top1_start", "top1_knn_start", "task"]
    figures += ["task_chance", "epochs", "pixels", "seconds"]
    cells = find_study(name).cells(recipe, scale, seeds)
    return findings([(dict(c.place), c.seed, {f: float(rng.uniform(0.2, 0.9)) for f in figures}) for c in cells])


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("share", rest_slow([0.4, 1.0, 0.0]))
def test_a_report_is_written_of_a_whole_study_of_a_part_and_of_nothing(name: str, share: float, tmp_path: Path) -> None:
    whole = made_up(name)
    part = Findings(whole.rows[: round(share * len(whole.rows))], "small", 2000)
    study = find_study(name)
    files = write_report(
        tmp_path, study, part, Setting((("scale", "small"),), ("a cell: failed",) if share < 1 else ())
    )
    assert {file.name for file in files} >= {"report.html", "report.md", "results.csv", "results.json"}
    page = study.page(part)
    text = (tmp_path / "report.md").read_text()
    assert all(claim.sentence in text for claim in page.claims)
    assert all(
        (tmp_path / "plots" / f"{p.name}.{kind}").stat().st_size > 1000
        for p in page.pictures
        for kind in ("png", "svg")
    )
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(page.pictures) and "nan" not in text.lower().split()
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(part.rows)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert len(saved["cells"]) == len(part.rows) and saved["study"] == name
    if share == 1:
        assert "not measured" not in {claim.verdict for claim in page.claims}
        assert page.claims and all(isinstance(claim, Claim) and claim.evidence for claim in page.claims)
    if share == 0:
        assert {claim.verdict for claim in page.claims} <= {"not measured"}


@pytest.mark.parametrize("name", STUDIES)
def test_no_claim_of_a_whole_study_at_the_papers_scale_is_left_unmeasured(name: str) -> None:
    claims = find_study(name).page(made_up(name, "paper", seeds=1)).claims
    assert claims and "not measured" not in {claim.verdict for claim in claims}


def test_a_claim_that_is_the_other_way_round_is_not_seen() -> None:
    rising = [
        ({"head": head, "dimension": 128}, seed, {"top1": value + 0.001 * seed, "top1_z": value + 0.1 + 0.002 * seed})
        for head, value in (("none", 0.9), ("linear", 0.8), ("nonlinear", 0.7))
        for seed in range(3)
    ]
    page = find_study("projection-head").page(findings(rising))
    assert [claim.verdict for claim in page.claims] == ["not seen"] * 4
    assert all(isinstance(claim, Claim) and "points" in claim.evidence for claim in page.claims)


def test_cells_come_seed_by_seed_so_that_a_stopped_study_has_whole_grids() -> None:
    seeds = [cell.seed for cell in cells_of("temperature", "small")]
    assert seeds == sorted(seeds) and all(b - a in (0, 1) for a, b in pairwise(seeds))


def test_an_array_task_passes_the_warning_of_its_time_limit_on_to_a_cell_that_hears_it(tmp_path: Path) -> None:
    """A shell starts its background with SIGINT ignored: the cell's process must not keep that."""
    cell = tmp_path / "cell.py"
    cell.write_text(
        "import signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nprint('up', flush=True)\n"
        "try: time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(130)\n"
    )
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/requeued\n')
    (tmp_path / "scontrol").chmod(0o755)
    script = array_script("x", tmp_path, [sys.executable, str(cell)], [0], Allocation())
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_JOB_ID": "7"}
    task = subprocess.Popen(["bash", "-c", script], env=variables, stdout=subprocess.PIPE, text=True)
    assert task.stdout is not None and task.stdout.readline() == "up\n"
    task.send_signal(signal.SIGUSR2)
    assert task.wait(timeout=120) == 130 and (tmp_path / "requeued").read_text() == "requeue 7_0\n"
    task.stdout.close()


def test_a_cells_process_hears_an_interrupt_that_its_parent_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["study_cell", str(tmp_path), "0"])
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as left:
            study_cell.main()
        assert left.value.code == 3 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_array_script_is_valid_bash_and_names_its_cells(tmp_path: Path) -> None:
    given = Allocation(gpus=2, cpus=8, time="60", partition="gpu", extra=("--qos=high",))
    command = ["python", "-m", "simclr_plus.studies.running.cell", str(tmp_path / "a 'b'")]
    script = array_script("study-x", tmp_path, command, [0, 3, 4], given, at_once=2)
    for line in ("--array=0,3,4%2", "--gpus-per-node=2", "--time=60", "--partition=gpu", "--qos=high", "--requeue"):
        assert f"#SBATCH {line}\n" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=True).returncode == 0


def test_the_clip_art_set_is_the_same_for_everyone_and_holds_a_fifth_out(tmp_path: Path) -> None:
    from clipart_folder import CATEGORIES, make_clipart_folder
    from PIL import Image

    source = tmp_path / "png"
    for number, category in enumerate(CATEGORIES):
        (source / category / "deeper").mkdir(parents=True)
        for i in range(10):
            picture = Image.new("RGBA", (60 + i, 30), (20 * number, 25 * i, 255, 128))
            picture.save(source / category / "deeper" / f"{i}.png")
    (source / "food" / "broken.png").write_bytes(b"no picture")
    counts = make_clipart_folder(tmp_path / "a", source, most=11)
    make_clipart_folder(tmp_path / "b", source, most=11)
    files = sorted(f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*.png"))
    assert files == sorted(f.relative_to(tmp_path / "b") for f in (tmp_path / "b").rglob("*.png"))
    assert sum(counts) == len(files) == 80 and {f.parts[1] for f in files} == set(CATEGORIES)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files)
    with Image.open(tmp_path / "a" / files[0]) as image:
        assert image.size == (48, 48) and image.mode == "RGB" and image.getpixel((0, 0)) == (255, 255, 255)


def test_the_cost_of_a_network_too_wide_to_time_is_reckoned_by_its_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[tuple[int, float]] = []

    def a_second_an_image(recipe: Recipe, _threads: int) -> float:
        timed.append((recipe.encoder.depth, recipe.encoder.width))
        return 1.0

    monkeypatch.setattr(cost, "seconds_per_image", a_second_an_image)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    chosen = find_study("supervised-augmentation")
    recipe = load_recipe(chosen.bases["paper"][0], list(chosen.bases["paper"][1]))
    parts = {
        width: cost.cost_of(
            plan_study(tmp_path, chosen, "paper", 1, recipe, [f"width={width}", "epochs=90.0", "policy=crop"]),
            at_once=1,
            processes=1,
            say=lambda _line: None,
        )
        for width in ("1.0", "4.0")
    }
    assert timed == [(50, 1.0)] * 2  # never the wide one
    assert parts["1.0"].images == parts["4.0"].images == pytest.approx(90 * IMAGENET, rel=1e-4)
    assert parts["1.0"].seconds == parts["1.0"].images
    # ResNet-50: 4.09 billion; 4x: but for the stem's and its neighbours' share, 16 times as many
    assert 15 < parts["4.0"].seconds / parts["1.0"].seconds < 16
