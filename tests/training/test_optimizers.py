"""Who decays and who adapts, by the names of parameters; and AdamW's update beside PyTorch's own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.optim
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from simclr_plus.encoders import measuring
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.undecayed import norm_parameters, tokens_and_scales
from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import create_run
from simclr_plus.training.methods.method import Method
from simclr_plus.training.model import build_model
from simclr_plus.training.optimizers import build_optimizer
from simclr_plus.training.trainer import train
from simclr_plus.weights.checkpoints import load_checkpoint, restore
from simclr_plus.weights.encoder_files import load_encoder

DECAY = 0.1
OF_NORMS = {f"{norm}.{part}" for norm in ("LayerNorm", "LayerNorm2d", "BatchNorm2d") for part in ("weight", "bias")}
OF_NORMS |= {f"GlobalBatchNorm2d.{part}" for part in ("weight", "bias")}
OF_NORMS |= {f"_GlobalBatchNormAct.{part}" for part in ("weight", "bias")}
CONVOLUTION, LINEAR = ["Conv2d.weight", "Conv2d.bias"], ["Linear.weight", "Linear.bias"]

# by network: its options; kernels and matrices with their offsets; tokens, positions and scales: each as the class of
# its layer and its own name; OF_NORMS come on top
NETWORKS: dict[str, tuple[str, list[str], list[str]]] = {
    "timm:test_vit": (
        "",
        [*CONVOLUTION, *LINEAR],
        ["VisionTransformer.cls_token", "VisionTransformer.pos_embed"],
    ),
    "timm:test_vit4": (  # RMSNorm, registers, layer scales
        "",
        [*CONVOLUTION, *LINEAR],
        ["VisionTransformer.reg_token", "VisionTransformer.pos_embed", "LayerScale.gamma", "RmsNorm.weight"],
    ),
    "timm:test_convnext": ("", [*CONVOLUTION, *LINEAR], ["ConvNeXtBlock.gamma"]),
    "timm:convnextv2_atto": (
        "",
        CONVOLUTION,
        ["GlobalResponseNorm.weight", "GlobalResponseNorm.bias"],
    ),
    "timm:swin_tiny_patch4_window7_224": (
        "img_size = 56",
        [*CONVOLUTION, *LINEAR],
        ["WindowAttention.relative_position_bias_table"],
    ),
    "timm:swinv2_tiny_window8_256": (
        "img_size = 64",
        [*CONVOLUTION, *LINEAR, "WindowAttention.q_bias", "WindowAttention.v_bias"],
        ["WindowAttention.logit_scale", "cpb_mlp: Linear.weight", "cpb_mlp: Linear.bias"],
    ),
    "timm:test_efficientnet": ("", CONVOLUTION, []),
    "timm:test_efficientnet_evos": (
        "",
        CONVOLUTION,
        [f"EvoNorm2dS0.{part}" for part in ("weight", "bias", "v")],
    ),
    "timm:regnetx_002": ("", ["Conv2d.weight"], []),
    "timm:dm_nfnet_f0": (
        "",
        [*CONVOLUTION, "ScaledStdConv2dSame.weight", "ScaledStdConv2dSame.bias"],
        ["ScaledStdConv2dSame.gain", "NormFreeBlock.skipinit_gain"],
    ),
    "torchvision:vit_b_16": (
        "",
        [
            *CONVOLUTION,
            *LINEAR,
            *("MultiheadAttention.in_proj_weight", "MultiheadAttention.in_proj_bias"),
            *("NonDynamicallyQuantizableLinear.weight", "NonDynamicallyQuantizableLinear.bias"),
        ],
        ["VisionTransformer.class_token", "Encoder.pos_embedding"],
    ),
    "torchvision:convnext_tiny": ("", [*CONVOLUTION, *LINEAR], ["CNBlock.layer_scale"]),
    "torchvision:swin_t": ("", [*CONVOLUTION, *LINEAR], ["ShiftedWindowAttention.relative_position_bias_table"]),
    "torchvision:swin_v2_t": (
        "",
        [*CONVOLUTION, *LINEAR],
        ["ShiftedWindowAttentionV2.logit_scale", "cpb_mlp: Linear.weight", "cpb_mlp: Linear.bias"],
    ),
    "torchvision:efficientnet_b0": ("", CONVOLUTION, []),
    "torchvision:regnet_y_400mf": ("", CONVOLUTION, []),
}
QUICK = [
    *("timm:test_vit", "timm:test_convnext", "timm:swinv2_tiny_window8_256", "timm:test_efficientnet"),
    *("timm:dm_nfnet_f0", "torchvision:vit_b_16", "torchvision:convnext_tiny"),
]


def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are built, but what they cost is not measured, which takes longer."""
    numbers = measuring.figures_of("timm:test_convnext", "{}", 64)
    monkeypatch.setattr(measuring, "figures_of", lambda *_: numbers)


