"""The proof that W processes train what one does, on this machine and its devices, by the real trainer.

Two tiny runs on the embedded images differ in nothing but the number of processes. After every step the loss, the
gradients, the batch-norm statistics and the weights of both are compared. The runs are in float64: sums in another
order then stay far below what could decide a ReLU otherwise, which in float32 happens sooner or later.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from simclr_plus.launch.start import launch
from simclr_plus.recipe.reading import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.weights.checkpoints import load_checkpoint

IMAGES, MOMENTUM = 256, 0.9


@dataclass(frozen=True)
class Case:
    """What is trained and how far the runs may differ, as a share of each tensor's largest entry or of `scale`."""

    optimizer: str
    precision: str = "float64"
    steps: int = 6
    learning_rate: float = 0.1
    tolerance: float = 1e-9
    scale: float = 0.0
    batch: int = 32
    overrides: tuple[str, ...] = ()


CASES = {"SGD": Case("sgd"), "LARS": Case("lars")}


@dataclass(frozen=True)
class Finding:
    """The largest difference of a kind of numbers over all steps, and where it was."""

    kind: str
    difference: float
    where: str
    tolerance: float

    @property
    def equal(self) -> bool:
        """Whether it is small enough; false for a difference that is no number."""
        return self.difference <= self.tolerance


def prove(case: Case, processes: int, folder: Path) -> tuple[list[Finding], str]:
    """Train with one process and with `processes`, in new folders under `folder`; returns findings and the device.

    Raises SimclrPlusError where a run fails.
    """
    one, many = (untrained(case, folder / f"of{n}") for n in (1, processes))
    launch(one, 1, quiet=True)
    launch(many, processes, quiet=True)
    return compare(one, many, case), str(many.events()[0]["device"])


def untrained(case: Case, path: Path) -> Run:
    """The run of a case in a new folder: it will keep a checkpoint of each step."""
    overrides = [
        f"data.limit={IMAGES}",
        "augmentation.image_size=16",
        "encoder.stem=cifar",
        "encoder.width=0.125",
        "head.output_dim=16",
        "loss.temperature=0.5",
        f"optimizer.name={case.optimizer}",
        "optimizer.learning_rate_scaling=none",
        f"optimizer.learning_rate={case.learning_rate}",
        f"optimizer.momentum={MOMENTUM}",
        "optimizer.weight_decay=0",
        f"training.batch_size={case.batch}",
        f"training.precision={case.precision}",
        f"training.epochs={(case.steps - 0.5) * case.batch / IMAGES}",
        "training.warmup_epochs=0",
        f"checkpoints.every_epochs={case.batch / IMAGES}",
        f"checkpoints.keep_last={case.steps}",
        "monitor.log_every_steps=1",
        "monitor.knn_every_epochs=0",
        *case.overrides,
    ]
    return create_run(load_recipe("demo", overrides), path.parent, path.name)


def compare(one: Run, many: Run, case: Case) -> list[Finding]:
    """The largest difference in loss, gradients, statistics and weights between two runs with a checkpoint a step."""
    losses = [[line["loss"] for line in run.metrics()] for run in (one, many)]
    states = [[load_checkpoint(file).tensors for file in run.checkpoint_files()] for run in (one, many)]
    assert len(losses[0]) == len(losses[1]) == len(states[0]) == len(states[1]) == case.steps
    largest = {"loss": max((abs(a - b) / abs(a), f"step {i}") for i, (a, b) in enumerate(zip(*losses, strict=True)))}
    for step, (a, b) in enumerate(zip(*map(_sorted_out, states), strict=True)):
        assert a.keys() == b.keys()
        for kind, name in a:
            x, y = a[kind, name], b[kind, name]
            scale = max(float(x.abs().max()), case.scale, 1e-30)
            difference = float((x - y).abs().max()) / scale
            before = largest.get(kind, (-1.0, ""))[0]
            if not math.isnan(before) and not difference <= before:  # NaN counts as the largest difference
                largest[kind] = (difference, f"step {step}, {name}")
    return [Finding(kind, difference, where, case.tolerance) for kind, (difference, where) in largest.items()]


def _sorted_out(states: list[dict[str, Tensor]]) -> Iterator[dict[tuple[str, str], Tensor]]:
    """For each step the tensors by (kind, name). A gradient is what the step added to the momentum: under SGD the
    gradient itself, under LARS times rate and trust ratio.
    """
    for before, state in pairwise([{}, *states]):
        sorted_state = {}
        for name, tensor in state.items():
            if name.endswith(".momentum_buffer"):
                sorted_state["gradients", name] = tensor - MOMENTUM * before[name] if before else tensor
            elif name.endswith(("running_mean", "running_var")):
                sorted_state["statistics", name] = tensor
            else:
                sorted_state["weights", name] = tensor
        yield sorted_state
