"""training.compile with networks by name: a compiled step is the plain one, whatever the norms and sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from simclr_plus.recipe import load_recipe
from simclr_plus.training.model import blank_batch, build_model, through


def gradients(name: str, backend: str = "") -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Of one step, and h of evaluated batches of two sizes; backend: of torch.compile, "" compiles nothing."""
    recipe = load_recipe("places", [f"encoder.name={name}", "training.probe=false"])
    model = build_model(recipe, 0)
    if backend:
        model.encoder.compile(backend=backend)
    batch = blank_batch(recipe, 8, torch.device("cpu"), torch.float32)
    views = torch.rand(batch.views.shape, generator=torch.Generator().manual_seed(0))
    inputs = model.prepare(replace(batch, views=views))
    model.loss(through(model.train(), inputs, recipe), inputs).objective.backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        features = [model.eval().encoder(views[:rows]) for rows in (5, 16)]
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}, features


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
@pytest.mark.parametrize(
    ("name", "backend"),  # what is captured is the same for all; to generate its code takes minutes
    [
        ("timm:test_vit", "inductor"),
        ("timm:test_resnet", "aot_eager"),
        ("torchvision:shufflenet_v2_x0_5", "aot_eager"),
    ],
)
def test_a_compiled_step_of_a_network_by_name_is_the_plain_one(name: str, backend: str) -> None:
    (plain, h), (compiled, h_compiled) = gradients(name), gradients(name, backend)
    assert plain.keys() == compiled.keys()
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    for key, gradient in plain.items():
        torch.testing.assert_close(compiled[key], gradient, atol=1e-4 * largest, rtol=1e-3, msg=key)
    torch.testing.assert_close(h_compiled, h, atol=1e-4, rtol=1e-3)
