"""CPC in the loop: its patches, its loss from the features of f, h as it is evaluated, what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets.images import open_training_images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.errors import RecipeError
from simclr_plus.parts.cpc import DIRECTIONS, CPCLoss
from simclr_plus.parts.cpc_patches import distorted, inner_squares
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.cpc import CPC
from simclr_plus.training.model import blank_batch, build_model, laid_out
from simclr_plus.training.precision import autocast
from simclr_plus.training.trainer import train, view_batches
from simclr_plus.weights.encoder_files import load_encoder

CPU = torch.device("cpu")
SMALL = ["method.name=cpc", "augmentation.image_size=32", "method.context_width=16", "method.target_dim=8"]
V1 = "method.version=1"


def cpc(tiny: list[str], *overrides: str) -> CPC:
    model = build_model(load_recipe("demo", [*tiny, *SMALL, "training.batch_size=8", *overrides]), 0)
    assert isinstance(model, CPC)
    return model


def batch_of(model: CPC, step: int = 0):  # type: ignore[no-untyped-def]
    return view_batches(model.recipe, open_training_images(model.recipe), CPU).at(step)


@pytest.mark.parametrize(("version", "change"), [(1, inner_squares), (2, distorted)])
def test_each_patch_is_changed_by_itself_as_the_version_says(tiny: list[str], version: int, change) -> None:  # type: ignore[no-untyped-def]
    model = cpc(tiny, f"method.version={version}")
    batch = batch_of(model)
    images = model.prepare(batch).images
    patches = torch.stack([
        torch.stack([batch.views[i, :, y : y + 8, x : x + 8] for y in range(0, 25, 4) for x in range(0, 25, 4)])
        for i in range(8)
    ])  # fmt: skip
    changed = change(patches, seed=0, indices=batch.indices, epochs=batch.epochs)
    assert images.shape == (8 * 49, 3, 8, 8) and torch.equal(images.view(8, 49, 3, 8, 8), changed)
    assert not torch.equal(changed, patches)
    plain = cpc(tiny, f"method.version={version}", "method.patch_views=none").prepare(batch).images
    assert torch.equal(plain.view(8, 49, 3, 8, 8), patches)
    swapped = {1: "distort", 2: "crop"}[version]
    other = cpc(tiny, f"method.version={version}", f"method.patch_views={swapped}").prepare(batch).images
    assert not torch.equal(other, images)


@pytest.mark.parametrize("version", [1, 2])
def test_the_loss_is_that_of_its_parts_on_the_features_of_each_patch(tiny: list[str], version: int) -> None:
    keys = [f"method.version={version}", "method.candidates=4"]
    model, by_hand = (cpc(tiny, *keys).double() for _ in range(2))
    inputs = model.prepare(batch_of(model))
    patches = inputs.images.double()
    result = model.loss(model(patches), inputs)
    z = by_hand.encoder.encoder(patches).view(8, 7, 7, -1).permute(0, 3, 1, 2)  # type: ignore[operator, union-attr]
    losses = []
    for direction, predictor in by_hand.heads.predictors.items():
        losses.append(CPCLoss(4)(predictor(DIRECTIONS[direction](z))))
    assert len(losses) == {1: 1, 2: 4}[version]
    assert float(result.loss) == pytest.approx(torch.stack(losses).mean().item(), rel=1e-12)
    assert torch.allclose(result.features, z.mean((2, 3)), atol=1e-12) and result.objective.item() == result.loss
    assert {"prediction_accuracy"} == result.metrics().keys()


@pytest.mark.parametrize("overrides", [[], [V1], ["method.candidates=2", "method.directions=1"]])
def test_features_that_tell_nothing_have_the_loss_of_chance(tiny: list[str], overrides: list[str]) -> None:
    model = cpc(tiny, *overrides)
    recipe = model.recipe
    outputs = model(torch.full((8 * 49, 3, 8, 8), 0.25))  # all patches alike
    result = model.loss(outputs, model.prepare(blank_batch(recipe, 8, CPU, torch.float32)))
    chance = recipe.method.chance_loss(recipe)
    assert chance == pytest.approx(math.log(49 * (model.keys.candidates or 8)))
    assert float(result.loss) == pytest.approx(chance, rel=1e-5)
    (figure,) = recipe.method.figures(recipe)
    assert figure.chance == pytest.approx(math.exp(-chance)) and figure.column == "prediction_accuracy"


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_h_does_not_depend_on_the_rest_of_the_batch(tiny: list[str], norm: str) -> None:
    """In training as well; with a batch norm it does."""

    def difference(norm: str) -> float:
        model = cpc(tiny, f"encoder.norm={norm}").double().train()
        images = batch_of(model).views.double()
        with torch.no_grad():
            return float((model.encoder(images)[:1] - model.encoder(images[:1])).abs().max())

    assert difference(norm) < 1e-12 < 1e-3 < difference("batch")


def test_h_of_an_image_is_the_mean_over_its_patches_and_stays_so_in_a_file(tiny: list[str], tmp_path) -> None:  # type: ignore[no-untyped-def]
    run = create_run(load_recipe("demo", [*tiny, *SMALL]), tmp_path, "cpc")
    assert train(run, quiet=True) == "finished"
    (line, *_) = [line for line in run.metrics() if "loss" in line]
    assert 0 <= line["prediction_accuracy"] <= 1 and line["loss"] == pytest.approx(math.log(32 * 49), rel=0.2)
    encoder = load_encoder(run.path / "encoder.safetensors").eval()
    assert isinstance(encoder, PatchEncoder) and (encoder.side, encoder.stride) == (8, 4)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        corners = [(y, x) for y in range(0, 25, 4) for x in range(0, 25, 4)]
        by_hand = torch.stack([encoder.encoder(images[:, :, y : y + 8, x : x + 8]) for y, x in corners]).mean(0)
        assert torch.allclose(encoder(images), by_hand, atol=1e-6)


class _MeanColor(Encoder):
    feature_dim = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


def test_patches_of_a_ramp_have_the_means_of_its_middle() -> None:
    """x + 100 y: the mean of a patch is its value at the middle, that of all patches the value at the grid's middle."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    encoder = PatchEncoder(_MeanColor(), 8, 4)
    grid = encoder.grid((x + 100 * y).expand(1, 3, 32, 32))
    rows, columns = torch.meshgrid(torch.arange(7.0), torch.arange(7.0), indexing="ij")
    assert torch.allclose(grid[0, :, :, 0], 3.5 + 4 * columns + 100 * (3.5 + 4 * rows))
    assert torch.allclose(encoder((x + 100 * y).expand(1, 3, 32, 32)), torch.tensor(15.5 * 101))


