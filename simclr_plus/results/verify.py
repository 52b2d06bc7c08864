"""Weights and a linear head, evaluated as they are and set beside what is stated of them. Nothing is trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.images import NAMES, TEST, Images, data_named, open_folder, open_images, require_labels
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.resnet import ResNet
from simclr_plus.errors import CheckpointError, NotFoundError, RecipeError, SimclrPlusError
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.features.metrics import summary
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.importers.trainers import read_linear_head
from simclr_plus.recipe.keys import Data
from simclr_plus.results.published import stated_top1
from simclr_plus.weights.checkpoints import CHECKPOINT_FORMAT
from simclr_plus.weights.encoder_files import load_encoder
from simclr_plus.weights.head_files import HEAD_FORMAT, beside, load_head
from simclr_plus.weights.tensor_files import read_header


def verify(
    weights: Path,
    images: Images,
    law: ViewLaw,
    *,
    device: torch.device,
    head: Path | None = None,
    projection: Path | None = None,
    selector: int | None = None,
    classes: tuple[str, ...] = (),
    stated: float | None = None,
    published: str = "",
) -> dict[str, Any]:
    """top-1, top-5 and mean per class of a linear head on labelled images, SHA-256 of the files, the figure stated.

    head: default the probe in a checkpoint, or the file that `import` wrote beside an encoder. selector > 0: the head
    stands on that layer of the projection head (SimCLR v2 fine-tunes with 1), -1: on its last one. classes: class names
    in the head's order, where the images show only some of them or the order is not the folder's. Classifiers that
    `evaluate linear` kept say both themselves. stated: top-1 in percent; or published: a name in `published.NAMES` for
    the authors' figure of that network.
    """
    encoder = load_encoder(weights).to(device)
    if published:
        stated = _stated_for(encoder, published)
    head = head or own_head(weights)
    linear = _linear_head(head)
    about = _own_header(head)
    selector = int(about.get("selector", 0)) if selector is None else selector
    classes = classes or tuple(json.loads(about.get("classes", "[]")))
    labels = _labels_in_order(images, classes, linear.out_features, head)
    h, seen = features_of(encoder, images, law, device=device)
    files = {"encoder": weights, "linear head": head}
    if selector:
        beside_weights = weights if is_checkpoint(weights) else beside(weights, "projection")
        files["projection head"] = projection or beside_weights
        h = _hidden(files["projection head"], h, selector)
    if h.shape[1] != linear.in_features:
        raise CheckpointError(
            f"{head} takes {linear.in_features} features, {weights} gives {h.shape[1]}; is it another network's, "
            "or does it stand on a layer of the projection head (--selector)?"
        )
    with torch.no_grad():
        scores = summary(linear(h), labels[labels_of(seen)])
    result: dict[str, Any] = {
        "schema": 1,
        "evaluator": "verify",
        "weights": str(weights),
        "files": {part: {"path": str(path), "sha256": sha256(path)} for part, path in files.items()},
        "architecture": encoder.spec,
        "selector": selector,
        "data": images.name,
        "test_images": len(seen),
        "classes": linear.out_features,
        "classes_by_name": bool(classes),
        "views": {"size": law.size, "central_crop": law.evaluation_crop, "resize": law.resize},
        "results": scores,
        "standard_error": (scores["top1"] * (1 - scores["top1"]) / len(seen)) ** 0.5,
    }
    source = f"authors, {published}" if published else "--stated"
    return result if stated is None else result | _beside(stated, source, scores["top1"])


def _beside(stated: float, source: str, top1: float) -> dict[str, Any]:
    """What the publishers state, in percent, and how far it is from what was measured."""
    return {"stated": {"top1": stated / 100, "source": source}, "difference": top1 - stated / 100}


def images_to_verify(name: str, trained_on: Data | None = None, root: str = "") -> Images:
    """The test images of a data set by name, of ImageNet's layout (val beside train), or all below a folder.

    root: of a data set by name; without it the one of the training, or "data".
    """
    like = trained_on or Data()
    if name in NAMES:
        return open_images(data_named(name, like, root), TEST)
    if root:
        raise RecipeError(f"--root {root} is for data sets by name ({', '.join(NAMES)}); {name} is none")
    if (Path(name) / "train").is_dir():
        return open_images(data_named(name, like), TEST)
    return open_folder(Path(name), like)


def classes_in(file: Path) -> tuple[str, ...]:
    """Class names, one a line; NotFoundError naming the file."""
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # names of folders need not be UTF-8
    except OSError as error:
        raise NotFoundError(f"no readable list of classes {file}: {error.strerror}") from None
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def own_head(weights: Path) -> Path:
    """Where a linear head is kept with the weights: in the checkpoint itself, or in the file beside an encoder."""
    if is_checkpoint(weights):
        return weights
    if beside(weights, "linear").is_file():
        return beside(weights, "linear")
    raise NotFoundError(f"{weights} has no linear head, in it or beside it; name one with --head FILE")


def is_checkpoint(weights: Path) -> bool:
    """Whether heads, if there are any, lie in the file itself."""
    return read_header(weights).get("format") == CHECKPOINT_FORMAT


def sha256(path: Path) -> str:
    """The hash by which others can tell that they have the same file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _own_header(path: Path) -> dict[str, str]:
    """What a file of ours says of itself; nothing of another's."""
    header = read_header(path) if path.suffix == ".safetensors" else {}
    return header if header.get("format") in (CHECKPOINT_FORMAT, HEAD_FORMAT) else {}


def _linear_head(path: Path) -> torch.nn.Linear:
    head = load_head(path, "linear") if _own_header(path) else read_linear_head(path)
    assert isinstance(head, torch.nn.Linear)
    return head


def _hidden(projection: Path, h: torch.Tensor, selector: int) -> torch.Tensor:
    if not projection.is_file():
        raise NotFoundError(f"no projection head {projection}: selector {selector} counts its layers; name its file")
    head = load_head(projection, "projection")
    assert isinstance(head, SimCLRProjectionHead)
    with torch.no_grad():
        return head.hidden(h, selector)


def _labels_in_order(images: Images, classes: tuple[str, ...], count: int, head: Path) -> torch.Tensor:
    """The head's number of each of the folder's classes."""
    require_labels(images)
    if not classes:
        if len(images.classes) != count:
            raise SimclrPlusError(
                f"{head} knows {count} classes, {images.name} holds {len(images.classes)}; with --classes FILE say "
                "which they are, one name a line in the head's order"
            )
        return torch.arange(count)
    if len(classes) != count:
        raise SimclrPlusError(f"{head} knows {count} classes, but {len(classes)} names are given")
    number = {name: i for i, name in enumerate(classes)}
    unknown = [name for name in images.classes if name not in number]
    if unknown:
        raise SimclrPlusError(
            f"classes of {images.name} that the head does not know: {', '.join(unknown[:5])} (it knows "
            f"{', '.join(classes[:5])}{', ...' if count > 5 else ''}); with --classes FILE name them as the images do"
        )
    return torch.from_numpy(np.array([number[name] for name in images.classes], dtype=np.int64))


def _stated_for(encoder: Encoder, published: str) -> float:
    """The authors' figure for that network; RecipeError where they state none."""
    if not isinstance(encoder, ResNet):
        raise RecipeError(f"the authors state no figure for {encoder.title}; give --stated PERCENT yourself")
    return stated_top1(published, encoder.architecture)
