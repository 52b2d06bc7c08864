"""What every method must do, whatever it learns: go on bit for bit, have one section of keys and one class."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from simclr_plus.errors import RecipeError
from simclr_plus.recipe import load_recipe, method_keys, parse_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.methods.catalogue import METHODS
from simclr_plus.training.model import blank_batch, build_model
from simclr_plus.training.trainer import train

CPU = torch.device("cpu")


def run_of(name: str, folder: Path, tiny: list[str], called: str) -> Run:
    keys = [f"method.name={name}", "checkpoints.every_epochs=0.25", "checkpoints.keep_last=99"]
    return create_run(load_recipe("demo", [*tiny, *keys]), folder, called)


@pytest.mark.parametrize("name", METHODS)
def test_a_run_that_goes_on_from_any_checkpoint_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, tiny: list[str], name: str
) -> None:
    unbroken, resumed = (run_of(name, tmp_path, tiny, called) for called in ("unbroken", "resumed"))
    assert train(unbroken, quiet=True) == "finished"
    first, *later = unbroken.checkpoint_files()
    assert len(later) >= 2
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(first, resumed.checkpoints)
    assert train(resumed, quiet=True) == "finished"
    assert resumed.events()[0]["event"] == "resume"
    for file in later:
        assert (resumed.checkpoints / file.name).read_bytes() == file.read_bytes(), file.name
    with safe_open(later[-1], framework="pt") as file:
        assert file.metadata()["method"] == name


def test_a_loss_that_is_typed_is_learnt_or_refused_and_never_passed_over() -> None:
    recorded = parse_recipe("", ["loss.name=cross_entropy"]).to_toml()
    with pytest.raises(RecipeError, match=r"loss.name=margin.*supervised.*method.name=simclr"):
        parse_recipe(recorded, ["loss.name=margin"])
    both = parse_recipe(recorded, ["method.name=simclr", "loss.name=margin"])
    assert (both.method.name, both.loss.name) == ("simclr", "margin")
    back = parse_recipe(both.to_toml(), ["loss.name=cross_entropy"])
    assert back.method.name == "supervised" and back.method.learns_labels


def test_each_method_has_a_class_a_section_and_a_paper() -> None:
    assert METHODS.keys() == method_keys.METHODS.keys()
    for name, method in METHODS.items():
        assert method.source and method.__doc__ and method_keys.METHODS[name].model_fields["name"].annotation
        recipe = parse_recipe("", [f"method.name={name}"])
        assert recipe.method.name == name and parse_recipe(recipe.to_toml()) == recipe


@pytest.mark.parametrize("name", METHODS)
def test_what_a_section_says_of_its_method_is_what_is_built(tiny: list[str], name: str) -> None:
    """Rows through f, parameters beside it, the columns that a line of metrics has."""
    recipe = load_recipe("demo", [*tiny, f"method.name={name}"])
    model = build_model(recipe, 10, 256)
    batch = blank_batch(recipe, 4, CPU, torch.float32)
    inputs = model.prepare(batch)
    assert len(inputs.images) == recipe.method.rows * 4 and len(batch.views) == recipe.method.views * 4
    parts = {"encoder": 0, "probe": 0, "beside": 0}
    for part, parameter in model.named_parameters():
        parts[part.partition(".")[0] if part.startswith(("encoder.", "probe.")) else "beside"] += parameter.numel()
    assert parts["encoder"] == recipe.architecture.parameter_count() and parts["probe"] > 0
    assert parts["beside"] == recipe.method.parameters_beside(recipe)
    result = model.loss(model(inputs.images), inputs)
    columns = {figure.column for figure in recipe.method.figures(recipe)}
    assert columns <= result.metrics().keys() and columns <= set(method_keys.TASK_ACCURACIES)
    assert len(result.features) % 4 == 0 and not result.features.requires_grad
    assert result.objective.requires_grad and not result.loss.requires_grad
