"""PIRL: whole images and their shuffled patches find the image's row in a memory (Misra, van der Maaten 2020).

Images and patches go through f one after the other. Each pass has its own batch statistics, and only that of whole
images moves the running ones, so that evaluation sees what whole images have; the authors' code lets both move them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.global_batch_norm import running_statistics_held
from simclr_plus.parts.patches import random_patches
from simclr_plus.parts.pirl import PIRLHead, PIRLLoss, PIRLPatchHead, distorted_patches, drawn_orders
from simclr_plus.recipe.method_keys.memory import note_on_few_images
from simclr_plus.recipe.method_keys.pirl import PIRLKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class PIRL(Method):
    """f, a head for images, one for patches, and the memory of every image; without patches (weight 0) InstDist."""

    source: ClassVar[str] = "Misra, van der Maaten 2020, arXiv:1912.01991"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, PIRLKeys)
        keys = self.keys = recipe.method
        self.grid = keys.patch_grid(recipe)
        self.head = PIRLHead(encoder.feature_dim, keys.output_dim, keys.mlp)
        self.patch_head = (
            PIRLPatchHead(encoder.feature_dim, keys.output_dim, self.grid.count, keys.mlp) if keys.weight else None
        )
        self.criterion = PIRLLoss(
            images,
            keys.output_dim,
            weight=keys.weight,
            objective=keys.objective,
            negatives=keys.negatives,
            temperature=keys.temperature,
            momentum=keys.memory_momentum,
            seed=recipe.training.seed,
        )

    def study_images(self, images: Images, law: ViewLaw) -> Iterable[str]:
        """Notes where there are fewer images than negatives, or too few for noise-contrastive estimation."""
        note = note_on_few_images("objective", self.keys.objective, len(images))
        if note:
            yield note
        if self.keys.negatives > len(images):
            yield (
                f"method.negatives = {self.keys.negatives:,} with {len(images):,} images: as many negatives are drawn "
                "for each as there are images"
            )

    def prepare(self, batch: Batch) -> Inputs:
        """The views [B, 3, S, S]; patches [9 B, 3, p, p] of other crops, their orders [B, 9]; rows to compare with."""
        candidates = self.criterion.candidates(batch.indices, batch.step)
        if self.patch_head is None:
            return Inputs(batch.views, candidates)
        assert batch.second is not None
        indices, epochs, _ = batch.counters
        drawn: dict[str, Any] = {"seed": batch.seed, "indices": indices, "epochs": epochs}
        patches = random_patches(batch.second, self.grid, 0.0, **drawn)
        if self.keys.patch_operations == "each":
            patches = distorted_patches(patches, self.recipe.law, **drawn)
        orders = drawn_orders(batch.seed, indices, epochs, self.grid.count)
        more = {"patches": patches.flatten(0, 1), "orders": orders.to(batch.views.device, non_blocking=True)}
        return Inputs(batch.views, candidates, more)

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) [B, F] of whole images; u [B, D] of them, v [B, D] of their patches, both of unit length."""
        h = self.encoder(images)
        outputs = {"h": h, "u": self.head(h), **self.probed(h)}
        if self.patch_head is not None:
            with running_statistics_held(self.encoder):
                of_patches = self.encoder(more["patches"])
            outputs["v"] = self.patch_head(of_patches, more["orders"])
        return outputs

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """Of u and v against the memory as it is before this step."""
        assert inputs.targets is not None
        loss, *accuracies = self.criterion.compare(outputs["u"], outputs.get("v"), inputs.targets)
        columns = dict(zip(("pretext_accuracy", "patch_accuracy"), accuracies, strict=True))
        shares = {name: share for name, share in columns.items() if share is not None}
        return StepResult(outputs["h"].detach(), loss.detach(), loss, partial(_metrics, shares), outputs["u"].detach())

    def after_step(self, result: StepResult, batch: Batch) -> None:
        """The whole images go into the memory."""
        assert result.memory is not None
        self.criterion.update(batch.indices, result.memory, equal_rows=True)


def _metrics(shares: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: distributed.mean_over_processes(share) for name, share in shares.items()}
