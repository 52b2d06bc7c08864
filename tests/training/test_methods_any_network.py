"""The methods with a network by name as f: each trains it, goes on bit for bit, or refuses it before it is trained."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from any_network_settings import METHODS, NETWORKS, SEVERAL_SIZES, settings
from parameters import slow_or_soak
from sections_told import require_that_the_section_tells
from torch import nn

from simclr_plus.checks.proof import Case, prove
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.errors import RecipeError
from simclr_plus.parts.group_batch_norm import GroupBatchNorm
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.model import blank_batch, build_model, through
from simclr_plus.training.trainer import train
from simclr_plus.weights.encoder_files import load_encoder

BOTH = [(method, network) for method, network in itertools.product(METHODS, NETWORKS)]
# each method with one of them, of those that read maps or group norms with both
QUICKLY = [
    (m, n)
    if m in ("moco", "dim", "amdim", "colorization") or i % 4 in (0, 3)
    else pytest.param(m, n, marks=pytest.mark.slow)
    for i, (m, n) in enumerate(BOTH)
]
TWO_STEPS = ["data.limit=32", "training.batch_size=16", "training.epochs=0.9", "training.warmup_epochs=0"]
TESTS = Path(__file__).parents[1]
WITH_MAPS = ("dim", "amdim", "colorization")


def recipe_of(method: str, name: str, tiny: list[str], *more: str) -> Recipe:
    """Of a method with a network by its whole name, on 64 pixels."""
    return load_recipe("demo", [*tiny, *settings(method, "batch_norm"), f"encoder.name={name}", *more])


def refusal(recipe: Recipe) -> str:
    """What a plan says against it; "" where nothing."""
    try:
        make_plan(recipe, 256)
    except RecipeError as error:
        return str(error)
    return ""


def test_no_recipe_loads_torch_while_it_is_read() -> None:
    """Of a network by name, with any method; nor does what screens ask of a method."""
    script = """
import sys
from any_network_settings import METHODS, settings
from tiny_recipe import TINY
from simclr_plus.recipe import load_recipe
for name in METHODS:
    recipe = load_recipe("demo", [*TINY, *settings(name, "transformer")])
    method = recipe.method
    method.figures(recipe), method.chance_loss(recipe), method.collapses(recipe), method.loss_title(recipe)
    recipe.doubts(), recipe.to_toml(), recipe.encoder_title, method.pixels(recipe), recipe.second_law
    assert not {"torch", "timm"} & sys.modules.keys(), name
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("method", "network"), BOTH)
def test_what_a_section_says_of_its_method_is_what_is_built(tiny: list[str], method: str, network: str) -> None:
    recipe = load_recipe("demo", [*tiny, *settings(method, network)])
    assert refusal(recipe) == ""
    require_that_the_section_tells(recipe)


@pytest.mark.parametrize(("method", "network"), QUICKLY)
def test_a_method_trains_the_network_and_every_parameter_of_it_learns(
    tmp_path: Path, tiny: list[str], method: str, network: str
) -> None:
    run = create_run(load_recipe("demo", [*tiny, *settings(method, network), *TWO_STEPS]), tmp_path, "run")
    encoder = build_model(run.recipe(), 0, 32).encoder
    at_start = {key: p.detach() for key, p in encoder.named_parameters() if p.requires_grad}
    assert train(run, quiet=True) == "finished"
    assert len([line for line in run.metrics() if "loss" in line]) == 2
    encoder = load_encoder(run.path / "encoder.safetensors")
    ends = dict(encoder.named_parameters())
    still = [key for key, start in at_start.items() if torch.equal(start, ends[key].detach())]
    assert still == []
    size = run.recipe().augmentation.image_size
    h = encoder(torch.rand(2, 3, size, size))
    assert h.shape == (2, run.recipe().feature_dim) and bool(torch.isfinite(h).all())


