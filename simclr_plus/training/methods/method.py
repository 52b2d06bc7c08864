"""What a method is: what goes through the encoder f, what is built beside it, the loss, what follows an update.

B: images of this process, V: views, S: side, R: rows that go through f, F: feature_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import Batch
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.recipe.recipe import Recipe

Outputs = Mapping[str, Tensor]  # of the network, by name; "probe": logits of the probe


@dataclass(frozen=True)
class Inputs:
    """What goes through the network [R, 3, S, S], and its targets: classes, pixels, places in a memory; or none.

    more: further tensors that `forward` takes by their names: patches, noise, another network's images.
    """

    images: Tensor
    targets: Tensor | None = None
    more: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class StepResult:
    """What a step leaves.

    features: h of rows of whole images, [a multiple of B, F], without gradient.
    loss: as it is reported. objective: what is minimised. Both are means over the rows of this process.
    metrics: numbers by their columns of metrics.jsonl, over the global batch. All processes ask when a line is written.
    memory: what `after_step` stores.
    """

    features: Tensor
    loss: Tensor
    objective: Tensor
    metrics: Callable[[], Mapping[str, float]] = dict
    memory: Tensor | None = None


class Method(nn.Module):
    """f and what a method builds beside it.

    All state is parameters and buffers: checkpoints, resume and DDP handle it without knowing it. All randomness is a
    function of seed, epoch, image and position, so that no generator is saved.

    probe: a linear classifier on detached features, where the recipe asks for one and there are labels.
    """

    source: ClassVar[str]  # the paper
    rate_factors: Mapping[str, float]  # times the learning rate, for parameters whose names begin so
    encoder: Encoder
    probe: nn.Linear | None

    def __init__(self, recipe: Recipe, encoder: Encoder, images: int) -> None:
        """Build what stands beside f; `images` is how many are trained on, for methods that remember each."""
        super().__init__()
        self.recipe, self.encoder, self.images, self.probe = recipe, encoder, images, None
        self.rate_factors = {}

    def study_images(self, images: Images, law: ViewLaw) -> Iterable[str]:
        """Look at what is trained on, once, before the first step of a new run and on every process: notes for users.

        May fill buffers, which checkpoints keep. Raises RecipeError for images that the method cannot use.
        """
        return ()

    def prepare(self, batch: Batch) -> Inputs:
        """From a batch on the device, views [V B, 3, S, S] with all of view 0 first, to what goes through f."""
        return Inputs(batch.views)

    def forward(self, images: Tensor, **more: Tensor) -> Outputs:
        """One pass for all rows, so that batch norm sees every one; DDP wraps it, and all parameters are used in it."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, inputs: Inputs) -> StepResult:
        """The loss of the global batch."""
        raise NotImplementedError

    def after_step(self, result: StepResult, batch: Batch) -> None:
        """Follow an update: a memory bank, a queue, a momentum encoder. Most methods have none."""

    def method_parameters(self) -> list[nn.Parameter]:
        """All that its objective trains: the probe learns beside it, unless the method learns through it."""
        return [
            parameter
            for name, parameter in self.named_parameters()
            if self.recipe.method.learns_labels or not name.startswith("probe.")
        ]

    def probed(self, h: Tensor) -> dict[str, Tensor]:
        """The probe's logits, for `forward` to pass on. h is [a multiple of B, F], in the order of the batch."""
        return {} if self.probe is None else {"probe": self.probe(h.detach())}
