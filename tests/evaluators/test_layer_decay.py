"""Layers further from the classifier learn more slowly in fine-tuning."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
import timm
import timm.optim
import torch
from torch import nn

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.datasets import TRAIN, open_images
from simclr_plus.datasets.transfer_sets import LabelledSet
from simclr_plus.encoders import ResNet
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.errors import EnvironmentNotAbleError, RecipeError
from simclr_plus.evaluators.classifier import Classifier, Steps, build_optimizer, train_classifier
from simclr_plus.evaluators.fine_tuning import Protocol, evaluate_grid, grid
from simclr_plus.evaluators.layer_decay import layer_factors
from simclr_plus.evaluators.linear import evaluate_linear
from simclr_plus.evaluators.subjects import Subject
from simclr_plus.recipe.keys import Data
from simclr_plus.weights.encoder_files import save_encoder

# of the last three timm names a layer before the classifier that is in none of its layers: it learns as the classifier
BESIDE_LAYERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("test_vit_relpos", "hardcorenas_a")]


@pytest.mark.parametrize(
    "name", ["test_vit", "test_convnext", "test_efficientnet", "test_resnet", "lcnet_050", *BESIDE_LAYERS]
)
def test_factors_are_those_of_timm_for_a_network_with_its_classifier(name: str) -> None:
    encoder = ForeignEncoder(f"timm:{name}", image_size=64)
    factors = layer_factors(encoder, 0.5)
    size = {"img_size": 64} if "vit" in name else {}
    whole = timm.create_model(name, num_classes=7, **size)
    names = {id(p): key for key, p in whole.named_parameters()}
    groups = timm.optim.param_groups_layer_decay(whole, weight_decay=0.0, layer_decay=0.5)
    theirs = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    ours = {key: factors[id(p)] for key, p in encoder.network.named_parameters()}
    assert ours == {key: theirs[key] for key in ours}
    assert len(set(ours.values())) > 3


def test_the_network_of_a_patch_has_its_layers() -> None:
    inside = ResNet(18, 0.125)
    assert layer_factors(PatchEncoder(inside, 16, 8), 0.5) == layer_factors(inside, 0.5)


def test_blocks_of_our_resnets_are_layers() -> None:
    encoder = ResNet(18, 0.125)
    factors = layer_factors(encoder, 0.5)
    of = {name: factors[id(p)] for name, p in encoder.named_parameters()}
    assert of["layer4.1.conv2.weight"] == 0.5 and of["layer4.0.downsample.0.weight"] == 0.25
    assert of["layer1.0.conv1.weight"] == 0.5**8 and of["conv1.weight"] == of["bn1.bias"] == 0.5**9


@pytest.mark.parametrize("optimizer", ["nesterov", "lars", "adamw"])
def test_the_optimizer_takes_them_and_leaves_the_classifier_its_rate(optimizer: str) -> None:
    model = Classifier(ForeignEncoder("timm:test_vit", image_size=64), 3, size=64)
    groups = build_optimizer(model, optimizer, weight_decay=0.1, layer_decay=0.5).param_groups
    of = {id(p): group for group in groups for p in group["params"]}
    assert len(of) == len(list(model.parameters()))
    network = model.encoder.network
    assert isinstance(network, nn.Module)
    weights = dict(network.named_parameters())
    factors = layer_factors(model.encoder, 0.5)
    for parameter in weights.values():
        assert of[id(parameter)]["rate_factor"] == factors[id(parameter)]
    assert of[id(model.linear.weight)].get("rate_factor", 1.0) == 1.0
    assert of[id(weights["pos_embed"])]["weight_decay"] == 0 == of[id(weights["cls_token"])]["weight_decay"]
    assert of[id(weights["blocks.0.attn.qkv.weight"])]["weight_decay"] == 0.1


def test_without_it_the_groups_are_what_they_were() -> None:
    model = Classifier(ResNet(18, 0.125, stem="cifar"), 3, size=16)
    groups = build_optimizer(model, "nesterov", weight_decay=0.1).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]
    assert "layer_decay" not in Protocol().facts() and Protocol(layer_decay=0.5).facts()["layer_decay"] == 0.5


def test_the_first_step_of_adamw_moves_each_layer_by_its_share_of_the_rate() -> None:
    """It is the rate times the gradient's sign, and the decay (Loshchilov and Hutter 2019)."""
    torch.manual_seed(0)
    model, rate, decay = Classifier(ForeignEncoder("timm:test_vit", image_size=16), 10, size=16), 1e-3, 0.05
    nn.init.normal_(model.linear.weight)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, "adamw", weight_decay=decay, layer_decay=0.5)
    images = open_images(Data(), TRAIN).first(40)
    train_classifier(model, optimizer, images, simclr_law(16), Steps(40, 1, rate), device=torch.device("cpu"))
    depth = len(model.encoder.network.blocks)  # type: ignore[union-attr, arg-type]
    shares = {"linear.weight": 1.0, "encoder.network.patch_embed.proj.weight": 0.5 ** (depth + 1)}
    shares |= {f"encoder.network.blocks.{i}.mlp.fc1.weight": 0.5 ** (depth - i) for i in range(depth)}
    for name, share in shares.items():
        moved = model.get_parameter(name).detach() - before[name] * (1 - rate * share * decay)
        assert float(moved.abs().max()) == pytest.approx(rate * share, rel=1e-3), name


