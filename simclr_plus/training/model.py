"""The network that is trained: the recipe's method with its encoder and, on detached features, a linear probe.

Initial weights depend on the seed alone.
"""

from __future__ import annotations

import torch
from torch import nn

from simclr_plus.datasets.batches import Batch, Counters
from simclr_plus.encoders.build import build
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.global_batch_norm import GlobalBatchNorm, convert_global_batch_norm
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.catalogue import METHODS
from simclr_plus.training.methods.method import Inputs, Method, Outputs


def build_encoder(recipe: Recipe) -> Encoder:
    """The recipe's encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return build(recipe.network)


def build_model(recipe: Recipe, classes: int, images: int = 0) -> Method:
    """The whole network for a number of training images; classes = 0 builds no probe."""
    encoder = build_encoder(recipe)
    if recipe.method.reads_maps:
        encoder.check_maps(recipe.augmentation.image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed + 1)
        model = METHODS[recipe.method.name](recipe, encoder, images)
        if classes:
            model.probe = nn.Linear(encoder.feature_dim, classes)
            nn.init.normal_(model.probe.weight, std=0.01)
            nn.init.zeros_(model.probe.bias)
    if recipe.encoder.freeze_patch_embedding:
        for parameter in encoder.patch_embedding:
            parameter.requires_grad_(False)
    for network in encoder.modules():
        if isinstance(network, Encoder):
            network.checkpoint_activations = recipe.training.activation_checkpointing
    for module in convert_global_batch_norm(model).modules():
        if isinstance(module, GlobalBatchNorm):
            module.over_processes = recipe.training.global_batch_norm
    return model


def laid_out(images: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Images in the recipe's memory layout."""
    return images.contiguous(memory_format=memory_format(recipe))


def through(model: nn.Module, inputs: Inputs, recipe: Recipe) -> Outputs:
    """What the model gives for inputs, all pictures among them in the recipe's memory layout."""
    more = {name: laid_out(x, recipe) if x.ndim == 4 else x for name, x in inputs.more.items()}
    outputs: Outputs = model(laid_out(inputs.images, recipe), **more)
    return outputs


def memory_format(recipe: Recipe) -> torch.memory_format:
    """Of images and kernels."""
    return torch.channels_last if recipe.training.channels_last else torch.contiguous_format


def blank_batch(recipe: Recipe, images: int, device: torch.device, dtype: torch.dtype) -> Batch:
    """A batch of black views, for a pass whose outcome does not matter."""

    def black(views: int, size: int) -> torch.Tensor:
        return torch.zeros(views * images, 3, size, size, dtype=dtype, device=device)

    numbers = torch.zeros(images, dtype=torch.int64, device=device)
    second = recipe.second_law
    return Batch(
        black(recipe.method.view_count, recipe.augmentation.image_size),
        labels=numbers,
        indices=torch.arange(images, device=device),
        epochs=numbers,
        step=0,
        seed=recipe.training.seed,
        counters=Counters(torch.arange(images), torch.zeros(images, dtype=torch.int64), torch.arange(images)),
        second=None if second is None else black(1, second.size),
    )