def recipe_of(name: str, tiny: list[str], *keys: str, options: str = "") -> Recipe:
    """Of SimCLR with that network on 64 pixels."""
    network = [f"encoder.name={name}", f"encoder.options={{ {options} }}", "augmentation.image_size=64"]
    return load_recipe("demo", [*tiny, *network, f"optimizer.weight_decay={DECAY}", *keys])


def model_of(recipe: Recipe) -> Method:
    """The model, its large tensors without content."""
    if "regnet_y" in recipe.encoder.name:  # which computes its widths by tensors
        return build_model(recipe, 2)
    with torch.device("meta"):
        model = build_model(recipe, 2)
    return model.to_empty(device="cpu")


def told(model: nn.Module, parameters: list[Tensor]) -> set[str]:
    """Parameters as class of the layer and name."""
    wanted, said = {id(p) for p in parameters}, set()
    for place, layer in model.named_modules():
        inside = "cpb_mlp: " if "cpb_mlp" in place else ""
        said |= {
            f"{inside}{type(layer).__name__}.{name}"
            for name, p in layer.named_parameters(recurse=False)
            if id(p) in wanted
        }
    return said


def group(model: Method, recipe: Recipe, decays: bool) -> set[str]:
    """What of the network decays, or does not, by the recipe's optimizer."""
    groups = [g for g in build_optimizer(model, recipe).param_groups if (g["weight_decay"] > 0) == decays]
    return told(model.encoder.named_weights, [p for g in groups for p in g["params"]])


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS])
def test_which_parameters_of_a_network_decay_and_which_adapt(
    monkeypatch: pytest.MonkeyPatch, tiny: list[str], name: str
) -> None:
    unmeasured(monkeypatch)
    options, kernels_and_offsets, tokens_and_scales = NETWORKS[name]
    recipes = {
        rule: recipe_of(name, tiny, f"optimizer.name={rule}", options=options)
        for rule in ("lars", "sgd", "adam", "adamw")
    }
    model = model_of(recipes["sgd"])
    everything = told(model.encoder.named_weights, list(model.encoder.parameters()))
    norms = everything & OF_NORMS
    offsets = {part for part in kernels_and_offsets if part.endswith("bias")} & everything
    kernels = set(kernels_and_offsets) - {part for part in kernels_and_offsets if part.endswith("bias")}
    assert everything == kernels | offsets | set(tokens_and_scales) | norms  # all are named here, and exist
    for rule in ("sgd", "adam"):
        assert group(model, recipes[rule], decays=True) == kernels | offsets
        assert group(model, recipes[rule], decays=False) == norms | set(tokens_and_scales)
    for rule in ("lars", "adamw"):
        assert group(model, recipes[rule], decays=True) == kernels
        assert group(model, recipes[rule], decays=False) == norms | offsets | set(tokens_and_scales)
    adapted = [g for g in build_optimizer(model, recipes["lars"]).param_groups if g["adapt"]]
    assert told(model.encoder.named_weights, [p for g in adapted for p in g["params"]]) == kernels


def test_with_decay_norms_norms_decay_and_tokens_do_not(monkeypatch: pytest.MonkeyPatch, tiny: list[str]) -> None:
    unmeasured(monkeypatch)
    for rule in ("sgd", "adam", "adamw"):
        recipe = recipe_of("timm:test_vit4", tiny, f"optimizer.name={rule}", "optimizer.decay_norms=true")
        model = model_of(recipe)
        still = {"VisionTransformer.reg_token", "VisionTransformer.pos_embed", "LayerScale.gamma"}
        assert group(model, recipe, decays=False) == still
        assert {"RmsNorm.weight", "Linear.bias"} < group(model, recipe, decays=True)


def test_a_network_of_patches_exempts_what_its_network_exempts(tiny: list[str]) -> None:
    recipe = recipe_of("timm:test_vit", tiny, "method.name=cpc", "optimizer.name=adamw")
    model = build_model(recipe, 0, 32)
    assert "encoder.network.cls_token" in model.encoder.exempt
    undecayed = [g for g in build_optimizer(model, recipe).param_groups if not g["weight_decay"]]
    without = {id(p) for g in undecayed for p in g["params"]}
    parts = dict(model.encoder.named_parameters())
    assert id(parts["encoder.network.cls_token"]) in without and id(parts["encoder.network.pos_embed"]) in without
    assert id(parts["encoder.network.blocks.0.attn.qkv.weight"]) not in without


# timm decays each by its shape alone: scales [C, 1, 1, 1] of norm-free kernels, alpha [1, 1, C] of ResMLP
MORE_THAN_TIMM = {"gain", "alpha", "beta", "height_rel", "width_rel", "temperature", "pos_embed"}


