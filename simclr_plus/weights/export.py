"""Encoders for other projects: an encoder file, a folder that timm opens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.foreign import ForeignEncoder
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.recipe.reading import parse_recipe
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.weights.checkpoints import CHECKPOINT_FORMAT
from simclr_plus.weights.encoder_files import ENCODER_FORMAT, encoder_metadata, load_encoder, save_encoder
from simclr_plus.weights.outputs import require_output
from simclr_plus.weights.tensor_files import read_header
from simclr_plus.weights.timm_config import require_same_in_timm, timm_config

LEFT_OUT = "not recorded (export --anonymous)"  # in place of the folder of the images


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


def export_timm(source: Path, folder: Path, *, anonymous: bool = False) -> Encoder:
    """A folder for `timm.create_model("local-dir:FOLDER", pretrained=True)`; RecipeError where timm has no such net."""
    require_output(folder / "model.safetensors", ENCODER_FORMAT, inputs=[source])
    encoder = load_encoder(source)
    config = timm_config(encoder, recipe_of(source).law, image_size_of(source, encoder))
    if isinstance(encoder, ForeignEncoder):
        require_same_in_timm(encoder, config)
    folder.mkdir(parents=True, exist_ok=True)
    save_encoder(encoder, folder / "model.safetensors", training_metadata(source, anonymous=anonymous))
    write_text_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
    return encoder


def image_size_of(source: Path, encoder: Encoder) -> int:
    """Side in pixels of the images that an encoder is to be shown."""
    if isinstance(encoder, ForeignEncoder) and encoder.fixed_size:
        return encoder.architecture.image_size
    return recipe_of(source).law.size


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
    start, weights = recipe.training.init_from, recipe.encoder.pretrained
    data = recipe.data.model_copy(update={"root": LEFT_OUT})
    training = recipe.training.model_copy(update={"init_from": Path(start).name if start else ""})
    name_alone = {"pretrained": Path(weights).name if isinstance(weights, str) else weights}
    encoder = recipe.encoder.model_copy(update=name_alone)
    return recipe.model_copy(update={"data": data, "training": training, "encoder": encoder})
