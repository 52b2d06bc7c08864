"""What a recipe comes to, without data: its schedule in closed form; parameters, work and memory of its network.

Of a ResNet these have a closed form too. A network by name is measured for them, which loads PyTorch and its library.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from simclr_plus.encoders.foreign_architecture import ForeignArchitecture
from simclr_plus.errors import RecipeError
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.schedules import peak_learning_rate, step_count, warmup_cosine, warmup_step_count

CUDA_MEMORY = 2 << 30  # 0.5 GiB of context, 1.0 to 1.4 of the loader's stream, workspaces of cuDNN and NCCL
LABELLED_SIZES = {"stl10": 5_000}  # where fewer have labels

# the kNN that a run measures while it trains: fixed, so that runs can be compared
KNN_BANK, KNN_QUERIES, KNN_NEIGHBOURS = 4000, 2000, 20


@dataclass(frozen=True)
class Schedule:
    """What hangs on images, batch and epochs alone, whatever network is trained."""

    images: int
    processes: int
    global_batch: int
    batch_per_process: int
    total_steps: int
    schedule_steps: int  # steps until the learning rate is 0; the rest of total_steps runs at 0
    warmup_steps: int
    peak_learning_rate: float

    def learning_rate(self, step: int) -> float:
        """The rate of the update that follows `step` updates."""
        peak, warmup, total = self.peak_learning_rate, self.warmup_steps, self.schedule_steps
        return warmup_cosine(step, peak=peak, warmup_steps=warmup, total_steps=total)


@dataclass(frozen=True)
class Plan(Schedule):
    """Figures of a run; memory in bytes of one process, an estimate."""

    feature_dim: int  # of h
    encoder_parameters: int
    multiply_adds: int  # of f forward, for one view
    head_parameters: int
    memory: int
    memory_on_gpu: int  # of the card: CUDA's own, the loader's stream, NCCL and what the allocator keeps come on top
    memory_beside: int = 0  # of it: memory banks, queues, networks that follow another
    memory_saved: int = 0  # by activation checkpointing, where it is on: what would come on top without it

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def known_size(recipe: Recipe) -> int:
    """Images that the recipe trains on, as far as that can be told without opening them; 0 where it cannot."""
    labelled = LABELLED_SIZES.get(recipe.data.name) if recipe.method.learns_labels else None
    return min(labelled, recipe.data.limit or labelled) if labelled else recipe.data.known_images


def make_schedule(recipe: Recipe, images: int, processes: int = 1) -> Schedule:
    """The schedule for a number of images; raises RecipeError when processes cannot share the batch."""
    t = recipe.training
    if t.batch_size % processes:
        below, above = t.batch_size // processes * processes, -(-t.batch_size // processes) * processes
        raise RecipeError(
            f"training.batch_size = {t.batch_size} does not divide by {processes} processes; "
            f"use {f'{below} or ' if below else ''}{above}"
        )
    problem = recipe.method.problem_of_share(recipe, t.batch_size // processes)
    if problem:
        raise RecipeError(problem)
    schedule_steps = step_count(t.epochs, images, t.batch_size)
    interval = max(1, round(recipe.checkpoints.every_epochs * round(images / t.batch_size)))
    return Schedule(
        images=images,
        processes=processes,
        global_batch=t.batch_size,
        batch_per_process=t.batch_size // processes,
        total_steps=-(-schedule_steps // interval) * interval if t.round_up_to_checkpoint else schedule_steps,
        schedule_steps=schedule_steps,
        warmup_steps=warmup_step_count(t.warmup_epochs, images, t.batch_size),
        peak_learning_rate=peak_learning_rate(
            recipe.optimizer.learning_rate, t.batch_size, recipe.optimizer.learning_rate_scaling
        ),
    )


def make_plan(recipe: Recipe, images: int, processes: int = 1) -> Plan:
    """All figures for a number of images; raises RecipeError or NotFoundError where that cannot be trained."""
    schedule = make_schedule(recipe, images, processes)
    problem = recipe.method.problem_of_network(recipe) or _problem_of_freezing(recipe)
    if problem:
        raise RecipeError(problem)
    recomputes = recipe.training.activation_checkpointing
    memory = _memory(recipe, schedule, recompute_blocks=recomputes)
    return Plan(
        **asdict(schedule),
        feature_dim=recipe.feature_dim,
        encoder_parameters=recipe.method.encoder_parameters(recipe),
        multiply_adds=recipe.method.multiply_adds(recipe),
        head_parameters=recipe.method.parameters_beside(recipe, images),
        memory=memory,
        memory_on_gpu=memory + CUDA_MEMORY,
        memory_beside=recipe.method.memory_beside(recipe, images),
        memory_saved=_memory(recipe, schedule, recompute_blocks=False) - memory if recomputes else 0,
    )


def _problem_of_freezing(recipe: Recipe) -> str:
    architecture = recipe.architecture
    frozen = recipe.encoder.freeze_patch_embedding
    if frozen and isinstance(architecture, ForeignArchitecture) and not architecture.figures.patch_embedding:
        return f"encoder.freeze_patch_embedding = true: {architecture.name} has no patch embedding; leave it out"
    return ""


def _memory(recipe: Recipe, schedule: Schedule, *, recompute_blocks: bool) -> int:
    """Weights, gradients and momenta in float32; banks and queues; what the backward pass needs of this process's rows
    of f; the views.
    """
    t, size, method, images = recipe.training, recipe.augmentation.image_size, recipe.method, schedule.images
    copies = 4 if recipe.optimizer.name in ("adam", "adamw") else 3
    share = schedule.batch_per_process
    kept = method.activation_count(recipe, recompute_blocks=recompute_blocks)
    bytes_a_number = {"float32": 4, "tf32": 4, "float64": 8, "auto": 4 if t.device == "cpu" else 2}.get(t.precision, 2)
    pixels = method.pixels(recipe) * share
    return (
        4 * copies * (method.encoder_parameters(recipe) + method.parameters_beside(recipe, images))
        + method.memory_beside(recipe, images)
        + int(method.pixels_kept(recipe) * share * kept) * bytes_a_number
        + int(max(pixels, method.view_count * share)) * 3 * size * size * 4
    )