@pytest.mark.parametrize(
    "name",
    [
        *("test_vit", "test_vit4", "test_convnext", "test_nfnet", "test_efficientnet", "swinv2_tiny_window8_256"),
        *("botnet26t_256", "edgenext_xx_small", "crossvit_tiny_240", "levit_128s", "visformer_tiny", "resmlp_12_224"),
    ],
)
def test_adamw_exempts_what_timm_exempts_and_scales_of_several_dimensions_besides(name: str) -> None:
    with torch.device("meta"):
        network: Any = timm.create_model(name, num_classes=0)
    says = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    groups = timm.optim.param_groups_weight_decay(network, DECAY, no_weight_decay_list=says)
    theirs = {id(p) for g in groups if not g["weight_decay"] for p in g["params"]}
    biases = {key for key, p in network.named_parameters() if p.ndim <= 1 or key.endswith("bias")}
    ours = biases | norm_parameters(network) | tokens_and_scales(network, says)
    names = {id(p): key for key, p in network.named_parameters()}
    assert {names[i] for i in theirs} <= ours
    assert {key.rpartition(".")[2].rstrip("123") for key in ours - {names[i] for i in theirs}} <= MORE_THAN_TIMM


def torchvisions(network: nn.Module) -> set[str]:
    """Names without decay by the rule of torchvision's references (classification/utils.py, set_weight_decay)."""
    norms = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)
    named = ("bias", "class_token", "position_embedding", "relative_position_bias_table")  # of train.py
    return {
        f"{place}.{name}".removeprefix(".")
        for place, layer in network.named_modules()
        for name, _ in layer.named_parameters(recurse=False)
        if isinstance(layer, norms) or name in named
    }


@pytest.mark.parametrize(
    ("name", "besides"),
    [
        ("vit_b_16", {"pos_embedding"}),  # which its rule means, by another name
        ("swin_t", set()),
        ("swin_v2_t", {"logit_scale", "weight of cpb_mlp"}),
        ("convnext_tiny", {"layer_scale"}),
        ("efficientnet_b0", set()),
        ("mobilenet_v3_small", set()),
    ],
)
def test_norms_tokens_and_positions_are_those_of_torchvisions_references(name: str, besides: set[str]) -> None:
    from torchvision import models

    with torch.device("meta"):
        network = models.get_model(name)
    biases = {key for key, _ in network.named_parameters() if key.endswith(".bias")}
    ours, theirs = biases | norm_parameters(network) | tokens_and_scales(network), torchvisions(network)
    assert theirs <= ours
    more = {
        f"{key.rpartition('.')[2]}{' of cpb_mlp' if 'cpb_mlp' in key else ''}"
        for key in ours - theirs
        if not key.endswith("in_proj_bias")
    }
    assert more == besides


class Own(nn.Module):
    """What people give their own networks: a norm of their own, a scale, a table that no name tells, weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = MyLayerNorm()
        self.kernel = nn.Parameter(torch.ones(4, 3))
        self.gamma_1 = nn.Parameter(torch.ones(4, 1))
        self.row = nn.Parameter(torch.ones(1, 1, 4))
        self.scale_weight = nn.Parameter(torch.ones(4, 4))
        self.convolution = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 1))
        self.frozen = FrozenBatchNorm2d(4)

    def no_weight_decay(self) -> set[str]:
        """timm's way to say it."""
        return {"kernel"}


