"""The projection head against the authors' numbers, layer by layer, and its parts against plain matrix products."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from places import GOLDEN_FOLDER
from torch import Tensor, nn

from simclr_plus.encoders.architecture import head_parameter_count
from simclr_plus.heads import SimCLRProjectionHead

GOLDEN = np.load(GOLDEN_FOLDER / "head.npz")
CASES = [str(case) for case in GOLDEN["cases"]]
OURS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


def our_name(name: str) -> str:
    """The authors' variable in our Sequential, whose layers are Linear, norm, ReLU, Linear, norm, ..."""
    layer, part = re.fullmatch(r"projection_head/nl_(\d+)/.*/(\w+):0", name).groups()
    return f"layers.{3 * int(layer)}.weight" if part == "kernel" else f"layers.{3 * int(layer) + 1}.{OURS[part]}"


def as_ours(values: np.ndarray) -> Tensor:
    """A dense kernel (in, out) becomes a weight (out, in)."""
    return torch.from_numpy(np.ascontiguousarray(values.T))


def authors_head(case: str) -> SimCLRProjectionHead:
    names = [str(name) for name in GOLDEN[f"{case}/names"]]
    (input_dim, output_dim), layers = (GOLDEN[f"{case}/{key}"].shape[1] for key in ("x", "eval_z")), int(case[4])
    head = SimCLRProjectionHead(input_dim, input_dim, output_dim, num_layers=layers)
    weights = {our_name(name): as_ours(GOLDEN[f"{case}/w/{i}"]) for i, name in enumerate(names)}
    tracked = {key: value for key, value in head.state_dict().items() if key.endswith("num_batches_tracked")}
    head.load_state_dict(weights | tracked, strict=True)
    return head


def close(got: Tensor, expected: np.ndarray, said: str, tolerance: float) -> None:
    scale = max(1e-3, np.abs(expected).max())
    np.testing.assert_allclose(got.detach().numpy() / scale, expected / scale, rtol=0, atol=tolerance, err_msg=said)


@pytest.mark.parametrize("case", CASES)
def test_in_evaluation_it_gives_the_authors_projection(case: str) -> None:
    head = authors_head(case).eval()
    close(head(torch.from_numpy(GOLDEN[f"{case}/x"])), GOLDEN[f"{case}/eval_z"], "z", 2e-6)


@pytest.mark.parametrize("case", CASES)
def test_every_layer_gives_what_the_authors_fine_tune_from(case: str) -> None:
    head = authors_head(case).eval()
    h = torch.from_numpy(GOLDEN[f"{case}/x"])
    layers = int(case[4])
    for selector in range(layers + 1):
        close(head.hidden(h, selector), GOLDEN[f"{case}/eval_sel{selector}"], f"selector {selector}", 2e-6)
    assert torch.equal(head.hidden(h, -1), head(h)) and head.hidden(h, 0) is h
    for wrong in (-2, layers + 1):
        with pytest.raises(ValueError, match=f"selector = {wrong}; this head has {layers} layers"):
            head.hidden(h, wrong)


@pytest.mark.parametrize("case", CASES)
def test_in_training_projection_gradients_and_running_statistics_are_the_authors(case: str) -> None:
    head = authors_head(case).train()
    x = torch.from_numpy(GOLDEN[f"{case}/x"]).requires_grad_()
    z = head(x)
    (z * torch.cos(torch.arange(z.numel(), dtype=torch.float32)).view_as(z)).sum().backward()
    close(z, GOLDEN[f"{case}/train_z"], "z", 2e-5)
    close(x.grad, GOLDEN[f"{case}/grad_x"], "gradient of x", 2e-5)
    parameters, buffers = dict(head.named_parameters()), dict(head.named_buffers())
    trained = [our_name(str(name)) for name in GOLDEN[f"{case}/trainable_names"]]
    assert set(trained) == set(parameters)
    for i, name in enumerate(trained):
        close(parameters[name].grad, GOLDEN[f"{case}/grad_w/{i}"].T, f"gradient of {name}", 2e-5)
    for i, name in enumerate(GOLDEN[f"{case}/names"]):
        if "moving" in str(name):
            close(buffers[our_name(str(name))], GOLDEN[f"{case}/after/{i}"], str(name), 2e-6)


