"""The encoder against the authors' network, torchvision's and timm's, and its closed forms against the modules."""

import copy
import json
import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
import torchvision
from parameters import pairs_quick
from places import GOLDEN_FOLDER
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from simclr_plus.encoders import ResNet
from simclr_plus.encoders.architecture import BLOCKS, SK_RATIO, Architecture
from simclr_plus.global_batch_norm import GlobalBatchNorm2d

GOLDEN = {
    key: value
    for name in ("resnet", "resnet_sk")
    for key, value in np.load(GOLDEN_FOLDER / f"{name}.npz").items()
    if key != "cases"
}
CASES = [key.removesuffix("/meta") for key in GOLDEN if key.endswith("/meta")]
SK, SE = {"selective_kernels": True}, {"se_ratio": 0.25}
FLAVORS = ["torchvision", "reference"]
NORMS = (nn.BatchNorm2d, GlobalBatchNorm2d)


def groups_of(encoder: ResNet) -> list[nn.Sequential]:
    return [encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4]


def blocks_of(encoder: ResNet) -> list[nn.Module]:
    return [block for group in groups_of(encoder) for block in group]


def last_norm(block: nn.Module) -> nn.Module:
    return block.bn3 if hasattr(block, "bn3") else block.bn2


def error(got: Tensor, expected: np.ndarray) -> float:
    """The largest difference against the largest number."""
    assert got.shape == expected.shape
    return float(np.abs(got.detach().numpy() - expected).max() / np.abs(expected).max())


# the authors' network


def layers_in_creation_order(encoder: ResNet) -> Iterator[nn.Module]:
    """Convolutions and batch norms as the authors' code makes them: in a block, the shortcut first."""
    yield from encoder.conv1.modules()
    yield encoder.bn1
    for block in blocks_of(encoder):
        if block.downsample is not None:
            yield from block.downsample
        for i in (1, 2, 3):
            if hasattr(block, f"conv{i}"):
                yield from (getattr(block, f"conv{i}"), getattr(block, f"bn{i}"))
            if i == 2 and hasattr(block, "sk"):
                yield from block.sk.children()
        yield from block.se.children()


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


# torchvision's and timm's networks


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


# the start


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


# the closed forms


@pytest.mark.parametrize(
    ("depth", "width", "stem", "flavor", "extras"),
    pairs_quick(list(BLOCKS), [1 / 16, 1, 3], ["imagenet", "cifar"], FLAVORS, [{}, SK, SE, SK | SE]),
)
def test_the_closed_form_counts_the_parameters(
    depth: int, width: float, stem: str, flavor: str, extras: dict[str, object]
) -> None:
    with torch.device("meta"):  # shapes without numbers
        encoder = ResNet(depth, width, stem=stem, flavor=flavor, **extras)
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert encoder.architecture.parameter_count() == count
    assert encoder.architecture.feature_dim == encoder.feature_dim == int((2048 if depth >= 50 else 512) * width)


@pytest.mark.parametrize("width, count", [(1, 23_508_032), (4, 375_378_176)])
def test_resnet_50_has_the_papers_parameters(width: int, count: int) -> None:
    for flavor in ("torchvision", "reference"):
        assert Architecture(50, width, flavor=flavor).parameter_count() == count
    assert round(count / 1e6) == {1: 24, 4: 375}[width]  # paper, table 6


@pytest.mark.parametrize(
    "depth, width, millions, selective_millions",
    [
        (50, 1, 24, 35),
        (50, 2, 94, 140),
        (101, 1, 43, 65),
        (101, 2, 170, 257),
        (152, 1, 58, 89),
        (152, 2, 233, 354),
        (152, 3, None, 795),
    ],
)
def test_the_networks_of_v2_have_the_sizes_of_its_table(
    depth: int, width: int, millions: int | None, selective_millions: int
) -> None:
    """The table of the authors' README counts running statistics too: without them 152 (2x) is 232, with SK 353."""
    for selective, expected in ((False, millions), (True, selective_millions)):
        architecture = Architecture(depth, width, selective_kernels=selective)
        running = sum(2 * c.width_out for c in architecture.convolutions(32) if c.norm)
        assert expected in (round((architecture.parameter_count() + running) / 1e6), None)


@pytest.mark.parametrize(
    ("extras", "flavor", "stem", "depth_and_side"),
    pairs_quick([{}, SK, SE], FLAVORS, ["imagenet", "cifar"], [(18, 32), (18, 33), (50, 50)]),
)
def test_the_closed_forms_follow_the_maps_of_a_forward_pass(
    extras: dict[str, object], flavor: str, stem: str, depth_and_side: tuple[int, int]
) -> None:
    depth, side = depth_and_side
    encoder = ResNet(depth, 1 / 16, stem=stem, flavor=flavor, **extras)
    convolutions, block_inputs, made = [], [], [0]

    def enter(_block: nn.Module, inputs: tuple[Tensor]) -> None:
        block_inputs.append(inputs[0])
        made.append(0)

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        made[-1] += output.numel()
        if isinstance(module, nn.Conv2d):
            (width_in, side_in), (width_out, side_out) = inputs[0].shape[1:3], output.shape[1:3]
            if id(module) in shortcuts:
                side_in = block_inputs[-1].shape[-1]  # before the pool of ResNet-D
            place = (width_in, width_out, side_in, side_out, len(made) - 1)
            convolutions.append((module.kernel_size[0], *place, id(module) in normed, module.bias is not None))

    layers = [layer for layer in layers_in_creation_order(encoder) if isinstance(layer, (nn.Conv2d, *NORMS))]
    normed = {id(layer) for layer, after in pairwise(layers) if isinstance(after, NORMS)}
    shortcuts = set()
    for block in blocks_of(encoder):
        shortcuts |= {id(module) for module in block.downsample or []}
        block.register_forward_pre_hook(enter)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | GlobalBatchNorm2d):
            module.register_forward_hook(note)
    images = torch.rand(1, 3, side, side)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        maps = list(encoder.eval().maps(images).values())
    shapes = [(x.shape[1], x.shape[2]) for x in maps]
    assert [encoder.architecture.map_shape(stage, side) for stage in (1, 2, 3, 4)] == shapes
    assert 2 * encoder.architecture.multiply_add_count(side) == sum(
        flops for kind, flops in counter.get_flop_counts()["Global"].items() if "conv" in f"{kind}"
    )
    assert [tuple(convolution) for convolution in encoder.architecture.convolutions(side)] == convolutions
    assert encoder.architecture.activation_count(side) == sum(made)
    left = images.numel() + made[0] + sum(x.numel() for x in block_inputs) + max(made[1:])
    assert encoder.architecture.activation_count(side, recompute_blocks=True) == left


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"depth": 42}, "depth = 42"),
        ({"stem": "patch"}, "stem = 'patch'"),
        ({"flavor": "vanilla"}, "flavor = 'vanilla'"),
        ({"width": 1 / 128}, "width = 0.0078125"),
        ({"width": 1 / 64, "selective_kernels": True}, "width = 0.015625"),
        ({"se_ratio": 2.0}, "se_ratio = 2.0"),
    ],
)
def test_an_unknown_architecture_is_refused_by_key_and_value(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        ResNet(**wrong)


# memory for time


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
