"""The encoder against a slow, obvious form of it in numpy, float64: forward in evaluation and in training."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simclr_plus.encoders import ResNet
from simclr_plus.encoders.architecture import BLOCKS

Arrays = dict[str, np.ndarray]


def convolution(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """[B, C, H, W] by [O, C, k, k], (k - 1) // 2 zeros before each axis and the rest after it, no bias."""
    k = kernel.shape[2]
    before, after = (k - 1) // 2, k - 1 - (k - 1) // 2
    x = np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))
    height, width = (x.shape[2] - k) // stride + 1, (x.shape[3] - k) // stride + 1
    out = np.zeros((len(x), len(kernel), height, width))
    for row in range(height):
        for column in range(width):
            patch = x[:, :, row * stride : row * stride + k, column * stride : column * stride + k]
            out[:, :, row, column] = np.tensordot(patch, kernel, axes=((1, 2, 3), (1, 2, 3)))
    return out


def max_pool(x: np.ndarray, same: bool) -> np.ndarray:
    """3x3, stride 2. TensorFlow's SAME needs max((ceil(n/2) - 1) 2 + 3 - n, 0) pixels, the smaller half before."""
    height, width = x.shape[2:]
    tops = []
    for n in (height, width):
        needed = max((-(-n // 2) - 1) * 2 + 3 - n, 0)
        tops.append(needed // 2 if same else 1)
    out = np.full((*x.shape[:2], -(-height // 2), -(-width // 2)), -np.inf)
    for row in range(out.shape[2]):
        for column in range(out.shape[3]):
            top, left = 2 * row - tops[0], 2 * column - tops[1]
            seen = x[:, :, max(0, top) : top + 3, max(0, left) : left + 3]
            out[:, :, row, column] = seen.max(axis=(2, 3))
    return out


class NumpyResNet:
    """The paper's encoder by torchvision's names; `after` collects the running statistics of a training pass."""

    def __init__(self, state: Arrays, depth: int, stem: str, reference: bool, training: bool) -> None:
        self.state, self.depth, self.stem, self.reference, self.training = state, depth, stem, reference, training
        self.after: Arrays = {}

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean, variance = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if self.training:
            rows = x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
            batch_mean = rows.mean(axis=1)
            batch_variance = ((rows - batch_mean[:, None]) ** 2).mean(axis=1)
            n = rows.shape[1]
            stored = batch_variance if self.reference else batch_variance * n / (n - 1)
            self.after[f"{name}.running_mean"] = 0.9 * mean + 0.1 * batch_mean
            self.after[f"{name}.running_var"] = 0.9 * variance + 0.1 * stored
            mean, variance = batch_mean, batch_variance
        scale = self.state[f"{name}.weight"] / np.sqrt(variance + 1e-5)
        return (x - mean[:, None, None]) * scale[:, None, None] + self.state[f"{name}.bias"][:, None, None]

    def layer(self, x: np.ndarray, convolution_name: str, norm_name: str, stride: int = 1) -> np.ndarray:
        return self.norm(convolution(x, self.state[f"{convolution_name}.weight"], stride), norm_name)

    def block(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        shortcut = x
        if f"{name}.downsample.0.weight" in self.state:
            shortcut = self.layer(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        if BLOCKS[self.depth][1]:
            x = np.maximum(self.layer(x, f"{name}.conv1", f"{name}.bn1"), 0)
            x = np.maximum(self.layer(x, f"{name}.conv2", f"{name}.bn2", stride), 0)
            x = self.layer(x, f"{name}.conv3", f"{name}.bn3")
        else:
            x = np.maximum(self.layer(x, f"{name}.conv1", f"{name}.bn1", stride), 0)
            x = self.layer(x, f"{name}.conv2", f"{name}.bn2")
        return np.maximum(x + shortcut, 0)

    def features(self, x: np.ndarray) -> np.ndarray:
        x = np.maximum(self.layer(x, "conv1", "bn1", 2 if self.stem == "imagenet" else 1), 0)
        if self.stem == "imagenet":
            x = max_pool(x, same=self.reference)
        for group, count in enumerate(BLOCKS[self.depth][0]):
            for i in range(count):
                projects = f"layer{group + 1}.{i}.downsample.0.weight" in self.state
                wide = BLOCKS[self.depth][1]
                assert projects == (i == 0 and (group > 0 or wide or self.reference))
                x = self.block(x, f"layer{group + 1}.{i}", 2 if group > 0 and i == 0 else 1)
        return x.mean(axis=(2, 3))


@given(
    depth=st.sampled_from([18, 34, 50]),
    stem=st.sampled_from(["imagenet", "cifar"]),
    flavor=st.sampled_from(["reference", "torchvision"]),
    height=st.integers(9, 24),
    width=st.integers(9, 24),
    images=st.integers(2, 3),
    training=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=30, deadline=None)
def test_features_and_running_statistics_are_those_of_plain_numpy(
    depth: int, stem: str, flavor: str, height: int, width: int, images: int, training: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    encoder = ResNet(depth, 1 / 32, stem=stem, flavor=flavor).double().train(training)
    with torch.no_grad():
        for name, tensor in encoder.state_dict().items():
            if "bn" in name or "downsample.1" in name:
                tensor.copy_((torch.rand(tensor.shape) + 0.5).to(tensor.dtype))
    state = {name: tensor.numpy().copy() for name, tensor in encoder.state_dict().items()}
    x = torch.rand(images, 3, height, width, dtype=torch.float64)
    plain = NumpyResNet(state, depth, stem, flavor == "reference", training)
    expected = plain.features(x.numpy())
    np.testing.assert_allclose(encoder(x).detach().numpy(), expected, rtol=1e-6, atol=1e-9)
    for name, statistics in plain.after.items():
        np.testing.assert_allclose(encoder.state_dict()[name].numpy(), statistics, rtol=1e-6, atol=1e-9, err_msg=name)
    assert len(plain.after) == (2 * sum(name.endswith("running_mean") for name in state) if training else 0)
