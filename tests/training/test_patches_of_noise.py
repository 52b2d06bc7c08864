"""White noise holds no places: what a patch task learns from it would be a trace that the program leaves."""

from __future__ import annotations

import pytest
import torch
from method_settings import TINY

from simclr_plus.datasets.batches import Batch, Counters
from simclr_plus.recipe import load_recipe
from simclr_plus.training.model import build_model, through

IMAGES, STEPS = 64, 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relative_patch", "jigsaw"])
def test_places_and_orders_of_noise_cannot_be_told(tiny: list[str], name: str) -> None:
    recipe = load_recipe("demo", [*tiny, f"method.name={name}", *TINY[name]])
    model = build_model(recipe, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    random, right, rows = torch.Generator().manual_seed(0), 0.0, 0
    for step in range(STEPS):
        views, indices = torch.rand(IMAGES, 3, 32, 32, generator=random), torch.arange(IMAGES) + IMAGES * step
        zeros = indices * 0
        inputs = model.prepare(Batch(views, indices, indices, zeros, step, 0, Counters(indices, zeros, zeros)))
        result = model.loss(through(model, inputs, recipe), inputs)
        if step >= STEPS // 2:
            assert inputs.targets is not None
            right, rows = right + result.metrics()["pretext_accuracy"] * len(inputs.targets), rows + len(inputs.targets)
        optimizer.zero_grad()
        result.objective.backward()
        optimizer.step()
    (figure,) = recipe.method.figures(recipe)
    chance = figure.chance or 0
    assert right / rows < chance + 4 * (chance * (1 - chance) / rows) ** 0.5
