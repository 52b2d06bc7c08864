"""MoCo: a view finds the key of the other view of its image among a queue of older keys (He et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.full_precision import in_full
from simclr_plus.parts.group_batch_norm import average_running_statistics, group_batch_norm
from simclr_plus.parts.moco import (
    KeyQueue,
    in_batch_order,
    key_copy,
    key_orders,
    moco_head,
    moco_logits,
    own_key_loss,
    shuffled,
    update_momentum,
)
from simclr_plus.recipe.method_keys.moco import MoCoKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class MoCo(Method):
    """f and its head, the copies that follow them, and the queue of what these have made of past batches.

    The copies move after an update, which the losses see as the authors' moving before the next forward pass: in a
    checkpoint they are one step further than in one of the authors'.
    """

    source: ClassVar[str] = "He, Fan, Wu, Xie, Girshick 2019, arXiv:1911.05722; Chen, Fan et al. 2020, arXiv:2003.04297"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, MoCoKeys)
        self.keys = recipe.method
        features = encoder.feature_dim
        self.head = moco_head(features, features, self.keys.output_dim, self.keys.head_layers)
        group_batch_norm(encoder, self.keys.norm_group)
        self.key_encoder, self.key_head = key_copy(encoder), key_copy(self.head)
        self.queue = KeyQueue(self.keys.queue, self.keys.output_dim, recipe.training.seed)

    def study_images(self, images: Images, law: ViewLaw) -> Iterable[str]:
        """The copies start as what f and its head start as, which may come from a file; few images are pointed out."""
        self.key_encoder.load_state_dict(self.encoder.state_dict())
        self.key_head.load_state_dict(self.head.state_dict())
        if 4 * self.keys.queue > len(images) * self.keys.directions:
            yield (
                f"method.queue = {self.keys.queue} is much for {len(images)} images: keys of an image itself would be "
                f"among its negatives; a quarter of the keys of an epoch or less is better"
            )

    def prepare(self, batch: Batch) -> Inputs:
        """Queries [V B, 3, S, S]; images of keys, shuffled over the global batch, and their order [V, B of all]."""
        first, second = batch.views.chunk(2)
        queries, keys = ([first, second], [first, second]) if self.keys.symmetric else ([first], [second])
        more = {}
        if self.keys.shuffle:
            count = len(first) * distributed.world_size()
            more["order"] = key_orders(batch.seed, batch.step, count, len(keys)).to(first.device)
            keys = [shuffled(x, order) for x, order in zip(keys, more["order"], strict=True)]
        return Inputs(torch.cat(queries), more={"key_images": torch.cat(keys), **more})

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h [V B, F], z [V B, D]; the keys of all processes [V B of all, D] by view, each in the order of the batch.

        Views go through f one after the other, so that a batch norm never sees two views of an image.
        """
        views = self.keys.directions
        h = torch.cat([self.encoder(x) for x in images.chunk(views)])
        with torch.no_grad():
            orders = more.get("order", [None] * views)
            keys = [
                in_batch_order(F.normalize(in_full(self.key_head(self.key_encoder(x)))), order)
                for x, order in zip(more["key_images"].chunk(views), orders, strict=True)
            ]
        return {"h": h, "z": self.head(h), "keys": torch.cat(keys), **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean cross entropy of the right key; both directions are added, and reported as their mean."""
        z, views = F.normalize(in_full(outputs["z"])), self.keys.directions
        keys = torch.unflatten(outputs["keys"], 0, (views, -1))
        share = len(z) // views
        first = distributed.rank() * share
        positives = keys.flip(0)[:, first : first + share].flatten(0, 1)  # of the other view
        logits = moco_logits(z, positives, self.queue.keys, self.keys.temperature)
        loss = own_key_loss(logits)
        right = (logits.detach().argmax(dim=1) == 0).float().mean()
        metrics = partial(self._metrics, right)
        return StepResult(outputs["h"].detach(), loss.detach(), views * loss, metrics, memory=outputs["keys"])

    def after_step(self, result: StepResult, batch: Batch) -> None:
        """The keys join the queue, the copies follow, running statistics become those of all processes."""
        assert result.memory is not None
        self.queue.update(result.memory)
        update_momentum(self.encoder, self.key_encoder, self.keys.key_momentum)
        update_momentum(self.head, self.key_head, self.keys.key_momentum)
        average_running_statistics(self)

    def _metrics(self, right: Tensor) -> dict[str, float]:
        oldest = min(int(self.queue.written), self.keys.queue)
        return {
            "contrastive_accuracy": distributed.mean_over_processes(right),
            "queue_age": oldest / (max(1, self.images) * self.keys.directions),
        }
