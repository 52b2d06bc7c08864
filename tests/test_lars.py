"""LARS against the authors' optimizer, step by step, and against its formula in numpy float64."""

import copy
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.lars import LARS, parameter_groups

GOLDEN = np.load(GOLDEN_FOLDER / "lars.npz")
NAMES = [str(name) for name in GOLDEN["names"]]
CONFIGS = json.loads(str(GOLDEN["config_json"]))
SGD = np.load(GOLDEN_FOLDER / "sgd.npz")


def groups_of(weights: list[Tensor], config: dict[str, Any]) -> list[dict[str, Any]]:
    """One group a variable, exempt by regular expressions on its name as in the authors' constructor."""
    no_decay = config.get("exclude_from_weight_decay") or []
    no_adaptation = config.get("exclude_from_layer_adaptation") or no_decay

    def matches(name: str, patterns: list[str]) -> bool:
        return any(re.search(pattern, name) for pattern in patterns)

    return [
        {
            "params": [weight],
            "weight_decay": 0.0 if matches(name, no_decay) else config["weight_decay"],
            "adapt": not matches(name, no_adaptation),
        }
        for name, weight in zip(NAMES, weights, strict=True)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_six_steps_give_the_authors_weights_and_momenta(name: str) -> None:
    config = CONFIGS[name]
    weights = [nn.Parameter(torch.from_numpy(GOLDEN[f"init/{i}"].copy())) for i in range(len(NAMES))]
    optimizer = LARS(
        groups_of(weights, config),
        lr=0.0,
        momentum=config["momentum"],
        trust_coefficient=config.get("eeta", 0.001),
        nesterov=config.get("use_nesterov", False),
        classic_momentum=config.get("classic_momentum", True),
    )
    for step, rate in enumerate(GOLDEN["lrs"]):
        for i, weight in enumerate(weights):
            weight.grad = torch.from_numpy(GOLDEN[f"grad/{step}/{i}"].copy())
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.step()
        for i, weight in enumerate(weights):
            said = f"{NAMES[i]} after step {step}"
            expected = GOLDEN[f"{name}/param/{step}/{i}"]
            close(weight.detach().numpy(), expected, said)
            velocity = optimizer.state[weight]["momentum_buffer"].numpy()
            close(velocity, GOLDEN[f"{name}/mom/{step}/{i}"], f"momentum of {said}")


def close(got: np.ndarray, expected: np.ndarray, said: str) -> None:
    """The largest error against the largest entry: small entries are differences of large ones."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=max(1e-6 * scale, 1e-12), err_msg=said)


@pytest.mark.parametrize("suffix, rates", [("", SGD["lrs"]), ("_constlr0.1", [0.1] * 6)])
def test_the_authors_momentum_optimizer_is_sgd_with_nesterov(suffix: str, rates: list[float]) -> None:
    weights = [nn.Parameter(torch.from_numpy(SGD[f"init/{i}"].copy())) for i in range(3)]
    optimizer = torch.optim.SGD(weights, lr=0.1, momentum=0.9, nesterov=True)
    for step, rate in enumerate(rates):
        for i, weight in enumerate(weights):
            weight.grad = torch.from_numpy(SGD[f"grad/{step}/{i}"].copy())
        optimizer.param_groups[0]["lr"] = float(rate)
        optimizer.step()
        for i, weight in enumerate(weights):
            expected = SGD[f"tf1_momentum_nesterov{suffix}/param/{step}/{i}"]
            np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-5, atol=1e-5)


def lars_in_numpy(
    w: np.ndarray,
    v: np.ndarray,
    g: np.ndarray,
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    trust_coefficient: float,
    nesterov: bool,
    classic: bool,
    adapt: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """One step of one tensor, from the description of the authors' optimizer."""

    def trust(u: np.ndarray) -> float:
        norm_w, norm_u = np.sqrt((w * w).sum()), np.sqrt((u * u).sum())
        return trust_coefficient * norm_w / norm_u if adapt and norm_w > 0 and norm_u > 0 else 1.0

    g = g + weight_decay * w
    if classic:
        scaled = lr * trust(g) * g
        v = momentum * v + scaled
        return w - (momentum * v + scaled if nesterov else v), v
    v = momentum * v + g
    u = momentum * v + g if nesterov else v
    return w - lr * trust(u) * u, v


@given(
    shapes=st.lists(st.lists(st.integers(1, 4), max_size=4).map(tuple), min_size=1, max_size=4),
    classic=st.booleans(),
    nesterov=st.booleans(),
    adapt=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.05]),
    momentum=st.floats(0, 0.95),
    trust_coefficient=st.floats(1e-4, 0.1),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_steps_on_tensors_of_any_shape_follow_the_formula(
    shapes: list[tuple[int, ...]],
    classic: bool,
    nesterov: bool,
    adapt: bool,
    weight_decay: float,
    momentum: float,
    trust_coefficient: float,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    rule = {"momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient}
    expected = [np.asarray(random.standard_normal(shape)) for shape in shapes]
    velocities = [np.zeros_like(w) for w in expected]
    weights = [nn.Parameter(torch.from_numpy(w.copy())) for w in expected]
    optimizer = LARS([{"params": weights, "adapt": adapt}], lr=1.0, classic_momentum=classic, nesterov=nesterov, **rule)
    for step in range(8):
        lr = 0.1 * step
        optimizer.param_groups[0]["lr"] = lr
        for i, weight in enumerate(weights):
            g = np.asarray(random.standard_normal(shapes[i]))
            weight.grad = torch.from_numpy(g.copy())
            expected[i], velocities[i] = lars_in_numpy(
                expected[i], velocities[i], g, lr=lr, classic=classic, adapt=adapt, nesterov=nesterov, **rule
            )
        optimizer.step()
    for i, weight in enumerate(weights):
        np.testing.assert_allclose(weight.detach().numpy(), expected[i], rtol=1e-9, atol=1e-12)
        velocity = optimizer.state[weight]["momentum_buffer"].numpy()
        np.testing.assert_allclose(velocity, velocities[i], rtol=1e-9, atol=1e-12)


@given(rates=st.lists(st.floats(0, 1), min_size=2, max_size=8), momentum=st.floats(0.1, 0.95), seed=st.integers(0, 99))
def test_both_momentum_optimizers_of_the_authors_follow_their_formulas(
    rates: list[float], momentum: float, seed: int
) -> None:
    """TF1: v = m v + g, w -= lr (g + m v). TF2's Keras: v = m v - lr g, w += m v - lr g."""
    random = np.random.default_rng(seed)
    outside, inside = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    by_torch = torch.optim.SGD([outside], lr=1.0, momentum=momentum, nesterov=True)
    by_lars = LARS([{"params": [inside], "adapt": False}], lr=1.0, momentum=momentum, nesterov=True)
    w1, v1, w2, v2 = np.ones(3), np.zeros(3), np.ones(3), np.zeros(3)
    for rate in rates:
        g = random.standard_normal(3)
        v1 = momentum * v1 + g
        w1 = w1 - rate * (g + momentum * v1)
        v2 = momentum * v2 - rate * g
        w2 = w2 + momentum * v2 - rate * g
        outside.grad, inside.grad = (torch.from_numpy(g.copy()) for _ in range(2))
        by_torch.param_groups[0]["lr"] = by_lars.param_groups[0]["lr"] = rate
        by_torch.step()
        by_lars.step()
    np.testing.assert_allclose(outside.detach().numpy(), w1, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(inside.detach().numpy(), w2, rtol=1e-9, atol=1e-12)


def test_an_adapted_step_has_the_length_of_the_rate_whatever_the_gradients_scale() -> None:
    moved = []
    for scale in (1e-6, 1.0, 1e6):
        torch.manual_seed(0)
        w = nn.Parameter(torch.randn(6, 5, dtype=torch.float64))
        before = w.detach().clone()
        w.grad = scale * torch.randn(6, 5, dtype=torch.float64)
        LARS([w], lr=2.0, trust_coefficient=0.01).step()
        moved.append((w.detach() - before).norm().item() / before.norm().item())
    assert moved == pytest.approx([0.02, 0.02, 0.02], rel=1e-9)


def test_a_weight_of_zeros_and_a_gradient_of_zeros_have_trust_one() -> None:
    zeros, ones = nn.Parameter(torch.zeros(3, 3)), nn.Parameter(torch.ones(3, 3))
    zeros.grad, ones.grad = torch.full((3, 3), 2.0), torch.zeros(3, 3)
    LARS([zeros, ones], lr=0.5).step()
    assert torch.equal(zeros, torch.full((3, 3), -1.0))
    assert torch.equal(ones, torch.ones(3, 3))


def test_the_gradients_and_the_weights_without_one_are_left_alone() -> None:
    w, still = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    w.grad = torch.full((2, 2), 3.0)
    optimizer = LARS([w, still], lr=1.0, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(w.grad, torch.full((2, 2), 3.0))
    assert torch.equal(still, torch.ones(2, 2))
    assert still not in optimizer.state
    assert not torch.equal(w, torch.ones(2, 2))


def test_a_closure_is_called_with_gradients_and_its_loss_returned() -> None:
    w = nn.Parameter(torch.full((2, 2), 3.0))
    optimizer = LARS([w], lr=1.0)

    def closure() -> float:
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 36.0
    # trust x gradient: 0.001 * |w| / |2 w| * 2 w = 0.001 w
    torch.testing.assert_close(w.detach(), torch.full((2, 2), 3.0 - 0.003))


def test_a_saved_state_continues_to_the_last_bit() -> None:
    def weights_and_optimizer() -> tuple[nn.Parameter, LARS]:
        w = nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4))
        return w, LARS([w], lr=0.5, weight_decay=1e-2, nesterov=True)

    def train(w: nn.Parameter, optimizer: LARS, steps: range) -> None:
        for step in steps:
            w.grad = torch.cos(torch.arange(12.0) + step).reshape(3, 4)
            optimizer.step()

    unbroken, optimizer = weights_and_optimizer()
    train(unbroken, optimizer, range(6))
    first, optimizer = weights_and_optimizer()
    train(first, optimizer, range(3))
    resumed, fresh = weights_and_optimizer()
    resumed.data.copy_(first.data)
    fresh.load_state_dict(optimizer.state_dict())
    train(resumed, fresh, range(3, 6))
    assert torch.equal(resumed, unbroken)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "trust_coefficient"])
