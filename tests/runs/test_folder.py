from __future__ import annotations

import itertools
import json
import math
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import (
    Run,
    branch_run,
    create_numbered_run,
    create_run,
    default_name,
    find_run,
    join_run,
    list_runs,
    run_name_problem,
)


def test_a_run_records_the_resolved_recipe(tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["training.seed=5"])
    run = create_run(recipe, tmp_path, "mine")
    assert run.recipe() == recipe and "seed = 5" in run.recipe_file.read_text()
    assert "min_scale" in run.recipe_file.read_text()


def test_a_taken_name_is_refused_and_nothing_is_overwritten(tmp_path: Path) -> None:
    create_run(load_recipe("demo"), tmp_path, "mine")
    with pytest.raises(RecipeError, match="mine exists"):
        create_run(load_recipe("demo", ["training.seed=5"]), tmp_path, "mine")
    assert find_run("mine", tmp_path).recipe().training.seed == 0
    with pytest.raises(RecipeError, match="plain folder name"):
        create_run(load_recipe("demo"), tmp_path, "../mine")


def test_runs_are_found_by_name_prefix_path_and_latest(tmp_path: Path) -> None:
    for name in ("alpha-1", "alpha-2", "beta"):
        create_run(load_recipe("demo"), tmp_path, name)
    assert find_run("beta", tmp_path).name == find_run("b", tmp_path).name == "beta"
    assert find_run(str(tmp_path / "alpha-1"), Path("elsewhere")).name == "alpha-1"
    assert find_run("latest", tmp_path) == list_runs(tmp_path)[-1]
    with pytest.raises(NotFoundError, match="ambiguous: alpha-1, alpha-2"):
        find_run("alpha", tmp_path)
    with pytest.raises(NotFoundError, match="it has alpha-1, alpha-2, beta"):
        find_run("gamma", tmp_path)
    with pytest.raises(NotFoundError, match="it has no runs"):
        find_run("latest", tmp_path / "nowhere")


def test_metrics_outlive_torn_lines_and_a_resume_that_goes_back(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "mine")
    for step in (10, 20, 30):
        run.log_metrics({"step": step, "loss": float(step)})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 40, "lo')
    run.log_metrics({"step": 20, "loss": math.nan})
    run.log_metrics({"step": 25, "loss": 2.5})
    assert [(line["step"], line["loss"]) for line in run.metrics()] == [(10, 10.0), (20, None), (25, 2.5)]
    assert all("NaN" not in line for line in run.metrics_file.read_text().splitlines())


def test_events_and_results_are_plain_json(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "mine")
    run.log_event("exit", reason="finished")
    assert run.events()[0]["reason"] == "finished" and run.events()[0]["time"] > 0
    path = run.write_result("knn", {"top1": 0.5, "bad": math.inf})
    assert json.loads(path.read_text()) == {"top1": 0.5, "bad": None}


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, "mine")
    with run.locked(), pytest.raises(SimclrPlusError, match="being trained by another process"), run.locked():
        pass
    with run.locked():
        assert (run.path / "run.lock").exists()


def test_a_run_without_checkpoint_says_so(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo"), tmp_path, default_name("recipes/demo.toml"))
    assert run.name.startswith("demo-")
    with pytest.raises(NotFoundError, match="has no checkpoint"):
        run.latest_checkpoint()


PHOTOS = ["data.name=folder", "data.root=photos", "training.init_from=e.safetensors"]


def test_a_run_made_in_one_folder_means_the_same_images_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run = create_run(load_recipe("demo", PHOTOS), Path("runs"), "mine")
    monkeypatch.chdir(tmp_path / "there")
    recipe = find_run("../here/runs/mine", Path("runs")).recipe()
    assert recipe.data.root == str(tmp_path / "here" / "photos")
    assert recipe.training.init_from == str(tmp_path / "here" / "e.safetensors")
    run = find_run("../here/runs/mine", Path("runs"))
    run.checkpoints.mkdir()
    (run.checkpoints / "step_00000001.safetensors").touch()
    changed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"root": "photos"})})
    branch = branch_run(run, changed, "", ["data.root=photos"])
    assert branch.recipe().data.root == str(tmp_path / "there" / "photos")


