"""The comparison of methods: equal budgets, rates chosen without test images, published laws, the user's encoders."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from simclr_plus.errors import RecipeError
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.method_keys import METHODS
from simclr_plus.recipe.method_keys.color import GRAY_SETS
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.studies.catalogue import find_study
from simclr_plus.studies.comparison.own_encoders import evaluated_on_imagenet
from simclr_plus.studies.comparison.page import ORDER, chosen_rates, page
from simclr_plus.studies.comparison.pictures import OWN, SHARED
from simclr_plus.studies.comparison.plan import NEED_COLOR, OWN_OPTIMIZER, RATES
from simclr_plus.studies.comparison.published import PUBLISHED
from simclr_plus.studies.findings import Findings, Found
from simclr_plus.studies.measures import MEASURES
from simclr_plus.studies.running.cells import open_study, plan_study, record
from simclr_plus.studies.study import Cell


def cells_of(budget: str = "pixels", scale: str = "small", *overrides: str) -> list[Cell]:
    study = find_study("comparison" if budget == "pixels" else f"comparison-{budget}")
    shipped, changes = study.bases[scale]
    return study.cells(load_recipe(shipped, [*changes, *overrides]), scale, 1)


COLOR = "data.name=places"
FIGURES_OF_A_BAR = [
    f"{figure}{of}" for figure in ("top1", "top1_knn", "validation_top1") for of in ("", "_start", "_pixels")
]


@pytest.mark.parametrize("scale", ["small", "paper"])
def test_all_methods_see_as_many_pixels_on_the_same_network_at_the_same_three_rates(scale: str) -> None:
    cells = cells_of("pixels", scale, *([COLOR] if scale == "small" else []))
    assert len({cell.name for cell in cells}) == len(cells)
    own = [cell for cell in cells if cell.place["method"].endswith(OWN_OPTIMIZER)]
    cells = [cell for cell in cells if cell not in own]
    assert {cell.place["method"] for cell in cells} == set(METHODS)
    assert {c.recipe.method.name for c in own} == set(METHODS) - {"simclr", "supervised"} and len(own) == len(
        METHODS
    ) - 2
    for cell in own:
        name = cell.recipe.method.name
        assert cell.recipe.optimizer == load_recipe("moco_v2_r50" if name == "moco" else f"{name}_r50").optimizer
        (shared,) = (c.recipe for c in cells if c.place == {"method": name, "rate": "1"})
        assert cell.recipe.model_copy(update={"optimizer": shared.optimizer}) == shared
    (simclr,) = (c.recipe for c in cells if c.place == {"method": "simclr", "rate": "1"})
    for cell in cells:
        recipe = cell.recipe
        assert recipe.method.name == cell.place["method"] and set(cell.measures) <= set(MEASURES)
        side = recipe.augmentation.image_size / simclr.augmentation.image_size
        pixels = recipe.training.epochs * recipe.method.pixels(recipe) * side**2
        assert pixels == pytest.approx(2 * simclr.training.epochs)
        assert recipe.optimizer.learning_rate == pytest.approx(
            simclr.optimizer.learning_rate * RATES[cell.place["rate"]]
        )
        same = ("depth", "width", "stem")
        assert all(getattr(recipe.encoder, key) == getattr(simclr.encoder, key) for key in same)
        assert recipe.optimizer.name == simclr.optimizer.name and make_plan(recipe, 10_000).total_steps > 0


def test_with_the_other_budget_all_train_as_many_epochs() -> None:
    assert {cell.recipe.training.epochs for cell in cells_of("epochs")} == {5.0}


def views_of(recipe: Recipe) -> dict[str, Any]:
    """What a view and an encoder's input are, apart from its size and how a crop is resized."""
    others = {"law", "image_size", "resize", "evaluation_crop", "blur_sigma_group", "augment_on", "device_crops"}
    return recipe.augmentation.model_dump(exclude=others) | recipe.encoder.model_dump(include={"input", "norm"})