def test_a_negative_setting_is_refused_by_name(name: str) -> None:
    settings = {"lr": 1.0, name: -0.5}
    with pytest.raises(ValueError, match=rf"{name} = -0\.5"):
        LARS([nn.Parameter(torch.ones(1))], **settings)


def test_batch_norms_and_biases_are_exempt_and_frozen_weights_left_out() -> None:
    model = nn.ModuleDict(
        {
            "convolution": nn.Conv2d(3, 4, 3),
            "norm": nn.BatchNorm2d(4),
            "head": SimCLRProjectionHead(8, 8, 4),
            "frozen": nn.Linear(2, 2),
        }
    )
    model["frozen"].requires_grad_(False)
    adapted, exempt = parameter_groups(model, weight_decay=1e-4)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in adapted["params"]} == {
        "convolution.weight",
        "head.layers.0.weight",
        "head.layers.3.weight",
    }
    assert {names[p] for p in exempt["params"]} == {
        "convolution.bias",
        "norm.weight",
        "norm.bias",
        "head.layers.1.weight",
        "head.layers.1.bias",
        "head.layers.4.weight",
    }
    assert (adapted["weight_decay"], adapted["adapt"]) == (1e-4, True)
    assert (exempt["weight_decay"], exempt["adapt"]) == (0.0, False)


