"""THE LOOP. Started by a supervisor, alone or under torchrun; goes on from the newest checkpoint in the run folder.

python -m simclr_plus.training.trainer RUN
"""

from __future__ import annotations

import faulthandler
import hashlib
import inspect
import os
import signal
import socket
import sys
import time
import traceback
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from simclr_plus import distributed
from simclr_plus.augmentations.finishing import finish_views
from simclr_plus.augmentations.views import compile_views
from simclr_plus.datasets.batches import Batch, ViewBatches
from simclr_plus.datasets.images import Images, notes_of, open_monitor_images, open_training_images
from simclr_plus.errors import CheckpointError, SimclrPlusError, UnreadableImageError
from simclr_plus.features import metrics
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.lars import LARS, parameter_groups
from simclr_plus.losses.compared import margin_triplet, nt_logistic, nt_xent_other_view
from simclr_plus.losses.contrastive import contrastive_metrics, nt_xent
from simclr_plus.machine import torchrun
from simclr_plus.machine.processes import die_with_parent
from simclr_plus.machine.whole_files import remove_unfinished
from simclr_plus.recipe.plan import KNN_BANK, KNN_NEIGHBOURS, KNN_QUERIES, Plan, make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.failures import failure_of, note_failure
from simclr_plus.runs.folder import SECONDS_TO_APPEAR, Run, machine
from simclr_plus.runs.progress import TrainingProgress
from simclr_plus.runs.pulse import PulseWriter, pulse_file
from simclr_plus.training.continuation import Identity, identity_of, require_same_images, require_same_stream
from simclr_plus.training.model import SimCLR, build_model
from simclr_plus.training.precision import computed_in, halves_on, set_float32_products
from simclr_plus.weights.background_saving import CheckpointSaver
from simclr_plus.weights.checkpoints import (
    Checkpoint,
    checkpoint_header,
    encoder_metadata,
    encoder_to_start_from,
    load_checkpoint,
    restore,
    save_encoder,
)

FINISHED, STOPPED, FAILED = "finished", "stopped", "failed"


@dataclass
class Training:
    """What the loop works on."""

    run: Run
    recipe: Recipe
    plan: Plan
    images: Images
    model: SimCLR
    optimizer: Optimizer
    device: torch.device
    progress: TrainingProgress
    saver: CheckpointSaver
    knn_images: tuple[Images, Images] | None  # bank and queries of the monitor, in process 0
    step: int = 0  # updates done
    pulse: PulseWriter = field(default_factory=PulseWriter)
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


def train(run: Run, *, quiet: bool = False) -> str:
    """Train a run to its end or until it is asked to stop; returns "finished" or "stopped".

    Raises SimclrPlusError with a plain message; the newest complete checkpoint stays in the run folder.
    """
    recipe = run.recipe()
    pulse = PulseWriter(pulse_file(run.logs, torchrun.place().rank), recipe.monitor.hung_after_seconds)
    pulse.beat(0, "preparing")
    device = distributed.start(recipe.training.device, hung_after=recipe.monitor.hung_after_seconds)
    with _stop_on_signals() as stop:
        try:
            training = _prepare(run, recipe, device, pulse, quiet)
            with training.progress, training.saver:
                return _loop(training, stop)
        except torch.OutOfMemoryError as error:
            raise SimclrPlusError(
                f"out of memory on {device} ({str(error).splitlines()[0]}); lower training.batch_size, or set "
                'training.precision = "bfloat16" or training.activation_checkpointing = true'
            ) from None
        except UnreadableImageError as error:
            remedy = "" if recipe.data.on_bad_image == "skip" else '; remove it, or set data.on_bad_image = "skip"'
            raise UnreadableImageError(f"{error}{remedy}") from None


