"""BiGAN in the loop: codes by counters, one step for all players, gray images, going on, several processes."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from batch_parts import moved, part_of
from torch import Tensor, nn

from simclr_plus.checks.proof import Case, compare, untrained
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import Images, open_training_images
from simclr_plus.errors import RecipeError
from simclr_plus.launch.start import launch
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.bigan import BiGAN
from simclr_plus.training.methods.method import StepResult
from simclr_plus.training.model import build_model, through
from simclr_plus.training.optimizers import build_optimizer
from simclr_plus.training.trainer import train, view_batches

CPU = torch.device("cpu")
NAME = ["method.name=bigan", "method.width=2", "method.latent_dim=6"]
OF_2017 = ["method.loss=logistic", "method.discriminator=joint", "method.unary=false", "method.encoder_rate=1.0"]
NORMAL = ["method.prior=normal"]
FORMS = {"in small": [], "2017": OF_2017, "normal": NORMAL, "without unary": ["method.unary=false"]}


def bigan(tiny: list[str], *overrides: str) -> BiGAN:
    model = build_model(load_recipe("demo", [*tiny, *NAME, *overrides]), 0)
    assert isinstance(model, BiGAN)
    return model


def first_batch(model: BiGAN) -> Batch:
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(0)


def step(model: BiGAN, batch: Batch) -> StepResult:
    inputs = model.prepare(batch)
    return model.loss(through(model, inputs, model.recipe), inputs)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_has_a_gradient_and_each_form_the_parameters_that_are_told(tiny: list[str], form: str) -> None:
    model = bigan(tiny, *FORMS[form])
    if form == "2017":
        nn.init.normal_(model.discriminator.score.weight)  # type: ignore[union-attr, arg-type]
    step(model, first_batch(model)).objective.backward()
    unmoved = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # blocks of f begin as the identity; the last bias moves real and fake scores alike
    assert all(name.startswith("encoder.layer") or name.endswith(".bias") for name in unmoved), unmoved
    assert all(p.grad is not None for p in model.parameters())
    beside = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("encoder."))
    assert beside == model.recipe.method.parameters_beside(model.recipe, 256)


def test_the_form_of_2017_begins_by_guessing(tiny: list[str]) -> None:
    model = bigan(tiny, *OF_2017)
    result = step(model, first_batch(model))
    metrics, figures = result.metrics(), {f.column: f.chance for f in model.recipe.method.figures(model.recipe)}
    assert float(result.loss) == pytest.approx(2 * math.log(2))
    for column in ("discriminator_loss", "encoder_generator_loss"):
        assert metrics[column] == pytest.approx(math.log(2)) == figures[column]
    hinge = load_recipe("demo", [*tiny, *NAME])
    assert [figure.chance for figure in hinge.method.figures(hinge)] == [0, 2, 0]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_drawn_follows_from_seed_step_and_place(tiny: list[str], form: str) -> None:
    model = bigan(tiny, *FORMS[form])
    batch = first_batch(model)
    more = model.prepare(batch).more
    assert more["codes"].shape == (32, 6) and ("noise" in more) == (form == "normal")
    halves = [model.prepare(part_of(batch, rows)).more for rows in (slice(0, 16), slice(16, 32))]
    for name, drawn in more.items():
        assert torch.equal(torch.cat([half[name] for half in halves]), drawn)
    for other in (replace(batch, step=1), replace(batch, seed=1), moved(batch, 32)):
        assert not torch.equal(model.prepare(other).more["codes"], more["codes"])
    many = torch.cat([model.prepare(replace(batch, step=i)).more["codes"] for i in range(200)]).double()
    uniform = form != "normal"
    assert float(many.mean()) == pytest.approx(0, abs=0.02)
    assert float(many.std()) == pytest.approx(1 / math.sqrt(3) if uniform else 1, rel=0.02)
    assert not uniform or (float(many.min()) >= -1 and float(many.max()) < 1)


def state_of(model: BiGAN) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in model.discriminator.named_buffers()}


def test_the_discriminators_buffers_move_by_its_own_loss_alone(tiny: list[str]) -> None:
    """Two passes of batch norm, real and fake; one step of the spectral vectors."""
    joint, spectral = bigan(tiny, *OF_2017), bigan(tiny)
    step(joint, first_batch(joint))
    counts = [buffer for name, buffer in joint.discriminator.named_buffers() if name.endswith("batches_tracked")]
    assert counts and {int(count) for count in counts} == {2}
    before = state_of(spectral)
    reference = bigan(tiny).discriminator
    reference(torch.rand(4, 1, 16, 16), torch.rand(4, 6))
    step(spectral, first_batch(spectral)).metrics()
    for name, buffer in spectral.discriminator.named_buffers():
        assert torch.equal(buffer, reference.get_buffer(name)), name
        rows = len(spectral.discriminator.get_parameter(f"{name[:-2]}.weight"))
        assert torch.equal(buffer, before[name]) == (rows == 1), name  # of one row they are right at once


def test_asking_for_figures_changes_no_bit_of_what_is_trained(tiny: list[str]) -> None:
    for form in FORMS.values():
        asked, silent = bigan(tiny, *form), bigan(tiny, *form)
        step(asked, first_batch(asked)).metrics()
        step(silent, first_batch(silent))
        for (name, a), (_, b) in zip(asked.state_dict().items(), silent.state_dict().items(), strict=True):
            assert torch.equal(a, b), name


def test_f_learns_faster_by_its_factor_and_the_rest_does_not(tiny: list[str]) -> None:
    model = bigan(tiny, "method.encoder_rate=3.0", "optimizer.name=adam")
    names = {id(p): name for name, p in model.named_parameters()}
    for group in build_optimizer(model, model.recipe).param_groups:
        for parameter in group["params"]:
            fast = names[id(parameter)].startswith(("encoder.", "to_code."))
            assert group.get("rate_factor", 1.0) == (3.0 if fast else 1.0)


def test_a_generator_that_inverts_f_reconstructs_all(tiny: list[str]) -> None:
    """G replaced by a memory of the images, in the order of their codes."""
    model = bigan(tiny)
    batch = first_batch(model)
    pictures = model.seen(batch.views.clamp(0, 1))

    class Memory(nn.Module):
        image_size = 16

        def forward(self, z: Tensor) -> Tensor:
            return pictures[: len(z)] * self.share + pictures.mean(0) * (1 - self.share)

        share = 1.0

    model.generator = Memory()  # type: ignore[assignment]
    result = step(model, batch)
    assert result.metrics()["reconstructed"] == pytest.approx(1, abs=1e-9)
    Memory.share = 0.0
    assert result.metrics()["reconstructed"] == pytest.approx(0, abs=1e-6)


def test_gray_sets_have_one_channel_by_their_names_and_d_sees_means(tiny: list[str]) -> None:
    gray, colored = bigan(tiny), bigan(tiny, "data.name=places")
    assert (gray.channels, colored.channels) == (1, 3)
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(gray.seen(images)[:, 0], images.mean(1)) and torch.equal(colored.seen(images), images)
    assert gray.generator(torch.zeros(2, 6)).shape == (2, 1, 16, 16)
    smaller = bigan(tiny, "data.name=places", "method.image_size=8")
    assert smaller.seen(images).shape == (2, 3, 8, 8)


def test_images_that_do_not_fit_the_channels_are_refused_with_the_remedy_or_noted(tiny: list[str]) -> None:
    colors = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), dtype=np.uint8)
    colored, gray = Images("colored", colors), Images("gray", np.repeat(colors[..., :1], 3, axis=3))
    law = bigan(tiny).recipe.law
    for overrides, fitting, other, remedy in (
        (["data.name=places"], colored, gray, "method.channels = 1"),
        ([], gray, colored, "method.channels = 3"),
    ):
        model = bigan(tiny, *overrides)
        assert list(model.study_images(fitting, law)) == []
        with pytest.raises(RecipeError) as refused:
            model.study_images(other, law)
        assert remedy in str(refused.value) and model.recipe.data.name in str(refused.value)
        told = bigan(tiny, f"method.channels={model.channels}")
        (note,) = told.study_images(other, law)
        assert remedy in note
        assert list(bigan(tiny, *overrides, remedy.replace(" ", "")).study_images(other, law)) == []


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["method.discriminator=joint"], ["method.unary = true", "method.unary = false", "spectral"]),
        (
            ["method.discriminator=joint", "method.unary=false", "method.image_size=8"],
            ["method.discriminator", "joint", "8 pixels", "16 or more"],
        ),
        (["method.image_size=300"], ["method.image_size = 300", "use 8 to 224"]),
        (["method.channels=2"], ["method.channels = 2"]),
        (["method.encoder_rate=0"], ["method.encoder_rate = 0"]),
        (["method.kl_weight=1"], ["method.kl_weight", "autoencoder"]),
    ],
)
def test_what_cannot_work_is_refused_by_key_value_and_remedy(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=bigan", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_its_views_have_no_color_distortion_unless_a_recipe_says_so() -> None:
    a = parse_recipe("", ["method.name=bigan"]).augmentation
    assert (a.jitter_prob, a.gray_prob, a.blur_prob, a.flip_prob) == (0.0, 0.0, 0.0, 0.5)


@pytest.mark.parametrize("form", ["2017", "normal"])
def test_it_trains_in_bfloat16_and_goes_on_bit_for_bit(tmp_path: Path, tiny: list[str], form: str) -> None:
    keys = ["training.precision=bfloat16", "training.channels_last=true", "checkpoints.every_epochs=0.25"]
    keys += ["optimizer.name=adam", "optimizer.learning_rate=0.001", "optimizer.beta1=0.5", "checkpoints.keep_last=99"]
    recipe = load_recipe("demo", [*tiny, *NAME, *FORMS[form], *keys])
    unbroken, resumed = (create_run(recipe, tmp_path, called) for called in ("unbroken", "resumed"))
    assert train(unbroken, quiet=True) == "finished"
    first, *later = unbroken.checkpoint_files()
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(first, resumed.checkpoints)
    assert train(resumed, quiet=True) == "finished"
    for file in later:
        assert (resumed.checkpoints / file.name).read_bytes() == file.read_bytes(), file.name


@pytest.mark.slow
@pytest.mark.parametrize("form", ["in small", "2017", "normal"])
def test_two_processes_draw_codes_and_write_figures_as_one(tmp_path: Path, form: str) -> None:
    # the hinge of small scores gives D's last bias no gradient but rounding: hence the scale
    case = Case("sgd", overrides=(*NAME, *FORMS[form]), learning_rate=0.02, scale=1e-3)
    one, two = (untrained(case, tmp_path / f"of{n}") for n in (1, 2))
    launch(one, 1, quiet=True)
    launch(two, 2, quiet=True)
    for finding in compare(one, two, case):
        assert finding.equal, f"{finding.kind}: {finding.difference:.1e} at {finding.where}"
    columns = [figure.column for figure in one.recipe().method.figures(one.recipe())]
    for a, b in zip(one.metrics(), two.metrics(), strict=True):
        for column in columns:
            assert a[column] == pytest.approx(b[column], rel=1e-8, abs=1e-9)
