"""SimCLR: two views of an image find each other in the batch (Chen et al. 2020); losses of its Table 2 too."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from torch import Tensor

from simclr_plus.encoders.encoder import Encoder
from simclr_plus.full_precision import in_full
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.losses.compared import margin_triplet, nt_logistic, nt_xent_other_view
from simclr_plus.losses.contrastive import contrastive_metrics, nt_xent
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult


class SimCLR(Method):
    """f, and the projection head g on it."""

    source: ClassVar[str] = "Chen, Kornblith, Norouzi, Hinton 2020, arXiv:2002.05709"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        self.head = SimCLRProjectionHead(
            encoder.feature_dim, recipe.head_hidden_dim, recipe.head.output_dim, recipe.head.num_layers
        )

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """h = f(x) [2B, F], z = g(h) [2B, D]."""
        h = self.encoder(images)
        return {"h": h, "z": self.head(h), **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The recipe's loss of both views; the authors' code minimises the sum of NT-Xent's two sides."""
        z0, z1 = in_full(outputs["z"]).chunk(2)
        loss = contrastive_loss(self.recipe, z0, z1)
        twice = self.recipe.loss.name == "nt_xent" and self.recipe.loss.reduction == "reference"
        metrics = partial(self._metrics, z0.detach(), z1.detach())
        return StepResult(outputs["h"].detach(), loss.detach(), loss * 2 if twice else loss, metrics)

    def _metrics(self, z0: Tensor, z1: Tensor) -> dict[str, float]:
        temperature = self.recipe.loss.temperature
        accuracy, entropy = contrastive_metrics(z0, z1, temperature=temperature, **_shared_settings(self.recipe))
        return {"contrastive_accuracy": float(accuracy), "contrastive_entropy": float(entropy)}


def contrastive_loss(recipe: Recipe, z0: Tensor, z1: Tensor) -> Tensor:
    """The loss that the recipe names, of the global batch."""
    o, shared = recipe.loss, _shared_settings(recipe)
    if o.name == "margin":
        return margin_triplet(z0, z1, margin=o.margin, negatives=o.negatives, semi_hard=o.semi_hard, **shared)
    shared["temperature"] = o.temperature
    if o.name == "nt_logistic":
        return nt_logistic(z0, z1, negatives=o.negatives, semi_hard=o.semi_hard, **shared)
    return (nt_xent if o.negatives == "both_views" else nt_xent_other_view)(z0, z1, **shared)


def _shared_settings(recipe: Recipe) -> dict[str, Any]:
    """equal_rows: the plan gives each process as many rows, so that the host need not wait for the device to ask."""
    return {"normalize": recipe.loss.normalize, "gather": True, "equal_rows": True}
