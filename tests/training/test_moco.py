"""MoCo in the loop: its keys and refusals, what follows what, the shuffle, the queue, what leaves evaluation alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from method_settings import TINY
from places import ROOT

from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.parts.group_batch_norm import GroupBatchNorm
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.method import StepResult
from simclr_plus.training.methods.moco import MoCo
from simclr_plus.training.model import build_model, through
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.checkpoints import load_checkpoint
from simclr_plus.weights.encoder_files import save_encoder

CPU = torch.device("cpu")


def moco(tiny: list[str], *overrides: str) -> MoCo:
    model = build_model(load_recipe("demo", [*tiny, "method.name=moco", *TINY["moco"], *overrides]), 10, 256)
    assert isinstance(model, MoCo)
    return model.train()


def batch_of(model: MoCo, step: int = 0) -> Batch:
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(step)


def stepped(model: MoCo, batch: Batch, optimizer: torch.optim.Optimizer | None = None) -> StepResult:
    """A step as the loop makes it, or without an update."""
    inputs = model.prepare(batch)
    result = model.loss(through(model, inputs, model.recipe), inputs)
    if optimizer is not None:
        optimizer.zero_grad()
        result.objective.backward()
        optimizer.step()
    model.after_step(result, batch)
    return result


def test_the_defaults_are_v2s_law_and_its_recipes_are_the_published_ones() -> None:
    recipe = parse_recipe("", ["method.name=moco"])
    k, law = recipe.method, recipe.law
    assert (k.queue, k.key_momentum, k.temperature, k.head_layers, k.output_dim) == (65536, 0.999, 0.2, 2, 128)
    assert (k.norm_group, k.shuffle, k.symmetric) == (32, True, False)
    assert (law.min_scale, law.brightness, law.contrast, law.saturation, law.hue) == (0.2, 0.4, 0.4, 0.4, 0.1)
    assert (law.jitter_prob, law.gray_prob, law.blur_prob, law.gray_first) == (0.8, 0.2, 0.5, False)
    v1, v2 = (load_recipe(ROOT / "recipes" / f"moco_{version}_r50.toml") for version in ("v1", "v2"))
    assert (v1.method.temperature, v1.method.head_layers) == (0.07, 1) and v2.method == k
    assert (v1.law.hue, v1.law.jitter_prob, v1.law.blur_prob, v1.law.gray_first) == (0.4, 1.0, 0.0, True)
    assert replace(v2.law, resize=law.resize) == law
    for recipe in (v1, v2):
        o = recipe.optimizer
        assert (o.name, o.momentum, o.nesterov, o.weight_decay, o.decay_norms) == ("sgd", 0.9, False, 1e-4, True)
        assert make_plan(recipe, 1281167).peak_learning_rate == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.queue=65535"], ["method.queue = 65535", "61440", "65536", "4096"]),
        (["method.queue=100"], ["method.queue = 100", "use method.queue = 4096"]),
        (["method.symmetric=true", "method.queue=4096"], ["method.queue = 4096", "8192", "both views"]),
        (
            ["training.batch_size=48", "method.queue=480"],
            ["method.norm_group = 32", "48", "32 or 64", "norm_group = 24"],
        ),
        (
            ["method.norm_group=1", "augmentation.image_size=32", "encoder.stem=imagenet"],
            ["method.norm_group = 1", "single place", "norm_group = 32"],
        ),
        (["training.batch_size=16", "method.queue=480"], ["method.norm_group = 32", "16", "norm_group = 16"]),
        (["method.key_momentum=1.5"], ["method.key_momentum"]),
        (["method.head_layers=0"], ["method.head_layers"]),
    ],
)
def test_what_cannot_work_is_refused_with_the_nearest_remedy(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=moco", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_processes_whose_share_is_no_whole_groups_are_refused() -> None:
    recipe = parse_recipe("", ["method.name=moco", "training.batch_size=96", "method.queue=960", "training.epochs=100"])
    assert make_plan(recipe, 1000, 3).batch_per_process == 32
    with pytest.raises(RecipeError, match=r"norm_group = 32.*48 images.*batch_size = 64 or 128.*norm_group = 24"):
        make_plan(recipe, 1000, 2)


def test_memory_counts_the_key_network_and_the_queue_and_rows_with_gradient_alone() -> None:
    simclr, ours = (parse_recipe("", [f"method.name={name}", "training.batch_size=256"]) for name in ("simclr", "moco"))
    plan = make_plan(ours, 1281167)
    head = 2048 * 2048 + 2048 + 2048 * 128 + 128
    assert plan.head_parameters == head
    assert plan.memory_beside == 4 * (plan.encoder_parameters + head + 65536 * 128)
    assert plan.memory < 0.7 * make_plan(simclr, 1281167).memory


def test_a_queue_of_more_than_a_quarter_of_an_epoch_is_pointed_out(tiny: list[str]) -> None:
    model = moco(tiny)
    images = open_training_images(model.recipe)
    assert list(model.study_images(images, model.recipe.law)) == []  # 64 of 256
    long = moco(tiny, "method.queue=96")
    (note,) = long.study_images(images, long.recipe.law)
    assert "method.queue = 96" in note and "256 images" in note


def test_features_that_tell_nothing_have_the_loss_of_chance(tiny: list[str]) -> None:
    """A head that gives all images one z, and a queue of that z."""
    model = moco(tiny)
    for head in (model.head, model.key_head):
        torch.nn.init.zeros_(head[-1].weight)
    z = torch.nn.functional.normalize(model.head[-1].bias.detach(), dim=0)
    model.queue.keys.copy_(z.expand_as(model.queue.keys))
    result = stepped(model, batch_of(model))
    assert float(result.loss) == pytest.approx(math.log(65), rel=1e-5)
    assert model.recipe.method.chance_loss(model.recipe) == pytest.approx(math.log(65))
    assert model.recipe.method.figures(model.recipe)[0].chance == pytest.approx(1 / 65)


def test_only_f_and_its_head_are_trained_and_no_gradient_reaches_the_keys(tiny: list[str]) -> None:
    model = moco(tiny)
    inputs = model.prepare(batch_of(model))
    inputs.more["key_images"].requires_grad_()
    result = model.loss(through(model, inputs, model.recipe), inputs)
    result.objective.backward()
    followers = [p for name, p in model.named_parameters() if name.startswith("key_")]
    assert followers and all(p.grad is None and not p.requires_grad for p in followers)
    assert inputs.more["key_images"].grad is None
    assert all(p.grad is not None for name, p in model.named_parameters() if name.startswith(("encoder.", "head.")))


def test_the_key_network_is_a_step_behind_and_the_queue_takes_its_keys(tiny: list[str]) -> None:
    model = moco(tiny)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    for step in range(3):
        before = [p.clone() for p in model.key_encoder.parameters()]
        batch = batch_of(model, step)
        result = stepped(model, batch, optimizer)
        assert all(
            torch.allclose(now, 0.9 * then + 0.1 * f, atol=1e-6)
            for now, then, f in zip(model.key_encoder.parameters(), before, model.encoder.parameters(), strict=True)
        )
        places = torch.arange(32 * step, 32 * step + 32) % 64
        assert result.memory is not None and torch.equal(model.queue.keys[places], result.memory)
        assert result.metrics()["queue_age"] == pytest.approx(min(32 * (step + 1), 64) / 256)


def test_a_shuffle_changes_who_is_normalised_together_and_nothing_else(tiny: list[str]) -> None:
    """With one group of all rows it changes nothing; with groups it changes keys, which stay with their images."""
    keys = {}
    for group in (32, 4):
        for shuffle in ("true", "false"):
            model = moco(tiny, f"method.norm_group={group}", f"method.shuffle={shuffle}").double()
            batch = batch_of(model)
            inputs = model.prepare(replace(batch, views=batch.views.double()))
            keys[group, shuffle] = through(model, inputs, model.recipe)["keys"]
    assert torch.allclose(keys[32, "true"], keys[32, "false"], atol=1e-10)
    assert not torch.allclose(keys[4, "true"], keys[4, "false"], atol=1e-3)
    assert float((keys[4, "true"] * keys[4, "false"]).sum(1).mean()) > 0.5


def test_a_symmetric_step_is_two_steps_with_the_views_exchanged_against_the_old_queue(tiny: list[str]) -> None:
    both, one = moco(tiny, "method.symmetric=true").double(), moco(tiny).double()
    both.load_state_dict(one.state_dict())
    batch = batch_of(one)
    batch = replace(batch, views=batch.views.double())
    first, second = batch.views.chunk(2)
    unshuffled = [moco(tiny, f"method.symmetric={s}", "method.shuffle=false").double() for s in ("true", "false")]
    for model in unshuffled:
        model.load_state_dict(one.state_dict())
    both, one = unshuffled
    losses, memories = [], []
    for views in (batch.views, torch.cat([second, first])):
        inputs = one.prepare(replace(batch, views=views))
        result = one.loss(through(one, inputs, one.recipe), inputs)
        losses.append(float(result.loss))
        memories.append(result.memory)
    inputs = both.prepare(batch)
    result = both.loss(through(both, inputs, both.recipe), inputs)
    assert float(result.objective.detach()) == pytest.approx(sum(losses), rel=1e-9)
    assert float(result.loss) == pytest.approx(sum(losses) / 2, rel=1e-9)
    assert result.memory is not None and torch.allclose(result.memory, torch.cat([memories[1], memories[0]]), atol=1e-9)
    assert len(result.features) == 64


def test_evaluation_leaves_the_state_alone_and_a_step_in_bfloat16_runs(tiny: list[str]) -> None:
    model = moco(tiny, "training.precision=bfloat16")
    batch = batch_of(model)
    inputs = model.prepare(batch)
    with autocast(model.recipe, CPU):
        outputs = through(model, inputs, model.recipe)
    result = model.loss(outputs, inputs)
    assert result.loss.dtype == torch.float32 and outputs["keys"].dtype == torch.float32
    assert torch.allclose(outputs["keys"].norm(dim=1), torch.ones(32), atol=1e-5)
    result.objective.backward()
    model.after_step(result, batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.encoder.eval()
    model.encoder(batch.views[:3])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    norms = [layer for layer in model.modules() if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(layer, GroupBatchNorm) and layer.rows == 4 for layer in norms)


def test_a_run_that_starts_from_a_file_has_its_weights_in_both_networks(tmp_path: Path, tiny: list[str]) -> None:
    start = moco(tiny, "training.seed=5").encoder
    save_encoder(start, tmp_path / "start.safetensors", {})
    keys = [
        "method.name=moco",
        *TINY["moco"],
        "method.key_momentum=1",
        f"training.init_from={tmp_path}/start.safetensors",
    ]
    run = create_run(load_recipe("demo", [*tiny, *keys, "training.epochs=0.5"]), tmp_path, "run")
    assert train(run, quiet=True) == "finished"
    last = load_checkpoint(run.checkpoint_files()[-1])
    tensors = last.tensors
    for name, value in start.named_parameters():
        assert torch.equal(tensors[f"key_encoder.{name}"], value), name
        if name == "stem.weight":
            assert not torch.equal(tensors[f"encoder.{name}"], value)
    assert not [name for name in tensors if name.startswith("optimizer.key_")]
    assert int(tensors["queue.written"]) == 32 * last.step
