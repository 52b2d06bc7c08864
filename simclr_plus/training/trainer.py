"""THE LOOP. It goes on from the newest checkpoint in the run folder; what it trains is the method's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from simclr_plus import distributed
from simclr_plus.augmentations.finishing import finish_views
from simclr_plus.datasets.batches import Batch, ViewBatches
from simclr_plus.datasets.images import Images
from simclr_plus.encoders.dropout import seed_dropout
from simclr_plus.errors import SimclrPlusError, UnreadableImageError
from simclr_plus.machine import torchrun
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.heartbeat import HeartbeatWriter, heartbeat_file
from simclr_plus.training.model import through
from simclr_plus.training.monitor import Clock, knn_accuracy, measure
from simclr_plus.training.precision import autocast, numbers_of
from simclr_plus.training.preparing import in_processes, prepare
from simclr_plus.training.probe import probe_result
from simclr_plus.training.saving import note_saved, save
from simclr_plus.training.state import FINISHED, STOPPED, Training, Update
from simclr_plus.training.stopping import StopListener, StopRequest, require_finite, stop_on_signals
from simclr_plus.weights.encoder_files import encoder_metadata, save_encoder


def train(run: Run, *, quiet: bool = False) -> str:
    """Train a run to its end or until it is asked to stop; returns "finished" or "stopped".

    Raises SimclrPlusError with a plain message; the newest complete checkpoint stays in the run folder.
    """
    recipe = run.recipe()
    heartbeat = HeartbeatWriter(heartbeat_file(run.logs, torchrun.place().rank), recipe.monitor.hung_after_seconds)
    heartbeat.beat(0, "preparing")
    device = distributed.start(recipe.training.device, hung_after=recipe.monitor.hung_after_seconds)
    with stop_on_signals() as stop:
        try:
            training = prepare(run, recipe, device, heartbeat, quiet)
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


def _loop(t: Training, stop: StopRequest) -> str:
    recipe, every = t.recipe, t.recipe.monitor.log_every_steps
    batches = view_batches(recipe, t.images, t.device)
    model = in_processes(t)
    clock, listener = Clock(t.step), StopListener(t, stop)
    first_bad = torch.full((), t.plan.total_steps, device=t.device)
    if listener.asked(first_bad):
        return _leave(t, STOPPED, signal=stop.signal_number)
    t.heartbeat.beat(t.step, "data")
    for batch in batches.batches(t.step, t.plan.total_steps):
        t.heartbeat.beat(t.step, "step")
        rate = t.plan.learning_rate(t.step)
        updated = update(t, model, batch, rate)
        note_saved(t, t.saver.finished())
        first_bad = torch.where(torch.isfinite(updated.objective), first_bad, first_bad.clamp(max=t.step))
        t.step += 1
        clock.waited += batch.waited

        last = t.step == t.plan.total_steps
        due = last or t.crossed(recipe.checkpoints.every_epochs) or t.crossed(recipe.checkpoints.keep_every_epochs)
        knn = t.crossed(recipe.monitor.knn_every_epochs) or (last and recipe.monitor.knn_every_epochs > 0)
        logged = t.step % every == 0 or due or knn
        if logged:
            t.heartbeat.beat(t.step, "measuring")
            require_finite(t, first_bad)
            line = measure(t, updated, rate, clock, batches)
            if knn:
                t.heartbeat.beat(t.step, "evaluating")
                line |= knn_accuracy(t)
                clock.restart(t.step)
            if t.is_main:
                t.run.log_metrics(line)
                t.progress.show(line)
        asked = (logged or listener.is_due(t.step)) and listener.asked(first_bad)
        if asked and not logged:
            require_finite(t, first_bad)
        if due or asked:
            t.heartbeat.beat(t.step, "saving")
            save(t)
        if asked and not last:
            return _leave(t, STOPPED, signal=stop.signal_number)
        t.heartbeat.beat(t.step, "data")
    return _leave(t, FINISHED)


def view_batches(recipe: Recipe, images: Images, device: torch.device) -> ViewBatches:
    """This process's batches; colour and blur are done where augmentation.augment_on says.

    "auto" takes the device with CUDA and images in files, or further operations: without them views of a small set in
    memory cost a CPU next to nothing.
    """
    a = recipe.augmentation
    decoding_dominates = images.pixels is None or bool(a.operations)
    on_device = a.augment_on == "device" or (a.augment_on == "auto" and device.type == "cuda" and decoding_dominates)
    finish = torch.compile(finish_views) if recipe.training.compile else finish_views
    return ViewBatches(
        images,
        recipe.law,
        batch_size=recipe.training.batch_size,
        seed=recipe.training.seed,
        views=recipe.method.view_count,
        repeats=not recipe.method.compares_images,
        second=recipe.second_law,
        rank=distributed.rank(),
        processes=distributed.world_size(),
        threads=recipe.data.threads,
        device=device,
        finish=finish if on_device else None,
        crops=a.device_crops,
    )


def update(t: Training, model: nn.Module, batch: Batch, rate: float) -> Update:
    """One step: what the method prepares goes through the network in one pass; one update of its objective."""
    number = numbers_of(t.recipe)
    second = None if batch.second is None else batch.second.to(number)
    batch = replace(batch, views=batch.views.to(number), second=second)
    inputs = t.model.prepare(batch)  # two views of an image, or turned, cut, shuffled ones
    seed_dropout(batch.seed, batch.step)
    with autocast(t.recipe, t.device):
        outputs = through(model, inputs, t.recipe)  # h = f(x), z = g(h)
    result = t.model.loss(outputs, inputs)  # NT-Xent
    probe = probe_result(outputs, batch.labels)
    objective = result.objective if probe is None else result.objective + probe.loss
    t.optimizer.zero_grad(set_to_none=True)
    with t.model.encoder.during_backward():
        objective.backward()  # type: ignore[no-untyped-call]
    if t.recipe.optimizer.gradient_clip:
        nn.utils.clip_grad_norm_(t.model.method_parameters(), t.recipe.optimizer.gradient_clip)
    for group in t.optimizer.param_groups:
        group["lr"] = rate * group.get("rate_factor", 1.0)
    t.saver.before_update()
    t.optimizer.step()  # LARS
    t.model.after_step(result, batch)
    return Update(result, probe, objective.detach())


def _leave(t: Training, reason: str, **values: Any) -> str:
    t.heartbeat.beat(t.step, "saving")
    if t.is_main and reason == STOPPED:
        t.run.log_event("stopping", step=t.step)
        values["asked"] = t.run.stop_word()
    note_saved(t, t.saver.wait())
    if t.is_main:
        t.run.stop_file.unlink(missing_ok=True)
        if reason == FINISHED:
            save_encoder(t.model.encoder, t.run.path / "encoder.safetensors", encoder_metadata(t.recipe, t.step))
        t.run.log_event("exit", reason=reason, step=t.step, **values)
    distributed.barrier()
    t.heartbeat.beat(t.step, "done")
    return reason