class MyLayerNorm(nn.Module):
    """A norm that is none of PyTorch's."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))


def test_scales_and_norms_of_ones_own_network_are_known_by_class_name_and_shape() -> None:
    network = Own()
    assert norm_parameters(network) == {"norm.g", "norm.bias"}
    scales = {"gamma_1", "row", "convolution.parametrizations.weight.original0"}  # the length of each kernel
    assert tokens_and_scales(network) == scales
    assert tokens_and_scales(network, network.no_weight_decay()) == scales | {"kernel"}
    assert tokens_and_scales(network, {"scale_*"}) == scales | {"scale_weight"}


# frozen patches, AdamW


@pytest.mark.parametrize("rule", ["lars", "sgd", "adam", "adamw"])
def test_a_frozen_patch_embedding_is_in_no_group_and_has_no_state(tiny: list[str], rule: str) -> None:
    recipe = recipe_of("timm:test_vit", tiny, f"optimizer.name={rule}", "encoder.freeze_patch_embedding=true")
    model = build_model(recipe, 0, 32)
    optimizer = build_optimizer(model, recipe)
    frozen = model.encoder.patch_embedding
    before, other = (
        [p.detach().clone() for p in frozen],
        model.encoder.get_parameter("network.blocks.0.attn.qkv.weight"),
    )
    start = other.detach().clone()
    model(torch.rand(4, 3, 64, 64))["z"].square().sum().backward()
    for g in optimizer.param_groups:
        g["lr"] = 0.01
    optimizer.step()
    assert len(frozen) == 2 and not any(p.requires_grad for p in frozen)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen, strict=True))
    assert not any(p in optimizer.state for p in frozen) and not torch.equal(start, other)


def test_adamw_is_decay_apart_from_the_gradient_as_in_its_paper(tiny: list[str]) -> None:
    """Loshchilov and Hutter 2019, algorithm 2, in float64, with the rate of each step; and PyTorch's own."""
    keys = ["optimizer.name=adamw", "optimizer.beta1=0.8", "optimizer.beta2=0.95", "training.precision=float64"]
    recipe = recipe_of("timm:test_vit", tiny, *keys)
    model = build_model(recipe, 0, 32).double()
    optimizer = build_optimizer(model, recipe)
    qkv = model.encoder.get_parameter("network.blocks.0.attn.qkv.weight")
    token = model.encoder.get_parameter("network.cls_token")
    parts = {
        p: (p.detach().clone(), torch.zeros_like(p), torch.zeros_like(p), d) for p, d in ((qkv, DECAY), (token, 0))
    }
    theirs = [nn.Parameter(p.detach().clone()) for p in (qkv, token)]
    reference = torch.optim.AdamW(
        [{"params": [theirs[0]], "weight_decay": DECAY}, {"params": [theirs[1]], "weight_decay": 0.0}],
        betas=(0.8, 0.95),
        foreach=False,
        fused=False,
    )
    generator = torch.Generator().manual_seed(0)
    for step, rate in enumerate((0.0, 0.01, 0.02, 0.005), start=1):
        for g in (*optimizer.param_groups, *reference.param_groups):
            g["lr"] = rate
        for p, other in zip((qkv, token), theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            other.grad = p.grad.clone()
            w, m, v, decay = parts[p]
            m, v = 0.8 * m + 0.2 * p.grad, 0.95 * v + 0.05 * p.grad**2
            update = (m / (1 - 0.8**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8)
            parts[p] = (w - rate * decay * w - rate * update, m, v, decay)
        optimizer.step(), reference.step()
    for p, other in zip((qkv, token), theirs, strict=True):
        torch.testing.assert_close(p.detach(), parts[p][0], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(p.detach(), other.detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.slow
def test_adamw_with_frozen_patches_and_dropout_resumes_to_the_byte(tmp_path: Path, tiny: list[str]) -> None:
    options = "encoder.options={ drop_path_rate = 0.3, proj_drop_rate = 0.2, drop_rate = 0.1 }"
    keys = ["optimizer.name=adamw", "optimizer.learning_rate=0.001", "encoder.freeze_patch_embedding=true", options]
    keys += ["data.limit=32", "training.batch_size=16", "training.epochs=1.9", "training.warmup_epochs=0"]
    keys += ["checkpoints.every_epochs=0.5", "checkpoints.keep_last=9"]
    recipe = recipe_of("timm:test_vit", tiny, *keys)
    unbroken, resumed = (create_run(recipe, tmp_path, name) for name in ("one", "two"))
    assert train(unbroken, quiet=True) == "finished"
    files = unbroken.checkpoint_files()
    resumed.checkpoints.mkdir(exist_ok=True)
    shutil.copy(files[1], resumed.checkpoints)
    assert train(resumed, quiet=True) == "finished"
    assert resumed.events()[0]["event"] == "resume"
    assert (resumed.checkpoints / files[-1].name).read_bytes() == files[-1].read_bytes()
    assert (resumed.path / "encoder.safetensors").read_bytes() == (unbroken.path / "encoder.safetensors").read_bytes()
    at_start = build_model(recipe, 0, 32).encoder
    after = load_encoder(unbroken.path / "encoder.safetensors")
    assert isinstance(after, ForeignEncoder)
    assert all(torch.equal(a, b) for a, b in zip(at_start.patch_embedding, after.patch_embedding, strict=True))
    checkpoint = load_checkpoint(files[1])
    state = {key.rpartition(".")[2] for key in checkpoint.part("optimizer")}
    assert state == {"exp_avg", "exp_avg_sq", "step"}
    assert not any("patch_embed" in key for key in checkpoint.part("optimizer"))
    model = build_model(recipe, 10, 32)
    optimizer = build_optimizer(model, recipe)
    restore(checkpoint, model, optimizer)
    kernel = optimizer.state[model.encoder.get_parameter("network.blocks.0.attn.qkv.weight")]
    assert kernel["step"] == 2 and kernel["exp_avg_sq"].abs().sum() > 0
