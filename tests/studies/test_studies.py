"""The paper's studies as plans: what would be run."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from simclr_plus.augmentations.draws import FLIP, draw_views
from simclr_plus.augmentations.further_operations import draws_of
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.recipe import Recipe, load_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.studies.catalogue import STUDIES, find_study
from simclr_plus.studies.measures import MEASURES
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


def test_cells_come_seed_by_seed_so_that_a_stopped_study_has_whole_grids() -> None:
    seeds = [cell.seed for cell in cells_of("temperature", "small")]
    assert seeds == sorted(seeds) and all(b - a in (0, 1) for a, b in pairwise(seeds))


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