@pytest.mark.parametrize(("method", "network"), [("moco", "batch_norm"), ("colorization", "transformer")])
def test_a_run_that_goes_on_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, tiny: list[str], method: str, network: str
) -> None:
    """With a network that drops layers at random."""
    keys = [*settings(method, network), *TWO_STEPS, "encoder.options={ drop_path_rate = 0.3 }"]
    keys += ["checkpoints.every_epochs=0.5", "checkpoints.keep_last=9"]
    unbroken, resumed = (create_run(load_recipe("demo", [*tiny, *keys]), tmp_path, name) for name in ("one", "two"))
    assert train(unbroken, quiet=True) == "finished"
    first, last = unbroken.checkpoint_files()
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(first, resumed.checkpoints)
    assert train(resumed, quiet=True) == "finished"
    assert resumed.events()[0]["event"] == "resume"
    assert (resumed.checkpoints / last.name).read_bytes() == last.read_bytes()


@pytest.mark.parametrize("method", SEVERAL_SIZES)
def test_a_network_of_one_size_is_refused_where_f_sees_patches_and_whole_images(tiny: list[str], method: str) -> None:
    of_one_size = recipe_of(method, "timm:test_vit", tiny)
    assert all(part in refusal(of_one_size) for part in ("timm:test_vit", method, "64 pixels", "image_size = 64"))
    any_size = recipe_of(method, "timm:test_vit", tiny, "encoder.options={ dynamic_img_size = true }")
    told = "dynamic_img_size = true" in refusal(of_one_size)
    assert told == (
        refusal(any_size) == ""
    )  # the remedy is named where it is one: patches of PIRL are no multiple of 16


def test_pirl_without_patches_takes_a_network_of_one_size(tiny: list[str]) -> None:
    assert refusal(recipe_of("pirl", "timm:test_vit", tiny, "method.weight=0")) == ""


def test_a_patch_that_the_network_does_not_take_is_refused_with_the_keys_behind_it(tiny: list[str]) -> None:
    for method, keys in {"jigsaw": "method.crop = 60", "cpc": "a quarter of augmentation.image_size = 64"}.items():
        said = refusal(recipe_of(method, "timm:test_convnext", tiny))
        assert keys in said and "16x16" in said


@pytest.mark.parametrize("method", WITH_MAPS)
def test_a_network_without_maps_is_refused_by_methods_that_read_them(tiny: list[str], method: str) -> None:
    said = refusal(recipe_of(method, "torchvision:squeezenet1_1", tiny))
    assert "torchvision:squeezenet1_1" in said and method in said and "maps" in said


def test_colorization_refuses_layers_behind_the_last_map_and_holds_norms_there(tiny: list[str]) -> None:
    assert "conv_head.weight" in refusal(recipe_of("colorization", "timm:test_efficientnet", tiny))
    recipe = recipe_of("colorization", "timm:test_convnext", tiny)
    assert refusal(recipe) == ""
    encoder = build_model(recipe, 0, 32).encoder
    held = [key for key, p in encoder.named_parameters() if not p.requires_grad]
    assert held == ["network.head.norm.weight", "network.head.norm.bias"]


def test_maps_of_which_too_few_places_are_left_are_refused(tiny: list[str]) -> None:
    assert "method.stage = 4" in refusal(recipe_of("dim", "timm:test_byobnet", tiny, "method.stage=4"))
    small = recipe_of("amdim", "timm:test_byobnet", tiny, "augmentation.image_size=32")
    assert "method.stages = [3, 4]" in refusal(small)


def test_cmc_refuses_a_network_by_name_while_the_recipe_is_read(tiny: list[str]) -> None:
    with pytest.raises(RecipeError, match=r'timm:test_vit.*cmc.*"resnet"'):
        load_recipe("demo", [*tiny, "method.name=cmc", "encoder.name=timm:test_vit"])


