"""What training.precision means on cards of which none is here: their compute capability is told in place of theirs."""

from __future__ import annotations

import pytest
import torch

from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.recipe import Recipe, load_recipe
from simclr_plus.training.precision import autocast_enabled, computed_in, set_float32_products

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
T4, A100 = (7, 5), (8, 0)


def recipe_in(precision: str) -> Recipe:
    return load_recipe("demo", [f"training.precision={precision}"])


@pytest.fixture
def card(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: request.param)


@pytest.mark.parametrize(("card", "expected"), [(T4, "float32"), (A100, "bfloat16")], indirect=["card"])
@pytest.mark.usefixtures("card")
def test_automatic_precision_is_bfloat16_on_cards_that_are_made_for_it(expected: str) -> None:
    assert computed_in(recipe_in("auto"), CUDA) == expected
    assert computed_in(recipe_in("auto"), CPU) == "float32"
    assert autocast_enabled(recipe_in("auto"), CUDA) == (expected == "bfloat16")


@pytest.mark.parametrize("card", [T4], indirect=True)
@pytest.mark.usefixtures("card")
def test_bfloat16_is_refused_on_a_card_that_would_take_an_image_at_a_time() -> None:
    with pytest.raises(EnvironmentNotAbleError, match=r"training\.precision"):
        autocast_enabled(recipe_in("bfloat16"), CUDA)
    assert autocast_enabled(recipe_in("bfloat16"), CPU)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16", "auto", "float64"])
def test_float32_products_are_rounded_where_the_recipe_says_so_and_nowhere_else(precision: str) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        set_float32_products(recipe_in(precision))
        rounded = precision == "tf32"
        assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (rounded, rounded)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_tf32_is_float32_where_there_is_no_such_card() -> None:
    assert computed_in(recipe_in("tf32"), CPU) == "float32" and computed_in(recipe_in("tf32"), CUDA) == "tf32"
