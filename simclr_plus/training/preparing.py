"""All that comes before the first step of a run; what all processes must share is agreed on, or refused by name."""

from __future__ import annotations

import hashlib
import inspect
import socket
import time
import zlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from simclr_plus import distributed
from simclr_plus.augmentations.views import compile_views
from simclr_plus.datasets.images import Images, notes_of, open_training_images
from simclr_plus.errors import CheckpointError
from simclr_plus.importers.pretrained import load_pretrained, weights_file
from simclr_plus.machine.whole_files import remove_unfinished
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import SECONDS_TO_APPEAR, Run, describe_machine
from simclr_plus.runs.heartbeat import HeartbeatWriter
from simclr_plus.runs.progress import TrainingProgress
from simclr_plus.training.continuation import Identity, identity_of, require_same_images, require_same_stream
from simclr_plus.training.methods.method import Method
from simclr_plus.training.model import blank_batch, build_model, memory_format, through
from simclr_plus.training.monitor import knn_images_of, knn_in_numbers
from simclr_plus.training.optimizers import build_optimizer
from simclr_plus.training.precision import autocast, computed_in, numbers_of, set_float32_products
from simclr_plus.training.state import Training
from simclr_plus.weights.background_saving import CheckpointSaver
from simclr_plus.weights.checkpoints import Checkpoint, load_checkpoint, restore
from simclr_plus.weights.encoder_files import encoder_to_start_from

SMALL = 2**20  # bytes of a buffer that is compared between processes; memories of all images are larger

_SAME_DATA = (
    "Give all processes the same images, recipe and versions: one folder that all machines see, or equal copies"
)
_SAME_CHECKPOINT = "The run's folder must be one that all machines see"


def prepare(run: Run, recipe: Recipe, device: torch.device, heartbeat: HeartbeatWriter, quiet: bool) -> Training:
    """All that comes before the first step; nothing is written to the run before all processes agree on what it is."""
    is_main = distributed.rank() == 0
    with distributed.failing_together():
        images = open_training_images(recipe)
        plan = make_plan(recipe, len(images), distributed.world_size())
        identity = identity_of(images, sizes=is_main)
        precision = computed_in(recipe, device)
    distributed.require_agreement(_facts(recipe, images, identity, precision), _SAME_DATA)
    newest = distributed.from_main(_newest(run))
    if newest is None and recipe.encoder.download and recipe.encoder.pretrained:
        with distributed.failing_together():  # so that the others find what one has fetched
            _ = weights_file(recipe) if is_main else None
    with distributed.failing_together():
        model, optimizer = _build(recipe, images, device)
        notes = [] if newest is not None else [*_fill(model, recipe), *model.study_images(images, recipe.law)]
        checkpoint = None if newest is None else load_checkpoint(appeared(run.checkpoints / newest))
        if checkpoint is not None:
            require_same_images(checkpoint, images, identity)
            require_same_stream(checkpoint, recipe, images)
            keeps = checkpoint.recipe.optimizer.rule == recipe.optimizer.rule
            restore(checkpoint, model, optimizer if keeps else None)
        knn_images = knn_images_of(recipe) if is_main and recipe.monitor.knn_every_epochs else None
        compile_views(recipe.law)
    if checkpoint is None:
        distributed.require_agreement(_facts_of_start(model, recipe), _SAME_DATA)
    else:
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
        progress=TrainingProgress(
            run.name,
            step,
            plan.total_steps,
            quiet=quiet or not is_main,
            of_method=recipe.method.figures(recipe),
        ),
        saver=CheckpointSaver(),
        knn_images=knn_images,
        step=step,
        heartbeat=heartbeat,
        identity=identity,
    )
    if is_main:
        remove_unfinished(run.checkpoints)
        _note_start(training, checkpoint, precision, notes)
    return training


def _newest(run: Run) -> str | None:
    """The name of the newest checkpoint; process 0 asks for all, because a network may show others an older one."""
    files = run.checkpoint_files()
    return files[-1].name if files else None


def appeared(checkpoint: Path) -> Path:
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


