"""Networks by name: what is left of torchvision's classifiers, what is called and what is not, wrong names."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

import own_networks
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.libraries import library_of, without_classifier
from simclr_plus.errors import EnvironmentNotAbleError, NotFoundError, RecipeError


def before_the_last_layer(classifier: nn.Module, images: Tensor) -> Tensor:
    """What the last layer with weights is given in a whole classifier, as a mean over places where it has any."""
    last = [m for m in classifier.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    seen: list[Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        classifier(images)
    hook.remove()
    return seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]


SMALL = {
    "vit": lambda: VisionTransformer(32, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=32, dropout=0.1),
    "swin": lambda: models.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4]),
    "vgg": lambda: models.VGG(nn.Sequential(nn.Conv2d(3, 512, 32)), num_classes=10, init_weights=False),
    "resnet": lambda: models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]),
    "mobilenet_v2": lambda: models.MobileNetV2(width_mult=0.1),
    "googlenet": lambda: models.GoogLeNet(aux_logits=False, init_weights=False),
    "convnext": lambda: models.ConvNeXt(
        [models.convnext.CNBlockConfig(*block) for block in ((8, 16, 1), (16, None, 1))]
    ),
    "squeezenet": lambda: models.squeezenet1_1(),
    "densenet": lambda: models.DenseNet(8, (1, 1), 16),
    "shufflenet": lambda: models.ShuffleNetV2([1, 1, 1], [8, 8, 16, 16, 32]),
}


@pytest.mark.parametrize("family", SMALL)
def test_a_classifier_without_its_last_layer_gives_what_that_layer_is_given(family: str) -> None:
    torch.manual_seed(0)
    side = 32 if family == "vit" else 64
    network, images = SMALL[family]().eval(), torch.rand(2, 3, side, side)
    names = set(network.state_dict())
    expected = before_the_last_layer(network, images)
    features = without_classifier(network)(images)
    assert torch.allclose(features.flatten(1), expected, atol=1e-6) and features.shape[0] == 2
    assert set(network.state_dict()) < names


@pytest.mark.parametrize("family", ["googlenet", "mobilenet_v2", "squeezenet"])
def test_no_dropout_stands_between_the_features_and_the_head(family: str) -> None:
    """In training too: h is what the head sees."""
    torch.manual_seed(0)
    network = without_classifier(SMALL[family]()).train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network(images), network(images))


def test_a_network_of_another_form_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5))
    assert without_classifier(network) is network and len(network.state_dict()) == 4


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm:test_convnex", "test_convnext"),
        ("timm:resnet_50", "resnet50"),
        ("timm:zzzz", "list_models"),
        ("torchvision:resnet5", "resnet50"),
        ("torchvision:fcn_resnet50", "resnet50"),  # one for segmentation
        ("torchvision:zzzz", "list_models"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_those_near_it(name: str, near: str) -> None:
    with pytest.raises(NotFoundError) as refusal:
        ForeignEncoder(name)
    assert name.partition(":")[2] in str(refusal.value) and near in str(refusal.value)


def test_what_does_not_say_that_it_gives_a_network_is_never_called(tmp_path: Path) -> None:
    """A name may stand in the header of a file from anywhere."""
    own_networks.CALLED.clear()
    for name, options in {
        "python:os:system": {"command": f"touch {tmp_path / 'called'}"},
        "python:pathlib:Path.touch": {},
        "python:pathlib:Path": {},
        "python:functools:partial": {"func": print},
        "python:own_networks:says_nothing": {},
        "python:own_networks:says_a_path": {},
        "python:own_networks:CALLED": {},
        "python:own_networks:torch": {},
    }.items():
        with pytest.raises((RecipeError, NotFoundError)) as refusal:
            library, rest = library_of(name)
            library.create(rest, options, 32)
        assert name in str(refusal.value)
    assert not own_networks.CALLED and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["raise KeyError('x')", "import sys; sys.exit(3)", "def f(:", "import not_there_at_all"]
)
def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (tmp_path / "module_that_fails.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in (
        "python:module_that_fails:f",
        "python:.relative:f",
        "python:nowhere.to.be:f",
        "python:own_networks:none",
    ):
        with pytest.raises(NotFoundError) as refusal:
            ForeignEncoder(name)
        assert name in str(refusal.value) and "\n" not in str(refusal.value)
    sys.modules.pop("module_that_fails", None)


def test_networks_of_timm_without_timm_are_answered_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(EnvironmentNotAbleError, match="pip install"):
        library_of("timm:test_vit")[0].create("test_vit", {}, 32)


def test_nothing_is_fetched_to_build_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with published weights too, and by a name with the tag of some."""

    def refused(*_: Any) -> None:
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    for name, rest in (("timm:", "test_vit.r160_in1k"), ("timm:", "test_resnet"), ("torchvision:", "squeezenet1_1")):
        library_of(name)[0].create(rest, {}, 64)


def test_the_image_size_goes_to_networks_that_are_built_for_one() -> None:
    """Where options speak of it, they say it."""
    for name, options, key in (
        ("timm:test_vit", {}, "img_size"),
        ("timm:test_vit", {"img_size": 96}, ""),
        ("timm:test_vit", {"dynamic_img_size": True}, ""),
        ("timm:test_convnext", {}, ""),
        ("torchvision:vit_b_16", {}, "image_size"),
        ("torchvision:maxvit_t", {}, "input_size"),
        ("torchvision:swin_t", {}, ""),
        ("python:own_networks:OfOneSize", {}, "image_size"),
        ("python:own_networks:OfOneSize", {"image_size": 8}, ""),
        ("python:own_networks:Plain", {}, ""),
    ):
        library, rest = library_of(name)
        assert library.size_option(rest, options) == key, name
    library, rest = library_of("python:own_networks:OfOneSize")
    assert library.create(rest, {"width": 4}, 20).positions.shape[-1] == 20
