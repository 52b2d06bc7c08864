"""What a network by name costs, measured without its memory, against the numbers of real ones; and what cannot be f."""

from __future__ import annotations

import json
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers.split_batchnorm import SplitBatchNorm2d
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from simclr_plus.encoders.architecture import Architecture
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.encoders.libraries import library_of
from simclr_plus.encoders.measuring import Figures, figures_of
from simclr_plus.errors import RecipeError

SWIN = "timm:swin_tiny_patch4_window7_224"
SMALL_SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}


def measured(name: str, size: int, **options: Any) -> Figures:
    return ForeignArchitecture(name, options, size).figures


def kept_for_backward(network: nn.Module, images: Tensor) -> int:
    """Numbers that autograd saves in a pass of real images, counted as it saves them."""
    own = {t.untyped_storage().data_ptr() for t in (*network.parameters(), *network.buffers(), images)}
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        h = network(images)
    return sum(storages.values()) // len(h)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("timm:test_vit", 32, {}),
        ("timm:test_convnext", 32, {}),
        ("timm:test_efficientnet", 32, {}),
        ("timm:test_nfnet", 32, {}),
        ("timm:test_vit_relpos", 32, {}),
        (SWIN, 32, SMALL_SWIN),
        ("torchvision:mobilenet_v3_small", 32, {}),
        ("torchvision:regnet_y_400mf", 32, {}),
        ("python:own_networks:attending", 16, {}),
        ("python:own_networks:attending", 16, {"learnt_mask": True}),
    ],
)
def test_figures_are_those_of_the_real_network(name: str, size: int, options: dict[str, Any]) -> None:
    library, rest = library_of(name)
    network = library.create(rest, options, size).train()
    figures = measured(name, size, **options)
    assert figures.parameters == sum(p.numel() for p in network.parameters()) and not figures.unused
    assert figures.activations == kept_for_backward(network, torch.rand(2, 3, size, size))
    assert figures.feature_dim == network(torch.rand(2, 3, size, size)).shape[1]


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "mobilenet_v3_small",
        "vit_b_16",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "maxvit_t", "mnasnet0_5")
        ),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("regnet_y_400mf", "resnext50_32x4d", "swin_t", "vgg11")
        ),
    ],
)
def test_multiply_adds_are_those_that_torchvision_publishes(name: str) -> None:
    """With its classifier, whose last layer f does not have."""
    published = models.get_model_weights(name).DEFAULT.meta  # type: ignore[attr-defined]
    figures = measured(f"torchvision:{name}", 224)
    last_layer = 1000 * figures.feature_dim
    assert figures.multiply_adds + last_layer == pytest.approx(1e9 * published["_ops"], rel=0.01)
    assert figures.parameters + last_layer + (name != "maxvit_t") * 1000 == published["num_params"]


def test_multiply_adds_of_vit_s16_are_those_that_timm_publishes() -> None:
    figures = measured("timm:vit_small_patch16_224", 224)
    assert figures.multiply_adds == pytest.approx(4.61e9, rel=0.01)  # results/benchmark-infer-*.csv
    assert figures.parameters + 385 * 1000 == pytest.approx(22.05e6, rel=0.001)
    assert figures.patch_embedding == 3 * 16 * 16 * 384 + 384


def test_a_resnet50_of_torchvision_costs_what_ours_does() -> None:
    theirs, ours = ForeignArchitecture("torchvision:resnet50"), Architecture(50)
    assert theirs.parameter_count() == ours.parameter_count() and theirs.feature_dim == ours.feature_dim
    for size in (224, 96):
        assert theirs.multiply_add_count(size) == ours.multiply_add_count(size)
        assert theirs.activation_count(size) == pytest.approx(ours.activation_count(size), rel=0.1)


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm:test_vit", {}), ("timm:test_convnext", {}), (SWIN, SMALL_SWIN), ("timm:test_resnet", {})],
)
def test_timms_checkpointing_keeps_less_and_a_network_without_it_is_told(name: str, options: dict[str, Any]) -> None:
    architecture = ForeignArchitecture(name, options, 64)
    assert architecture.activation_count(64, recompute_blocks=True) < 0.8 * architecture.activation_count(64)
    with pytest.raises(RecipeError, match=r"torchvision:squeezenet1_1.*timm"):
        ForeignArchitecture("torchvision:squeezenet1_1", {}, 64).activation_count(64, recompute_blocks=True)