def test_views_are_each_methods_published_law() -> None:
    recipes = {c.recipe.method.name: c.recipe for c in cells_of("pixels", "paper")}
    for name in set(METHODS) - {"simclr", "supervised"} - set(NEED_COLOR):
        assert views_of(recipes[name]) == views_of(parse_recipe("", [f"method.name={name}"])), name
    assert recipes["simclr"].augmentation.brightness_law == "additive"  # of the paper, in whose recipe it is written
    assert recipes["jigsaw"].augmentation.image_size == 292


def test_with_simclrs_law_all_methods_have_its_views() -> None:
    cells = cells_of("pixels", "paper", "augmentation.law=simclr")
    (simclr, *_) = (c.recipe for c in cells if c.place["method"] == "simclr")
    for cell in (c for c in cells if not c.place["method"].startswith(NEED_COLOR)):  # which refuse gray views
        assert (
            cell.recipe.augmentation.model_copy(update={"image_size": simclr.augmentation.image_size})
            == simclr.augmentation
        ), cell.name


@pytest.mark.parametrize("data", GRAY_SETS)
def test_methods_of_color_are_left_out_on_gray_images(data: str) -> None:
    methods = {cell.recipe.method.name for cell in cells_of("pixels", "small", f"data.name={data}")}
    assert methods == set(METHODS) - set(NEED_COLOR)
    with_color = {c.recipe.method.name for c in cells_of("pixels", "small", COLOR) if c.needs_color}
    assert with_color == set(NEED_COLOR) == {"colorization", "cmc"}


def made_up(values: dict[tuple[str, str], tuple[float, float]], **more: float) -> Findings:
    """method, rate -> accuracy on held-out training images, on test images."""
    rows = [
        Found(
            {"method": m, "rate": r},
            seed,
            {"validation_top1": v + 0.001 * seed, "top1": t + 0.001 * seed, "top1_start": 0.3, **more},
        )
        for (m, r), (v, t) in values.items()
        for seed in range(3)
    ]
    return Findings(rows, "small", 2000)


def test_the_rate_is_chosen_by_held_out_training_images_never_by_test_images() -> None:
    f = made_up({("simclr", "1/3"): (0.5, 0.9), ("simclr", "1"): (0.7, 0.6), ("rotation", "1"): (0.6, 0.5)})
    assert chosen_rates(f) == {"simclr": "1", "rotation": "1"}
    report = page(f)
    table = {row[0]: row for row in report.tables[0].rows}
    assert table["simclr"][1].startswith("60.1") and "69.3" in table["simclr"][-1]
    claims = {claim.sentence: claim.verdict for claim in report.claims}
    assert claims["simclr is above rotation, as published on ImageNet"] == "seen"
    assert claims["rotation is better than its own random encoder"] == "seen"
    costs = {row[0]: row for row in report.tables[1].rows}
    assert costs["simclr"][-1] == "1" and len(report.tables[2].rows) == 2


def test_the_first_seed_chooses_the_rate_at_which_the_others_are_run(tmp_path: Path) -> None:
    study = find_study("comparison")
    shipped, changes = study.bases["small"]
    where = ["method=simclr,rotation"]
    planned = plan_study(tmp_path / "s", study, "small", 3, load_recipe(shipped, list(changes)), where)
    assert planned.total == 2 * 3 + 2 * 2 and [planned.chance_of(c) for c in planned.cells] == [1.0] * 6 + [1 / 3] * 12

    def done(cell: Cell, validation: float, test: float) -> None:
        planned.result_file(cell).parent.mkdir(parents=True)
        planned.result_file(cell).write_text(
            json.dumps({"numbers": {"validation_top1": validation, "top1": test, "test_images": 2000}})
        )

    first = planned.missing()
    assert {cell.seed for cell in first} == {0} and len(first) == 6
    for cell in first[:-1]:
        done(cell, *{"1/3": (0.4, 0.9), "1": (0.6, 0.5), "3": (0.5, 0.8)}[cell.place["rate"]])
    assert {c.name for c in planned.missing()} == {first[-1].name, "simclr_1_seed1", "simclr_1_seed2"}
    done(first[-1], 0.9, 0.1)
    later = {(cell.place["method"], cell.place["rate"], cell.seed) for cell in planned.missing()}
    assert later == {(m, r, s) for m, r in (("simclr", "1"), ("rotation", "3")) for s in (1, 2)}
    for cell in planned.missing():
        done(cell, 0.1, 0.4)
    assert not planned.missing() and chosen_rates(planned.findings()) == {"simclr": "1", "rotation": "3"}


