"""Names that others call: their arguments, in order, with their defaults. A change here breaks somebody's script."""

from __future__ import annotations

import inspect
from typing import Any

import lightly.loss
import lightly.models.modules
import lightly.transforms
import lightly.utils.lars
import pytest

import simclr_plus
from simclr_plus import augmentations, datasets, encoders, heads, lars, losses, schedules

REQUIRED = inspect.Parameter.empty
CALLS: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {  # positional, then by keyword only
    "SimCLRTransform": (
        simclr_plus.SimCLRTransform,
        {"input_size": 224},
        {"cj_strength": 1.0, "cj_prob": 0.8, "random_gray_scale": 0.2, "gaussian_blur": 0.5, "sigmas": (0.1, 2.0)}
        | {"hf_prob": 0.5, "normalize": None},
    ),
    "SimCLRProjectionHead": (
        heads.SimCLRProjectionHead,
        {"input_dim": 2048, "hidden_dim": 2048, "output_dim": 128, "num_layers": 2},
        {},
    ),
    "NTXentLoss": (losses.NTXentLoss, {"temperature": 0.1}, {"normalize": True, "gather_distributed": True}),
    "nt_xent": (
        losses.nt_xent,
        {"z0": REQUIRED, "z1": REQUIRED},
        {"temperature": 0.1, "normalize": True, "gather": False},
    ),
    "GlobalBatchNorm1d": (simclr_plus.GlobalBatchNorm1d, {"num_features": REQUIRED}, {}),
    "GlobalBatchNorm2d": (simclr_plus.GlobalBatchNorm2d, {"num_features": REQUIRED}, {}),
    "convert_global_batch_norm": (simclr_plus.convert_global_batch_norm, {"model": REQUIRED}, {}),
    "LARS": (
        lars.LARS,
        {"params": REQUIRED, "lr": REQUIRED},
        {"momentum": 0.9, "weight_decay": 0.0, "trust_coefficient": 0.001, "nesterov": False, "classic_momentum": True},
    ),
    "parameter_groups": (lars.parameter_groups, {"model": REQUIRED, "weight_decay": REQUIRED}, {}),
    "ResNet": (
        encoders.ResNet,
        {"depth": 50, "width": 1},
        {"stem": "imagenet", "flavor": "torchvision", "selective_kernels": False},
    ),
    "peak_learning_rate": (
        schedules.peak_learning_rate,
        {"base": REQUIRED, "batch_size": REQUIRED, "rule": REQUIRED},
        {},
    ),
    "warmup_cosine": (
        schedules.warmup_cosine,
        {"step": REQUIRED},
        {"peak": REQUIRED, "warmup_steps": REQUIRED, "total_steps": REQUIRED},
    ),
    "crop_and_resize": (
        augmentations.crop_and_resize,
        {"images": REQUIRED, "boxes": REQUIRED, "size": REQUIRED, "method": "bicubic"},
        {},
    ),
    "adjust_brightness": (augmentations.adjust_brightness, {"images": REQUIRED, "factor": REQUIRED}, {}),
    "add_brightness": (augmentations.add_brightness, {"images": REQUIRED, "delta": REQUIRED}, {}),
    "adjust_contrast": (augmentations.adjust_contrast, {"images": REQUIRED, "factor": REQUIRED}, {}),
    "adjust_saturation": (augmentations.adjust_saturation, {"images": REQUIRED, "factor": REQUIRED}, {}),
    "adjust_hue": (augmentations.adjust_hue, {"images": REQUIRED, "delta": REQUIRED}, {}),
    "to_grayscale": (augmentations.to_grayscale, {"images": REQUIRED}, {}),
    "gaussian_blur": (
        augmentations.gaussian_blur,
        {"images": REQUIRED, "sigma": REQUIRED, "kernel_size": REQUIRED},
        {},
    ),
    "draw_views": (augmentations.draw_views, {"seed": REQUIRED, "epoch": REQUIRED, "indices": REQUIRED}, {}),
    "decode_image": (datasets.decode_image, {"data": REQUIRED}, {}),
    "load_encoder": (simclr_plus.load_encoder, {"path": REQUIRED}, {}),
    "save_encoder": (simclr_plus.save_encoder, {"encoder": REQUIRED, "path": REQUIRED, "metadata": None}, {}),
    "load_recipe": (simclr_plus.load_recipe, {"path_or_name": REQUIRED}, {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_public_call_keeps_its_arguments_and_defaults(name: str) -> None:
    call, positional, by_keyword = CALLS[name]
    found = inspect.signature(call).parameters
    assert list(found)[: len(positional)] == list(positional)
    assert {n: found[n].default for n in positional} == positional
    assert all(found[n].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for n in positional)
    assert {n: found[n].default for n in by_keyword} == by_keyword
    others = {n for n, p in found.items() if n not in positional | by_keyword and p.default is REQUIRED}
    assert others == ({"heights", "widths", "law"} if name == "draw_views" else set())


REPLACED = {
    "SimCLRTransform": lightly.transforms.SimCLRTransform,
    "SimCLRProjectionHead": lightly.models.modules.SimCLRProjectionHead,
    "NTXentLoss": lightly.loss.NTXentLoss,
    "LARS": lightly.utils.lars.LARS,
}


@pytest.mark.parametrize("name", REPLACED)
def test_every_argument_of_lightlys_part_is_one_of_ours_in_its_place(name: str) -> None:
    theirs = list(inspect.signature(REPLACED[name]).parameters.values())
    ours = list(inspect.signature(getattr(simclr_plus, name)).parameters.values())
    assert [p.name for p in ours[: len(theirs)]] == [p.name for p in theirs]
    assert {p.kind for p in ours[: len(theirs)]} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
