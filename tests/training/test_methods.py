"""What every method must do, whatever it learns: go on bit for bit, have one section of keys and one class."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from method_settings import LEARNING, LEARNS, TINY
from parameters import slow_or_soak
from safetensors import safe_open
from sections_told import require_that_the_section_tells

from simclr_plus.checks.proof import Case, prove
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import RecipeError
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import knn_scores, top_k_accuracy
from simclr_plus.recipe import load_recipe, method_keys, parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training.methods.catalogue import METHODS
from simclr_plus.training.model import build_encoder
from simclr_plus.training.monitor import knn_images_of
from simclr_plus.training.trainer import train
from simclr_plus.weights.encoder_files import load_encoder

CPU = torch.device("cpu")


def run_of(name: str, folder: Path, tiny: list[str], called: str) -> Run:
    keys = [f"method.name={name}", *TINY[name], "checkpoints.every_epochs=0.25", "checkpoints.keep_last=99"]
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
    require_that_the_section_tells(load_recipe("demo", [*tiny, f"method.name={name}", *TINY[name]]))


@pytest.mark.parametrize("name", slow_or_soak([name for name in METHODS if name != "supervised"], ["bigan", "cmc"]))
def test_on_real_images_the_task_is_learnt_and_features_beat_those_at_the_start(tmp_path: Path, name: str) -> None:
    """Shares that are logged are twice their chance, the loss is below its own, kNN on h is above that at the start."""
    run = create_run(load_recipe("demo", [f"method.name={name}", *LEARNING, *LEARNS[name]]), tmp_path, name)
    recipe = run.recipe()
    assert train(run, quiet=True) == "finished"
    last = [line for line in run.metrics() if "loss" in line][-5:]
    shares = [f for f in recipe.method.figures(recipe) if f.share and f.chance is not None]
    for figure in shares:
        assert sum(line[figure.column] for line in last) / len(last) > 2 * (figure.chance or 0), figure.title
    chance = recipe.method.chance_loss(recipe)
    assert shares or chance is not None
    if chance is not None:
        assert sum(line["loss"] for line in last) / len(last) < chance
    bank, queries = knn_images_of(recipe)
    trained, at_start = (
        knn_of(encoder.eval(), bank, queries, recipe)
        for encoder in (load_encoder(run.path / "encoder.safetensors"), build_encoder(recipe))
    )
    print(f"{name}: kNN {at_start:.3f} -> {trained:.3f}; " + ", ".join(f"{k} {v}" for k, v in last[-1].items()))
    assert trained > at_start + 0.02


def knn_of(encoder: Encoder, bank: Images, queries: Images, recipe: Recipe) -> float:
    """Share of the queries whose 20 nearest tell their class."""
    h_bank, bank = features_of(encoder, bank, recipe.law, device=CPU)
    h, queries = features_of(encoder, queries, recipe.law, device=CPU)
    scores = knn_scores(h, h_bank, labels_of(bank), len(bank.classes), k=20)
    return top_k_accuracy(scores, labels_of(queries), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "form"),
    [*((name, []) for name in METHODS), ("moco", ["method.symmetric=true"]), ("cpc", ["method.version=1"])],
)
def test_two_processes_train_what_one_does(tmp_path: Path, name: str, form: list[str]) -> None:
    """The proof of `doctor`, with each method: losses, gradients, statistics and weights of every step.

    scale: the gradient of an offset before a batch norm is made of rounding errors alone.
    """
    case = Case("sgd", overrides=(f"method.name={name}", *TINY[name], *form), learning_rate=0.02, scale=1e-3)
    findings, _ = prove(case, 2, tmp_path)
    for finding in findings:
        assert finding.equal, f"{finding.kind}: {finding.difference:.1e} at {finding.where}"