@pytest.mark.parametrize(
    ("name", "size"), [("timm:test_convnext", 64), ("timm:test_resnet", 64), ("timm:test_vit", 64)]
)
def test_maps_have_the_shapes_that_were_measured(name: str, size: int) -> None:
    encoder, images = ForeignEncoder(name, image_size=size).eval(), torch.rand(2, 3, size, size)
    h, maps = encoder.features_and_maps(images)
    assert torch.allclose(h, encoder(images), atol=1e-6)
    assert [(m.shape[1], m.shape[2]) for m in maps.values()] == [
        encoder.architecture.map_shape(i, size) for i in (1, 2, 3, 4)
    ]
    assert all(m.shape[2] == m.shape[3] for m in maps.values())


def test_layers_of_no_part_in_h_are_neither_counted_nor_trained() -> None:
    figures, plain = measured("python:own_networks:WithAnIdleLayer", 16), measured("python:own_networks:Plain", 16)
    assert figures.unused == ("idle.weight", "idle.bias") and figures.parameters == plain.parameters
    encoder = ForeignEncoder("python:own_networks:WithAnIdleLayer", image_size=16)
    encoder(torch.rand(2, 3, 16, 16)).sum().backward()
    assert all((p.grad is None) == (not p.requires_grad) for p in encoder.parameters())
    assert sum(p.numel() for p in encoder.parameters() if p.requires_grad) == figures.parameters


def test_a_network_that_looks_at_its_numbers_is_measured_too() -> None:
    looks, plain = measured("python:own_networks:FindsItsWay", 16), measured("python:own_networks:Plain", 16)
    assert looks == plain and looks.multiply_adds == 8 * 27 * 8 * 8


@contextmanager
def unchanged() -> Iterator[None]:
    """What others in the process go by."""

    def state() -> tuple[Any, ...]:
        generators = (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())  # type: ignore[index,union-attr]
        modes = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.empty(0).device)
        attention = (nn.functional.scaled_dot_product_attention, torch.backends.cuda.flash_sdp_enabled())
        return *generators, *modes, *attention, list(warnings.filters), dict(os.environ)

    before = state()
    yield
    assert state() == before


def test_measuring_leaves_generators_warnings_and_environment_as_they_were() -> None:
    for name in ("timm:test_vit", "torchvision:squeezenet1_1", "python:own_networks:FindsItsWay"):
        measured(name, 32)  # a library may set up itself when it is imported
    figures_of.cache_clear()
    with unchanged():
        for name in ("timm:test_vit", "torchvision:squeezenet1_1", "python:own_networks:FindsItsWay"):
            measured(name, 64)
        for name in ("python:own_networks:gives_maps", "timm:test_vit"):
            with pytest.raises(RecipeError):
                measured(name, 40)


def test_a_network_is_measured_where_gradients_are_switched_off() -> None:
    expected = measured("timm:test_vit", 32)
    figures_of.cache_clear()
    with torch.no_grad():
        assert measured("timm:test_vit", 32) == expected


