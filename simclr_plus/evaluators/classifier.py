"""The supervised loop of the evaluators: a classifier on an encoder, trained on crops and flips (paper, B.5, B.6, B.8).

The encoder is frozen and in eval mode (linear evaluation), or trained whole (fine-tuning). Every batch is a function of
its number, so that W processes take the steps of one, and a training that was cut off goes on where it was saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.datasets.batches import ViewBatches
from simclr_plus.datasets.identity import listing_digest
from simclr_plus.datasets.images import Images
from simclr_plus.distributed import (
    any_process,
    barrier,
    from_main,
    rank,
    require_agreement,
    sum_over_processes,
    world_size,
)
from simclr_plus.encoders.dropout import seed_dropout
from simclr_plus.encoders.encoder import Encoder
from simclr_plus.errors import NotFiniteError, RecipeError
from simclr_plus.evaluators.layer_decay import layer_factors
from simclr_plus.evaluators.pace import Pace
from simclr_plus.heads import SimCLRProjectionHead
from simclr_plus.lars import LARS, parameter_groups
from simclr_plus.schedules import warmup_cosine
from simclr_plus.weights.checkpoints import checkpoint_tensors, restore_optimizer
from simclr_plus.weights.tensor_files import write_tensors

MOMENTUM = 0.9
OPTIMIZERS = ("nesterov", "lars", "adamw")
SAVE_SECONDS = 120.0  # between two saved states


class DivergedError(NotFiniteError):
    """The loss is no number any more."""


class Classifier(nn.Module):
    """Images [B, 3, S, S] -> scores [B, C]: encoder, the first `from_layer` layers of the head, a linear layer.

    The linear layer starts from zero, as in the authors' commands; the paper does not say.
    """

    def __init__(
        self,
        encoder: nn.Module,
        classes: int,
        *,
        size: int,
        head: SimCLRProjectionHead | None = None,
        from_layer: int = 0,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.from_layer, self.frozen = encoder, from_layer, frozen
        self.head = None if head is None or from_layer == 0 else head
        place = next(encoder.parameters(), torch.empty(0))
        self.eval()
        with torch.no_grad():
            width = self._features(torch.zeros(2, 3, size, size, device=place.device)).shape[1]
        self.linear = nn.Linear(width, classes, device=place.device)
        nn.init.zeros_(self.linear.weight), nn.init.zeros_(self.linear.bias)

    def train(self, mode: bool = True) -> Classifier:
        """A frozen encoder stays in eval mode: its batch norms keep the statistics of pretraining."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, C]."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            h = self._features(images)
        scores: Tensor = self.linear(h.float())
        return scores

    def _features(self, images: Tensor) -> Tensor:
        h: Tensor = self.encoder(images).flatten(1)
        return h if self.head is None else self.head.hidden(h, self.from_layer)


@dataclass(frozen=True)
class Steps:
    """How many steps of what size: `peak` is the learning rate of the first step, a cosine leads to 0."""

    batch_size: int
    count: int
    peak: float
    seed: int = 0


def batch_within(batch_size: int, images: int) -> int:
    """The batch, or of too few images all of them, but for a rest that the processes cannot share."""
    return batch_size if batch_size <= images else max(images - images % world_size(), 1)


@dataclass(frozen=True)
class State:
    """Where a training is kept while it goes on; `key` says all that it depends on."""

    file: Path
    key: str


def build_optimizer(model: Classifier, name: str, *, weight_decay: float = 0.0, layer_decay: float = 1.0) -> Optimizer:
    """ "nesterov", "lars" or "adamw"; norms, offsets, tokens and positions do not decay, and LARS does not adapt the
    linear layer's rate. layer_decay: see layer_decay.py; 1: all layers have one rate.
    """
    exempt = model.encoder.exempt if isinstance(model.encoder, Encoder) else frozenset[str]()
    body = [
        group
        for part, names in ((model.encoder, exempt), (model.head, ()))
        if part is not None
        for group in parameter_groups(part, weight_decay, exempt_names=names)
    ]
    groups = [] if model.frozen else [group for group in body if group["params"]]
    groups = _by_layers(groups, layer_factors(model.encoder, layer_decay))
    last = [
        {"params": [model.linear.weight], "weight_decay": weight_decay, "adapt": model.frozen},
        {"params": [model.linear.bias], "weight_decay": 0.0, "adapt": False},
    ]
    if name == "lars":
        return LARS([*groups, *last], lr=0.0, momentum=MOMENTUM)
    if name == "nesterov":
        return torch.optim.SGD([*groups, *last], lr=0.0, momentum=MOMENTUM, nesterov=True)
    if name == "adamw":
        return torch.optim.AdamW([*groups, *last], lr=0.0)
    raise RecipeError(f"optimizer {name!r} is unknown here; use one of {', '.join(OPTIMIZERS)}")


