"""Colorization: which colors has an image whose lightness is seen? (Zhang, Isola, Efros, ECCV 2016)

f sees lightness alone, in training and later; its last map is asked for the color of each place of a grid of labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.central_crop import whole_parameters
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch, evaluation_batches
from simclr_plus.datasets.grayness import LOOKED_AT
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import RecipeError
from simclr_plus.parts.colorization import (
    COLORS,
    ColorHead,
    ColorizationLoss,
    are_colored,
    color_bins,
    color_prior,
    color_targets,
    colorization_loss,
    imagenet_prior,
    rebalancing_weights,
)
from simclr_plus.recipe.method_keys.colorization import ColorizationKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.gray_images import notes_on_gray
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult

COUNTED = 10_000  # images whose colors make the prior
_SPAN, _ZERO = 256, 128  # whole numbers that a and b round to, and where 0 is among them


class Colorization(Method):
    """f, and a head that gives logits of the colors on its last map.

    prior: how often each color occurs [313]; uniform until the images have been looked at.
    """

    source: ClassVar[str] = "Zhang, Isola, Efros 2016, arXiv:1603.08511"
    prior: Tensor

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, ColorizationKeys)
        self.keys, self.stride = recipe.method, recipe.method.stride(recipe)
        channels, _ = recipe.architecture.map_shape(4, recipe.augmentation.image_size)
        self.head = ColorHead(channels, self.keys.hidden_dim)
        for parameter in encoder.after_maps:  # norms, which no gradient reaches
            parameter.requires_grad_(False)
        published = self.keys.prior == "imagenet"
        self.register_buffer("prior", imagenet_prior().float() if published else torch.full((COLORS,), 1 / COLORS))

    def study_images(self, images: Images, law: ViewLaw) -> Iterator[str]:
        """Refuse gray images, and count colors: of the first ones, and of a share that is spread evenly."""
        first = images.subset(np.arange(min(LOOKED_AT, len(images))))
        colored = [bool(x) for ab in _colors_of(first, law, self.stride) for x in are_colored(ab)]
        yield from notes_on_gray(self.keys, images, self.recipe.data.name, colored.count(False), len(colored))
        if self.keys.prior == "dataset":
            count = min(COUNTED, len(images))
            spread = images.subset(np.arange(count) * len(images) // count)
            self.prior.copy_(_prior_of(_colors_of(spread, law, self.stride), self.keys))
        yield prior_in_words(self.prior.double().cpu())

    def prepare(self, batch: Batch) -> Inputs:
        """The views, and a and b on the grid of labels [B, 2, h, w]."""
        return Inputs(batch.views, color_targets(batch.views, self.stride))

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h [B, F], and of the last map logits of the colors [B, 313, h, w]."""
        h, maps = self.encoder.features_and_maps(images)
        grid = torch.Size(-(-side // self.stride) for side in images.shape[2:])
        return {"h": h, "colors": self.head(maps["layer4"], grid), **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean over all labels, gray images among them, whose labels count nothing."""
        assert inputs.targets is not None
        weights = rebalancing_weights(self.prior, self.keys.rebalance)
        k, sigma = self.keys.neighbours, self.keys.sigma
        terms = colorization_loss(outputs["colors"], inputs.targets, weights, neighbours=k, sigma=sigma)
        return StepResult(outputs["h"].detach(), terms.loss.detach(), terms.loss, partial(_metrics, terms))


def prior_in_words(prior: Tensor) -> str:
    """Of a prior [313]: how much of it lies near gray, by which a wrong one is seen."""
    radius = color_bins().norm(dim=1)
    near, nearer = (float(prior[radius <= r].sum()) for r in (30, 10))
    return (
        f"colors of the images: {nearer:.0%} within 10 of gray, {near:.0%} within 30 (ImageNet 48 %, 81 %); "
        f"{int((prior > 0).sum())} of {COLORS} occur"
    )


def _metrics(terms: ColorizationLoss) -> dict[str, float]:
    right, counted, excess = (
        distributed.mean_over_processes(x) for x in (terms.right, terms.counted, (terms.loss - terms.floor).detach())
    )
    return {"pretext_accuracy": right / counted if counted else 0.0, "excess_loss": excess}


def _colors_of(images: Images, law: ViewLaw, stride: int) -> Iterator[Tensor]:
    """a and b [n, 2, h, w] of whole images in the size of views, on the grid of labels."""
    for views, _ in evaluation_batches(images, law, shown=whole_parameters):
        yield color_targets(views, stride)


def _prior_of(colors: Iterator[Tensor], keys: ColorizationKeys) -> Tensor:
    """Of a and b rounded to whole numbers, each pair coded once; RecipeError where no image could be read."""
    counts = torch.zeros(_SPAN**2, dtype=torch.int64)
    for ab in colors:
        a, b = (ab.round().long().clamp(-_ZERO, _SPAN - _ZERO - 1) + _ZERO).unbind(1)
        counts += torch.bincount((a * _SPAN + b).flatten(), minlength=_SPAN**2)
    occur = counts.nonzero()[:, 0]
    if not len(occur):
        raise RecipeError(
            'method.prior = "dataset" counts colors in the training images, and none of those looked at can be read; '
            "give images that can, or method.prior=imagenet"
        )
    pairs = torch.stack([occur // _SPAN - _ZERO, occur % _SPAN - _ZERO], dim=1).double()
    return color_prior(pairs, counts[occur], keys.neighbours, keys.sigma)
