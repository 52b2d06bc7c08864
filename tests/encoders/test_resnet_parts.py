"""Selective kernels, squeeze and excitation, pooled shortcuts and the padded pool beside slow formulae."""

import numpy as np
import pytest
import timm
import torch
from resnet_layers import SE, SK, error
from torch import nn

from simclr_plus.encoders import ResNet


def numpy_selective_kernels(x: np.ndarray, sk: nn.Module, width: int) -> np.ndarray:
    """An image [2C, H, W] -> [C, H, W], number by number; batch norm with its running statistics."""
    first, second = x[:width], x[width:]
    pooled = [(first[c] + second[c]).sum() / first[c].size for c in range(width)]
    reduce, expand = (layer.weight.detach().numpy()[:, :, 0, 0].astype(float) for layer in (sk.fc1, sk.fc2))
    mean, variance, gamma, beta = (
        getattr(sk.bn, name).detach().numpy().astype(float)
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    hidden = []
    for j in range(len(reduce)):
        before = sum(reduce[j, c] * pooled[c] for c in range(width))
        hidden.append(max(0.0, gamma[j] * (before - mean[j]) / np.sqrt(variance[j] + 1e-5) + beta[j]))
    mixed = np.zeros(first.shape)
    for c in range(width):
        a, b = (np.exp(sum(expand[k, j] * hidden[j] for j in range(len(hidden)))) for k in (c, width + c))
        mixed[c] = (a * first[c] + b * second[c]) / (a + b)
    return mixed


def test_an_sk_unit_mixes_its_two_streams_as_a_slow_formula_does() -> None:
    torch.manual_seed(0)
    sk = ResNet(50, 1 / 8, **SK).layer2[0].sk.eval()  # two streams of 16 channels
    for tensor in (sk.bn.running_mean, sk.bn.running_var, sk.bn.weight.data, sk.bn.bias.data):
        tensor.copy_(0.5 + torch.rand(tensor.shape))
    sk.fc2.weight.data.normal_(std=2)  # far from an even mixture
    x = torch.randn(3, 32, 5, 4)
    expected = np.stack([numpy_selective_kernels(image, sk, 16) for image in x.numpy()])
    assert error(sk(x), expected) < 1e-6
    assert error(sk(x), ((x[:, :16] + x[:, 16:]) / 2).numpy()) > 0.1


def test_squeeze_excitation_gates_each_channel_as_a_slow_formula_does() -> None:
    torch.manual_seed(0)
    se = ResNet(50, 1 / 4, **SE).layer1[0].se  # base width 16 squeezed to 4, output width 64
    assert se.fc1.weight.shape == (4, 64, 1, 1) and torch.count_nonzero(se.fc1.bias) == 0
    se.fc1.bias.data.normal_(), se.fc2.bias.data.normal_(), se.fc2.weight.data.normal_()
    x = torch.randn(2, 64, 3, 4)
    (w1, b1), (w2, b2) = ((fc.weight.detach().numpy()[:, :, 0, 0], fc.bias.detach().numpy()) for fc in (se.fc1, se.fc2))
    expected = np.zeros(x.shape)
    for n, image in enumerate(x.numpy()):
        means = [channel.mean() for channel in image]
        squeezed = [max(0.0, b1[j] + sum(w1[j, c] * means[c] for c in range(64))) for j in range(4)]
        for c in range(64):
            expected[n, c] = image[c] / (1 + np.exp(-(b2[c] + sum(w2[c, j] * squeezed[j] for j in range(4)))))
    assert error(se(x), expected) < 1e-6


@pytest.mark.parametrize("height, width", [(1, 2), (3, 4), (4, 5), (6, 6), (7, 1)])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_pooled_shortcut_averages_real_pixels_at_stride_1_and_padded_ones_at_stride_2(
    stride: int, height: int, width: int
) -> None:
    image = torch.rand(height, width)
    expected = np.zeros((-(-height // stride), -(-width // stride)))
    for (i, j), _ in np.ndenumerate(expected):
        window = image[stride * i : stride * i + 2, stride * j : stride * j + 2]
        expected[i, j] = window.sum() / (window.numel() if stride == 1 else 4)
    pool = ResNet(18, 1 / 16, flavor="reference", **SK)
    shortcut = (pool.layer1 if stride == 1 else pool.layer2)[0].downsample[0]
    assert error(shortcut(image[None, None])[0, 0], expected) < 1e-6


def test_names_of_resnet_d_and_squeeze_excitation_are_timms() -> None:
    def named(model: nn.Module, part: str) -> dict[str, torch.Size]:
        return {key: value.shape for key, value in model.state_dict().items() if part in key}

    with torch.device("meta"):
        ours, deep = ResNet(50, **SK), timm.create_model("resnet50d", num_classes=0)
        gated, senet = ResNet(50, se_ratio=1 / 4), timm.create_model("seresnet50", num_classes=0)
    assert named(ours, "downsample") == named(deep, "downsample")
    assert named(ours, "conv1.").keys() == named(deep, "conv1.").keys()
    assert ours.state_dict().keys() - named(ours, ".sk.").keys() == deep.state_dict().keys()
    assert gated.state_dict().keys() == senet.state_dict().keys()


@pytest.mark.parametrize("height", [1, 2, 3, 4, 7, 8])
@pytest.mark.parametrize("width", [5, 6])
def test_the_reference_pool_pads_an_even_side_behind_and_an_odd_one_on_both_ends(height: int, width: int) -> None:
    def windows(n: int) -> list[range]:
        """TensorFlow's SAME: ceil(n / 2) windows of 3, every 2; the smaller half of the padding comes first."""
        count = -(-n // 2)
        before = max((count - 1) * 2 + 3 - n, 0) // 2
        return [range(max(2 * i - before, 0), min(2 * i - before + 3, n)) for i in range(count)]

    image = torch.rand(height, width)
    expected = [[max(image[y, x] for y in ys for x in xs) for xs in windows(width)] for ys in windows(height)]
    pool = ResNet(18, 1 / 16, flavor="reference").maxpool
    assert torch.equal(pool(image[None, None])[0, 0], torch.tensor(expected))


@pytest.mark.parametrize("side", [6, 7])
def test_a_pooled_shortcut_counts_zeros_beyond_the_end_of_an_odd_side(side: int) -> None:
    """The authors pad a row and a column of zeros at the end, then average whole squares (resnet.py, fixed_padding)."""
    encoder = ResNet(50, 1 / 8, selective_kernels=True)
    (pool,) = [m for m in encoder.layer2.modules() if getattr(m, "stride", 0) == 2 and not isinstance(m, nn.Conv2d)]
    images = torch.rand(2, 3, side, side)
    padded = torch.zeros(2, 3, side + 1, side + 1)
    padded[..., :side, :side] = images
    squares = padded[..., : (side + 1) // 2 * 2, : (side + 1) // 2 * 2].unfold(2, 2, 2).unfold(3, 2, 2)
    assert torch.allclose(pool(images), squares.mean((-2, -1)), atol=1e-6)