def test_the_grid_of_adamw_has_rates_of_its_own_and_other_layers_are_other_cells(tmp_path: Path) -> None:
    cells = grid("paper", adamw=True)
    assert len({(c.rate, c.weight_decay) for c in cells}) == 14 and {c.weight_decay for c in cells} == {0.0, 0.05}
    assert not any(c.decay_over_rate for c in cells) and {c.optimizer for c in cells} == {"adamw"}
    assert (min(c.rate for c in cells), max(c.rate for c in cells)) == (pytest.approx(1e-5), pytest.approx(1e-3))
    assert [c.weight_decay for c in grid("small", adamw=True)] == [0.05] * 3
    images = open_images(Data(), TRAIN)
    parts = [images.subset(np.arange(start, start + 40)) for start in (0, 40, 80)]
    data = LabelledSet("fashion", *parts)
    subject = Subject("encoder", ForeignEncoder("timm:test_vit", image_size=16).eval(), simclr_law(16))
    for layer_decay in (1.0, 0.5, 0.5):
        cell = replace(grid("small", adamw=True)[0], steps=2, batch_size=20, layer_decay=layer_decay)
        outcome = evaluate_grid(subject, data, [cell], tmp_path, device=torch.device("cpu"))
        assert outcome is not None and outcome.numbers["layer_decay"] == layer_decay
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.slow
def test_finetune_takes_an_update_rule_in_place_of_its_own(
    tmp_path: Path, photos: Path, simclr_plus: Callable[..., CompletedProcess[str]]
) -> None:
    save_encoder(ResNet(18, 0.125, stem="cifar"), tmp_path / "e.safetensors", {"image_size": "16"})
    words = ["evaluate", "finetune", "e.safetensors", "--data", photos, "--grid", "small", "--steps", "2"]
    words += ["--batch-size", "8", "--json"]
    found = {}
    for name, options in {
        "own": [],
        "other": ["--optimizer", "adamw", "--weight-decay", "0", "--layer-decay", "0.5"],
        "decay": ["--weight-decay", "0.001"],
    }.items():
        done = simclr_plus(*words, *options, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        (found[name],) = json.loads(done.stdout)["results"]
    assert len({result["key"] for result in found.values()}) == len({result["file"] for result in found.values()}) == 3
    assert [found[name]["results"]["encoder"]["cells"] for name in found] == [6, 3, 3]
    numbers = found["other"]["results"]["encoder"]
    assert (numbers["optimizer"], numbers["weight_decay"], numbers["layer_decay"]) == ("adamw", 0, 0.5)
    assert found["own"]["settings"] == {"grid": "small", "seed": 0, "steps": 2, "batch_size": 8}
    for wrong in (["--optimizer", "adam"], ["--layer-decay", "1.5"]):
        refused = simclr_plus(*words, *wrong, cwd=tmp_path)
        assert refused.returncode not in (0, 1) and wrong[0] in refused.stderr


@pytest.mark.parametrize(("decay", "words"), [(0.0, "more than 0"), (1.5, "at most 1"), (0.5, "does not say")])
def test_what_cannot_be_is_refused(decay: float, words: str) -> None:
    encoder = ForeignEncoder("torchvision:shufflenet_v2_x0_5", image_size=64)
    with pytest.raises(RecipeError, match=words):
        layer_factors(encoder, decay)
    assert layer_factors(encoder, 1.0) == {}


def test_it_says_that_it_needs_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.models", None)
    with pytest.raises(EnvironmentNotAbleError, match=r"simclr-plus\[timm\]"):
        layer_factors(ResNet(18, 0.125), 0.5)


@pytest.mark.slow
def test_the_command_fine_tunes_with_adamw_and_layer_decay(
    tmp_path: Path, simclr_plus: Callable[..., CompletedProcess[str]]
) -> None:
    torch.manual_seed(0)
    encoder = ForeignEncoder("timm:test_vit", image_size=32)
    save_encoder(encoder, tmp_path / "e.safetensors", {"image_size": "32"})
    words = ["evaluate", "few-labels", "e.safetensors", "--data", "places", "--share", "0.05", "--epochs", "2"]
    options = [
        "--optimizer",
        "adamw",
        "--weight-decay",
        "0.05",
        "--layer-decay",
        "0.75",
        "--batch-size",
        "64",
        "--json",
    ]
    result = simclr_plus(*words, *options, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (outcome,) = json.loads(result.stdout)["results"]
    settings = outcome["results"]["encoder"]
    told = (settings["optimizer"], settings["rate"], settings["weight_decay"], settings["layer_decay"])
    assert told == ("adamw", 5e-4, 0.05, 0.75)


def test_linear_evaluation_keeps_to_its_two_rules() -> None:
    images = open_images(Data(), TRAIN).first(20)
    subject = Subject("encoder", ResNet(18, 0.125, stem="cifar").eval(), simclr_law(16))
    with pytest.raises(RecipeError, match="adamw"):
        evaluate_linear(subject, images, images, device=torch.device("cpu"), optimizer="adamw")