def _by_layers(groups: list[dict[str, Any]], factors: dict[int, float]) -> list[dict[str, Any]]:
    """The groups, split so that each has one factor of the learning rate."""
    return [
        {**group, "params": [p for p in group["params"] if factors.get(id(p), 1.0) == factor], "rate_factor": factor}
        for group in groups
        for factor in dict.fromkeys(factors.get(id(p), 1.0) for p in group["params"])
    ]


def train_classifier(
    model: Classifier,
    optimizer: Optimizer,
    images: Images,
    law: ViewLaw,
    steps: Steps,
    *,
    device: torch.device,
    state: State | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Cross entropy (of several labels the logistic losses of those that count) on crops and flips of the images."""
    processes = world_size()
    if steps.batch_size % processes:
        raise RecipeError(f"a batch of {steps.batch_size} images does not divide by {processes} processes")
    _require_one_training(images, steps)
    done = 0 if state is None else _restore(state, model, optimizer)
    if done:
        say(f"goes on at step {done:,} of {steps.count:,}")
    pace = Pace("training, steps", steps.count, say, done=done)
    views = ViewBatches(
        images,
        law.crop_and_flip_only(),
        batch_size=steps.batch_size,
        seed=steps.seed,
        views=1,
        repeats=True,
        rank=rank(),
        processes=processes,
        device=device,
    )
    model.train()
    saved = time.monotonic()
    for step, batch in enumerate(views.batches(done, steps.count), start=done):
        for group in optimizer.param_groups:
            rate = warmup_cosine(step, peak=steps.peak, warmup_steps=0, total_steps=steps.count)
            group["lr"] = rate * group.get("rate_factor", 1.0)
        scores = _scores(model, batch.views, steps.seed, step)
        loss = _loss(scores, batch.labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        _average_gradients(model)
        optimizer.step()
        if step % 50 == 0 or step == steps.count - 1:
            value = float(loss.detach())
            if any_process(not math.isfinite(value), device):  # decided together, so that all take the next rate
                shown = "not finite on another process" if math.isfinite(value) else f"{value}"
                raise DivergedError(
                    f"the loss of step {step} is {shown}: the learning rate {steps.peak:g} is too high for this encoder"
                )
            pace.at(step + 1, f", loss {value:.4f}")
        if state is not None and rank() == 0 and time.monotonic() - saved > SAVE_SECONDS:
            save_state(state, model, optimizer, step + 1)
            saved = time.monotonic()
    model.eval()
    barrier()


def _scores(model: Classifier, views: Tensor, seed: int, step: int) -> Tensor:
    """What f drops while it is fine-tuned is a function of the step; the caller's generators stay as they are."""
    with torch.random.fork_rng(devices=[views.device] if views.is_cuda else []):
        seed_dropout(seed, step)
        scores: Tensor = model(views)
        return scores


def _loss(scores: Tensor, labels: Tensor) -> Tensor:
    if labels.ndim == 1:
        return F.cross_entropy(scores, labels)
    counted = (labels >= 0).to(scores.dtype)
    each = F.binary_cross_entropy_with_logits(scores, labels.clamp_min(0).to(scores.dtype), reduction="none")
    return (each * counted).sum() / len(scores)


def _average_gradients(model: nn.Module) -> None:
    if world_size() == 1:
        return
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = sum_over_processes(torch.cat([g.flatten() for g in gradients])) / world_size()
    for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def save_state(state: State, model: nn.Module, optimizer: Optimizer, step: int) -> None:
    """Write weights, momenta and the number of steps done."""
    write_tensors(state.file, checkpoint_tensors(model, optimizer), {"key": state.key, "step": str(step)})


def _require_one_training(images: Images, steps: Steps) -> None:
    """All processes train the same steps on the same images: batches are shared by number."""
    if world_size() == 1:
        return
    facts = {
        "images": len(images),
        "classes": len(images.classes),
        "names, order and labels of the images": listing_digest(images),
        "batch": steps.batch_size,
        "steps": steps.count,
        "learning rate": steps.peak,
        "seed": steps.seed,
    }
    require_agreement(facts, "Give every process the same options and a folder of the same images")


def _restore(state: State, model: nn.Module, optimizer: Optimizer) -> int:
    """The steps done by a state of the same training, put back; 0 where there is none.

    Process 0 reads it for all: another machine may not see the file yet, or an older one.
    """
    step, tensors = from_main(_read(state) if rank() == 0 else (0, {}))
    if not step:
        return 0
    model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("optimizer.")})
    restore_optimizer(model, optimizer, tensors)
    return step


def _read(state: State) -> tuple[int, dict[str, Tensor]]:
    if not state.file.is_file():
        return 0, {}
    with safe_open(state.file, framework="pt") as file:
        header = file.metadata()
        if header.get("key") != state.key:
            return 0, {}
        return int(header["step"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