@pytest.mark.parametrize("overrides", [[], [V1]])
def test_every_parameter_has_a_gradient(tiny: list[str], overrides: list[str]) -> None:
    model = cpc(tiny, *overrides)
    inputs = model.prepare(batch_of(model))
    model.loss(model(inputs.images), inputs).objective.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("overrides", [[], [V1]])
def test_in_evaluation_a_pass_changes_no_state_and_in_training_there_is_none(
    tiny: list[str], overrides: list[str]
) -> None:
    model = cpc(tiny, *overrides)
    assert not list(model.buffers()) and not any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()
    )
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with torch.no_grad():
        model.eval()(model.prepare(batch_of(model)).images)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize("version", [1, 2])
def test_a_step_in_bfloat16_and_channels_last_has_nearly_the_same_loss(tiny: list[str], version: int) -> None:
    losses = []
    for keys in (["training.precision=float32"], ["training.precision=bfloat16", "training.channels_last=true"]):
        model = cpc(tiny, f"method.version={version}", *keys)
        inputs = model.prepare(batch_of(model))
        with autocast(model.recipe, CPU):
            outputs = model(laid_out(inputs.images, model.recipe))
        result = model.loss(outputs, inputs)
        assert result.loss.dtype == torch.float32
        result.objective.backward()
        losses.append(float(result.loss))
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_keys_that_are_not_given_are_those_of_the_version() -> None:
    expected = {
        1: ("none", 1.0, (2, 3, 4, 5, 6), 1, "crop"),
        2: ("layer", 0.0, (3,), 4, "distort"),
    }
    for version, values in expected.items():
        recipe = parse_recipe("", ["method.name=cpc", f"method.version={version}"])
        k, a, e = recipe.method, recipe.augmentation, recipe.encoder
        found = (e.norm, a.gray_prob, k.rows_ahead, k.sides, k.views_of_patches)  # type: ignore[attr-defined]
        assert found == values
        assert (a.min_scale, a.flip_prob, a.jitter_prob, a.blur_prob) == (0.6, 0.5, 0.0, 0.0)
        assert e.mean == e.std == (0.5, 0.5, 0.5)
        assert parse_recipe(recipe.to_toml()) == recipe
    given = ["method.version=1", "encoder.norm=layer", "method.offsets=[2,4]", "augmentation.gray_prob=0.5"]
    recipe = parse_recipe("", ["method.name=cpc", *given])
    assert recipe.encoder.norm == "layer" and recipe.augmentation.gray_prob == 0.5
    assert recipe.method.rows_ahead == (2, 4)  # type: ignore[attr-defined]
    assert parse_recipe("", ["method.name=cpc"]).method.version == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("keys", "geometry", "pixels"),
    [
        (["augmentation.image_size=32"], (8, 4, 7), 3.0625),
        (["augmentation.image_size=256"], (64, 32, 7), 3.0625),  # v1's paper
        (["augmentation.image_size=260", "method.patch=80", "method.stride=36"], (80, 36, 6), 3.408),  # v2's
    ],
)
def test_patches_are_those_of_the_papers(keys: list[str], geometry: tuple[int, ...], pixels: float) -> None:
    recipe = parse_recipe("", ["method.name=cpc", *keys])
    assert recipe.method.geometry(recipe) == geometry  # type: ignore[attr-defined]
    assert recipe.method.pixels(recipe) == pytest.approx(pixels, rel=1e-3)
    assert recipe.network["family"] == "patches" and recipe.network["side"] == geometry[0]


