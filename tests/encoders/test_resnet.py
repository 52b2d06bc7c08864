"""The encoder against the authors' network, torchvision's and timm's; and how its weights start."""

import json
import re

import numpy as np
import pytest
import timm
import torch
import torchvision
from places import GOLDEN_FOLDER
from resnet_layers import NORMS, SK, blocks_of, error, groups_of, last_norm, layers_in_creation_order
from torch import Tensor, nn

from simclr_plus.encoders import ResNet
from simclr_plus.encoders.architecture import BLOCKS, SK_RATIO
from simclr_plus.global_batch_norm import GlobalBatchNorm2d

GOLDEN = {
    key: value
    for name in ("resnet", "resnet_sk")
    for key, value in np.load(GOLDEN_FOLDER / f"{name}.npz").items()
    if key != "cases"
}


CASES = [key.removesuffix("/meta") for key in GOLDEN if key.endswith("/meta")]


def variables(encoder: ResNet, names: list[str]) -> list[Tensor]:
    """Our tensors for the authors' names; the number behind a layer's name is its place in the order of creation."""
    layers = list(layers_in_creation_order(encoder))
    of_kind = {
        "conv2d": [layer for layer in layers if isinstance(layer, nn.Conv2d)],
        "sync_batch_normalization": [layer for layer in layers if isinstance(layer, NORMS)],
    }
    parts = {"kernel": "weight", "gamma": "weight", "beta": "bias", "bias": "bias"}
    parts |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    found = []
    for name in names:
        kind, number, part = re.search(r"/(conv2d|sync_batch_normalization)(?:_(\d+))?/(\w+):0$", name).groups()
        found.append(getattr(of_kind[kind][int(number or 0)], parts[part]))
    return found


def names_in(key: str) -> list[str]:
    return [str(name) for name in GOLDEN[key]]


def as_ours(values: np.ndarray) -> Tensor:
    """A kernel HWIO becomes OIHW; contiguous."""
    values = values.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values.transpose(3, 2, 0, 1) if values.ndim == 4 else values))


def authors_case(case: str) -> tuple[ResNet, Tensor]:
    meta = json.loads(str(GOLDEN[f"{case}/meta"]))
    stem = "cifar" if meta["cifar"] else "imagenet"
    assert meta["sk"] in (0, SK_RATIO)
    extras = {"selective_kernels": meta["sk"] > 0, "se_ratio": meta["se"]}
    encoder = ResNet(meta["depth"], meta["width"], stem=stem, flavor="reference", **extras)
    ours = variables(encoder, names_in(f"{case}/names"))
    every = [t for name, t in encoder.state_dict(keep_vars=True).items() if not name.endswith("num_batches_tracked")]
    assert {id(tensor) for tensor in ours} == {id(tensor) for tensor in every} and len(ours) == len(every)
    weights = str(GOLDEN[f"{case}/weights_from"]) if f"{case}/weights_from" in GOLDEN else case
    with torch.no_grad():
        for i, tensor in enumerate(ours):
            values = as_ours(GOLDEN[f"{weights}/w/{i}"])
            assert tensor.shape == values.shape
            tensor.copy_(values)
    images = torch.from_numpy(np.ascontiguousarray(GOLDEN[f"{case}/x"].astype(np.float32).transpose(0, 3, 1, 2)))
    return encoder, images


@pytest.mark.parametrize("case", CASES)
def test_in_evaluation_features_and_maps_are_the_authors(case: str) -> None:
    encoder, images = authors_case(case)
    maps: list[Tensor] = []
    for place in (encoder.maxpool, *(group[-1] for group in groups_of(encoder))):
        place.register_forward_hook(lambda _module, _inputs, output: maps.append(output.clone()))
    with torch.no_grad():
        features = encoder.eval()(images)
    assert error(features, GOLDEN[f"{case}/eval_out"]) < 2e-5
    for ours, name in zip(maps, ["stem_out", "group1", "group2", "group3", "group4"], strict=True):
        batch, height, width, channels = GOLDEN[f"{case}/eval_{name}_shape"]
        assert ours.shape == (batch, channels, height, width), name
        assert error(ours.mean(dim=(2, 3)), GOLDEN[f"{case}/eval_{name}_mean"]) < 2e-5, name
    with torch.no_grad():
        assert error(encoder.features_and_maps(images)[0], GOLDEN[f"{case}/eval_out"]) < 2e-5


