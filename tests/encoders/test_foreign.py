"""Networks by name as an encoder f: their features are the library's own, and they travel as other encoders do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from launching import in_processes
from own_networks import OfOneSize
from places import TESTS
from safetensors import safe_open
from torch import Tensor, nn
from torchvision import models

from simclr_plus.encoders.build import build
from simclr_plus.encoders.digest import encoder_digest
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.errors import CheckpointError, RecipeError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.model import build_model
from simclr_plus.weights.checkpoints import load_checkpoint, save_checkpoint
from simclr_plus.weights.encoder_files import encoder_to_start_from, load_encoder, save_encoder

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TINY = ["data.limit=64", "augmentation.image_size=32", "head.output_dim=8", "training.batch_size=16"]


def made(name: str, size: int = 32, **changes: Any) -> ForeignEncoder:
    """In eval mode, with statistics and scales that are not those of the start."""
    torch.manual_seed(0)
    encoder = ForeignEncoder(name, image_size=size, **changes)
    with torch.no_grad():
        for key, tensor in encoder.state_dict().items():
            if key.endswith(("running_mean", "gamma")):
                tensor.uniform_(-0.5, 0.5)
            elif key.endswith("running_var"):
                tensor.uniform_(0.5, 2)
    return encoder.eval()


def normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_features_are_timms(name: str) -> None:
    encoder, images = made(f"timm:{name}", mean=MEAN, std=STD), torch.rand(3, 3, 32, 32)
    size = {"img_size": 32} if "vit" in name else {}
    network = timm.create_model(name, num_classes=0, **size).eval()
    network.load_state_dict(encoder.named_weights.state_dict())
    assert torch.allclose(encoder(images), network(normalised(images)), atol=1e-6)
    assert not torch.allclose(encoder(images), network(images), atol=1e-3)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "mobilenet_v3_small",
        "squeezenet1_1",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("convnext_tiny", "efficientnet_b0", "vit_b_16", "swin_t", "regnet_y_400mf", "vgg11")
        ),
    ],
)
def test_features_are_those_that_torchvisions_last_layer_is_given(name: str) -> None:
    encoder, images = made(f"torchvision:{name}", mean=MEAN, std=STD), torch.rand(2, 3, 32, 32)
    classifier = models.get_model(name, weights=None, **({"image_size": 32} if name == "vit_b_16" else {})).eval()
    absent, unknown = classifier.load_state_dict(encoder.named_weights.state_dict(), strict=False)
    last = [(key, m) for key, m in classifier.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    assert not unknown and {key.rpartition(".")[0] for key in absent} == {last[0]}
    seen: list[Tensor] = []
    last[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    classifier(normalised(images))
    expected = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
    assert torch.allclose(encoder(images), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("timm:test_vit", {"mean": MEAN, "std": STD}),
        ("timm:test_efficientnet", {"input": "standardized"}),
        ("timm:test_convnext", {"input": "lightness", "options": {"drop_path_rate": 0.1, "depths": (1, 1, 1, 1)}}),
        ("torchvision:squeezenet1_1", {}),
        ("python:own_networks:OfOneSize", {"options": {"width": 4}}),
    ],
)
def test_an_encoder_travels_in_its_file(tmp_path: Path, name: str, changes: dict[str, Any]) -> None:
    encoder, images, file = made(name, **changes), torch.rand(2, 3, 32, 32), tmp_path / "e.safetensors"
    encoder.train()
    save_encoder(encoder, file)
    loaded = load_encoder(file)
    encoder.eval()
    assert not loaded.training and torch.equal(loaded(images), encoder(images))
    assert loaded.spec == encoder.spec and encoder_digest(loaded) == encoder_digest(encoder)
    again = build(json.loads(json.dumps(encoder.spec)))
    assert again.spec == encoder.spec and again.title == encoder.title
    with safe_open(file, framework="pt") as tensors:
        assert set(tensors.keys()) == set(encoder.network.state_dict())
        said = tensors.metadata()["input"]
    assert ("load_encoder" in said) == encoder.normalizes  # whoever takes the tensors alone normalises for himself


def test_an_encoder_has_one_digest_in_a_checkpoint_and_in_a_file(tmp_path: Path) -> None:
    """Whether or not it was trained with its activation checkpointing."""
    digests = set()
    for keys in ([], ["training.activation_checkpointing=true"]):
        recipe = load_recipe("demo", [*TINY, "encoder.name=timm:test_efficientnet", *keys])
        model = build_model(recipe, 10)
        assert model.encoder.checkpoint_activations == bool(keys)
        checkpoint, file = tmp_path / "step_1.safetensors", tmp_path / "e.safetensors"
        save_checkpoint(checkpoint, model, torch.optim.SGD(model.parameters()), step=1, recipe=recipe)
        save_encoder(model.encoder, file)
        digests |= {encoder_digest(load_encoder(path)) for path in (checkpoint, file)}
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(load_encoder(checkpoint)(images), model.encoder.eval()(images))
    other = made("timm:test_efficientnet")
    assert len(digests) == 1 and encoder_digest(other) not in digests
    assert encoder_digest(made("timm:test_efficientnet", input="standardized")) != encoder_digest(other)
    before = encoder_digest(other)
    other.checkpoint_activations = True
    assert encoder_digest(other) == before


def test_the_networks_own_checkpointing_changes_no_gradient_and_no_statistic() -> None:
    states = []
    for on in (False, True):
        encoder = made("timm:test_efficientnet").double().train()
        encoder.checkpoint_activations = on
        torch.manual_seed(1)
        images = torch.rand(4, 3, 32, 32, dtype=torch.float64)
        h = encoder(images)
        with encoder.during_backward():
            (h**2).sum().backward()  # type: ignore[no-untyped-call]
        gradients = {key: p.grad for key, p in encoder.named_parameters()}
        states.append({**encoder.state_dict(), **{f"{key}.grad": g for key, g in gradients.items()}})
    for key, value in states[0].items():
        assert value is not None and torch.allclose(states[1][key], value, rtol=1e-10, atol=1e-12), key
    with pytest.raises(RecipeError, match=r"torchvision:squeezenet1_1.*checkpointing"):
        made("torchvision:squeezenet1_1").checkpoint_activations = True


def test_a_copy_is_an_encoder_of_its_own() -> None:
    encoder, images = made("timm:test_vit"), torch.rand(2, 3, 32, 32)
    other, before = copy.deepcopy(encoder), encoder(images)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    assert torch.equal(encoder(images), before) and not torch.allclose(other(images), before)


def test_an_encoder_is_built_without_memory_where_that_is_asked_for() -> None:
    with torch.device("meta"):
        encoder = ForeignEncoder("timm:test_vit", image_size=32)
    assert all(p.is_meta for p in encoder.parameters())
    assert encoder(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, encoder.feature_dim)


def test_a_size_that_a_network_was_not_built_for_is_refused_where_it_takes_no_other() -> None:
    fixed, any_size = made("timm:vit_tiny_patch16_224", options={"depth": 1}), made("timm:test_convnext")
    with pytest.raises(RecipeError, match=r"vit_tiny.*32x32.*48x48.*image_size = 48"):
        fixed(torch.rand(1, 3, 48, 48))
    with pytest.raises(RecipeError, match=r"32x32.*32x48"):
        fixed(torch.rand(1, 3, 32, 48))
    with pytest.raises(ValueError, match=r"\(2, 1, 32, 32\)"):
        any_size(torch.rand(2, 1, 32, 32))
    assert any_size(torch.rand(1, 3, 48, 64)).shape == (1, any_size.feature_dim)
    needs_32 = made("torchvision:squeezenet1_1")
    with pytest.raises(RecipeError, match=r"squeezenet1_1.*32x32.*8x8"):
        needs_32(torch.rand(1, 3, 8, 8))


def test_maps_are_refused_where_there_are_none() -> None:
    with pytest.raises(RecipeError, match="squeezenet1_1"):
        made("torchvision:squeezenet1_1").maps(torch.rand(1, 3, 32, 32))
    with pytest.raises(RecipeError, match="squeezenet1_1"):
        made("torchvision:squeezenet1_1").architecture.map_shape(1, 32)


def test_a_run_starts_from_a_file_of_the_same_network_at_another_size(tmp_path: Path) -> None:
    file = tmp_path / "e.safetensors"
    for name in ("timm:test_convnext", "python:own_networks:Plain"):
        encoder = made(name, 48)
        save_encoder(encoder, file)
        recipe = load_recipe("demo", [*TINY, f"encoder.name={name}", f"training.init_from={file}"])
        build_model(recipe, 0).encoder.load_state_dict(encoder_to_start_from(recipe).state_dict())
    other = load_recipe("demo", [*TINY, "encoder.name=timm:test_resnet", f"training.init_from={file}"])
    with pytest.raises(CheckpointError, match="test_resnet"):
        encoder_to_start_from(other)
    for name, options in (("timm:vit_tiny_patch16_224", {"depth": 1}), ("python:own_networks:OfOneSize", {})):
        save_encoder(made(name, 48, options=options), file)
        keys = [f"encoder.name={name}", f"encoder.options={json.dumps(options).replace(':', ' =')}"]
        for size in (32, 48):
            recipe = load_recipe(
                "demo", [*TINY, *keys, f"training.init_from={file}", f"augmentation.image_size={size}"]
            )
            if size == 48:
                encoder_to_start_from(recipe)
                continue
            with pytest.raises(CheckpointError, match=r"48.*32.*encoder\.pretrained"):
                encoder_to_start_from(recipe)


def test_a_network_of_ones_own_is_built_for_the_recipes_size() -> None:
    encoder = made("python:own_networks:OfOneSize", 20)
    assert isinstance(encoder.network, OfOneSize) and encoder.network.positions.shape[-1] == 20
    assert encoder.fixed_size and encoder.spec["image_size"] == 20


@pytest.mark.slow
def test_a_compiled_encoder_gives_the_same_features() -> None:
    encoder, images = made("timm:test_vit", mean=MEAN, std=STD), torch.rand(4, 3, 32, 32)
    expected = encoder(images)
    encoder.compile()
    assert torch.allclose(encoder(images), expected, atol=1e-5)


@pytest.mark.slow
def test_processes_do_not_wait_for_the_gradient_of_a_layer_that_has_none(tmp_path: Path) -> None:
    keys = ["encoder.name=python:own_networks:WithAnIdleLayer", "training.epochs=1", "training.warmup_epochs=0"]
    run = create_run(load_recipe("demo", [*TINY, *keys, "checkpoints.every_epochs=0.5"]), tmp_path, "idle")
    in_processes(TESTS / "train_in_turn.py", run.path)
    first, last = (load_checkpoint(file).tensors for file in (run.checkpoint_files()[0], run.checkpoint_files()[-1]))
    assert torch.equal(first["encoder.network.idle.weight"], last["encoder.network.idle.weight"])
    assert not torch.equal(first["encoder.network.conv.weight"], last["encoder.network.conv.weight"])
