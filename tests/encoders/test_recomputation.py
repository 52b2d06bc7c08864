"""Activations that are computed again give the same numbers."""

import copy

import pytest
import torch
from resnet_layers import SE, SK, blocks_of, last_norm
from torch import Tensor, nn

from simclr_plus.encoders import ResNet


def trained_once(encoder: ResNet, images: Tensor) -> tuple[Tensor, int]:
    """The features, and how many numbers the forward pass kept for the backward pass; gradients are in the encoder."""
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        features = encoder.train()(images)
    (features * torch.linspace(-1, 1, features.shape[1])).sum().backward()
    return features.detach(), sum(kept)


@pytest.mark.parametrize(
    "depth, flavor, extras",
    [(18, "torchvision", {}), (18, "reference", SE), (50, "reference", {}), (50, "torchvision", SK)],
)
def test_recomputed_activations_give_the_same_output_gradients_and_buffers(
    depth: int, flavor: str, extras: dict[str, object]
) -> None:
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    plain = ResNet(depth, 1 / 8, stem="cifar", flavor=flavor, **extras)
    for block in blocks_of(plain):
        nn.init.ones_(last_norm(block).weight)  # from 0 no gradient would get inside
    thrifty = copy.deepcopy(plain)
    thrifty.checkpoint_activations = True
    (expected, all_numbers), (features, fewer_numbers) = trained_once(plain, images), trained_once(thrifty, images)
    assert torch.equal(features, expected)
    for (name, ours), reference in zip(thrifty.named_parameters(), plain.parameters(), strict=True):
        assert reference.grad.norm() > 0, name
        assert torch.equal(ours.grad, reference.grad), name
    for (name, ours), reference in zip(thrifty.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, reference), name
    assert fewer_numbers < all_numbers / 2


def test_in_evaluation_nothing_is_recomputed() -> None:
    encoder = ResNet(18, 1 / 8, stem="cifar").eval()
    encoder.checkpoint_activations = True
    calls: list[int] = []
    encoder.layer2[0].register_forward_pre_hook(lambda *_: calls.append(1))
    encoder(torch.rand(2, 3, 32, 32)).sum().backward()
    assert len(calls) == 1
    encoder.train()(torch.rand(2, 3, 32, 32)).sum().backward()
    assert len(calls) == 3