SWIN: dict[str, object] = {"embed_dim": 24, "depths": [1, 1, 1, 1], "window_size": 4}
FAMILIES: dict[str, dict[str, object]] = {
    "test_resnet": {},
    "test_convnext": {},
    "test_efficientnet": {},
    "test_vit": {},
    "test_nfnet": {},
    "test_vit2": {"global_pool": "avg"},
    "test_vit3": {},
    "regnetx_002": {},
    "swin_tiny_patch4_window7_224": SWIN,
}
SLOW_ONES = [*FAMILIES][4:]


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW_ONES else n for n in FAMILIES])
def test_h_beside_maps_is_h_and_maps_are_as_measured(name: str) -> None:
    side = 64
    encoder = ForeignEncoder(f"timm:{name}", FAMILIES[name], side).eval()
    encoder.check_maps(side)
    images = torch.rand(3, 3, side, side)
    with torch.no_grad():
        plain, (beside, maps) = encoder(images), encoder.features_and_maps(images)
    assert torch.allclose(plain, beside, rtol=0, atol=1e-6)
    shapes = [encoder.architecture.map_shape(stage, side) for stage in (1, 2, 3, 4)]
    assert [tuple(m.shape[1:]) for m in maps.values()] == [(channels, width, width) for channels, width in shapes]


