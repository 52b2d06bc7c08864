"""Files with the key layout of each trainer give the features of the network that was in them."""

from __future__ import annotations

import argparse
import builtins
import copy
import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from lightly.models import ResNetGenerator
from safetensors.torch import save_file
from torch import Tensor, nn

from simclr_plus.encoders import ResNet
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.importers import import_pytorch
from simclr_plus.importers.trainers import NO_MEAN, NO_STD, read_tensors
from simclr_plus.weights.encoder_files import load_encoder, save_encoder
from simclr_plus.weights.head_files import load_head
from simclr_plus.weights.tensor_files import read_header

Weights = dict[str, Tensor]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def lived_in(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every scale, offset and running statistic with a value of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.ndim == 1 and tensor.is_floating_point():
            low = 0.5 if name.endswith(("running_var", "weight")) else -0.2
            tensor.copy_(low + torch.rand(tensor.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return lived_in(torchvision.models.resnet18(num_classes=10))


def put(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def without_fc(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}


def other(weights: Weights) -> Weights:
    """A copy that is not to be taken: a momentum encoder, a student."""
    return {name: tensor + 1 for name, tensor in weights.items()}


def as_sequential(weights: Weights) -> Weights:
    """As `nn.Sequential(*list(resnet.children())[:-1])` calls them."""
    places = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    split = [name.partition(".") for name in without_fc(weights)]
    return {f"{places.index(part)}.{rest}": weights[f"{part}.{rest}"] for part, _, rest in split}


LIGHTNING: dict[str, Any] = {"epoch": 3, "global_step": 9, "pytorch-lightning_version": "2.1", "optimizer_states": [{}]}
PROJECTOR = {"0.weight": torch.ones(4, 512), "0.bias": torch.ones(4)}


def lightly(w: Weights) -> Any:
    state = put(as_sequential(w), "backbone.") | put(other(as_sequential(w)), "backbone_momentum.")
    return LIGHTNING | {"state_dict": OrderedDict(state | put(PROJECTOR, "projection_head.layers."))}


def moco(w: Weights) -> Any:
    mlp = put(PROJECTOR, "fc.")
    state = put(without_fc(w) | mlp, "module.encoder_q.") | put(other(without_fc(w) | mlp), "module.encoder_k.")
    queue = {"module.queue": torch.zeros(4, 8), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    momenta = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": []}
    return {"epoch": 200, "arch": "resnet18", "state_dict": OrderedDict(state | queue), "optimizer": momenta}


def moco_v3(w: Weights) -> Any:
    state = put(without_fc(w), "module.base_encoder.") | put(other(without_fc(w)), "module.momentum_encoder.")
    return {"arch": "resnet18", "state_dict": state}


def vissl(w: Weights) -> Any:
    model = {"trunk": put(without_fc(w), "_feature_blocks."), "heads": put(PROJECTOR, "0.clf.")}
    return {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": model, "meta": {}}}, "optimizer": {}}


def dino(w: Weights) -> Any:
    student = put(other(without_fc(w)), "module.backbone.")
    return {"student": student, "teacher": put(without_fc(w), "backbone."), "args": argparse.Namespace(arch="resnet18")}


def barlow_twins(w: Weights) -> Any:
    return {"epoch": 1, "model": put(without_fc(w), "module.backbone.") | put(PROJECTOR, "module.projector.")}


TRAINERS: dict[str, tuple[Callable[[Weights], Any], str]] = {
    "torchvision": (lambda w: OrderedDict(w), ""),
    "DDP": (lambda w: {"state_dict": put(w, "module."), "best_acc1": np.float64(3)}, "state_dict.module."),
    "torch.compile": (lambda w: put(w, "_orig_mod."), "_orig_mod."),
    "Lightly": (lightly, "state_dict.backbone."),
    "MoCo": (moco, "state_dict.module.encoder_q."),
    "MoCo v3": (moco_v3, "state_dict.module.base_encoder."),
    "VISSL": (vissl, "classy_state_dict.base_model.model.trunk._feature_blocks."),
    "DINO": (dino, "teacher.backbone."),
    "Barlow Twins": (barlow_twins, "model.module.backbone."),
}


@pytest.mark.parametrize(
    ("trainer", "zipped"),
    [*((trainer, True) for trainer in TRAINERS), pytest.param("MoCo", False, marks=pytest.mark.slow)],
)
@torch.no_grad()
def test_a_trainers_file_gives_its_networks_features(
    tmp_path: Path, resnet18: nn.Module, trainer: str, zipped: bool
) -> None:
    layout, prefix = TRAINERS[trainer]
    torch.save(layout(resnet18.state_dict()), tmp_path / "x.ckpt", _use_new_zipfile_serialization=zipped)
    imported = import_pytorch(tmp_path / "x.ckpt", tmp_path / "e.safetensors")
    images = torch.rand(2, 3, 64, 64)
    network = copy.deepcopy(resnet18)
    network.fc = nn.Identity()
    expected = network((images - MEAN) / STD)
    encoder = load_encoder(imported.encoder)
    torch.testing.assert_close(encoder(images), expected, rtol=1e-5, atol=1e-5)
    assert f"names under {prefix!r}" in read_header(imported.encoder)["imported_from"]
    assert (
        encoder.architecture.mean == (0.485, 0.456, 0.406)
        and "itself applies" in read_header(imported.encoder)["input"]
    )
    has_classifier = trainer in ("torchvision", "DDP", "torch.compile")
    assert ("linear" in imported.heads) == has_classifier
    if has_classifier:
        logits = load_head(imported.heads["linear"], "linear")(encoder(images))
        torch.testing.assert_close(logits, resnet18((images - MEAN) / STD), rtol=1e-4, atol=1e-5)
        assert imported.left_out == ()


def test_what_has_no_place_is_listed_by_name(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(moco(resnet18.state_dict()), tmp_path / "moco.pth")
    left_out = import_pytorch(tmp_path / "moco.pth", tmp_path / "e.safetensors").left_out
    assert {"state_dict.module.queue", "state_dict.module.encoder_q.fc.0.weight"} <= set(left_out)
    assert "state_dict.module.encoder_k.conv1.weight" in left_out
    assert not any("encoder_q.layer" in name or "optimizer" in name for name in left_out)


@torch.no_grad()
def test_a_safetensors_file_of_timm_comes_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = lived_in(timm.create_model("resnet50", num_classes=5))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    imported = import_pytorch(tmp_path / "model.safetensors", tmp_path / "e.safetensors", mean=NO_MEAN, std=NO_STD)
    images = torch.rand(2, 3, 64, 64)
    h = load_encoder(imported.encoder)(images)
    torch.testing.assert_close(
        h, theirs.forward_head(theirs.forward_features(images), pre_logits=True), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(load_head(imported.heads["linear"], "linear")(h), theirs(images), rtol=1e-4, atol=1e-4)
    assert "no mean" in read_header(imported.encoder)["input"]


@torch.no_grad()
def test_squeeze_excitation_of_timm_comes_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = lived_in(timm.create_model("seresnet50", num_classes=0))
    torch.save(theirs.state_dict(), tmp_path / "se.pth")
    encoder = load_encoder(
        import_pytorch(tmp_path / "se.pth", tmp_path / "e.safetensors", mean=NO_MEAN, std=NO_STD).encoder
    )
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(encoder(images), theirs(images), rtol=1e-4, atol=1e-5)
    assert encoder.architecture.se_ratio == 0.25


@torch.no_grad()
def test_solo_learns_cifar_network_keeps_its_wider_padding(tmp_path: Path, resnet18: nn.Module) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    network = copy.deepcopy(resnet18)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=2, bias=False)
    network.maxpool = network.fc = nn.Identity()
    state = put(network.state_dict(), "backbone.") | put(PROJECTOR, "projector.")
    state |= {"classifier.weight": torch.rand(10, 512), "classifier.bias": torch.rand(10)}
    config = omegaconf.OmegaConf.create({"method": "simclr", "backbone": {"name": "resnet18"}})
    torch.save(LIGHTNING | {"state_dict": state, "hyper_parameters": config}, tmp_path / "solo.ckpt")
    imported = import_pytorch(tmp_path / "solo.ckpt", tmp_path / "e.safetensors")
    images = torch.rand(2, 3, 32, 32)
    encoder = load_encoder(imported.encoder)
    torch.testing.assert_close(encoder(images), network((images - MEAN) / STD), rtol=1e-4, atol=1e-5)
    assert imported.architecture.stem == "cifar_pad2" and "solo-learn" in imported.notes[0]
    assert torch.equal(load_head(imported.heads["linear"], "linear").weight, state["classifier.weight"])
    assert [c.side_out for c in imported.architecture.convolutions(32)][:2] == [34, 34]
    usual = import_pytorch(tmp_path / "solo.ckpt", tmp_path / "u.safetensors", stem="cifar")
    assert usual.architecture.stem == "cifar" and not [note for note in usual.notes if "solo-learn" in note]


@torch.no_grad()
def test_lightlys_own_resnet_comes_in(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generated = lived_in(ResNetGenerator("resnet-18", width=0.25))
    images = torch.rand(2, 3, 32, 32)
    torch.save(generated.state_dict(), tmp_path / "named.pth")
    imported = import_pytorch(tmp_path / "named.pth", tmp_path / "e.safetensors", mean=NO_MEAN, std=NO_STD)
    assert (imported.architecture.width, imported.architecture.stem) == (0.25, "cifar")
    logits = load_head(imported.heads["linear"], "linear")(load_encoder(imported.encoder)(images))
    torch.testing.assert_close(logits, generated(images), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_sequential_of_it_stays_without_the_relu_that_it_lost(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generated = ResNetGenerator("resnet-18", width=0.25)
    theirs = lived_in(nn.Sequential(*list(generated.children())[:-1], nn.AdaptiveAvgPool2d(1)))  # as Lightly's docs do
    torch.save({"state_dict": put(theirs.state_dict(), "backbone.")}, tmp_path / "lightly.ckpt")
    imported = import_pytorch(tmp_path / "lightly.ckpt", tmp_path / "e.safetensors", mean=NO_MEAN, std=NO_STD)
    assert imported.architecture.stem == "cifar_no_relu" and "ReLU" in imported.notes[0]
    images = torch.rand(2, 3, 32, 32)
    expected = theirs(images).flatten(1)
    torch.testing.assert_close(load_encoder(imported.encoder)(images), expected, rtol=1e-4, atol=1e-5)
    usual = import_pytorch(
        tmp_path / "lightly.ckpt", tmp_path / "u.safetensors", mean=NO_MEAN, std=NO_STD, stem="cifar"
    )
    assert not torch.allclose(load_encoder(usual.encoder)(images), expected, rtol=1e-2)


def test_half_precision_becomes_float32_and_counters_may_be_missing(tmp_path: Path, resnet18: nn.Module) -> None:
    halves = {k: v.half() for k, v in resnet18.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(halves, tmp_path / "half.pth")
    encoder = load_encoder(import_pytorch(tmp_path / "half.pth", tmp_path / "e.safetensors").encoder)
    assert torch.equal(encoder.conv1.weight, halves["conv1.weight"].float())
    assert encoder.bn1.num_batches_tracked == 0


# what is refused


class Runs:
    """A pickle that calls a function when it is opened."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("function", [os.system, builtins.eval, builtins.exec, os.mkdir])
def test_a_malicious_pickle_is_refused_and_nothing_is_run(
    tmp_path: Path, function: Callable[..., Any], zipped: bool
) -> None:
    mark = tmp_path / "mark"
    code = {"system": f"touch {mark}", "mkdir": str(mark)}.get(
        function.__name__, f"__import__('os').mkdir({str(mark)!r})"
    )
    bad = {"state_dict": ResNet(18, 1 / 8).state_dict(), "args": argparse.Namespace(a=Runs(function, code))}
    torch.save(bad, tmp_path / "bad.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        CheckpointError, match=rf"bad\.pth is refused: it asks for [\w.]*{function.__name__},.*nothing was run"
    ):
        import_pytorch(tmp_path / "bad.pth", tmp_path / "e.safetensors")
    assert {p.name for p in tmp_path.iterdir()} == {"bad.pth"}


def test_settings_are_read_as_empty_objects_and_never_built(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "args": argparse.Namespace(x=1), "where": Path("/x")}, tmp_path / "x.pth")
    assert list(read_tensors(tmp_path / "x.pth")) == ["w"]


def test_a_dictionary_that_holds_itself_comes_to_an_end(tmp_path: Path) -> None:
    endless: dict[str, Any] = {"w": torch.ones(2)}
    endless["again"] = endless
    torch.save(endless, tmp_path / "x.pth")
    assert {"w", "again.w"} <= read_tensors(tmp_path / "x.pth").keys()


def test_a_whole_pickled_network_is_refused(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(resnet18, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"asks for torchvision\.models\.resnet\.ResNet.*save its state_dict"):
        import_pytorch(tmp_path / "model.pth", tmp_path / "e.safetensors")


@pytest.mark.parametrize("name", ["x.pth", "x.ckpt", "x.safetensors", "x"])
@pytest.mark.parametrize(
    "content", [b"", b"no weights at all, only words", b"\x89PNG\r\n\x1a\n" + bytes(99), b"\x80\x02K\x01."]
)
def test_a_foreign_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} (is no|holds no)"):
        import_pytorch(tmp_path / name, tmp_path / "e.safetensors")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_file_cut_off_is_refused(tmp_path: Path, resnet18: nn.Module, name: str, share: float) -> None:
    file = tmp_path / name
    if name.endswith("pth"):
        torch.save(resnet18.state_dict(), file)
    else:
        save_file(resnet18.state_dict(), file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(CheckpointError, match=f"{name} is no"):
        import_pytorch(file, tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()


def test_a_file_of_our_own_needs_no_import(tmp_path: Path) -> None:
    save_encoder(ResNet(18, 1 / 8), tmp_path / "ours.safetensors")
    with pytest.raises(CheckpointError, match="is a file of SimCLR\\+ already"):
        import_pytorch(tmp_path / "ours.safetensors", tmp_path / "e.safetensors")


def meta_state(model: Callable[[], nn.Module]) -> Weights:
    """Names and shapes of a large network, without its numbers."""
    with torch.device("meta"):
        state = model().state_dict()
    return {name: torch.zeros(()).expand(tensor.shape) for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda w: {"a": 1}, CheckpointError, "holds no tensors"),
        (lambda w: put(PROJECTOR, "mlp."), CheckpointError, r"holds no ResNet: .* \(mlp\.0\.bias, mlp\.0\.weight"),
        (
            lambda w: {k: v for k, v in w.items() if k != "layer2.0.bn1.bias"},
            CheckpointError,
            r"missing layer2\.0\.bn1\.bias",
        ),
        (
            lambda w: w | {"layer3.1.conv2.bias": torch.ones(256)},
            CheckpointError,
            r"1 unknown.*unknown layer3\.1\.conv2\.bias",
        ),
        (
            lambda w: w | {"layer3.1.bn2.bias": torch.ones(7)},
            CheckpointError,
            r"layer3\.1\.bn2\.bias is \[7\], not \[256\]",
        ),
        (
            lambda w: w | {"layer3.2.conv1.weight": torch.ones(1)},
            CheckpointError,
            r"ResNet with \(2, 2, 3, 2\) basic blocks",
        ),
        (
            lambda w: put(w, "a.") | put(w, "b."),
            RecipeError,
            r"holds 2 encoders \('a\.', 'b\.'\); choose one by its prefix",
        ),
        (lambda w: meta_state(torchvision.models.wide_resnet50_2), CheckpointError, "does not fit ResNet"),
        (lambda w: meta_state(torchvision.models.resnext50_32x4d), CheckpointError, "does not fit ResNet"),
        (lambda w: meta_state(torchvision.models.mobilenet_v2), CheckpointError, "holds no ResNet"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path,
    resnet18: nn.Module,
    change: Callable[[Weights], Any],
    error: type[SimclrPlusError],
    says: str,
) -> None:
    torch.save(change(resnet18.state_dict()), tmp_path / "x.pth")
    with pytest.raises(error, match=says):
        import_pytorch(tmp_path / "x.pth", tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()


def test_a_prefix_chooses_among_several_encoders(tmp_path: Path, resnet18: nn.Module) -> None:
    weights = resnet18.state_dict()
    torch.save(put(weights, "a.") | put(other(weights), "b."), tmp_path / "two.pth")
    for prefix, expected in (("a", weights), ("b.", other(weights))):
        imported = import_pytorch(tmp_path / "two.pth", tmp_path / "e.safetensors", prefix=prefix)
        assert torch.equal(load_encoder(imported.encoder).conv1.weight, expected["conv1.weight"])
    with pytest.raises(RecipeError, match=r"no ResNet under the prefix 'c'; found: 'a\.', 'b\.'"):
        import_pytorch(tmp_path / "two.pth", tmp_path / "e.safetensors", prefix="c")
    with pytest.raises(RecipeError, match=r"stem 'cifar' does not fit .* its first kernel is 7x7"):
        import_pytorch(tmp_path / "two.pth", tmp_path / "e.safetensors", prefix="a", stem="cifar")
    with pytest.raises(NotFoundError, match="no file"):
        import_pytorch(tmp_path / "three.pth", tmp_path / "e.safetensors")


def test_the_header_holds_mean_and_deviation(tmp_path: Path, resnet18: nn.Module) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "x.pth")
    import_pytorch(tmp_path / "x.pth", tmp_path / "e.safetensors", mean=(0.5, 0.25, 0), std=(1, 0.5, 0.25))
    architecture = json.loads(read_header(tmp_path / "e.safetensors")["architecture"])
    assert (architecture["mean"], architecture["std"]) == ([0.5, 0.25, 0], [1, 0.5, 0.25])
    images = torch.rand(1, 3, 8, 8)
    expected = torch.stack([images[:, 0] - 0.5, (images[:, 1] - 0.25) / 0.5, images[:, 2] / 0.25], dim=1)
    assert torch.equal(load_encoder(tmp_path / "e.safetensors").normalize(images), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(tmp_path: Path, resnet18: nn.Module, value: float) -> None:
    state = {name: tensor.clone() for name, tensor in resnet18.state_dict().items()}
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "diverged.pth")
    with pytest.raises(CheckpointError, match=r"not finite.*layer1\.0\.conv1\.weight"):
        import_pytorch(tmp_path / "diverged.pth", tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()
    state["layer1.0.conv1.weight"][0, 0, 0, 0] = 0
    state["fc.bias"][0] = value
    torch.save(state, tmp_path / "head.pth")
    with pytest.raises(CheckpointError, match=r"not finite.*bias"):
        import_pytorch(tmp_path / "head.pth", tmp_path / "e.safetensors")
    assert not (tmp_path / "e.safetensors").exists()