def _loop(t: Training, stop: _StopRequest) -> str:
    recipe, every = t.recipe, t.recipe.monitor.log_every_steps
    batches = view_batches(recipe, t.images, t.device)
    model = _in_processes(t)
    clock, hearing = _Clock(t.step), _Hearing(t, stop)
    first_bad = torch.full((), t.plan.total_steps, device=t.device)
    if hearing.asked(first_bad):
        return _leave(t, STOPPED, signal=stop.signal_number)
    t.pulse.beat(t.step, "data")
    for batch in batches.batches(t.step, t.plan.total_steps):
        t.pulse.beat(t.step, "step")
        rate = t.plan.learning_rate(t.step)
        outputs = update(t, model, batch, rate)
        _note_saved(t, t.saver.finished())
        first_bad = torch.where(torch.isfinite(outputs.objective), first_bad, first_bad.clamp(max=t.step))
        t.step += 1
        clock.waited += batch.waited

        last = t.step == t.plan.total_steps
        save = last or t.crossed(recipe.checkpoints.every_epochs) or t.crossed(recipe.checkpoints.keep_every_epochs)
        knn = t.crossed(recipe.monitor.knn_every_epochs) or (last and recipe.monitor.knn_every_epochs > 0)
        logged = t.step % every == 0 or save or knn
        if logged:
            t.pulse.beat(t.step, "measuring")
            _require_finite(t, first_bad)
            line = _measure(t, outputs, rate, clock, batches)
            if knn:
                t.pulse.beat(t.step, "evaluating")
                line |= _knn_accuracy(t)
                clock.restart(t.step)
            if t.is_main:
                t.run.log_metrics(line)
                t.progress.show(line)
        asked = (logged or hearing.is_due(t.step)) and hearing.asked(first_bad)
        if asked and not logged:
            _require_finite(t, first_bad)
        if save or asked:
            t.pulse.beat(t.step, "saving")
            _save(t)
        if asked and not last:
            return _leave(t, STOPPED, signal=stop.signal_number)
        t.pulse.beat(t.step, "data")
    return _leave(t, FINISHED)


def view_batches(recipe: Recipe, images: Images, device: torch.device) -> ViewBatches:
    """This process's batches; colour and blur are done where augmentation.augment_on says.

    "auto" takes the device with CUDA and images in files, or further operations: without them views of a small set in
    memory cost a CPU next to nothing.
    """
    a = recipe.augmentation
    much = images.pixels is None or bool(a.operations)
    on_device = a.augment_on == "device" or (a.augment_on == "auto" and device.type == "cuda" and much)
    finish = torch.compile(finish_views) if recipe.training.compile else finish_views
    return ViewBatches(
        images,
        recipe.law,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        views=recipe.views,
        rank=distributed.rank(),
        processes=distributed.world_size(),
        threads=recipe.data.threads,
        device=device,
        finish=finish if on_device else None,
        crops=a.device_crops,
    )


@dataclass(frozen=True)
class Outputs:
    """What a step leaves for the metrics."""

    h: Tensor
    z: tuple[Tensor, Tensor] | None  # of both views; None in supervised training
    loss: Tensor
    objective: Tensor
    probe_accuracy: Tensor | None