def test_initial_weights_hang_on_the_seed_alone() -> None:
    """Not on whether the network was measured before."""
    weights = []
    for forgotten in (True, False):
        if forgotten:
            figures_of.cache_clear()
        torch.manual_seed(5)
        weights.append(ForeignEncoder("timm:test_vit", image_size=32).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("name", ["half", "left_as_a_column"])
def test_features_in_other_forms_are_taken(name: str) -> None:
    encoder = ForeignEncoder(f"python:own_networks:{name}", image_size=16)
    assert encoder.feature_dim == 8 and encoder(torch.rand(2, 3, 16, 16)).shape == (2, 8)


def test_one_feature_is_enough() -> None:
    assert measured("python:own_networks:wide", 16, width=1).feature_dim == 1


REFUSED = [
    # wrong sizes
    ("timm:test_vit", {}, 40, "40x40"),
    ("timm:vit_small_patch16_224", {}, 40, "16x16.*40x40.*32 and 48"),  # timm would leave pixels out
    ("timm:vit_small_patch16_224", {}, 12, "12x12.*16 would do"),
    (SWIN, SMALL_SWIN, 50, "4x4.*50x50.*48 and 52"),
    ("timm:vit_tiny_patch16_224", {"img_size": 64}, 32, "32x32"),
    ("torchvision:vit_b_16", {}, 40, "40x40"),
    ("torchvision:maxvit_t", {}, 64, "64x64"),
    ("torchvision:inception_v3", {}, 64, "64x64"),
    # no pooled features
    ("timm:test_resnet", {"global_pool": ""}, 64, r"\[B, 96, 2, 2\]"),
    ("timm:test_vit", {"global_pool": ""}, 64, r"\[B, 17, 64\]"),
    ("python:own_networks:gives_maps", {}, 16, r"\[B, 8, 8, 8\]"),
    ("python:own_networks:gives_a_flat_map", {}, 16, "512.*16.*4608.*48"),
    ("python:own_networks:gives_a_number", {}, 16, r"\[B\]"),
    ("python:own_networks:gives_rows_of_places", {}, 16, r"\[128, 8\] for 2 images"),
    ("python:own_networks:gives_no_features", {}, 16, r"\[2, 0\]"),
    # several outputs
    ("torchvision:googlenet", {}, 64, "3 outputs.*aux_logits = false"),
    ("python:own_networks:gives_two", {}, 16, "2 outputs.*tuple"),
    ("python:own_networks:gives_a_dictionary", {}, 16, "3 outputs.*dict"),
    # other outputs
    ("python:own_networks:gives_integers", {}, 16, "torch.int64"),
    ("python:own_networks:gives_complex_numbers", {}, 16, "torch.complex64"),
    ("python:own_networks:gives_nothing_to_learn", {}, 16, "no trained parameter"),
    ("python:own_networks:gives_no_network", {}, 16, "str.*torch.nn.Module"),
    # options
    ("timm:test_resnet", {"colour": 1}, 32, "colour"),
    ("torchvision:resnet18", {"colour": 1}, 32, "colour"),
    ("python:own_networks:Plain", {"colour": 1}, 32, "colour"),
    ("python:own_networks:wide", {}, 32, "width"),
]


@pytest.mark.parametrize(("name", "options", "size", "told"), REFUSED)
def test_a_network_that_cannot_be_f_is_refused_in_a_sentence(
    name: str, options: dict[str, Any], size: int, told: str
) -> None:
    with pytest.raises(RecipeError, match=told) as refusal:
        ForeignEncoder(name, options, size)
    assert str(refusal.value).startswith(name) and "\n" not in str(refusal.value) and len(str(refusal.value)) < 400


def test_what_is_switched_off_by_an_option_is_no_output() -> None:
    assert measured("torchvision:googlenet", 64, aux_logits=False).feature_dim == 1024


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg:11", {}),
        ("timm:", {}),
        ("timm", {}),
        ("python:module", {}),
        ("python:a:b:c", {}),
        ("timm:hf-hub:timm/test_vit", {}),
        ("timm:timm/test_vit", {}),
        ("torchvision:local-dir:/tmp", {}),
        *(
            ("timm:test_vit", {key: 1})
            for key in ("pretrained", "checkpoint_path", "in_chans", "num_classes", "cache_dir")
        ),
        ("torchvision:resnet18", {"weights": "DEFAULT"}),
        ("python:own_networks:Plain", {"pretrained": True}),
        ("timm:test_vit", {"act_layer": print}),
    ],
)
def test_names_and_options_that_reach_beyond_the_network_are_refused(name: str, options: dict[str, Any]) -> None:
    """Also those that would read a file or fetch one. Before anything is imported."""
    with pytest.raises(ValueError, match=r"name = |options"):
        ForeignArchitecture(name, options)


def test_options_are_what_a_file_keeps_of_them() -> None:
    architecture = ForeignArchitecture(SWIN, {"depths": (1, 1), "embed_dim": 16}, 32)
    assert architecture.options == json.loads(json.dumps(architecture.as_dict()))["options"]


class Normed(nn.Module):
    """A network of one's own with a norm of a library."""

    def __init__(self, norm: str) -> None:
        super().__init__()
        kinds = {"split": SplitBatchNorm2d, "frozen": FrozenBatchNorm2d, "instance": nn.InstanceNorm2d}
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = kinds[norm](4, **({"track_running_stats": True} if norm == "instance" else {}))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.norm(self.conv(x)).relu().mean(dim=(2, 3))
        return h


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("timm:test_efficientnet", {"norm_layer": "evonormb0"}, "EvoNorm2dB0"),
        (f"python:{__name__}:Normed", {"norm": "split"}, "SplitBatchNorm2d"),
        (f"python:{__name__}:Normed", {"norm": "instance"}, "InstanceNorm2d"),
    ],
)
def test_norms_of_batches_that_cannot_become_global_are_refused(name: str, options: dict[str, Any], kind: str) -> None:
    with pytest.raises(RecipeError, match=f"{name}.*{kind}"):
        measured(name, 32, **options)


def test_norms_that_take_nothing_from_a_batch_are_not() -> None:
    assert measured(f"python:{__name__}:Normed", 32, norm="frozen").norms.count == 0
    assert measured("timm:test_efficientnet", 32, norm_layer="groupnorm1").norms.count == 0
