"""Supervised training in the same loop, and the other losses in it: what a step is, what is not there, what is told."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from simclr_plus.datasets import TEST, open_images, open_training_images
from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.losses import nt_xent
from simclr_plus.losses.compared import margin_triplet, nt_logistic, nt_xent_other_view
from simclr_plus.recipe import load_recipe
from simclr_plus.results.curves import curves_figure
from simclr_plus.results.verify import verify
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.progress import figures
from simclr_plus.training.methods.simclr import contrastive_loss
from simclr_plus.training.model import build_model
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.head_files import load_head

Command = Callable[..., subprocess.CompletedProcess[str]]
CPU = torch.device("cpu")
LABELS = ["loss.name=cross_entropy"]
PLAIN_SGD = ["optimizer.name=sgd", "optimizer.learning_rate_scaling=none", "optimizer.learning_rate=0.1"]
PLAIN_SGD += ["optimizer.momentum=0", "optimizer.weight_decay=0", "training.warmup_epochs=0"]


def trained(folder: Path, overrides: list[str], name: str = "run") -> Run:
    run = create_run(load_recipe("demo", overrides), folder, name)
    train(run, quiet=True)
    return run


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Run:
    from conftest import TINY

    return trained(tmp_path_factory.mktemp("supervised"), [*TINY, *LABELS, "training.epochs=10"])


def test_a_step_is_cross_entropy_of_one_view_through_encoder_and_classifier(tmp_path: Path, tiny: list[str]) -> None:
    """Against a loop in plain PyTorch on the same views."""
    each_step = ["checkpoints.every_epochs=0.125", "checkpoints.keep_last=9", "training.precision=float64"]
    run = trained(tmp_path, [*tiny, *LABELS, *PLAIN_SGD, *each_step])
    recipe = run.recipe()
    images = open_training_images(recipe)
    model = build_model(recipe, 10).double().train()
    batches = view_batches(recipe, images, CPU)
    for line, file in zip(run.metrics(), run.checkpoint_files(), strict=True):
        views, labels = batches.batch(line["step"] - 1)
        assert len(views) == len(labels) == recipe.training.batch_size
        logits = model.probe(model.encoder(views.double()))  # type: ignore[misc]
        loss = F.cross_entropy(logits, labels)
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-9)
        assert line["probe_accuracy"] == pytest.approx((logits.argmax(1) == labels).double().mean().item())
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= line["learning_rate"] * parameter.grad  # type: ignore[operator]
        saved = load_checkpoint(file).tensors
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(saved[name], parameter.detach(), rtol=1e-9, atol=1e-12)


def test_the_view_of_an_image_is_the_first_of_its_two(tiny: list[str]) -> None:
    one, two = (load_recipe("demo", [*tiny, *more]) for more in (LABELS, []))
    images = open_training_images(two)
    (single, labels), (pair, same) = (view_batches(recipe, images, CPU).batch(3) for recipe in (one, two))
    assert torch.equal(single, pair[:32]) and torch.equal(labels, same)


def test_it_learns_the_labels_from_a_classifier_near_zero(supervised: Run) -> None:
    lines = supervised.metrics()
    assert lines[0]["loss"] == pytest.approx(math.log(10), abs=0.05)
    assert np.mean([line["probe_accuracy"] for line in lines[-8:]]) > 0.3
    assert not any(key.startswith("contrastive") for line in lines for key in line)


def test_there_is_no_projection_head_and_the_encoder_reloads(supervised: Run) -> None:
    file = supervised.checkpoint_files()[-1]
    assert not [name for name in load_checkpoint(file).tensors if "head." in name]
    with pytest.raises(CheckpointError, match="no projection head: its run trained without one"):
        load_head(file, "projection")
    of_file, of_run = (load_encoder(path) for path in (supervised.path / "encoder.safetensors", file))
    x = torch.rand(4, 3, 16, 16)
    assert torch.equal(of_file(x), of_run(x))


def test_its_classifier_is_verified_on_held_out_images(supervised: Run) -> None:
    recipe = supervised.recipe()
    images = open_images(recipe.data, TEST).first(500)
    found = verify(supervised.checkpoint_files()[-1], images, recipe.law, device=CPU)
    assert found["classes"] == 10 and 0.2 < found["results"]["top1"] < 1


def test_a_stopped_run_ends_with_the_bytes_of_an_unbroken_one(tmp_path: Path, tiny: list[str]) -> None:
    overrides = [*tiny, *LABELS, "checkpoints.every_epochs=0.5", "checkpoints.keep_last=9"]
    unbroken, resumed = (trained(tmp_path, overrides, name) for name in ("unbroken", "resumed"))
    for path in resumed.checkpoint_files()[1:]:
        path.unlink()
    (resumed.path / "encoder.safetensors").unlink()
    assert train(resumed, quiet=True) == "finished"
    for name in (f"checkpoints/{unbroken.checkpoint_files()[-1].name}", "encoder.safetensors"):
        assert (resumed.path / name).read_bytes() == (unbroken.path / name).read_bytes()


@pytest.mark.parametrize("setting", ["optimizer.name=lars", "training.precision=bfloat16", "training.probe=false"])
def test_every_way_to_train_is_there(tmp_path: Path, tiny: list[str], setting: str) -> None:
    last = trained(tmp_path, [*tiny, *LABELS, setting]).metrics()[-1]
    assert last["step"] == 9 and math.isfinite(last["loss"]) and "probe_accuracy" in last


def test_labels_that_are_held_out_for_tests_are_not_learnt(tmp_path: Path, photos: Path) -> None:
    overrides = ["data.name=folder", f"data.root={photos}", "training.batch_size=8", *LABELS]
    recipe = load_recipe("demo", overrides)
    learnt, tested = open_training_images(recipe), open_images(recipe.data, TEST)
    assert (len(learnt), len(tested)) == (38, 10) and not set(learnt.paths) & set(tested.paths)
    assert len(open_training_images(load_recipe("demo", [*overrides, "data.limit=12"]))) == 12
    assert len(open_training_images(load_recipe("demo", overrides[:-1]))) == 48


def test_images_without_labels_are_refused_naming_the_method(
    tmp_path: Path, tiny: list[str], photos: Path, simclr_plus: Command
) -> None:
    flat = [*tiny, *LABELS, "data.name=folder", f"data.root={photos / 'sand'}", "data.limit=0", "training.batch_size=8"]
    run = create_run(load_recipe("demo", flat), tmp_path, "run")
    with pytest.raises(RecipeError, match=r'method.name = "supervised" learns labels.*sand has no labels.*"simclr"'):
        train(run, quiet=True)
    done = simclr_plus("run", "demo", *flat, "--runs", tmp_path, cwd=tmp_path)
    assert done.returncode == 2 and 'method.name = "supervised" learns labels' in done.stderr


def test_it_is_shown_compared_and_planned_like_any_run(
    supervised: Run, tmp_path: Path, tiny: list[str], simclr_plus: Command
) -> None:
    shutil.copytree(supervised.path, tmp_path / "labels")
    trained(tmp_path, tiny, "views")
    shown = simclr_plus("show", "labels", "--runs", tmp_path, cwd=tmp_path)
    assert shown.returncode == 0 and "probe_accuracy" in shown.stdout and "contrastive" not in shown.stdout
    compared = simclr_plus("compare", "labels", "views", "--runs", tmp_path, "--json", cwd=tmp_path)
    answer = json.loads(compared.stdout)
    assert answer["recipe"]["method.name"] == ["supervised", "simclr"]
    of_labels, of_views = answer["last"]["contrastive_accuracy"]
    assert of_labels is None and of_views > 0
    planned = simclr_plus("run", "demo", *LABELS, "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0 and "none: cross entropy" in planned.stdout
    refused = simclr_plus("bench", "step", "demo", *LABELS, cwd=tmp_path)
    assert refused.returncode == 2 and "supervised" in refused.stderr


def test_its_line_and_its_curves_name_what_there_is(supervised: Run, tmp_path: Path, tiny: list[str]) -> None:
    line = supervised.metrics()[-1]
    assert "probe" in figures(line) and "contrastive" not in figures(line)
    left, right = curves_figure(supervised).axes
    assert left.get_legend_handles_labels()[1] == ["cross entropy"]
    assert right.get_legend_handles_labels()[1] == ["classifier, training batch"]
    other = create_run(load_recipe("demo", [*tiny, "loss.negatives=other_view"]), tmp_path, "other")
    other.log_metrics({**line, "contrastive_accuracy": 0.5})
    left, _ = curves_figure(other).axes
    assert left.get_legend_handles_labels()[1] == ["NT-Xent", "chance, ln 32 = 3.47"]


# the other losses


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["loss.temperature=0.3"], lambda a, b: nt_xent(a, b, temperature=0.3)),
        (["loss.normalize=false"], lambda a, b: nt_xent(a, b, temperature=0.1, normalize=False)),
        (["loss.negatives=other_view"], lambda a, b: nt_xent_other_view(a, b, temperature=0.1)),
        (["loss.name=nt_logistic"], lambda a, b: nt_logistic(a, b, temperature=0.1, negatives="both_views")),
        (
            ["loss.name=nt_logistic", "loss.negatives=other_view", "loss.semi_hard=true", "loss.temperature=0.5"],
            lambda a, b: nt_logistic(a, b, temperature=0.5, semi_hard=True),
        ),
        (
            ["loss.name=margin", "loss.margin=0.4"],
            lambda a, b: margin_triplet(a, b, margin=0.4, negatives="both_views"),
        ),
        (
            ["loss.name=margin", "loss.semi_hard=true", "loss.negatives=other_view", "loss.normalize=false"],
            lambda a, b: margin_triplet(a, b, semi_hard=True, normalize=False),
        ),
    ],
)
def test_the_loop_takes_the_loss_that_the_recipe_names(overrides: list[str], expected: Callable[..., object]) -> None:
    z0, z1 = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    recipe = load_recipe("demo", ["loss.temperature=0.1", *overrides])
    assert torch.equal(contrastive_loss(recipe, z0, z1), expected(z0, z1))


@pytest.mark.parametrize(("name", "doubled"), [("nt_xent", True), ("nt_logistic", False), ("margin", False)])
def test_the_authors_factor_of_two_concerns_nt_xent_alone(
    tmp_path: Path, tiny: list[str], name: str, doubled: bool
) -> None:
    sums = [
        load_checkpoint(run.checkpoint_files()[-1]).tensors["encoder.conv1.weight"]
        for reduction in ("paper", "reference")
        for run in [
            trained(
                tmp_path, [*tiny, *PLAIN_SGD, f"loss.name={name}", f"loss.reduction={reduction}"], f"{name}{reduction}"
            )
        ]
    ]
    assert torch.equal(*sums) is not doubled


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nt_logistic", "margin"])
def test_another_loss_learns_to_tell_images_apart(tmp_path: Path, tiny: list[str], name: str) -> None:
    lines = trained(tmp_path, [*tiny, f"loss.name={name}", "training.epochs=8"]).metrics()
    first, last = (np.mean([line["contrastive_accuracy"] for line in some]) for some in (lines[:4], lines[-8:]))
    assert last > 1.5 * first and lines[-1]["loss"] < lines[0]["loss"]


def test_without_a_head_the_loss_is_of_the_features(tmp_path: Path, tiny: list[str]) -> None:
    run = trained(tmp_path, [*tiny, *PLAIN_SGD, "head.num_layers=0", "training.precision=float64"])
    recipe = run.recipe()
    model = build_model(recipe, 10).double().train()
    h = model.encoder(view_batches(recipe, open_training_images(recipe), CPU).batch(0)[0].double())
    assert run.metrics()[0]["loss"] == pytest.approx(nt_xent(*h.chunk(2), temperature=0.5).item(), rel=1e-9)