def update(t: Training, model: nn.Module, batch: Batch, rate: float) -> Outputs:
    """One step: both views through f and g in one pass, the loss over the global batch, one update.

    In supervised training: one view through f and the classifier, the cross entropy of its labels.
    """
    recipe = t.recipe
    layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
    dtype = torch.float64 if recipe.training.precision == "float64" else torch.float32
    images = batch.views.to(t.device, dtype, non_blocking=True, memory_format=layout)
    with torch.autocast(t.device.type, torch.bfloat16, enabled=halves_on(recipe, t.device)):
        h, z, logits = model(images)
    accuracy, of_labels = None, None
    if logits is not None:
        labels = batch.labels.to(t.device, non_blocking=True).repeat(recipe.views)
        of_labels = F.cross_entropy(logits.to(dtype), labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
    if recipe.supervised:
        assert of_labels is not None
        pair, loss, objective = None, of_labels, of_labels
    else:
        z0, z1 = z.to(dtype).chunk(2)
        pair, loss = (z0.detach(), z1.detach()), contrastive_loss(recipe, z0, z1)
        objective = loss * 2 if recipe.loss.name == "nt_xent" and recipe.loss.reduction == "reference" else loss
        objective = objective if of_labels is None else objective + of_labels
    t.optimizer.zero_grad(set_to_none=True)
    objective.backward()  # type: ignore[no-untyped-call]
    if recipe.optimizer.gradient_clip:
        nn.utils.clip_grad_norm_(model.parameters(), recipe.optimizer.gradient_clip)
    for group in t.optimizer.param_groups:
        group["lr"] = rate
    t.saver.before_update()
    t.optimizer.step()
    return Outputs(h.detach(), pair, loss.detach(), objective.detach(), accuracy)


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


def _measure(t: Training, o: Outputs, rate: float, clock: _Clock, batches: ViewBatches) -> dict[str, Any]:
    """A line of metrics.jsonl; every process takes part, each mean is over the global batch."""
    recipe = t.recipe
    own = torch.stack(
        [o.loss, torch.zeros_like(o.loss) if o.probe_accuracy is None else o.probe_accuracy.to(o.loss.dtype)]
    )
    loss, probe = (distributed.sum_over_processes(own) / distributed.world_size()).tolist()
    line: dict[str, Any] = {
        "step": t.step,
        "epoch": t.step * t.plan.global_batch / t.plan.images,
        "images": t.step * t.plan.global_batch,
        "time": time.time(),
        "loss": loss,
    }
    if o.z is not None:
        found = contrastive_metrics(*o.z, temperature=recipe.loss.temperature, **_shared_settings(recipe))
        line |= {"contrastive_accuracy": float(found[0]), "contrastive_entropy": float(found[1])}
    if o.probe_accuracy is not None:
        line["probe_accuracy"] = probe
    line |= {
        "learning_rate": rate,
        **clock.rates(t.step, t.plan.global_batch),
    }
    if t.is_main:  # of its own rows; it alone writes the line
        line |= {"feature_std": metrics.feature_std(o.h), "effective_rank": metrics.effective_rank(o.h[:256])}
    if recipe.data.on_bad_image == "skip":
        line["images_skipped"] = _note_skipped(t, batches)
    return line


class _Clock:
    """Seconds since the last line, and how many of them the loop waited for data."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        self.step, self.started, self.waited = step, time.perf_counter(), 0.0

    def rates(self, step: int, batch_size: int) -> dict[str, float]:
        seconds = max(time.perf_counter() - self.started, 1e-9)
        found = {
            "images_per_second": (step - self.step) * batch_size / seconds,
            "data_wait": min(1.0, self.waited / seconds),
        }
        self.restart(step)
        return found


class _Hearing:
    """Whether the run is asked to stop: by a signal to any process, or by the STOP file.

    All processes look together, each so many steps as take process 0 some seconds: it counts them by its own clock and
    the same collective tells the others. One process alone looks by its clock at every step.
    """

    SECONDS = 2.0  # between two looks
    MOST_STEPS = 100  # so that steps which become slow all at once do not put the next look off for long

    def __init__(self, t: Training, stop: _StopRequest) -> None:
        self._t, self._stop = t, stop
        self._last, self._next, self._at = t.step, t.step + 1, time.monotonic()

    def is_due(self, step: int) -> bool:
        """The same answer on all processes."""
        if distributed.world_size() == 1:
            return self._stop.asked or time.monotonic() - self._at >= self.SECONDS
        return step >= self._next

    def asked(self, first_bad: Tensor) -> bool:
        """Look; raises SimclrPlusError on all processes where a loss was not finite, so that none is left behind."""
        t = self._t
        asked = self._stop.asked or (t.is_main and t.run.stop_file.exists())
        told = [float(asked), float(first_bad < t.plan.total_steps), float(self._steps_to_wait() if t.is_main else 0)]
        if distributed.world_size() > 1:
            told = distributed.sum_over_processes(torch.tensor(told, device=t.device)).tolist()
        self._last, self._next, self._at = t.step, t.step + int(told[2]), time.monotonic()
        if told[1]:
            _require_finite(t, first_bad)
        return told[0] > 0

    def _steps_to_wait(self) -> int:
        done = self._t.step - self._last
        a_step = (time.monotonic() - self._at) / done if done else self.SECONDS
        return max(1, min(self.MOST_STEPS, int(self.SECONDS / max(a_step, 1e-9))))


def _prepare(run: Run, recipe: Recipe, device: torch.device, pulse: PulseWriter, quiet: bool) -> Training:
    """All that comes before the first step; nothing is written to the run before all processes agree on what it is."""
    is_main = distributed.rank() == 0
    with distributed.failing_together():
        images = open_training_images(recipe)
        plan = make_plan(recipe, len(images), distributed.world_size())
        identity = identity_of(images, sizes=is_main)
        precision = computed_in(recipe, device)
    distributed.require_agreement(_facts(recipe, images, identity, precision), _SAME_DATA)
    newest = distributed.from_main(_newest(run))
    with distributed.failing_together():
        model, optimizer = _build(recipe, images, device, starts=newest is None)
        checkpoint = None if newest is None else load_checkpoint(_appeared(run.checkpoints / newest))
        if checkpoint is not None:
            require_same_images(checkpoint, images, identity)
            require_same_stream(checkpoint, recipe, images)
            keeps = checkpoint.recipe.optimizer.rule == recipe.optimizer.rule
            restore(checkpoint, model, optimizer if keeps else None)
        knn_images = _knn_images(recipe) if is_main and recipe.monitor.knn_every_epochs else None
        compile_views(recipe.law)
    if checkpoint is not None:
        distributed.require_agreement(_facts_of_checkpoint(checkpoint), _SAME_CHECKPOINT)
    set_float32_products(recipe)
    if recipe.training.compile:
        model.encoder.compile()
    step = 0 if checkpoint is None else checkpoint.step
    training = Training(
        run=run,
        recipe=recipe,
        plan=plan,
        images=images,
        model=model,
        optimizer=optimizer,
        device=device,
        progress=TrainingProgress(run.name, step, plan.total_steps, quiet=quiet or not is_main),
        saver=CheckpointSaver(),
        knn_images=knn_images,
        step=step,
        pulse=pulse,
        identity=identity,
    )
    if is_main:
        remove_unfinished(run.checkpoints)
        _note_start(training, checkpoint, precision)
    return training


_SAME_DATA = (
    "Give all processes the same images, recipe and versions: one folder that all machines see, or equal copies"
)
_SAME_CHECKPOINT = "The run's folder must be one that all machines see"


def _newest(run: Run) -> str | None:
    """The name of the newest checkpoint; process 0 asks for all, because a network may show others an older one."""
    files = run.checkpoint_files()
    return files[-1].name if files else None


def _appeared(checkpoint: Path) -> Path:
    """The file, once this machine sees it; raises CheckpointError where it does not come."""
    end = time.monotonic() + SECONDS_TO_APPEAR
    while not checkpoint.exists():
        if time.monotonic() > end:
            raise CheckpointError(
                f"process {distributed.rank()} on {socket.gethostname()} does not see {checkpoint}, which process 0 "
                f"found; waited {SECONDS_TO_APPEAR:.0f} s. {_SAME_CHECKPOINT}"
            )
        time.sleep(0.1)
        with suppress(OSError):
            list(checkpoint.parent.iterdir())  # makes a network file system ask its server again
    return checkpoint


def _facts(recipe: Recipe, images: Images, identity: Identity, precision: str) -> dict[str, object]:
    """What must be the same on all processes for them to train one network on one stream of batches."""
    return {
        "images": len(images),
        "names of the images, in order (digest)": identity.listing,
        "classes": len(images.classes),
        "training.batch_size": recipe.training.batch_size,
        "recipe (digest)": hashlib.sha256(recipe.to_toml().encode()).hexdigest()[:12],
        "numbers computed in": precision,
        "simclr-plus": version("simclr-plus"),
        "torch": torch.__version__,
    }


def _facts_of_checkpoint(checkpoint: Checkpoint) -> dict[str, object]:
    """The step alone would not tell a file of another run, or one that a machine keeps for itself."""
    digest = 0
    if distributed.world_size() > 1:
        for _, tensor in sorted(checkpoint.tensors.items()):
            digest = zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, digest)
    return {"step of the checkpoint": checkpoint.step, f"content of {checkpoint.path.name} (digest)": f"{digest:08x}"}


def _build(recipe: Recipe, images: Images, device: torch.device, *, starts: bool) -> tuple[SimCLR, Optimizer]:
    classified = images.labels is not None and (recipe.training.probe or recipe.supervised)
    model = build_model(recipe, len(images.classes) if classified else 0)
    if recipe.training.init_from and starts:
        model.encoder.load_state_dict(encoder_to_start_from(recipe).state_dict())
    layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
    model.to(device, torch.float64 if recipe.training.precision == "float64" else torch.float32)
    model.to(memory_format=layout)
    model.train()
    return model, build_optimizer(model, recipe)


def _note_start(t: Training, checkpoint: Checkpoint | None, precision: str) -> None:
    """The event that says what begins where, and what a user should know of it."""
    come_from = {"from_step": t.step} if t.step else {}
    kind = "resume" if t.step else "start"
    figures = {"steps": t.plan.total_steps, "processes": t.plan.processes, "device": str(t.device)}
    figures |= {"images": len(t.images), "classes": len(t.images.classes), "knn": _knn_in_numbers(t.knn_images)}
    t.run.log_event(kind, **come_from, **figures, precision=precision, **machine())
    if t.recipe.data.expected_images and t.recipe.data.expected_images != len(t.images):
        note = f"{t.images.name} holds {len(t.images)} images, the recipe expects {t.recipe.data.expected_images}"
        t.run.log_event("note", message=note)
    for note in notes_of(t.images):
        t.run.log_event("note", message=note)
    before, now = checkpoint and checkpoint.recipe.optimizer.rule, t.recipe.optimizer.rule
    if checkpoint is not None and before != now:
        note = f"the optimizer starts afresh: {checkpoint.path.name} holds the state of {before}, no use to {now}"
        t.run.log_event("note", message=note)


def build_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """LARS, SGD with Nesterov momentum or Adam; batch norms are exempt from decay, the probe from LARS's adaptation."""
    o = recipe.optimizer
    if o.name == "lars":
        groups = parameter_groups(model, o.weight_decay) if o.adapt_probe else _lars_groups(model, o.weight_decay)
        return LARS(groups, lr=0.0, momentum=o.momentum, trust_coefficient=o.trust_coefficient)
    norms = {id(p) for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) for p in m.parameters()}
    groups = [
        {"params": [p for p in model.parameters() if id(p) not in norms], "weight_decay": o.weight_decay},
        {"params": [p for p in model.parameters() if id(p) in norms], "weight_decay": 0.0},
    ]
    if o.name == "sgd" and o.sgd_momentum == "rate_inside":  # Keras' SGD is LARS without its adaptation
        groups = [{**group, "adapt": False} for group in groups]
        return LARS(groups, lr=0.0, momentum=o.momentum, nesterov=o.momentum > 0)
    if o.name == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=o.momentum, nesterov=o.momentum > 0)
    return torch.optim.Adam(groups, lr=0.0, fused=True)