def _facts_of_start(model: Method, recipe: Recipe) -> dict[str, object]:
    """What a method made of files and images: its small buffers and a start of f, which each process fills itself."""
    if distributed.world_size() == 1:
        return {}
    facts: dict[str, object] = {
        f"{name} (digest)": f"{_digest(buffer.cpu()):08x}"
        for name, buffer in model.named_buffers()
        if not name.startswith("encoder.") and buffer.nbytes <= SMALL
    }
    if recipe.training.init_from or recipe.encoder.pretrained:
        digest = 0
        for tensor in model.encoder.state_dict().values():
            digest = _digest(tensor.detach().cpu(), digest)
        facts["weights that f starts from (digest)"] = f"{digest:08x}"
    return facts


def _digest(tensor: Tensor, before: int = 0) -> int:
    return zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, before)


def _facts_of_checkpoint(checkpoint: Checkpoint) -> dict[str, object]:
    """The step alone would not tell a file of another run, or one that a machine keeps for itself."""
    digest = 0
    if distributed.world_size() > 1:
        for _, tensor in sorted(checkpoint.tensors.items()):
            digest = _digest(tensor, digest)
    return {"step of the checkpoint": checkpoint.step, f"content of {checkpoint.path.name} (digest)": f"{digest:08x}"}


def _build(recipe: Recipe, images: Images, device: torch.device) -> tuple[Method, Optimizer]:
    classified = images.labels is not None and (recipe.training.probe or recipe.method.learns_labels)
    model = build_model(recipe, len(images.classes) if classified else 0, len(images))
    model.to(device, numbers_of(recipe))
    model.to(memory_format=memory_format(recipe))
    model.train()
    return model, build_optimizer(model, recipe)


def _fill(model: Method, recipe: Recipe) -> list[str]:
    """Put the weights into f that a new run starts from, where there are any; returns what a user should know."""
    if recipe.training.init_from:
        model.encoder.load_state_dict(encoder_to_start_from(recipe).state_dict())
    return load_pretrained(model.encoder, recipe) if recipe.encoder.pretrained else []


def _note_start(t: Training, checkpoint: Checkpoint | None, precision: str, notes: list[str]) -> None:
    """The event that says what begins where, and what a user should know of it."""
    come_from = {"from_step": t.step} if t.step else {}
    kind = "resume" if t.step else "start"
    figures = {"steps": t.plan.total_steps, "processes": t.plan.processes, "device": str(t.device)}
    figures |= {"images": len(t.images), "classes": len(t.images.classes), "knn": knn_in_numbers(t.knn_images)}
    figures |= {"feature_dim": t.model.encoder.feature_dim}
    t.run.log_event(kind, **come_from, **figures, precision=precision, **describe_machine())
    if t.recipe.data.expected_images and t.recipe.data.expected_images != len(t.images):
        note = f"{t.images.name} holds {len(t.images)} images, the recipe expects {t.recipe.data.expected_images}"
        t.run.log_event("note", message=note)
    for note in (*notes_of(t.images), *notes):
        t.run.log_event("note", message=note)
    before, now = checkpoint and checkpoint.recipe.optimizer.rule, t.recipe.optimizer.rule
    if checkpoint is not None and before != now:
        note = f"the optimizer starts afresh: {checkpoint.path.name} holds the state of {before}, no use to {now}"
        t.run.log_event("note", message=note)


def in_processes(t: Training) -> nn.Module:
    """The model as this process trains it: itself, or with several processes wrapped by DDP."""
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
    # few images will do for batch norm; a compiled encoder is to see no shape but that of its batches
    images = t.plan.batch_per_process if t.recipe.training.compile else t.recipe.method.smallest_batch
    batch = blank_batch(t.recipe, images, t.device, numbers_of(t.recipe))
    buffers = [(buffer, buffer.clone()) for buffer in t.model.buffers()]
    with autocast(t.recipe, t.device):
        outputs = through(model, t.model.prepare(batch), t.recipe)
    torch.stack([x.double().sum() for x in outputs.values() if x.requires_grad]).sum().backward()  # type: ignore[no-untyped-call]
    t.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