def test_methods_that_do_not_fit_the_recipe_may_be_left_out_and_the_others_run(tmp_path: Path) -> None:
    study = find_study("comparison")
    shipped, changes = study.bases["small"]
    recipe = load_recipe(shipped, [*changes, "augmentation.image_size=16"])
    with pytest.raises(RecipeError, match=r"(?s)method=cpc: .*method=pirl: .*--where 'method=simclr,") as refusal:
        plan_study(tmp_path / "s", study, "small", 1, recipe)
    remedy = str(refusal.value).rpartition("--where '")[2].rstrip("'")
    planned = plan_study(tmp_path / "s", study, "small", 1, recipe, [remedy])
    left_out = {cell.place["method"] for cell in study.cells(recipe, "small", 1)} - {
        cell.place["method"] for cell in planned.cells
    }
    assert left_out == {f"{name}{own}" for name in ("cpc", "pirl") for own in ("", OWN_OPTIMIZER)}
    record(planned, 1)
    names = {cell.name for cell in open_study(tmp_path / "s").cells}
    assert {cell.name for cell in planned.cells} < names


def test_what_is_said_to_be_published_agrees_with_the_published_figures() -> None:
    for above, below in ORDER:
        assert PUBLISHED[above][0].top1 > PUBLISHED[below][0].top1, (above, below)


def test_the_gain_over_the_random_encoder_is_paired_seed_by_seed_at_the_chosen_rate() -> None:
    rows = [
        Found(
            {"method": "simclr", "rate": rate},
            seed,
            {"top1": top1 + 0.01 * seed, "top1_start": 0.4 + 0.01 * seed, "validation_top1": top1},
        )
        for rate, top1, seeds in (("1", 0.6, 1), ("3", 0.7, 3))
        for seed in range(seeds)
    ]
    (claim,) = page(Findings(rows, "small", 10_000)).claims
    assert claim.evidence.startswith("+30.0 ±") and "n = 3" in claim.evidence and claim.verdict == "seen"


def test_every_published_figure_has_a_method_a_network_and_a_source() -> None:
    assert set(PUBLISHED) <= set(METHODS) | {
        "bigan",
        "cmc",
        "colorization",
        "cpc",
        "exemplar",
        "instdist",
        "jigsaw",
    } | {
        "moco",
        "pirl",
        "relative_patch",
    }
    for figures in PUBLISHED.values():
        assert figures and all(0 < f.top1 < 100 and f.parameters > 0 and f.network and f.source for f in figures)


def test_figure_1_has_the_users_encoders_that_were_evaluated_on_imagenet(tmp_path: Path) -> None:
    def result(run: Any, name: str, **changes: Any) -> None:
        run.results.mkdir(exist_ok=True)
        document = {"evaluator": "linear", "data": "imagenet", "train_images": 1_281_167, "changed": {}}
        document |= {"results": {"encoder": {"top1": 0.61}, "raw pixels": {"top1": 0.02}}, **changes}
        (run.results / name).write_text(json.dumps(document))

    mine = create_run(load_recipe("r50_1x"), tmp_path, "mine")
    result(mine, "linear.json")
    result(mine, "linear_z.json", changed={"on": "z"}, results={"encoder": {"top1": 0.99}})
    result(mine, "linear_damaged.json", results=7)
    result(
        create_run(load_recipe("cifar10_r18"), tmp_path, "other"), "linear.json", data="cifar10", train_images=50_000
    )
    (own,) = evaluated_on_imagenet(tmp_path)
    assert (own.name, own.top1, round(own.parameters, 1)) == ("mine", pytest.approx(61), 23.5)
    assert evaluated_on_imagenet(tmp_path / "nowhere") == ()


