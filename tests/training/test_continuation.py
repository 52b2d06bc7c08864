"""Which keys of the encoder may change when a run goes on: those that its network does not read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simclr_plus.datasets.images import Images
from simclr_plus.errors import RecipeError
from simclr_plus.recipe import load_recipe
from simclr_plus.training.continuation import require_same_stream
from simclr_plus.weights.checkpoints import Checkpoint

IMAGES = Images("noise", np.zeros((8, 16, 16, 3), dtype=np.uint8), (), None, ())
BY_NAME = ["encoder.name=timm:test_vit"]


def goes_on(before: list[str], after: list[str]) -> bool:
    checkpoint = Checkpoint(Path("step.safetensors"), {}, 8, load_recipe("places", before), 8, ())
    try:
        require_same_stream(checkpoint, load_recipe("places", after), IMAGES)
    except RecipeError as error:
        assert str(error).startswith("encoder.")
        return False
    return True


@pytest.mark.parametrize("change", ["encoder.depth=50", "encoder.stem=cifar", "encoder.download=true"])
def test_keys_that_a_network_by_name_does_not_read_may_change(change: str) -> None:
    assert goes_on(BY_NAME, [*BY_NAME, change])


@pytest.mark.parametrize(
    "change", ["encoder.name=timm:test_vit2", "encoder.options={drop_rate=0.1}", "encoder.mean=[0.5,0.5,0.5]"]
)
def test_another_network_is_not_gone_on_with(change: str) -> None:
    assert not goes_on(BY_NAME, [*BY_NAME, change])
    assert not goes_on(["encoder.depth=18"], ["encoder.depth=34"])
    assert not goes_on([], BY_NAME) and not goes_on(BY_NAME, [])
