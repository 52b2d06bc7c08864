"""What the loop of a run works on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.optim import Optimizer

from simclr_plus import distributed
from simclr_plus.datasets.images import Images
from simclr_plus.recipe.plan import Plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import HeartbeatWriter
from simclr_plus.runs.progress import TrainingProgress
from simclr_plus.training.continuation import Identity
from simclr_plus.training.methods.method import Method, StepResult
from simclr_plus.training.probe import ProbeResult
from simclr_plus.weights.background_saving import CheckpointSaver

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass
class Training:
    """What the loop works on."""

    run: Run
    recipe: Recipe
    plan: Plan
    images: Images
    model: Method
    optimizer: Optimizer
    device: torch.device
    progress: TrainingProgress
    saver: CheckpointSaver
    knn_images: tuple[Images, Images] | None  # bank and queries of the monitor, in process 0
    step: int = 0  # updates done
    heartbeat: HeartbeatWriter = field(default_factory=HeartbeatWriter)
    identity: Identity = field(default_factory=Identity)

    @property
    def is_main(self) -> bool:
        """Process 0 alone writes the run folder."""
        return distributed.rank() == 0

    def crossed(self, epochs: float, step: int | None = None) -> bool:
        """Whether the last update completed a multiple of `epochs` epochs (0: never)."""
        step = self.step if step is None else step
        per = epochs * self.plan.images / self.plan.global_batch
        return epochs > 0 and int(step / per) > int((step - 1) / per)


@dataclass(frozen=True)
class Update:
    """What a step leaves: of the method, of the probe, and the objective that was minimised, without gradient."""

    result: StepResult
    probe: ProbeResult | None
    objective: Tensor
