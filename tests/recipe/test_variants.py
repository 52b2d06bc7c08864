"""The three published forms of SimCLR as recipe keys: each constant, what wins over it, what it does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from places import GOLDEN_FOLDER
from torch import nn

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import RecipeError
from simclr_plus.lars import LARS
from simclr_plus.recipe import Recipe, load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.variants import VARIANTS
from simclr_plus.training.methods.method import Method
from simclr_plus.training.model import build_model
from simclr_plus.training.optimizers import build_optimizer

IMAGENET = 1_281_167

# from the authors' flags, README and code of each version, typed here a second time
CONSTANTS = {
    "paper": ("bicubic_legacy", "additive", 2, 0.3, "linear", 1e-6, "rate_outside", True, False, False),
    "tf1": ("bicubic_legacy", "multiplicative", 3, 0.075, "sqrt", 1e-4, "rate_outside", False, False, False),
    "tf2": ("bicubic", "multiplicative", 3, 0.075, "sqrt", 1e-4, "rate_inside", False, True, True),
}


def constants_of(recipe: Recipe) -> tuple[object, ...]:
    a, o, t = recipe.augmentation, recipe.optimizer, recipe.training
    return (
        a.resize,
        a.brightness_law,
        recipe.head.num_layers,
        o.learning_rate,
        o.learning_rate_scaling,
        o.weight_decay,
        o.sgd_momentum,
        o.adapt_probe,
        t.probe,
        t.round_up_to_checkpoint,
    )


@pytest.mark.parametrize("variant", CONSTANTS)
def test_a_variant_sets_its_constants_and_nothing_else(variant: str) -> None:
    recipe = parse_recipe(f'variant = "{variant}"')
    assert constants_of(recipe) == CONSTANTS[variant]
    assert len(VARIANTS[variant]) == len(CONSTANTS[variant])
    changed = recipe.model_dump()
    for key in VARIANTS[variant]:
        section, name = key.split(".")
        changed[section][name] = getattr(getattr(Recipe(), section), name)
    assert changed == {**Recipe().model_dump(), "variant": variant}


def test_what_a_recipe_says_wins_over_its_variant() -> None:
    recipe = parse_recipe('variant = "tf2"\n[head]\nnum_layers = 1', ["optimizer.weight_decay=0.5"])
    assert (recipe.head.num_layers, recipe.optimizer.weight_decay, recipe.augmentation.resize) == (1, 0.5, "bicubic")


def test_an_overriding_variant_sets_its_keys_anew_even_in_a_resolved_recipe() -> None:
    resolved = load_recipe("r50_1x").to_toml()
    recipe = parse_recipe(resolved, ["variant=tf2", "head.num_layers=4"])
    assert constants_of(recipe) == (*CONSTANTS["tf2"][:2], 4, *CONSTANTS["tf2"][3:])
    assert recipe.training.batch_size == 4096  # no key of a variant


def test_an_unknown_variant_is_named_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"variant = 'tf3'.*'paper', 'tf1' or 'tf2'"):
        parse_recipe("", ["variant=tf3"])


def test_the_paper_recipes_are_the_papers_variant() -> None:
    for name in ("r50_1x", "r50_2x", "r50_4x", "cifar10_r50"):
        assert load_recipe(name).variant == "paper"


def test_peak_rates_of_both_scalings_meet_at_batch_4096() -> None:
    plans = [
        make_plan(parse_recipe(f'variant = "{v}"\n[training]\nbatch_size = 4096'), IMAGENET) for v in ("paper", "tf1")
    ]
    assert [p.peak_learning_rate for p in plans] == pytest.approx([4.8, 4.8])


@pytest.mark.parametrize(
    ("every", "epochs", "total"),
    [(1, 100, 31_300), (10, 100, 31_300), (3, 100, 31_926), (100, 100, 31_300), (1, 1, 313)],
)
def test_the_tf2_loop_ends_with_a_whole_interval_at_rate_zero(every: int, epochs: int, total: int) -> None:
    text = f'variant = "tf2"\n[training]\nepochs = {epochs}\nwarmup_epochs = 0\n[checkpoints]\nevery_epochs = {every}'
    plan = make_plan(parse_recipe(text), IMAGENET)
    assert plan.schedule_steps == IMAGENET * epochs // 4096 + 1
    assert plan.total_steps == total


def test_a_rounded_up_run_trains_its_last_steps_at_rate_zero(tmp_path: Path, tiny: list[str]) -> None:
    from simclr_plus.runs.folder import create_run
    from simclr_plus.training.trainer import train

    overrides = [*tiny, "training.round_up_to_checkpoint=true", "checkpoints.every_epochs=0.5", "training.epochs=1.1"]
    run = create_run(load_recipe("demo", overrides), tmp_path, "run")
    train(run, quiet=True)
    rates = [line["learning_rate"] for line in run.metrics()]
    assert len(rates) == 12 and all(rate > 0 for rate in rates[1:9]) and rates[9:] == [0, 0, 0]


@pytest.mark.parametrize("adapt", [False, True])
def test_the_probe_is_adapted_by_lars_only_where_the_recipe_says_so(adapt: bool, tiny: list[str]) -> None:
    recipe = load_recipe("demo", [*tiny, "optimizer.name=lars", f"optimizer.adapt_probe={str(adapt).lower()}"])
    model = build_model(recipe, 10)
    optimizer = build_optimizer(model, recipe)
    assert model.probe is not None
    (group,) = (g for g in optimizer.param_groups if any(p is model.probe.weight for p in g["params"]))
    assert (group["adapt"], group["weight_decay"]) == (adapt, recipe.optimizer.weight_decay)


@pytest.mark.parametrize(("optimizer", "said"), [("lars", "l2_lars"), ("sgd", "l2_momentum")])
def test_the_probe_is_the_authors_supervised_head(tiny: list[str], optimizer: str, said: str) -> None:
    """Logits, loss and gradients; and what decays: the kernel alone under LARS, its bias too under momentum."""
    sup = {key[4:]: array for key, array in np.load(GOLDEN_FOLDER / "head.npz").items() if key.startswith("sup/")}
    overrides = [f"optimizer.name={optimizer}", f"optimizer.weight_decay={float(sup['weight_decay'])}"]
    recipe = load_recipe("demo", [*tiny, *overrides])
    model = build_model(recipe, sup["w/0"].shape[1])
    model.probe = probe = nn.Linear(*sup["w/0"].shape)
    kernel = [str(name).endswith("kernel:0") for name in sup["names"]].index(True)
    with torch.no_grad():
        probe.weight.copy_(torch.from_numpy(sup[f"w/{kernel}"].T.copy()))
        probe.bias.copy_(torch.from_numpy(sup[f"w/{1 - kernel}"]))
    logits = probe(torch.from_numpy(sup["x"]))
    labels = torch.from_numpy(sup["labels"])
    labels = labels.argmax(dim=1) if labels.ndim > 1 else labels.long()
    loss = nn.functional.cross_entropy(logits, labels)
    loss.backward()
    np.testing.assert_allclose(logits.detach().numpy(), sup["logits"], rtol=1e-5, atol=1e-6)
    assert loss.item() == pytest.approx(float(sup["loss"]), rel=1e-6)
    np.testing.assert_allclose(probe.weight.grad.numpy().T, sup[f"grad/{kernel}"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(probe.bias.grad.numpy(), sup[f"grad/{1 - kernel}"], rtol=1e-4, atol=1e-7)
    decay = {id(p): g["weight_decay"] for g in build_optimizer(model, recipe).param_groups for p in g["params"]}
    l2 = sum(decay[id(p)] * 0.5 * p.detach().square().sum().item() for p in probe.parameters())
    assert l2 == pytest.approx(float(sup[said]), rel=1e-5)


@pytest.mark.parametrize("suffix", ["", "_constlr0.1"])
def test_sgd_with_the_rate_inside_is_the_authors_keras_optimizer(tiny: list[str], suffix: str) -> None:
    golden = np.load(GOLDEN_FOLDER / "sgd.npz")
    overrides = [*tiny, "optimizer.name=sgd", "optimizer.sgd_momentum=rate_inside", "optimizer.weight_decay=0"]
    recipe = load_recipe("demo", overrides)
    model = Method(recipe, Encoder(), 0)
    for i in range(3):
        model.register_parameter(f"p{i}", nn.Parameter(torch.from_numpy(golden[f"init/{i}"].copy())))
    optimizer = build_optimizer(model, recipe)
    assert isinstance(optimizer, LARS)
    for step, rate in enumerate([0.1] * 6 if suffix else golden["lrs"]):
        for i, parameter in enumerate(model.parameters()):
            parameter.grad = torch.from_numpy(golden[f"grad/{step}/{i}"].copy())
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.step()
        for i, parameter in enumerate(model.parameters()):
            expected = golden[f"tf2_keras_sgd_nesterov{suffix}/param/{step}/{i}"]
            np.testing.assert_allclose(parameter.detach().numpy(), expected, rtol=1e-5, atol=1e-5)
