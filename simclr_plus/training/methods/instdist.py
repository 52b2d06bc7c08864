"""Instance discrimination (NPID): every image is a class of its own (Wu, Xiong, Yu, Lin 2018).

One view an image is compared with the memory of all images; the view's z goes into the memory after the update.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import ClassVar

from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.parts.instdist import InstDistHead, InstDistLoss
from simclr_plus.recipe.method_keys.instdist import InstDistKeys
from simclr_plus.recipe.method_keys.memory import note_on_few_images
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class InstDist(Method):
    """f, a linear layer on it, and the memory of every image."""

    source: ClassVar[str] = "Wu, Xiong, Yu, Lin 2018, arXiv:1805.01978"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, InstDistKeys)
        keys = self.keys = recipe.method
        self.head = InstDistHead(encoder.feature_dim, keys.output_dim)
        self.criterion = InstDistLoss(
            images,
            keys.output_dim,
            loss=keys.loss,
            negatives=keys.negatives,
            temperature=keys.temperature,
            momentum=keys.momentum,
            proximal=keys.proximal,
            z_momentum=keys.z_momentum,
            seed=recipe.training.seed,
        )

    def study_images(self, images: Images, law: ViewLaw) -> Iterable[str]:
        """A note where the loss does not suit the number of images."""
        note = note_on_few_images("loss", self.keys.loss, len(images))
        return [note] if note else []

    def prepare(self, batch: Batch) -> Inputs:
        """The views [B, 3, S, S], and whose rows of the memory they are compared with [B, 1 + K], or [B] for all."""
        return Inputs(batch.views, self.criterion.candidates(batch.indices, batch.step))

    def forward(self, images: Tensor, **_more: Tensor) -> Outputs:
        """h = f(x) [B, F], z [B, D] of unit length."""
        h = self.encoder(images)
        return {"h": h, "z": self.head(h), **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """Of z against the memory as it is before this step; the proximal term is minimised, not reported."""
        assert inputs.targets is not None
        z, candidates = outputs["z"], inputs.targets
        loss, nearest = self.criterion.compare(z, candidates)
        objective = loss
        if self.keys.proximal:
            own = candidates if candidates.ndim == 1 else candidates[:, 0]
            objective = loss + self.keys.proximal * self.criterion.distance(z, own)
        return StepResult(outputs["h"].detach(), loss.detach(), objective, partial(_metrics, nearest), z.detach())

    def after_step(self, result: StepResult, batch: Batch) -> None:
        """The batch goes into the memory."""
        assert result.memory is not None
        self.criterion.update(batch.indices, result.memory, equal_rows=True)


def _metrics(nearest: Tensor) -> dict[str, float]:
    return {"pretext_accuracy": distributed.mean_over_processes(nearest)}