def _lars_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """As the authors: the probe's kernel decays but is not adapted (head_supervised is on LARS's exclude list)."""
    groups = parameter_groups(model, weight_decay)
    probe = getattr(model, "probe", None)
    if probe is not None:
        groups[0]["params"] = [p for p in groups[0]["params"] if p is not probe.weight]
        groups.append({"params": [probe.weight], "weight_decay": weight_decay, "adapt": False})
    return groups


def _in_processes(t: Training) -> nn.Module:
    if distributed.world_size() == 1:
        return t.model
    devices = [t.device.index] if t.device.type == "cuda" else None
    # global batch norm keeps buffers equal; PyTorch 2.15 renamed the switch that sends them round before each step
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
    unsent: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    model = DistributedDataParallel(t.model, device_ids=devices, gradient_as_bucket_view=True, **unsent)
    _settle_buckets(t, model)
    return model


def _settle_buckets(t: Training, model: DistributedDataParallel) -> None:
    """A backward pass that leaves nothing behind but DDP's final layout of its buckets.

    DDP lays them out anew after the first backward pass of a process, and from 3 processes on a gradient's sum depends
    on its place in a bucket. Without this pass the first step after a resume would differ from that of an unbroken run.
    """
    training, augmentation = t.recipe.training, t.recipe.augmentation
    # two rows will do for batch norm; a compiled encoder is to see no shape but that of its batches
    rows = t.recipe.views * t.plan.batch_per_process if training.compile else 2
    dtype = torch.float64 if training.precision == "float64" else torch.float32
    buffers = [(buffer, buffer.clone()) for buffer in t.model.buffers()]
    views = torch.zeros(rows, 3, augmentation.image_size, augmentation.image_size, dtype=dtype, device=t.device)
    layout = torch.channels_last if training.channels_last else torch.contiguous_format
    with torch.autocast(t.device.type, torch.bfloat16, enabled=halves_on(t.recipe, t.device)):
        _, z, logits = model(views.to(memory_format=layout))
    learnt = [] if t.recipe.supervised else [z]
    sum(x.to(dtype).sum() for x in (*learnt, *([] if logits is None else [logits]))).backward()
    t.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


