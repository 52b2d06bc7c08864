"""The autoencoder in the loop: what f and the decoder see, its three forms, several processes, going on."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batch_parts import moved, part_of
from torch import nn

from simclr_plus.checks.proof import Case, compare, untrained
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.launch.start import launch
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.autoencoder import Autoencoder
from simclr_plus.training.methods.method import StepResult
from simclr_plus.training.model import build_model, through
from simclr_plus.training.trainer import train, view_batches

CPU = torch.device("cpu")
NAME = ["method.name=autoencoder", "method.width=4"]
DENOISING = ["method.noise_deviation=0.3"]
VARIATIONAL = ["method.latent_dim=6", "method.kl_weight=0.01"]


def autoencoder(tiny: list[str], *overrides: str) -> Autoencoder:
    model = build_model(load_recipe("demo", [*tiny, *NAME, *overrides]), 0)
    assert isinstance(model, Autoencoder)
    return model


def first_batch(model: Autoencoder) -> Batch:
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)


def step(model: Autoencoder, batch: Batch) -> StepResult:
    inputs = model.prepare(batch)
    return model.loss(through(model, inputs, model.recipe), inputs)


def test_the_target_is_the_view_that_f_sees_in_the_range_of_a_sigmoid(tiny: list[str]) -> None:
    model = autoencoder(tiny)
    batch = first_batch(model)
    batch = replace(batch, views=batch.views * 1.2 - 0.1)
    inputs = model.prepare(batch)
    assert inputs.targets is not None and torch.equal(inputs.images, inputs.targets)
    assert torch.equal(inputs.images, batch.views.clamp(0, 1)) and not torch.equal(inputs.images, batch.views)
    smaller = autoencoder(tiny, "method.image_size=8").prepare(batch)
    means = inputs.images.unflatten(3, (8, 2)).unflatten(2, (8, 2)).mean((3, 5))
    assert smaller.targets is not None and torch.allclose(smaller.targets, means, atol=1e-6)
    assert torch.equal(smaller.images, inputs.images)


def test_its_views_have_no_color_distortion_unless_a_recipe_says_so() -> None:
    a = parse_recipe("", ["method.name=autoencoder"]).augmentation
    assert (a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (0.0, 0.0, 0.0, 0.5)


def test_a_decoder_that_says_nothing_gives_gray_and_its_loss(tiny: list[str]) -> None:
    model = autoencoder(tiny)
    for tensor in model.decoder.up[-1].parameters():
        nn.init.zeros_(tensor)
    batch = first_batch(model)
    expected = (batch.views.clamp(0, 1) - 0.5).square().mean()
    assert float(step(model, batch).loss) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("latent", [[], ["method.latent_dim=6"]])
def test_what_is_decoded_is_a_function_of_h_alone(tiny: list[str], latent: list[str]) -> None:
    """h of other images in the encoder's place gives their pictures."""
    model = autoencoder(tiny, *latent).eval()
    some, others = (part_of(first_batch(model), rows) for rows in (slice(0, 8), slice(8, 16)))
    outputs = model(others.views)
    model.encoder.forward = lambda _: outputs["h"]  # type: ignore[method-assign]
    again = model(some.views)
    assert torch.equal(again["decoded"], outputs["decoded"])


def test_noise_goes_to_f_alone_and_follows_from_seed_step_and_place(tiny: list[str]) -> None:
    model = autoencoder(tiny, *DENOISING)
    batch = first_batch(model)
    inputs = model.prepare(batch)
    clean = autoencoder(tiny).prepare(batch)
    assert inputs.targets is not None and clean.targets is not None and torch.equal(inputs.targets, clean.targets)
    noise = (inputs.images - clean.images)[(inputs.images > 0) & (inputs.images < 1)]
    assert float(noise.std()) == pytest.approx(0.3, rel=0.25) and not torch.equal(inputs.images, clean.images)
    halves = [model.prepare(part_of(batch, rows)).images for rows in (slice(0, 16), slice(16, 32))]
    assert torch.equal(torch.cat(halves), inputs.images)
    assert torch.equal(model.prepare(batch).images, inputs.images)
    for other in (replace(batch, step=1), replace(batch, seed=1), moved(batch, 32)):
        assert not torch.equal(model.prepare(other).images, inputs.images)


def test_noise_of_no_deviation_is_the_plain_run_bit_for_bit(tiny: list[str]) -> None:
    plain, silent = autoencoder(tiny), autoencoder(tiny, "method.noise_deviation=0.0")
    batch = first_batch(plain)
    assert torch.equal(step(plain, batch).loss, step(silent, batch).loss)


