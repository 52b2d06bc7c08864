"""The form of a recipe without a screen: keys, values, commands, what cannot stand."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from simclr_plus.tui.starting.commands import override, shown
from simclr_plus.tui.starting.recipe_form import LAUNCH, Form, found_recipes, rows_of

from simclr_plus.errors import RecipeError
from simclr_plus.recipe import find_recipe, load_recipe, parse_recipe, shipped_recipes


def form_of(name: str, folder: Path) -> Form:
    return Form(name, find_recipe(name).read_text(), folder)


def test_every_key_of_every_recipe_survives_the_form(tmp_path: Path) -> None:
    for path in shipped_recipes():
        form = form_of(path.stem, tmp_path)
        shown_keys = [key.name for key, _, _ in rows_of(form)]
        of_the_method = [f"method.{key}" for key in type(form.base.method).model_fields]
        assert [key for key in shown_keys if key.startswith("method.")] == of_the_method
        for key in shown_keys:
            assert key in LAUNCH or form.problem(key, form.value(key)) == "", key


def test_a_changed_key_stands_in_the_command_and_the_command_means_it(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path / "my runs")
    form.change("training.epochs", "7")
    form.change("data.root", "/a folder/with blanks")
    form.change("monitor.wandb_project", "123")
    form.change("start.processes", "2")
    words = shlex.split(shown(form.words()))
    assert words[:3] == ["simclr-plus", "run", "demo"] and words[-2:] == ["--runs", str(tmp_path / "my runs")]
    given = [word for word in words[3:] if "=" in word]
    recipe = parse_recipe(find_recipe("demo").read_text(), given)
    assert recipe == form.recipe()
    assert (recipe.training.epochs, recipe.data.root) == (7, "/a folder/with blanks")
    assert recipe.monitor.wandb_project == "123"
    assert words[words.index("--nproc") + 1] == "2"


def test_a_value_set_back_is_no_change(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("training.epochs", "7")
    form.change("training.epochs", "22")
    assert form.overrides == {} and form.changes() == []


def test_a_variant_changes_the_keys_that_follow_it(tmp_path: Path) -> None:
    form = form_of("r50_1x", tmp_path)
    form.change("head.output_dim", "64")
    form.change("variant", "tf2")
    changed = {key: now for key, _, now in form.changes()}
    assert changed["variant"] == "tf2" and changed["head.output_dim"] == "64" and changed["head.num_layers"] == "3"
    assert form.words().index("variant=tf2") < form.words().index("head.output_dim=64")


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("optimizer.name", "larss", "did you mean lars?"),
        ("training.epochs", "-1", "greater than 0"),
        ("training.warmup_epochs", "100", "longer than training.epochs"),
        ("training.batch_sise", "3", "did you mean training.batch_size?"),
        ("start.processes", "many", "whole number"),
        ("start.where", "moon", "this machine or SLURM"),
        ("start.name", "a/b", "plain folder name"),
    ],
)
def test_what_cannot_stand_is_said_and_changes_nothing(tmp_path: Path, key: str, text: str, said: str) -> None:
    form = form_of("demo", tmp_path)
    before = form.words()
    assert said in form.problem(key, text)
    with pytest.raises(RecipeError):
        form.change(key, text)
    assert form.words() == before


def test_processes_that_do_not_divide_the_batch_are_pointed_out(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("start.processes", "3")
    with pytest.raises(RecipeError, match="does not divide by 3 processes"):
        form.comes_to()


def test_what_a_recipe_comes_to_is_what_the_plan_says(tmp_path: Path) -> None:
    rows = dict(form_of("r50_1x", tmp_path).comes_to())
    assert rows["steps"].startswith("312,778") or rows["steps"].startswith(f"{1281167 * 1000 // 4096 + 1:,}")
    assert rows["peak rate"] == "4.8 (lars)"


def test_slurm_has_its_keys_and_no_detaching(tmp_path: Path) -> None:
    form = form_of("r50_1x", tmp_path)
    assert "start.time" not in {key.name for key, _, _ in rows_of(form)}
    form.change("start.where", "SLURM")
    for key, value in (("start.nodes", "8"), ("start.gpus", "8"), ("start.time", "1-00:00:00")):
        form.change(key, value)
    assert dict(form.comes_to())["global batch"] == "4,096, 64 a process"
    words = form.words()
    assert "--slurm" in words and "-d" not in words and words[words.index("--nodes") + 1] == "8"
    assert "start.time" in {key.name for key, _, _ in rows_of(form)}


def test_an_edited_recipe_becomes_ones_own(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("loss.temperature", "0.5")
    form.save_as(tmp_path / "mine.toml")
    assert load_recipe(tmp_path / "mine.toml") == form.recipe()
    assert found_recipes(tmp_path)[0] == (str(tmp_path / "mine.toml"), tmp_path / "mine.toml")
    with pytest.raises(RecipeError, match="exists"):
        form.save_as(tmp_path / "mine.toml")


def test_a_toml_file_that_is_no_recipe_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "broken.toml").write_text("[[[")
    assert [name for name, _ in found_recipes(tmp_path)] == [path.stem for path in shipped_recipes()]


@pytest.mark.parametrize(
    "value",
    ["plain", "two words", "1", "true", "", " x", "[1]", 3, 2.5, False, (0.1, 0.2, 0.3), ("crop", "a b"), ()],
)
def test_an_override_is_read_back_as_the_value(value: Any) -> None:
    import tomllib

    text = override("k", value).partition("=")[2]
    try:
        found = tomllib.loads(f"k = {text}")["k"]
    except tomllib.TOMLDecodeError:
        found = text
    assert found == (list(value) if isinstance(value, tuple) else value)


def test_a_list_of_words_is_edited_as_it_is_written(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    form.change("augmentation.operations", '["crop", "sobel"]')
    assert form.recipe().augmentation.operations == ("crop", "sobel")
    assert form.value("augmentation.operations") == '["crop", "sobel"]'
    assert 'augmentation.operations=["crop", "sobel"]' in form.words()
    assert '["crop", "color"]' in form.problem("augmentation.operations", "crop")


def test_the_form_shows_the_keys_of_the_method_that_is_chosen(tmp_path: Path) -> None:
    form = form_of("demo", tmp_path)
    assert "method.angles" not in [key.name for key, _, _ in rows_of(form)]
    form.change("method.name", "rotation")
    form.change("method.angles", "[0, 180]")
    assert ("method.angles", "[0, 180]", True) in [(key.name, value, changed) for key, value, changed in rows_of(form)]
    assert form.recipe().method.pixels(form.recipe()) == 2
    form.change("method.name", "simclr")
    assert "method.angles" not in [key.name for key, _, _ in rows_of(form)]
