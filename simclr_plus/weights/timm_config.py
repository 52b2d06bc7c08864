"""What timm's config.json says of an encoder, so that timm.create_model builds it again; or why timm cannot."""

from __future__ import annotations

from typing import Any

import torch

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import RecipeError

DEPTHS = (18, 34, 50, 101, 152)  # of timm's ResNets
SAME = 1e-4  # features may differ by it, as a share of the largest
LOAD = "simclr_plus.load_encoder(path) rebuilds it"


def timm_config(encoder: Encoder, law: ViewLaw, image_size: int) -> dict[str, Any]:
    """The values by name; RecipeError, with the reason, where timm has no such network."""
    if isinstance(encoder, ResNet):
        _require_expressible(encoder)
        name = f"resnet{encoder.architecture.depth}"
        network: dict[str, Any] = {"pool_size": [7, 7], "first_conv": "conv1", "classifier": "fc"}
        arguments: dict[str, Any] = {}
    elif isinstance(encoder, ForeignEncoder):
        _require_of_timm(encoder)
        name, network, arguments = _of_timm(encoder, image_size)
    else:
        raise RecipeError(f"no folder for timm is made of {encoder.title}; {LOAD}")
    architecture = encoder.architecture
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": encoder.feature_dim,
        **({"model_args": arguments} if arguments else {}),
        "pretrained_cfg": {
            "tag": "simclr_plus",
            "custom_load": False,
            "input_size": [3, image_size, image_size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": law.evaluation_crop,
            "crop_mode": "center",
            "mean": list(architecture.mean),
            "std": list(architecture.std),
            "num_classes": 0,
            **network,
        },
    }


def require_same_in_timm(encoder: ForeignEncoder, config: dict[str, Any]) -> None:
    """RecipeError unless timm makes a network of these values that gives the encoder's features, by its own loader."""
    import timm

    weights = {**config["pretrained_cfg"], "state_dict": encoder.network.state_dict()}
    arguments = config.get("model_args", {})
    images = torch.rand(2, *config["pretrained_cfg"]["input_size"], generator=torch.Generator().manual_seed(0))
    try:
        theirs = timm.create_model(config["architecture"], pretrained=True, pretrained_cfg=weights, **arguments).eval()
        with torch.no_grad():
            h, expected = theirs(images), encoder.network.eval()(images)
        if h.shape != expected.shape:
            reason = f"timm gives {tuple(h.shape)} where it gave {tuple(expected.shape)}"
        elif float((h - expected).abs().max()) > SAME * float(expected.abs().max()):
            reason = "timm's own loader changes the weights"
        else:
            return
    except Exception as error:  # whatever the library raises
        reason = " ".join(str(error).split())[:200] or type(error).__name__
    raise RecipeError(
        f"no folder for timm is made of {encoder.title}: timm {timm.__version__} would not open again what it holds "
        f"({reason}); {LOAD}, and another version of timm may do better"
    )


def _require_expressible(encoder: ResNet) -> None:
    a = encoder.architecture
    reasons = [
        *([f"width {a.width:g}"] if a.width != 1 else []),
        *([f"the {a.stem} stem"] if a.stem != "imagenet" else []),
        *([f"{a.norm} norm" if a.norm != "none" else "no norm"] if a.norm != "batch" else []),
        *([f"{a.input} input"] if a.input != "rgb" else []),
        *([f"flavor {a.flavor}"] if a.flavor != "torchvision" else []),
        *(["selective kernels"] if a.selective_kernels else []),
        *(["squeeze-excitation"] if a.se_ratio else []),
        *([f"depth {a.depth}"] if a.depth not in DEPTHS else []),
    ]
    if reasons:
        raise RecipeError(
            f"timm cannot express this network ({', '.join(reasons)}): its ResNets have width 1, the ImageNet stem and "
            f"depth {', '.join(map(str, DEPTHS))}. {LOAD}"
        )


def _require_of_timm(encoder: ForeignEncoder) -> None:
    if encoder.library.key != "timm":
        raise RecipeError(
            f"no folder for timm is made of {encoder.title}, which is no network of timm's; --format encoder writes "
            "its weights under its own names"
        )
    if encoder.architecture.input != "rgb":
        raise RecipeError(
            f"timm cannot express this network ({encoder.architecture.input} input): it shows its networks RGB. {LOAD}"
        )


def _of_timm(encoder: ForeignEncoder, image_size: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Its name, what timm keeps of it in pretrained_cfg, and the arguments that build it."""
    own: Any = encoder.network.pretrained_cfg
    arguments = dict(encoder.architecture.options)
    takes_others = arguments.get("dynamic_img_size") or not arguments.get("strict_img_size", True)
    if own.get("fixed_input_size"):  # its positions are made for a size: ours, or where options speak of it timm's
        arguments.setdefault("img_size", image_size if encoder.fixed_size else own["input_size"][-1])
    same_size = tuple(own["input_size"]) == (3, image_size, image_size)
    network = {
        "fixed_input_size": bool(own.get("fixed_input_size")) and not takes_others,
        "pool_size": own.get("pool_size") if same_size else None,
        "first_conv": own.get("first_conv"),
        "classifier": own.get("classifier"),
    }
    return own["architecture"], network, arguments