def test_a_variational_one_draws_its_code_by_place_and_adds_the_divergence(tiny: list[str]) -> None:
    model = autoencoder(tiny, *VARIATIONAL)
    batch = first_batch(model)
    inputs = model.prepare(batch)
    outputs = {name: x.detach() for name, x in model(inputs.images, **inputs.more).items()}
    halves = [model.prepare(part_of(batch, rows)).more["noise"] for rows in (slice(0, 16), slice(16, 32))]
    assert torch.equal(torch.cat(halves), inputs.more["noise"]) and inputs.more["noise"].shape == (32, 6)
    result = model.loss(outputs, inputs)
    mean, log_variance = outputs["mean"].double(), outputs["log_variance"].double()
    kl = float((mean.square() + log_variance.exp() - log_variance - 1).sum(1).mean() / 2)
    assert inputs.targets is not None
    error = float((outputs["decoded"] - inputs.targets).square().mean())
    assert float(result.loss) == pytest.approx(error + 0.01 * kl / (3 * 16 * 16), rel=1e-5)
    metrics = result.metrics()
    assert metrics["kl"] == pytest.approx(kl, rel=1e-5)
    assert metrics["active_latents"] == int((mean.var(0, correction=0) > 0.01).sum())


def test_a_code_that_says_nothing_is_named_a_collapse(tiny: list[str]) -> None:
    model = autoencoder(tiny, *VARIATIONAL)
    assert isinstance(model.code, nn.Linear)
    nn.init.zeros_(model.code.weight)
    active = step(model, first_batch(model)).metrics()["active_latents"]
    (collapse,) = model.recipe.method.collapses(model.recipe)
    assert collapse.column == "active_latents" and collapse.below and active < collapse.limit
    plain = autoencoder(tiny)
    assert plain.recipe.method.collapses(plain.recipe) == ()


@pytest.mark.slow
def test_sixteen_images_are_learnt_to_a_tenth_of_their_variance(tiny: list[str]) -> None:
    model = autoencoder(tiny, "method.width=16", "training.batch_size=16", "augmentation.min_scale=1.0")
    batch = first_batch(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    variance = float(batch.views.clamp(0, 1).var(0, correction=0).mean())
    for _ in range(150):
        result = step(model, batch)
        optimizer.zero_grad()
        result.objective.backward()
        optimizer.step()
    assert float(result.loss) < variance / 10
    assert result.metrics()["reconstructed"] > 0.8


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.kl_weight=0.01"], ["method.kl_weight = 0.01", "method.latent_dim = 128"]),
        (["method.image_size=4"], ["method.image_size = 4", "use 8 to 224"]),
        (["method.image_size=225"], ["method.image_size = 225", "augmentation.image_size", "64"]),
        (["method.noise_deviation=-1"], ["method.noise_deviation"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation"]),
    ],
)
def test_what_cannot_work_is_refused_by_key_value_and_remedy(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=autoencoder", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_it_trains_in_bfloat16_and_goes_on_bit_for_bit_with_noise_and_samples(tmp_path: Path, tiny: list[str]) -> None:
    keys = ["training.precision=bfloat16", "training.channels_last=true", "checkpoints.every_epochs=0.25"]
    recipe = load_recipe("demo", [*tiny, *NAME, *DENOISING, *VARIATIONAL, *keys, "checkpoints.keep_last=99"])
    unbroken, resumed = (create_run(recipe, tmp_path, called) for called in ("unbroken", "resumed"))
    assert train(unbroken, quiet=True) == "finished"
    first, *later = unbroken.checkpoint_files()
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(first, resumed.checkpoints)
    assert train(resumed, quiet=True) == "finished"
    for file in later:
        assert (resumed.checkpoints / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
def test_two_processes_draw_the_noise_and_write_the_figures_of_one(tmp_path: Path) -> None:
    overrides = (*NAME, *DENOISING, *VARIATIONAL)
    case = Case("sgd", overrides=overrides, learning_rate=0.02)
    one, two = (untrained(case, tmp_path / f"of{n}") for n in (1, 2))
    launch(one, 1, quiet=True)
    launch(two, 2, quiet=True)
    for finding in compare(one, two, case):
        assert finding.equal, f"{finding.kind}: {finding.difference:.1e} at {finding.where}"
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        for column in ("reconstructed", "kl", "active_latents"):
            assert a[column] == pytest.approx(b[column], rel=1e-9)