def test_an_empty_folder_name_makes_no_run(tmp_path: Path) -> None:
    recipe = load_recipe("demo", ["data.name=folder", 'data.root=""'])
    with pytest.raises(RecipeError, match=r"data\.root is empty"):
        create_run(recipe, tmp_path, "mine")
    assert not (tmp_path / "mine").exists()


def test_machines_join_a_run_of_the_same_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("demo", PHOTOS)
    run = join_run(recipe, tmp_path / "runs", "mine")
    assert join_run(recipe, tmp_path / "runs", "mine") == run
    run.recipe_file.write_text(recipe.to_toml())  # recorded before paths were made whole
    assert join_run(recipe, tmp_path / "runs", "mine") == run
    monkeypatch.chdir(tmp_path / "other")
    run.recipe_file.write_text(recipe.to_toml().replace('"photos"', f'"{tmp_path}/photos"'))
    with pytest.raises(
        RecipeError, match=rf"has another recipe .*data\.root = '{tmp_path}/photos'.*{tmp_path}/other/photos"
    ):
        join_run(recipe, tmp_path / "runs", "mine")


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", " x", "x ", "a/b", "a\nb", "a\tb", "a\x7fb", "é" * 101, "latest"]
)
def test_a_name_that_no_folder_script_or_option_can_hold_is_refused_at_once(tmp_path: Path, name: str) -> None:
    begun = time.monotonic()
    for make in (create_run, create_numbered_run, join_run):
        with pytest.raises(RecipeError):
            make(load_recipe("demo"), tmp_path, name)
    assert not list(tmp_path.iterdir()) and time.monotonic() - begun < 60


@pytest.mark.parametrize("name", ["x", "2024", "my run 5% #1", "ünï", "a.b-c", "[red]x", "x" * 200])
def test_other_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    assert run_name_problem(name) == ""
    assert create_run(load_recipe("demo"), tmp_path, name).path == tmp_path / name


@pytest.mark.parametrize(
    "recipe", [".hidden.toml", "-x.toml", "a\nb.toml", "é" * 120 + ".toml", " .toml", "my recipe.toml"]
)
def test_a_recipe_of_any_name_gives_a_run_a_name(tmp_path: Path, recipe: str) -> None:
    assert create_run(load_recipe("demo"), tmp_path, default_name(f"recipes/{recipe}")).recipe_file.exists()


def test_runs_that_begin_in_one_second_get_numbers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: create_numbered_run(load_recipe("demo"), tmp_path, "demo-1"), range(8)))
    assert sorted(run.name for run in made) == sorted(["demo-1", *(f"demo-1-{i}" for i in range(2, 9))])
    assert all(run.recipe_file.exists() for run in made)


def test_a_folder_of_runs_that_cannot_be_made_is_told_and_not_tried_for_ever(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "at all")
    (tmp_path / "file").touch()
    for folder, make in itertools.product(("dangling", "file"), (create_run, create_numbered_run, join_run)):
        with pytest.raises(SimclrPlusError, match="cannot make"):
            make(load_recipe("demo"), tmp_path / folder, "x")
    with pytest.raises(RecipeError, match="is no folder"):
        join_run(load_recipe("demo"), tmp_path, "file")


def test_machines_that_join_one_run_get_it_whole(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        joined = list(threads.map(lambda _: join_run(load_recipe("demo"), tmp_path, "x"), range(4)))
    assert joined == [Run(tmp_path / "x")] * 4
    with pytest.raises(RecipeError, match="another recipe"):
        join_run(load_recipe("demo", ["training.seed=5"]), tmp_path, "x")