# what torch.optim asks of an optimizer, and Lightly's arguments


def bowl() -> tuple[nn.Parameter, Tensor]:
    return nn.Parameter(torch.linspace(-1, 1, 12).reshape(3, 4)), torch.cos(torch.arange(12.0)).reshape(3, 4)


def after(steps: int, **settings: Any) -> Tensor:
    """The weights after steps along one gradient."""
    w, gradient = bowl()
    optimizer = LARS([w], **{"lr": 0.5, **settings})
    for _ in range(steps):
        w.grad = gradient.clone()
        optimizer.step()
    return w.detach()


def test_lightlys_arguments_that_ask_for_nothing_change_nothing() -> None:
    expected = after(3)
    assert torch.equal(after(3, dampening=0, eps=1e-8), expected)
    w, gradient = bowl()
    optimizer = LARS([w], 0.5, 0.9, 0, 0.0, False, 0.001, 1e-8)
    for _ in range(3):
        w.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(w, expected)


@pytest.mark.parametrize("name, value", [("dampening", 0.1), ("eps", 1e-5), ("eps", -1e-9), ("lr", float("nan"))])
@pytest.mark.parametrize("where", ["constructor", "group", "added group"])
def test_a_setting_that_would_not_be_followed_is_refused_by_name(name: str, value: float, where: str) -> None:
    w, other = bowl()[0], bowl()[0]
    with pytest.raises(ValueError, match=f"{name} = {value}"):
        if where == "constructor":
            LARS([w], **{"lr": 0.1, name: value})
        elif where == "group":
            LARS([{"params": [w], name: value}], lr=0.1)
        else:
            LARS([w], lr=0.1).add_param_group({"params": [other], name: value})