def _require_finite(t: Training, first_bad: Tensor) -> None:
    """All processes stop together when a loss was not finite since the last look, or the weights no longer are."""
    norms = torch.stack(list(torch._foreach_norm([p.detach() for p in t.model.parameters()])))
    own = torch.stack([first_bad.to(torch.float64), torch.isfinite(norms).all().to(torch.float64)])
    bad, weights = own.tolist()
    if distributed.world_size() > 1:
        bad, weights = distributed.all_gather(own).amin(dim=0).tolist()
    if bad == t.plan.total_steps and weights:
        return
    _note_saved(t, t.saver.wait())
    what, step = ("the loss is", int(bad)) if bad < t.plan.total_steps else ("the updated weights are", t.step - 1)
    saved = t.run.checkpoint_files()
    good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
    raise SimclrPlusError(
        f"{what} not finite at step {step} (learning rate {t.plan.learning_rate(step):.6g}): training stopped; "
        f"{good}. Lower optimizer.learning_rate, lengthen training.warmup_epochs, or set optimizer.gradient_clip"
    )


def _knn_images(recipe: Recipe) -> tuple[Images, Images]:
    """The monitor's bank and queries."""
    bank, queries = open_monitor_images(recipe)
    return _spread(bank, KNN_BANK), _spread(queries, KNN_QUERIES)