class OtherBesideMaps(nn.Module):
    """A network whose maps lead to other features than its forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, padding=1) for i in range(4))

    def forward_intermediates(
        self, x: torch.Tensor, indices: int, output_fmt: str
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        maps = [x := layer(x) for layer in self.layers]
        return maps[-1], maps[-indices:]

    def forward_head(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.mean(dim=(2, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_intermediates(x, 4, "NCHW")[0]) / 2


def test_maps_beside_which_h_is_another_are_refused(tiny: list[str]) -> None:
    recipe = recipe_of("dim", f"python:{__name__}:OtherBesideMaps", tiny)
    with pytest.raises(RecipeError, match="OtherBesideMaps gives other features"):
        build_model(recipe, 0, 32)
    build_model(recipe_of("simclr", f"python:{__name__}:OtherBesideMaps", tiny), 0, 32)


def test_cpc_builds_and_measures_the_network_of_a_patch(tiny: list[str]) -> None:
    recipe = recipe_of("cpc", "timm:test_vit", tiny)
    encoder = build_model(recipe, 0, 32).encoder
    assert isinstance(encoder, PatchEncoder) and isinstance(encoder.encoder, ForeignEncoder)
    assert encoder.encoder.architecture.image_size == encoder.side == 16
    of_patch = encoder.encoder.architecture
    assert recipe.method.multiply_adds(recipe) == 16 * of_patch.multiply_add_count(16)  # a view has the pixels of 16
    with pytest.raises(RecipeError):
        encoder.encoder(torch.rand(1, 3, 64, 64))
    assert encoder(torch.rand(2, 3, 64, 64)).shape == (2, recipe.feature_dim)


def test_methods_set_no_keys_that_the_network_does_not_read() -> None:
    """Nor a mean where that of its weights holds; the lightness that colorization shows stays."""
    cpc = parse_recipe("", ["method.name=cpc", "encoder.name=timm:test_vit"])
    assert cpc.encoder.norm == "batch" and cpc.doubts() == [] and cpc.encoder.mean == (0.5, 0.5, 0.5)
    typed = parse_recipe(cpc.to_toml(), ["encoder.norm=layer"])
    assert any("encoder.norm" in doubt for doubt in typed.doubts({"encoder.norm"}))
    given = {
        name: parse_recipe("", [f"method.name={name}", "encoder.name=timm:test_vit", "encoder.pretrained=true"])
        for name in ("cpc", "jigsaw", "colorization")
    }
    assert given["cpc"].normalisation_is_open and given["cpc"].encoder.mean == (0, 0, 0)
    assert [given[name].encoder.input for name in given] == ["rgb", "rgb", "lightness"]
    assert parse_recipe("", ["method.name=cpc"]).encoder.norm == "layer"


def test_mocos_groups_reach_norms_with_an_activation(tiny: list[str]) -> None:
    """A batch of two equal groups has the statistics of one; over the whole batch other rows would change it."""
    recipe = recipe_of("moco", "timm:test_byobnet", tiny)
    model = build_model(recipe, 0, 32)
    norms = [layer for layer in model.encoder.modules() if isinstance(layer, GroupBatchNorm)]
    assert norms and all(layer.rows == 4 for layer in norms)
    assert any(isinstance(getattr(layer, "act", None), nn.ReLU) for layer in norms)
    first, second = torch.rand(4, 3, 64, 64), torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        together, alone = model.encoder(torch.cat([first, second])), model.encoder(first)
    assert torch.allclose(together[:4], alone, atol=1e-6)


def test_mocos_groups_are_refused_where_rows_are_no_images(tiny: list[str]) -> None:
    levit = ["encoder.name=timm:levit_128s", "augmentation.image_size=224"]
    grouped = load_recipe("demo", [*tiny, *settings("moco", "batch_norm"), *levit])
    assert "method.norm_group = 0" in refusal(grouped)
    assert refusal(load_recipe("demo", [*tiny, *settings("moco", "batch_norm"), *levit, "method.norm_group=0"])) == ""


@pytest.mark.parametrize("name", ["timm:test_byobnet", "timm:test_vit"])
def test_cpc_tells_of_batch_norm_in_any_network(tiny: list[str], name: str) -> None:
    from simclr_plus.datasets.images import open_training_images

    recipe = recipe_of("cpc", name, tiny)
    notes = list(build_model(recipe, 0, 32).study_images(open_training_images(recipe), recipe.law))
    assert [name in note for note in notes] == ([True] if "byob" in name else [])


@pytest.mark.parametrize("method", ["moco", "cpc", "colorization"])
def test_a_frozen_patch_embedding_is_counted_and_stays(tiny: list[str], method: str) -> None:
    recipe = load_recipe("demo", [*tiny, *settings(method, "transformer"), "encoder.freeze_patch_embedding=true"])
    require_that_the_section_tells(recipe)
    model = build_model(recipe, 0, 32)
    assert model.encoder.patch_embedding and not any(p.requires_grad for p in model.encoder.patch_embedding)


@pytest.mark.parametrize(
    ("method", "network"),
    [("dim", "transformer"), ("pirl", "batch_norm"), ("cpc", "batch_norm"), ("moco", "batch_norm")],
)
def test_activations_computed_again_change_neither_gradients_nor_statistics(
    tiny: list[str], method: str, network: str
) -> None:
    gradients, statistics = [], []
    for again in ("false", "true"):
        keys = [*settings(method, network), f"training.activation_checkpointing={again}"]
        recipe = load_recipe("demo", [*tiny, *keys])
        model = build_model(recipe, 0, 32).double()
        inputs = model.prepare(blank_batch(recipe, 8, torch.device("cpu"), torch.float64))
        inputs = replace(inputs, images=torch.linspace(0, 1, inputs.images.numel()).double().view_as(inputs.images))
        objective = model.loss(through(model, inputs, recipe), inputs).objective
        with model.encoder.during_backward():
            objective.backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
        statistics.append([b for key, b in model.named_buffers() if "running" in key])
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.allclose(plain, recomputed, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))


class NormOfItsOwn(nn.BatchNorm2d):
    """Does more than a batch norm."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class WithANormOfItsOwn(nn.Sequential):
    """Features of 4 numbers."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), NormOfItsOwn(4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def test_a_batch_norm_that_cannot_be_one_over_processes_is_refused(tiny: list[str]) -> None:
    said = refusal(recipe_of("simclr", f"python:{__name__}:WithANormOfItsOwn", tiny))
    assert "NormOfItsOwn" in said and "cannot be trained" in said


TWO_PROCESSES = [
    ("simclr", "transformer"),
    ("moco", "batch_norm"),
    ("dim", "batch_norm"),
    ("amdim", "transformer"),
    ("colorization", "batch_norm"),
    ("colorization", "transformer"),
    ("pirl", "batch_norm"),  # of a transformer, timm fits positions to patches in float32
    ("cpc", "batch_norm"),
]


@pytest.mark.parametrize("case", slow_or_soak(TWO_PROCESSES, [("moco", "batch_norm"), ("colorization", "transformer")]))
def test_two_processes_train_what_one_does(tmp_path: Path, case: tuple[str, str]) -> None:
    """As test_methods has it of ResNets, which begin with branches of 0: without, rounding grows faster by steps."""
    proof = Case("sgd", steps=4, overrides=tuple(settings(*case)), learning_rate=0.005, scale=1e-3)
    findings, _ = prove(proof, 2, tmp_path)
    for finding in findings:
        assert finding.equal, f"{finding.kind}: {finding.difference:.1e} at {finding.where}"