@pytest.mark.slow
def test_what_is_measured_of_frozen_features_is_what_the_evaluators_say(tmp_path: Path, tiny: list[str]) -> None:
    from simclr_plus.datasets.images import TEST, TRAIN, open_images
    from simclr_plus.evaluators.knn import evaluate_knn
    from simclr_plus.evaluators.linear import evaluate_linear_fast
    from simclr_plus.evaluators.subjects import Subject
    from simclr_plus.studies.comparison.measures import frozen, task
    from simclr_plus.training.trainer import train
    from simclr_plus.weights.encoder_files import load_encoder

    run = create_run(load_recipe("demo", [*tiny, "method.name=rotation"]), tmp_path, "r")
    train(run, quiet=True)
    cpu = torch.device("cpu")
    found = frozen(run, "small", cpu)
    subject = Subject("encoder", load_encoder(run.path / "encoder.safetensors"), run.recipe().law)
    images = open_images(run.recipe().data, TRAIN), open_images(run.recipe().data, TEST)
    assert found["top1"] == pytest.approx(evaluate_linear_fast(subject, *images, device=cpu)["top1"])
    assert found["top1_knn"] == pytest.approx(evaluate_knn(subject, *images, device=cpu)["top1"])
    own = task(run, "small", cpu)
    shares = [line["pretext_accuracy"] for line in run.metrics() if line["epoch"] > run.metrics()[-1]["epoch"] - 1]
    assert len(shares) == 8 and own["task"] == pytest.approx(sum(shares) / 8)
    assert own["task_chance"] == 0.25 and own["pixels"] == 4 and own["seconds"] > 0


def test_a_budget_is_of_the_comparison_alone() -> None:
    from simclr_plus.cli.study import _with_budget

    assert _with_budget("comparison", "epochs") == "comparison-epochs" and _with_budget("losses", "") == "losses"
    for name, budget in (("losses", "epochs"), ("comparison", "steps")):
        with pytest.raises(RecipeError, match=f"--budget {budget}: the study comparison has the budgets"):
            _with_budget(name, budget)


def test_the_bars_are_the_figures_and_no_two_names_overlap() -> None:
    from matplotlib import pyplot

    names = [*METHODS, *(f"{name}{OWN_OPTIMIZER}" for name in METHODS if name not in ("simclr", "supervised"))]
    top1 = {name: 0.4 + 0.5 * number / len(names) for number, name in enumerate(names)}
    rows = [
        Found({"method": name, "rate": "1"}, seed, dict.fromkeys(FIGURES_OF_A_BAR, top1[name] + wobble))
        for name in names
        for seed, wobble in enumerate((-0.01, 0.0, 0.01))
    ]
    f = Findings(rows, "small", 2000)
    (picture, *_) = page(f).pictures
    figure = pyplot.figure(figsize=picture.size, constrained_layout=True)
    picture.draw(figure)
    figure.canvas.draw()
    titles = [label.get_text() for label in figure.axes[0].get_yticklabels()]  # of both halves
    assert [axes.get_xlabel() for axes in figure.axes] == ["linear, top-1 (%)", "kNN, top-1 (%)"]
    for axes in figure.axes:
        ends = {
            (titles[round(bar.get_y() + bar.get_height() / 2)], container.get_label()): bar.get_x() + bar.get_width()
            for container in axes.containers
            for bar in getattr(container, "patches", ())
        }
        of_simclr = {("simclr", SHARED), ("raw pixels", SHARED), ("random encoder", SHARED)}
        for title, color in ends:
            name = "simclr" if (title, color) in of_simclr else title + (OWN_OPTIMIZER if color == OWN else "")
            assert ends[title, color] == pytest.approx(100 * top1[name])
        assert len(ends) == len(names) + 2
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    pyplot.close(figure)