@pytest.mark.parametrize("case", CASES)
def test_in_training_features_gradients_and_running_statistics_are_the_authors(case: str) -> None:
    encoder, images = authors_case(case)
    features = encoder.train()(images)
    loss = (features * torch.linspace(-1, 1, features.shape[1])).sum()
    loss.backward()
    deep = not case.startswith("r18")
    assert error(features, GOLDEN[f"{case}/train_out"]) < (3e-3 if deep else 5e-5)
    assert loss.item() == pytest.approx(float(GOLDEN[f"{case}/train_loss"]), abs=1e-2 if deep else 2e-4)
    names = names_in(f"{case}/names")
    for i, (name, tensor) in enumerate(zip(names, variables(encoder, names), strict=True)):
        if "moving" in name:
            assert error(tensor, GOLDEN[f"{case}/after/{i}"]) < (3e-4 if deep else 2e-5), name
    trained = variables(encoder, names_in(f"{case}/trainable_names"))
    assert {id(tensor) for tensor in trained} == {id(parameter) for parameter in encoder.parameters()}
    norms, expected = np.array([t.grad.norm().item() for t in trained]), GOLDEN[f"{case}/grad_norms"]
    if deep:
        # Pixels changed by one part in a million turn some ReLU of so narrow a net over, here and in the original:
        # that moves a single norm by up to 18 %, half of them by less than 1.2 %.
        assert np.median(np.abs(norms / expected - 1)) < 0.03
        assert np.linalg.norm(norms - expected) / np.linalg.norm(expected) < 0.03
    else:
        np.testing.assert_allclose(norms, expected, rtol=2e-4)


def torchvision_resnet(depth: int) -> nn.Module:
    """Every scale, offset and running statistic away from its start, so that a mix-up shows."""
    torch.manual_seed(0)
    model = getattr(torchvision.models, f"resnet{depth}")(weights=None)
    model.fc = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.copy_(0.5 + torch.rand(tensor.shape))
    return model


def encoder_with(weights: dict[str, Tensor], depth: int) -> ResNet:
    with torch.device("meta"):  # no time for initial weights that nobody reads
        encoder = ResNet(depth)
    encoder.load_state_dict({key: value.clone() for key, value in weights.items()}, strict=True, assign=True)
    return encoder


@pytest.mark.parametrize("depth", [18, 34, 50])
def test_names_features_and_training_are_torchvisions(depth: int) -> None:
    theirs = torchvision_resnet(depth)
    ours = encoder_with(theirs.state_dict(), depth)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    images = torch.rand(3, 3, 40, 45)
    with torch.no_grad():
        assert error(ours.eval()(images), theirs.eval()(images).numpy()) < 1e-4
        assert error(ours.train()(images), theirs.train()(images).numpy()) < 1e-4
    after = theirs.state_dict()
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, after[key], rtol=1e-4, atol=1e-4)


def test_timms_resnet50_takes_the_weights_and_gives_the_features() -> None:
    ours = encoder_with(torchvision_resnet(50).state_dict(), 50).eval()
    with torch.device("meta"):
        theirs = timm.create_model("resnet50", num_classes=0).eval()
    theirs.load_state_dict(ours.state_dict(), strict=True, assign=True)
    images = torch.rand(2, 3, 40, 45)
    with torch.no_grad():
        assert error(ours(images), theirs(images).numpy()) < 1e-4


@pytest.mark.parametrize(
    "depth, flavor, extras", [(18, "torchvision", {}), (50, "reference", {}), (50, "reference", SK)]
)
def test_kernels_start_with_variance_one_over_fan_in_cut_at_two_deviations(
    depth: int, flavor: str, extras: dict[str, object]
) -> None:
    torch.manual_seed(0)
    units = []
    for module in ResNet(depth, 0.25, flavor=flavor, **extras).modules():
        if isinstance(module, nn.Conv2d):
            assert module.bias is None
            units.append(module.weight.detach().flatten() * module.weight[0].numel() ** 0.5)
            # four standard errors of the deviation of so many normal numbers
            assert units[-1].std().item() == pytest.approx(1, abs=4 / (2 * len(units[-1])) ** 0.5)
    together = torch.cat(units)
    bound = 2 / 0.87962566  # two deviations of the normal before it was cut
    assert together.std().item() == pytest.approx(1, abs=3e-3)
    assert together.mean().item() == pytest.approx(0, abs=5e-3)
    assert 0.99 * bound < together.abs().max().item() <= bound * (1 + 1e-5)
    # P(|x| > 1 deviation) of a normal cut at two
    assert (together.abs() > bound / 2).float().mean().item() == pytest.approx(0.28473, abs=3e-3)


@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("flavor", ["torchvision", "reference"])
def test_the_last_norm_of_every_block_starts_at_zero_and_all_others_at_one(depth: int, flavor: str) -> None:
    encoder = ResNet(depth, 1 / 16, flavor=flavor)
    zeros = {id(last_norm(block)) for block in blocks_of(encoder)}
    assert len(zeros) == sum(BLOCKS[depth][0])
    norms = [module for module in encoder.modules() if isinstance(module, NORMS)]
    for norm in norms:
        assert torch.equal(norm.weight, torch.full_like(norm.weight, 0.0 if id(norm) in zeros else 1.0))
        assert torch.equal(norm.bias, torch.zeros_like(norm.bias))
        assert (norm.eps, norm.momentum) == (1e-5, 0.1)
    assert {type(norm) for norm in norms} == {GlobalBatchNorm2d if flavor == "reference" else nn.BatchNorm2d}
