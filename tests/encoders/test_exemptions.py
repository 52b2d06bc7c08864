"""Who decays and who adapts, by name, for the families of networks that people train."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.recipe.reading import load_recipe
from simclr_plus.training.methods.method import Method
from simclr_plus.training.model import build_model
from simclr_plus.training.optimizers import build_optimizer

SWIN = "{ embed_dim = 24, depths = [1, 1, 1, 1], num_heads = [1, 2, 2, 4] }"
# of each family every kind of parameter but kernels, matrices and plain biases, numbers left out
FAMILIES: dict[str, tuple[str, str, set[str]]] = {
    "ViT": (
        "timm:test_vit",
        "{}",
        {"cls_token", "pos_embed", "blocks.N.normN.weight", "norm.weight"},
    ),
    "ViT with registers": (
        "timm:vit_little_patch16_reg4_gap_256",
        "{ depth = 1 }",
        {"reg_token", "pos_embed", "blocks.N.normN.weight", "blocks.N.lsN.gamma", "fc_norm.weight"},
    ),
    "ConvNeXt": (
        "timm:test_convnext",
        "{}",
        {
            "stem.N.weight of LayerNormNd",
            "stages.N.blocks.N.gamma of ConvNeXtBlock",
            "stages.N.blocks.N.norm.weight",
            "stages.N.downsample.N.weight of LayerNormNd",
            "head.norm.weight",
        },
    ),
    "Swin": (
        "timm:swin_tiny_patch4_window7_224",
        SWIN,
        {
            "patch_embed.norm.weight",
            "layers.N.blocks.N.normN.weight",
            "layers.N.blocks.N.attn.relative_position_bias_table",
            "layers.N.downsample.norm.weight",
            "norm.weight",
        },
    ),
    "EfficientNet": (
        "timm:test_efficientnet",
        "{}",
        {"bnN.weight", "blocks.N.N.bnN.weight"},
    ),
    "RegNet": (
        "timm:regnetx_002",
        "{}",
        {"stem.bn.weight", "sN.bN.convN.bn.weight", "sN.bN.downsample.bn.weight"},
    ),
    "torchvision's ViT": (
        "torchvision:vit_b_32",
        "{}",
        {
            "class_token",
            "encoder.pos_embedding",
            "encoder.layers.encoder_layer_N.ln_N.weight",
            "encoder.ln.weight",
        },
    ),
    "torchvision's Swin": (
        "torchvision:swin_t",
        "{}",
        {
            "features.N.N.weight of LayerNorm",
            "features.N.N.normN.weight",
            "features.N.N.attn.relative_position_bias_table",
            "features.N.norm.weight",
            "norm.weight",
        },
    ),
    "torchvision's ConvNeXt": (
        "torchvision:convnext_tiny",
        "{}",
        {
            "features.N.N.weight of LayerNormNd",
            "features.N.N.block.N.weight of LayerNorm",
            "features.N.N.layer_scale of CNBlock",
            "classifier.N.weight of LayerNormNd",
        },
    ),
}


def kinds(network: nn.Module, names: set[str]) -> set[str]:
    """Names with N for numbers, and the layer where its name is a number alone."""
    told = set()
    for name in names:
        layer, _, _ = name.rpartition(".")
        kind = type(network.get_submodule(layer)).__name__
        told.add(
            re.sub(r"\d+", "N", name)
            + (f" of {re.sub(r'[0-9]+', 'N', kind)}" if layer.rpartition(".")[2].isdigit() else "")
        )
    return told


def model_of(name: str, options: str, optimizer: str, *more: str) -> Method:
    changes = [f"encoder.name={name}", f"encoder.options={options}", "augmentation.image_size=64"]
    changes += [f"optimizer.name={optimizer}", "optimizer.weight_decay=0.1", "head.num_layers=1", *more]
    return build_model(load_recipe("places", changes), 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_norms_scales_tokens_and_positions_are_exempt(family: str) -> None:
    name, options, expected = FAMILIES[family]
    encoder = ForeignEncoder(name, _told(options), 64)
    network = encoder.network
    exempt = {key.removeprefix("network.") for key in encoder.exempt}
    assert kinds(network, {key for key in exempt if not key.endswith("bias")}) == expected
    undecayed = {key for key, parameter in network.named_parameters() if parameter.ndim <= 1}
    assert {key for key in undecayed if not key.endswith("bias")} <= exempt
    kernels = {key for key, _ in network.named_parameters()} - exempt - undecayed
    assert all(key.endswith("weight") for key in kernels) and kernels


def _told(options: str) -> dict[str, object]:
    import tomllib

    values: dict[str, object] = tomllib.loads(f"options = {options}")["options"]
    return values


def test_gains_of_networks_without_norms_are_exempt() -> None:
    encoder = ForeignEncoder("timm:test_nfnet", image_size=64)
    names = {name.rpartition(".")[2] for name in encoder.exempt if not name.endswith("bias")}
    assert "gain" in names and not names & {"weight"}


@pytest.mark.parametrize("network", ["timm:test_vit", "timm:test_efficientnet", "timm:test_convnext"])
def test_adamw_decays_what_timm_decays(network: str) -> None:
    from timm.optim import param_groups_weight_decay

    model = model_of(network, "{}", "adamw")
    decayed = {
        id(p) for g in build_optimizer(model, model.recipe).param_groups if g["weight_decay"] for p in g["params"]
    }
    theirs = model.encoder.network
    assert isinstance(theirs, nn.Module)
    listed = theirs.no_weight_decay() if hasattr(theirs, "no_weight_decay") else ()
    groups = param_groups_weight_decay(theirs, weight_decay=0.1, no_weight_decay_list=listed)
    expected = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed & {id(p) for p in theirs.parameters()} == expected


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adam", "adamw"])
def test_biases_decay_with_sgd_and_adam_alone(optimizer: str) -> None:
    model = model_of("timm:test_vit", "{}", optimizer)
    groups = build_optimizer(model, model.recipe).param_groups
    of = {id(p): group for group in groups for p in group["params"]}
    names = dict(model.encoder.named_parameters())
    qkv, norm, token = (of[id(names[f"network.{key}"])] for key in ("blocks.0.attn.qkv.bias", "norm.bias", "cls_token"))
    kernel = of[id(names["network.blocks.0.attn.qkv.weight"])]
    assert kernel["weight_decay"] == 0.1 and token["weight_decay"] == norm["weight_decay"] == 0
    assert qkv["weight_decay"] == (0.1 if optimizer in ("sgd", "adam") else 0)
    if optimizer == "lars":
        assert kernel["adapt"] and not token["adapt"] and not norm["adapt"] and not qkv["adapt"]


def test_a_frozen_patch_embedding_is_in_no_group() -> None:
    model = model_of("timm:test_vit", "{}", "adamw", "encoder.freeze_patch_embedding=true")
    grouped = {id(p) for group in build_optimizer(model, model.recipe).param_groups for p in group["params"]}
    frozen = model.encoder.patch_embedding
    assert len(frozen) == 2 and not any(id(p) in grouped or p.requires_grad for p in frozen)
    assert len(grouped) == len(list(model.parameters())) - 2


def test_adamw_is_pytorchs() -> None:
    model = model_of("timm:test_vit", "{}", "adamw", "optimizer.beta1=0.8", "optimizer.beta2=0.9")
    optimizer = build_optimizer(model, model.recipe)
    weight = dict(model.encoder.named_parameters())["network.blocks.0.attn.qkv.weight"]
    twin = weight.detach().clone().requires_grad_()
    by_hand = torch.optim.AdamW([twin], lr=0.01, betas=(0.8, 0.9), weight_decay=0.1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        weight.grad = torch.randn(weight.shape, generator=generator)
        twin.grad = weight.grad.clone()
        for group in optimizer.param_groups:
            group["lr"] = 0.01
        optimizer.step(), by_hand.step()
    torch.testing.assert_close(weight, twin)
