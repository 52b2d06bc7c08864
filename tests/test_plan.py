from __future__ import annotations

import pytest
import torch

from simclr_plus.encoders import ResNet
from simclr_plus.errors import RecipeError
from simclr_plus.plan import make_plan
from simclr_plus.recipe import load_recipe, parse_recipe

IMAGENET = 1_281_167


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


def test_activation_checkpointing_lowers_the_memory_estimate() -> None:
    less = make_plan(load_recipe("r50_1x", ["training.activation_checkpointing=true"]), IMAGENET, 64).memory
    assert less < 0.6 * make_plan(load_recipe("r50_1x"), IMAGENET, 64).memory
