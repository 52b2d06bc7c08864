"""What a method's section says of the network, against the network that is built."""

from __future__ import annotations

import pytest
import torch

from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.model import blank_batch, build_model, through


def require_that_the_section_tells(recipe: Recipe) -> None:
    """Rows through f, parameters of f and beside it, the columns that a line of metrics has."""
    model = build_model(recipe, 10, 256)
    batch = blank_batch(recipe, 4, torch.device("cpu"), torch.float32)
    inputs = model.prepare(batch)
    pictures = [inputs.images, *(x for x in inputs.more.values() if x.ndim == 4)]
    pixels = sum(x.shape[0] * x.shape[2] * x.shape[3] for x in pictures) / recipe.augmentation.image_size**2
    assert (
        pixels == pytest.approx(recipe.method.pixels(recipe) * 4) and len(batch.views) == recipe.method.view_count * 4
    )
    parts = {"encoder": 0, "probe": 0, "beside": 0}
    for part, parameter in model.named_parameters():
        if not parameter.requires_grad:  # a network that follows another
            continue
        parts[part.partition(".")[0] if part.startswith(("encoder.", "probe.")) else "beside"] += parameter.numel()
    assert model.encoder.title == recipe.encoder_title and model.encoder.feature_dim == recipe.feature_dim
    assert model.encoder.spec == recipe.network
    assert parts["encoder"] == recipe.method.encoder_parameters(recipe) and parts["probe"] > 0
    assert parts["beside"] == recipe.method.parameters_beside(recipe, 256)
    result = model.loss(through(model, inputs, recipe), inputs)
    columns = {figure.column for figure in recipe.method.figures(recipe)}
    assert columns <= result.metrics().keys()
    assert len(result.features) % 4 == 0 and not result.features.requires_grad
    assert result.objective.requires_grad and not result.loss.requires_grad