def _knn_in_numbers(knn_images: tuple[Images, Images] | None) -> dict[str, int] | None:
    """What an accuracy of the monitor's kNN stands on, for the start event."""
    if knn_images is None:
        return None
    bank, queries = map(len, knn_images)
    return {"bank": bank, "queries": queries, "neighbours": min(KNN_NEIGHBOURS, bank)}


def _spread(images: Images, count: int) -> Images:
    """At most `count` images, evenly from all."""
    count = min(count, len(images))
    return images.subset(np.arange(count) * len(images) // count)


def _knn_accuracy(t: Training) -> dict[str, float]:
    """kNN on held-out images by process 0 (20 neighbours among 4,000 training images, 2,000 queries)."""
    found: dict[str, float] = {}
    if t.knn_images is not None:
        h_bank, bank = features_of(t.model.encoder, t.knn_images[0], t.recipe.law, device=t.device)
        h, queries = features_of(t.model.encoder, t.knn_images[1], t.recipe.law, device=t.device)
        scores = metrics.knn_scores(h, h_bank, labels_of(bank), len(bank.classes), k=KNN_NEIGHBOURS)
        found["knn_accuracy"] = metrics.top_k_accuracy(scores, labels_of(queries), 1)
    distributed.barrier()
    return found


def _note_skipped(t: Training, batches: ViewBatches) -> int:
    """Images skipped since the start of these processes, over all of them; each lists its own in logs/skipped.N.txt."""
    if batches.skipped:
        t.run.logs.mkdir(exist_ok=True)
        names = sorted(os.fsencode(t.images.paths[i]).replace(b"\n", b"\\n") for i in batches.skipped)
        (t.run.logs / f"skipped.{distributed.rank()}.txt").write_bytes(b"\n".join(names) + b"\n")
    skipped = torch.zeros(len(t.images), device=t.device)
    skipped[sorted(batches.skipped)] = 1
    return int((distributed.sum_over_processes(skipped) > 0).sum())


def _save(t: Training) -> None:
    """Begin to save a checkpoint; what the recipe does not keep is dropped when the file is there."""
    if t.is_main:
        _note_saved(t, t.saver.wait())
        header = checkpoint_header(
            t.step, t.recipe, len(t.images), t.images.classes, listing=t.identity.listing, sizes=t.identity.sizes
        )
        t.saver.save(t.run.checkpoint_file(t.step), t.model, t.optimizer, header)


def _note_saved(t: Training, path: Path | None) -> None:
    if path is None:
        return
    t.run.log_event("checkpoint", step=_step_of(path), file=path.name)
    for old in t.run.checkpoint_files()[: -t.recipe.checkpoints.keep_last]:
        if not t.crossed(t.recipe.checkpoints.keep_every_epochs, step=_step_of(old)):
            old.unlink(missing_ok=True)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step_"))


def _leave(t: Training, reason: str, **values: Any) -> str:
    t.pulse.beat(t.step, "saving")
    if t.is_main and reason == STOPPED:
        t.run.log_event("stopping", step=t.step)
        values["asked"] = t.run.stop_word()
    _note_saved(t, t.saver.wait())
    if t.is_main:
        t.run.stop_file.unlink(missing_ok=True)
        if reason == FINISHED:
            save_encoder(t.model.encoder, t.run.path / "encoder.safetensors", encoder_metadata(t.recipe, t.step))
        t.run.log_event("exit", reason=reason, step=t.step, **values)
    distributed.barrier()
    t.pulse.beat(t.step, "done")
    return reason


class _StopRequest:
    asked = False
    signal_number = 0


@contextmanager
def _stop_on_signals() -> Iterator[_StopRequest]:
    """SIGINT, SIGTERM and SIGUSR2 ask the loop to save and leave; a second SIGINT interrupts at once."""
    request = _StopRequest()

    def ask(number: int, _frame: Any) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.asked, request.signal_number = True, number

    previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main() -> None:
    """Entry of a process of the run; why it failed is left in the run folder, for its supervisor.

    With --to-logs what it prints goes to logs/rank_N.log; with --parent PID it dies with that process.
    """
    options = sys.argv[2:]
    if "--parent" in options:
        die_with_parent(int(options[options.index("--parent") + 1]))
    run = Run(Path(sys.argv[1]))
    if "--to-logs" in options:
        _print_to(run.logs / f"rank_{torchrun.place().rank}.log")
    faulthandler.enable()  # a crash, or SIGABRT from a supervisor that finds us hung, prints the stacks of all threads
    try:
        train(run, quiet="--quiet" in options)
    except Exception as error:
        traceback.print_exc()
        failure = failure_of(error, torchrun.place().rank)
        with suppress(SimclrPlusError, OSError):  # the disk may be full
            note_failure(run.logs, failure)
            if failure.rank == 0:
                run.log_event("exit", reason=FAILED, message=failure.sentence(), exit_code=failure.exit_code)
        _leave_process(failure.exit_code)  # other processes may wait in a collective: do not wait for them
    distributed.stop()
    _leave_process(0)  # everything is on disk; gloo's threads now and then abort an ordinary exit


def _print_to(log: Path) -> None:
    log.parent.mkdir(exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)


def _leave_process(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
