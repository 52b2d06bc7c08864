from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from simclr_plus.errors import NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import branch_run, create_run, default_name, find_run, join_run, list_runs


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