def test_the_rate_may_be_a_tensor_that_a_schedule_changes() -> None:
    w, gradient = bowl()
    plain, plain_gradient = bowl()
    optimizers = LARS([w], lr=torch.tensor(0.5)), LARS([plain], lr=0.5)
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4) for optimizer in optimizers]
    for _ in range(3):
        w.grad, plain.grad = gradient.clone(), plain_gradient.clone()
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
    assert isinstance(optimizers[0].param_groups[0]["lr"], Tensor)
    torch.testing.assert_close(w, plain)


def test_the_gradient_scaler_of_half_precision_changes_no_step() -> None:
    w, gradient = bowl()
    optimizer = LARS([w], lr=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(4):
        scaler.scale((w * (gradient if step != 1 else gradient / 0)).sum()).backward()
        scaler.step(optimizer)  # the second step, whose gradient is not finite, is left out
        scaler.update()
        optimizer.zero_grad()
    torch.testing.assert_close(w.detach(), after(3))


def test_a_copy_goes_on_as_the_original() -> None:
    w, gradient = bowl()
    optimizer = LARS([w], lr=0.5)
    w.grad = gradient.clone()
    optimizer.step()
    both = copy.deepcopy({"w": w, "optimizer": optimizer})
    for own, rule in ((w, optimizer), (both["w"], both["optimizer"])):
        own.grad = gradient.clone()
        rule.step()
    assert both["w"] is not w
    assert torch.equal(both["w"], w)


def test_a_state_that_another_optimizer_saved_keeps_our_settings_where_it_has_none() -> None:
    w, gradient = bowl()
    sgd = torch.optim.SGD([w], lr=0.5, momentum=0.9)
    w.grad = gradient.clone()
    sgd.step()
    optimizer = LARS([w], lr=0.1)
    optimizer.load_state_dict(sgd.state_dict())
    w.grad = gradient.clone()
    optimizer.step()
    assert optimizer.param_groups[0]["adapt"] and optimizer.param_groups[0]["classic_momentum"]
    assert optimizer.state[w]["momentum_buffer"].shape == w.shape


def test_a_loaded_state_takes_the_weights_precision() -> None:
    w, gradient = bowl()
    optimizer = LARS([w], lr=0.5)
    w.grad = gradient.clone()
    optimizer.step()
    double = nn.Parameter(w.detach().double())
    other = LARS([double], lr=0.5)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[double]["momentum_buffer"].dtype == torch.float64


def test_weights_without_a_gradient_stay_and_precisions_mix() -> None:
    w, gradient = bowl()
    idle, half = bowl()[0], nn.Parameter(bowl()[0].detach().bfloat16())
    before = idle.detach().clone()
    optimizer = LARS([idle, w, half], lr=0.5)
    w.grad, half.grad = gradient.clone(), gradient.bfloat16()
    optimizer.step()
    assert torch.equal(idle, before) and idle not in optimizer.state
    torch.testing.assert_close(w.detach(), after(1))
    torch.testing.assert_close(half.detach().float(), after(1), rtol=1e-2, atol=1e-2)


def test_sparse_gradients_and_complex_weights_are_refused() -> None:
    table = nn.Embedding(5, 2, sparse=True)
    table(torch.tensor([1, 3])).sum().backward()
    turning = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    turning.grad = torch.ones_like(turning)
    for w, word in ((table.weight, "sparse"), (turning, "complex")):
        before = w.detach().clone()
        with pytest.raises(RuntimeError, match=word):
            LARS([w], lr=0.1).step()
        assert torch.equal(w.detach(), before)