def head_in_numpy(
    h: np.ndarray, head: SimCLRProjectionHead, training: bool
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """z and the running statistics after it, layer by layer from the words of the paper and of the authors' code."""
    state = {name: tensor.numpy().copy() for name, tensor in head.state_dict().items()}
    layers = sum(name.endswith("running_mean") for name in state)
    x, after = h, {}
    for i in range(layers):
        matrix, norm = state[f"layers.{3 * i}.weight"], f"layers.{3 * i + 1}."
        x = np.array([[sum(row * unit) for unit in matrix] for row in x])
        mean, variance = state[norm + "running_mean"], state[norm + "running_var"]
        if training:
            of_rows = x.mean(axis=0), ((x - x.mean(axis=0)) ** 2).mean(axis=0)
            after[norm + "running_mean"] = 0.9 * mean + 0.1 * of_rows[0]
            after[norm + "running_var"] = 0.9 * variance + 0.1 * of_rows[1]
            mean, variance = of_rows
        x = (x - mean) / np.sqrt(variance + 1e-5) * state[norm + "weight"] + state.get(norm + "bias", 0.0)
        x = np.maximum(x, 0) if i < layers - 1 else x
    return x, after


@given(
    rows=st.integers(2, 6),
    dims=st.tuples(*[st.integers(1, 5)] * 3),
    layers=st.integers(0, 4),
    training=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_any_head_is_matrices_norms_and_relus_in_plain_numpy(
    rows: int, dims: tuple[int, int, int], layers: int, training: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    head = SimCLRProjectionHead(*dims, num_layers=layers).double().train(training)
    with torch.no_grad():
        for tensor in (*head.parameters(), *(b for n, b in head.named_buffers() if "running" in n)):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        for matrix in (m for m in head.parameters() if m.ndim == 2):
            matrix.sub_(1)
    h = torch.randn(rows, dims[0], dtype=torch.float64)
    expected, after = head_in_numpy(h.numpy(), head, training)
    np.testing.assert_allclose(head(h.clone()).detach().numpy(), expected, rtol=1e-9, atol=1e-9)
    for name, statistics in after.items():
        np.testing.assert_allclose(head.state_dict()[name].numpy(), statistics, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_gradient_is_the_slope_that_plain_numpy_has(layers: int) -> None:
    torch.manual_seed(layers)
    head = SimCLRProjectionHead(4, 5, 3, num_layers=layers).double().train()
    h = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weigh, direction, small = (
        torch.randn(6, 3, dtype=torch.float64),
        torch.randn(6, 4, dtype=torch.float64).numpy(),
        1e-6,
    )
    x, before = h.detach().numpy(), {k: v.clone() for k, v in head.state_dict().items()}
    (head(h) * weigh).sum().backward()
    head.load_state_dict(before)
    up, down = (head_in_numpy(x + sign * small * direction, head, True)[0] for sign in (1, -1))
    slope = float(((up - down) * weigh.numpy()).sum() / (2 * small))
    assert float((h.grad.numpy() * direction).sum()) == pytest.approx(slope, rel=1e-5)


def test_the_papers_head_is_two_matrices_with_norms_between_and_after() -> None:
    torch.manual_seed(0)
    head = SimCLRProjectionHead(6, 5, 4, num_layers=2).double().eval()
    first, _, _, second, last = head.layers
    h = torch.randn(3, 6, dtype=torch.float64)
    expected = torch.relu(h @ first.weight.T / (1 + 1e-5) ** 0.5) @ second.weight.T / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(head(h), expected)
    assert [name for name, _ in last.named_parameters()] == ["weight"]


def test_without_layers_z_is_h() -> None:
    head = SimCLRProjectionHead(7, num_layers=0)
    h = torch.randn(2, 7)
    assert torch.equal(head(h), h)
    assert head.output_dim == 7
    assert not list(head.parameters())


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_weights_start_from_a_normal_of_deviation_0_01(num_layers: int) -> None:
    torch.manual_seed(0)
    head = SimCLRProjectionHead(1000, 800, 600, num_layers=num_layers)
    assert head.output_dim == 600
    linears = [layer for layer in head.layers if isinstance(layer, nn.Linear)]
    assert len(linears) == num_layers
    for linear in linears:
        assert linear.bias is None
        assert linear.weight.mean().item() == pytest.approx(0, abs=3e-4)
        assert linear.weight.std().item() == pytest.approx(0.01, rel=0.005)
        # not truncated: a normal has 4.6 % beyond two deviations, one cut there has none
        assert (linear.weight.abs() > 0.02).float().mean().item() == pytest.approx(0.0455, abs=0.006)


@pytest.mark.parametrize("num_layers", [0, 1, 2, 3, 4])
def test_the_closed_form_counts_the_parameters(num_layers: int) -> None:
    head = SimCLRProjectionHead(12, 9, 5, num_layers=num_layers)
    count = sum(parameter.numel() for parameter in head.parameters())
    assert head_parameter_count(12, 9, 5, num_layers) == count


def test_the_authors_head_of_three_layers_has_8_659_072_parameters() -> None:
    assert head_parameter_count(2048, 2048, 128, 3) == 8_659_072


def test_the_absent_offset_is_not_saved() -> None:
    names = set(SimCLRProjectionHead(8, 8, 4).state_dict())
    assert "layers.1.bias" in names
    assert "layers.4.bias" not in names


def test_fewer_than_no_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="num_layers = -1"):
        SimCLRProjectionHead(num_layers=-1)


def test_lightlys_batch_norm_is_an_argument_of_one_value() -> None:
    names = list(SimCLRProjectionHead(8, 8, 4).state_dict())
    assert list(SimCLRProjectionHead(8, 8, 4, 2, True).state_dict()) == names
    with pytest.raises(ValueError, match="batch_norm = False"):
        SimCLRProjectionHead(8, 8, 4, batch_norm=False)
