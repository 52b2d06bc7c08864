"""What is trained: encoder f, projection head g and, beside them on detached features, a linear probe.

In supervised training there is no g, and the probe is the classifier through which f learns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from simclr_plus.encoders.resnet import ResNet
from simclr_plus.global_batch_norm import GlobalBatchNorm1d, GlobalBatchNorm2d, convert_global_batch_norm
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.recipe.recipe import Recipe


class SimCLR(nn.Module):
    """Images [B, 3, S, S] -> h [B, F], z [B, D] and the probe's logits [B, classes] (None without a probe).

    detached: the probe's gradient does not reach the encoder.
    """

    def __init__(
        self, encoder: nn.Module, head: nn.Module, probe: nn.Linear | None = None, *, detached: bool = True
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.probe, self.detached = encoder, head, probe, detached

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """One pass for all views, so that batch norm sees every row."""
        h = self.encoder(images)
        z = self.head(h)
        return h, z, None if self.probe is None else self.probe(h.detach() if self.detached else h)


def build_encoder(recipe: Recipe) -> ResNet:
    """The recipe's encoder with initial weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        return ResNet(**recipe.architecture.as_dict())


def build_model(recipe: Recipe, classes: int) -> SimCLR:
    """The whole model with initial weights that depend on the seed alone; classes = 0 builds no probe."""
    encoder = build_encoder(recipe)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed + 1)
        head = SimCLRProjectionHead(
            encoder.feature_dim, recipe.head_hidden_dim, recipe.head.output_dim, recipe.head_layers
        )
        probe = None
        if classes:
            probe = nn.Linear(encoder.feature_dim, classes)
            nn.init.normal_(probe.weight, std=0.01)
            nn.init.zeros_(probe.bias)
    encoder.checkpoint_activations = recipe.training.activation_checkpointing
    model = SimCLR(encoder, head, probe, detached=not recipe.supervised)
    for module in convert_global_batch_norm(model).modules():
        if isinstance(module, GlobalBatchNorm1d | GlobalBatchNorm2d):
            module.over_processes = recipe.training.global_batch_norm
    return model