def test_a_batch_norm_is_told_of(tiny: list[str]) -> None:
    notes = {
        norm: list(cpc(tiny, f"encoder.norm={norm}").study_images(None, simclr_law(32)))  # type: ignore[arg-type]
        for norm in ("batch", "layer")
    }
    assert notes["layer"] == [] and 'encoder.norm = "batch"' in notes["batch"][0]


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        (["augmentation.image_size=30"], ["augmentation.image_size = 30", "multiple of 8", "32"]),
        (["augmentation.image_size=24"], ["method.patch", "6 pixels", "24", "32"]),
        (["method.patch=300"], ["method.patch = 300", "224"]),
        (["method.offsets=[3,7]"], ["method.offsets = [3, 7]", "7 rows", "method.stride"]),
        (["method.offsets=[3,2,3]"], ["method.offsets = [3, 2, 3]", "twice", "[2, 3]"]),
        (["method.offsets=[1]"], ["method.offsets = [1]", "overlap", "2 or more"]),
        (["method.offsets=[0]"], ["method.offsets = [0]", "2 or more"]),
        (["method.candidates=24", "training.batch_size=64"], ["method.candidates = 24", "64", "use 8"]),
        (["method.directions=2"], ["method.directions"]),
        (["method.version=3"], ["method.version"]),
        (["method.patch_views=mine"], ["method.patch_views", "distort"]),
        (["method.angles=[0,180]"], ["method.angles", "rotation", "cpc"]),
    ],
)
def test_what_the_method_cannot_use_is_refused_by_name(overrides: list[str], names: list[str]) -> None:
    with pytest.raises(RecipeError) as refused:
        parse_recipe("", ["method.name=cpc", *overrides])
    assert all(name in str(refused.value) for name in names), str(refused.value)


def test_groups_of_candidates_do_not_reach_over_processes() -> None:
    recipe = parse_recipe("", ["method.name=cpc", "method.candidates=16", "training.batch_size=64"])
    assert make_plan(recipe, 1000, processes=4).batch_per_process == 16
    with pytest.raises(RecipeError, match=r"method.candidates = 16.*8 images.*training.batch_size = 64.*use 8"):
        make_plan(recipe, 1000, processes=8)
