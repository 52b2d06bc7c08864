"""Encoders for other projects: an encoder file, a folder that timm opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import RecipeError
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.weights.checkpoints import CHECKPOINT_FORMAT
from simclr_plus.weights.encoder_files import ENCODER_FORMAT, encoder_metadata, load_encoder, save_encoder
from simclr_plus.weights.outputs import require_output
from simclr_plus.weights.tensor_files import read_header

LEFT_OUT = "not recorded (export --anonymous)"  # in place of the folder of the images
TIMM_DEPTHS = (18, 34, 50, 101, 152)


def recipe_of(path: Path) -> Recipe:
    """The recipe in the header of a checkpoint or encoder file; without one, defaults and the header's image size."""
    header = read_header(path)
    size, resize = header.get("image_size", "224"), header.get("resize", "bicubic")
    views = f'[augmentation]\nimage_size = {size}\nresize = "{resize}"'
    return parse_recipe(header.get("recipe", views), origin=f"recipe in {path}")


def export_encoder(source: Path, target: Path, *, anonymous: bool = False) -> Encoder:
    """Checkpoint or encoder file -> encoder file: weights alone, and in the header all that one must know of them.

    anonymous: no path of this machine.
    """
    require_output(target, ENCODER_FORMAT, inputs=[source])
    encoder = load_encoder(source)
    save_encoder(encoder, target, training_metadata(source, anonymous=anonymous))
    return encoder


def export_timm(source: Path, folder: Path, *, anonymous: bool = False) -> ResNet:
    """A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; RecipeError where timm has no such net."""
    require_output(folder / "model.safetensors", ENCODER_FORMAT, inputs=[source])
    encoder = load_encoder(source)
    if not isinstance(encoder, ResNet):
        raise RecipeError(f"no folder for timm is made of {encoder.title}; simclr_plus.load_encoder(path) rebuilds it")
    a = encoder.architecture
    reasons = [
        *([f"width {a.width:g}"] if a.width != 1 else []),
        *([f"the {a.stem} stem"] if a.stem != "imagenet" else []),
        *([f"{a.norm} norm" if a.norm != "none" else "no norm"] if a.norm != "batch" else []),
        *([f"{a.input} input"] if a.input != "rgb" else []),
        *([f"flavor {a.flavor}"] if a.flavor != "torchvision" else []),
        *(["selective kernels"] if a.selective_kernels else []),
        *(["squeeze-excitation"] if a.se_ratio else []),
        *([f"depth {a.depth}"] if a.depth not in TIMM_DEPTHS else []),
    ]
    if reasons:
        raise RecipeError(
            f"timm cannot express this network ({', '.join(reasons)}): its ResNets have width 1, the ImageNet stem and "
            f"depth {', '.join(map(str, TIMM_DEPTHS))}. simclr_plus.load_encoder(path) rebuilds it"
        )
    law = recipe_of(source).law
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architecture": f"resnet{a.depth}",
        "num_classes": 0,
        "num_features": encoder.feature_dim,
        "pretrained_cfg": {
            "tag": "simclr_plus",
            "custom_load": False,
            "input_size": [3, law.size, law.size],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": law.evaluation_crop,
            "crop_mode": "center",
            "mean": list(a.mean),
            "std": list(a.std),
            "num_classes": 0,
            "pool_size": [7, 7],
            "first_conv": "conv1",
            "classifier": "fc",
        },
    }
    save_encoder(encoder, folder / "model.safetensors", training_metadata(source, anonymous=anonymous))
    write_text_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return encoder


def training_metadata(source: Path, *, anonymous: bool = False) -> dict[str, Any]:
    """Header values about the training: recipe, data, image size, step; anonymous: without paths of this machine."""
    header = read_header(source)
    if header.get("format") == CHECKPOINT_FORMAT:
        metadata = encoder_metadata(parse_recipe(header["recipe"]), int(header["step"]))
    else:
        keys = ("recipe", "data", "image_size", "resize", "imported_from", "step")
        metadata = {key: header[key] for key in keys if key in header}
    if anonymous and "recipe" in metadata:
        recipe = _without_paths(parse_recipe(metadata["recipe"], origin=f"recipe in {source}"))
        metadata |= {"recipe": recipe.to_toml(), "data": "folder" if recipe.data.name == "folder" else recipe.data.name}
    return metadata


def _without_paths(recipe: Recipe) -> Recipe:
    """The same training, without the places of its files."""
    data = recipe.data.model_copy(update={"root": LEFT_OUT})
    init_from, pretrained = recipe.training.init_from, recipe.encoder.pretrained
    training = recipe.training.model_copy(update={"init_from": Path(init_from).name if init_from else ""})
    file = Path(pretrained).name if isinstance(pretrained, str) else pretrained
    encoder = recipe.encoder.model_copy(update={"pretrained": file})
    return recipe.model_copy(update={"data": data, "encoder": encoder, "training": training})
