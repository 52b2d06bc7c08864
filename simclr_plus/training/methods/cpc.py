"""CPC: rows of an image's patches predict rows to come (van den Oord et al. 2018; v2: Henaff et al. 2019).

f is the mean over a grid of patches. In training each patch is changed by itself; h, for the probe, is the mean over
these. Evaluators and the monitor show f whole images, whose patches are as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.encoders.patches import PatchEncoder
from simclr_plus.global_batch_norm import GlobalBatchNorm
from simclr_plus.parts.cpc import CPCHeads, CPCLoss, Predicted
from simclr_plus.parts.cpc_patches import distorted, inner_squares
from simclr_plus.recipe.method_keys.cpc import CPCKeys
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.methods.method import Inputs, Method, Outputs, StepResult

CHANGES = {"crop": inner_squares, "distort": distorted}


class CPC(Method):
    """f, and for each direction a context network and the maps of its offsets."""

    source: ClassVar[str] = "van den Oord, Li, Vinyals 2018, arXiv:1807.03748; Henaff et al. 2019, arXiv:1905.09272"

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        super().__init__(recipe, encoder, images)
        assert isinstance(recipe.method, CPCKeys) and isinstance(encoder, PatchEncoder)
        self.keys = k = recipe.method
        self.heads = CPCHeads(
            encoder.feature_dim,
            k.rows_ahead,
            k.version,
            k.sides,
            target_dim=k.target_dim,
            score_scale=k.score_scale,
            width=k.context_width,
            blocks=k.context_blocks,
        )
        self.criterion = CPCLoss(k.candidates)

    def study_images(self, images: Images, law: ViewLaw) -> Iterable[str]:
        """Tell of a batch norm."""
        if not any(isinstance(layer, GlobalBatchNorm) for layer in self.encoder.modules()):
            return
        of_resnet, name = self.recipe.encoder.is_resnet, self.recipe.encoder.name
        batch_norm = 'encoder.norm = "batch"' if of_resnet else f'encoder.name = "{name}" has batch norm'
        instead = '"layer" (v2) or "none" (v1)' if of_resnet else "layer norm (v2) or none (v1)"
        yield (
            f"{batch_norm}: its statistics tell f of other patches, which lowers the loss and not the error of a "
            f"classifier; CPC has {instead}"
        )

    def prepare(self, batch: Batch) -> Inputs:
        """The patches [B H W, 3, s, s], image by image and row by row, each changed by itself."""
        assert isinstance(self.encoder, PatchEncoder)
        patches = self.encoder.patches(batch.views).flatten(1, 2)
        change, counters = CHANGES.get(self.keys.views_of_patches), batch.counters
        if change is not None:
            patches = change(patches, seed=batch.seed, indices=counters.indices, epochs=counters.epochs)
        return Inputs(patches.flatten(0, 1))

    def forward(self, images: Tensor, **_more: Tensor) -> Outputs:
        """The mean h of the patches of each image [B, F]; targets and predictions of each direction by their names."""
        assert isinstance(self.encoder, PatchEncoder)
        side = self.keys.geometry(self.recipe)[2]
        z = self.encoder.features(torch.unflatten(images, 0, (-1, side, side)))
        h = z.mean(dim=(1, 2))
        outputs = {}
        for direction, predicted in self.heads(z.permute(0, 3, 1, 2)).items():
            outputs[f"targets {direction}"] = predicted.targets
            outputs |= {f"predictions {direction} {o}": x for o, x in predicted.predictions.items()}
        return {"h": h, **outputs, **self.probed(h)}

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The mean over directions."""
        predicted = {d: self._predicted(outputs, d) for d in self.heads.predictors}
        loss = torch.stack([self.criterion(p, equal_rows=True) for p in predicted.values()]).mean()
        detached = [_detached(p) for p in predicted.values()]
        return StepResult(outputs["h"].detach(), loss.detach(), loss, partial(_metrics, self.criterion, detached))

    def _predicted(self, outputs: Outputs, direction: str) -> Predicted:
        predictions = {o: outputs[f"predictions {direction} {o}"] for o in self.keys.rows_ahead}
        return Predicted(outputs[f"targets {direction}"], predictions)


def _detached(predicted: Predicted) -> Predicted:
    return Predicted(predicted.targets.detach(), {o: x.detach() for o, x in predicted.predictions.items()})


def _metrics(criterion: CPCLoss, predicted: Iterable[Predicted]) -> Mapping[str, float]:
    """Of all directions."""
    right = torch.stack([criterion.accuracy(p, equal_rows=True) for p in predicted]).mean()
    return {"prediction_accuracy": distributed.mean_over_processes(right)}
