from __future__ import annotations

from dataclasses import asdict

import pytest
import timm
import torch

from simclr_plus.encoders import ResNet
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.recipe import load_recipe, parse_recipe
from simclr_plus.recipe.keys import KNOWN_SIZES
from simclr_plus.recipe.plan import known_size, make_plan, make_schedule
from simclr_plus.training.model import build_model

IMAGENET = 1_281_167
SUPERVISED = ["loss.name=cross_entropy"]


def test_the_paper_recipe_comes_to_the_papers_steps() -> None:
    plan = make_plan(load_recipe("r50_1x", ["training.epochs=100"]), IMAGENET, 64)
    assert (plan.total_steps, plan.warmup_steps, plan.peak_learning_rate) == (31279, 3127, 4.8)
    assert (plan.global_batch, plan.batch_per_process) == (4096, 64)


@pytest.mark.parametrize(("name", "millions"), [("r50_1x", 24), ("r50_2x", 94), ("r50_4x", 375)])
def test_the_wide_encoders_have_the_papers_parameter_counts(name: str, millions: int) -> None:
    assert round(make_plan(load_recipe(name), IMAGENET).encoder_parameters / 1e6) == millions


def test_a_batch_that_does_not_divide_by_the_processes_is_refused_with_two_that_do() -> None:
    with pytest.raises(RecipeError, match=r"batch_size = 100 does not divide by 3 processes; use 99 or 102"):
        make_plan(parse_recipe("", ["training.batch_size=100"]), 1000, 3)
    with pytest.raises(RecipeError, match="does not divide by 4"):
        make_plan(parse_recipe("", ["training.batch_size=2"]), 1000, 4)


@pytest.mark.parametrize(
    ("depth", "stem", "size", "extras"),
    [
        (18, "cifar", 28, {}),
        (50, "imagenet", 96, {}),
        (50, "imagenet", 96, {"selective_kernels": True}),
        (50, "imagenet", 96, {"se_ratio": 0.25}),
    ],
)
def test_the_activations_in_closed_form_are_near_what_autograd_keeps(
    depth: int, stem: str, size: int, extras: dict[str, object]
) -> None:
    encoder = ResNet(depth, 0.25, stem=stem, **extras)
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4 and x.is_floating_point() and not isinstance(x, torch.nn.Parameter) and x.shape[0] == 4:
            kept[x.untyped_storage().data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        encoder(torch.rand(4, 3, size, size)).sum()
    estimate = 4 * encoder.architecture.activation_count(size)
    assert 0.75 * estimate < sum(kept.values()) < 1.25 * estimate


def test_supervised_training_has_one_view_an_image_and_no_head() -> None:
    ours, labels = make_plan(load_recipe("r50_1x"), IMAGENET), make_plan(load_recipe("r50_1x", SUPERVISED), IMAGENET)
    assert (labels.total_steps, labels.encoder_parameters) == (ours.total_steps, ours.encoder_parameters)
    assert labels.head_parameters == 0 < ours.head_parameters
    of_weights = 4 * 3 * ours.encoder_parameters  # weights, gradient, momentum
    rows = ours.memory - of_weights - 4 * 3 * ours.head_parameters
    assert labels.memory - of_weights == rows // 2


def test_without_a_head_z_is_h_whatever_its_dimensions_were() -> None:
    plan = make_plan(load_recipe("r50_1x", ["head.num_layers=0", "head.output_dim=64"]), IMAGENET)
    assert plan.head_parameters == 0
    head = build_model(load_recipe("demo", ["head.num_layers=0"]), 0).head
    assert head.output_dim == 128 and not list(head.parameters())  # of a ResNet-18 (0.25x)


def test_the_images_are_known_before_they_are_opened() -> None:
    known = {name: KNOWN_SIZES[name] for name in ("embedded", "cifar10", "stl10")}
    assert {name: known_size(parse_recipe("", [f"data.name={name}"])) for name in known} == known
    labelled = {**known, "stl10": 5_000}
    assert {name: known_size(parse_recipe("", [f"data.name={name}", *SUPERVISED])) for name in known} == labelled
    assert known_size(parse_recipe("", ["data.name=stl10", "data.limit=77"])) == 77
    assert known_size(parse_recipe("", ["data.name=folder", "data.expected_images=9"])) == 9
    assert known_size(parse_recipe("", ["data.name=folder"])) == 0


def test_activation_checkpointing_lowers_the_memory_estimate() -> None:
    less = make_plan(load_recipe("r50_1x", ["training.activation_checkpointing=true"]), IMAGENET, 64).memory
    assert less < 0.6 * make_plan(load_recipe("r50_1x"), IMAGENET, 64).memory


def test_what_checkpointing_saves_is_the_difference_of_the_two_plans() -> None:
    for overrides in ([], ["encoder.name=timm:test_vit"]):
        off = make_plan(load_recipe("places", overrides), 1000)
        on = make_plan(load_recipe("places", [*overrides, "training.activation_checkpointing=true"]), 1000)
        assert on.memory_saved == off.memory - on.memory > 0 == off.memory_saved


def test_the_schedule_of_a_network_by_name_needs_no_network() -> None:
    nowhere = load_recipe("places", ["encoder.name=timm:no_such_network"])
    schedule = make_schedule(nowhere, 1000, 2)
    plan = make_plan(load_recipe("places", ["encoder.name=timm:test_vit"]), 1000, 2)
    assert asdict(schedule).items() <= asdict(plan).items()
    with pytest.raises(NotFoundError, match="no_such_network"):
        make_plan(nowhere, 1000)


def test_the_plan_of_a_network_by_name_is_that_of_the_module() -> None:
    recipe = load_recipe("places", ["encoder.name=timm:test_vit"])
    plan, network = make_plan(recipe, 1000), timm.create_model("test_vit", num_classes=0, img_size=64)
    assert plan.encoder_parameters == sum(p.numel() for p in network.parameters())
    assert plan.feature_dim == network.num_features
    tokens, width, hidden = (64 // network.patch_embed.patch_size[0]) ** 2, network.embed_dim, 3 * network.embed_dim
    rows, depth = tokens + 1, len(network.blocks)
    matrices = rows * (4 * width * width + 2 * width * hidden) + 2 * rows * rows * width
    patches = tokens * 3 * network.patch_embed.patch_size[0] ** 2 * width
    assert plan.multiply_adds == depth * matrices + patches


def test_the_recipe_for_folders_fits_the_card_that_it_names() -> None:
    recipe = load_recipe("folder")
    assert "24 GB" in recipe.about.hardware
    assert 1.1 * make_plan(recipe, 10_000).memory_on_gpu < 23.5 * 2**30  # what CUDA leaves of such a card


def test_on_a_cpu_automatic_precision_takes_the_memory_of_float32() -> None:
    memory = {
        (precision, device): make_plan(
            load_recipe("folder", [f"training.precision={precision}", f"training.device={device}"]), 10_000
        ).memory
        for precision in ("auto", "float32", "bfloat16", "tf32")
        for device in ("cpu", "cuda")
    }
    assert memory["auto", "cpu"] == memory["float32", "cpu"] == memory["tf32", "cuda"] > memory["auto", "cuda"]
    assert memory["auto", "cuda"] == memory["bfloat16", "cuda"]
