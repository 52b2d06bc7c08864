"""What a study comes to before it is run: cells, images, and the time on this machine, from a few timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from simclr_plus.bench.rounds import torch_threads
from simclr_plus.datasets.images import open_training_images
from simclr_plus.errors import NotFoundError
from simclr_plus.machine.cores import cpu_count
from simclr_plus.recipe.plan import Plan, known_size, make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.studies.running.cells import PlannedStudy
from simclr_plus.training.model import blank_batch, build_model, through
from simclr_plus.training.precision import autocast

IMAGES_IN_A_BANK = 10_000  # of methods that remember each image
TIMED_IMAGES = 32  # a step
TIMED_WORK = {"cpu": 2e10, "cuda": 2e12}  # multiply-adds forward of a timed step: of more, a narrower one is timed
SLOW_STEP = 1.0  # seconds


@dataclass(frozen=True)
class Cost:
    """seconds: of all training steps of the missing cells, on this machine with `at_once` cells side by side."""

    cells: int
    done: int
    images: int
    seconds: float


def plans_of(planned: PlannedStudy, processes: int) -> list[Plan]:
    """What each cell comes to; of a known data set that is not on this machine too, raises NotFoundError for others."""
    images = {cell.recipe.method.learns_labels: 0 for cell in planned.cells}
    for cell in planned.cells:
        images[cell.recipe.method.learns_labels] = images[cell.recipe.method.learns_labels] or _image_count(cell.recipe)
    return [make_plan(cell.recipe, images[cell.recipe.method.learns_labels], processes) for cell in planned.cells]


def _image_count(recipe: Recipe) -> int:
    try:
        return len(open_training_images(recipe))
    except NotFoundError:
        if not known_size(recipe):
            raise
        return known_size(recipe)


def cost_of(planned: PlannedStudy, *, at_once: int, processes: int, say: Callable[[str], None]) -> Cost:
    """Times a few steps of each network of the plan; evaluation and start-up come on top.

    A network with too much to do for that is reckoned by its work from the same depth at width 1.
    """
    plans = plans_of(planned, processes)
    threads = max(1, cpu_count() // (at_once * processes))
    timed: dict[str, float] = {}
    total, images = 0.0, 0.0
    for cell, plan in zip(planned.cells, plans, strict=True):
        seen = plan.total_steps * plan.global_batch * planned.chance_of(cell)
        images += seen
        if planned.is_done(cell):
            continue
        untimed, recipe = cell.recipe, _timed_in_place_of(cell.recipe)
        size = untimed.augmentation.image_size
        key = f"{recipe.architecture} {size} {recipe.method.name} {recipe.method.pixels(recipe)}"
        if key not in timed:
            say(f"timing {recipe.encoder_title} on {size} pixels")
            timed[key] = seconds_per_image(recipe, threads) / processes
        work = untimed.method.multiply_adds(untimed) / recipe.method.multiply_adds(recipe)
        total += timed[key] * work * seen
    done = sum(planned.is_done(cell) for cell in planned.cells)
    return Cost(planned.total, done, round(images), total / at_once)


def _timed_in_place_of(recipe: Recipe) -> Recipe:
    """The recipe itself, or with a ResNet of width 1 where two images are too much work for a timed step."""
    work = 2 * recipe.method.pixels(recipe) * recipe.method.multiply_adds(recipe)
    if work <= TIMED_WORK[_device().type] or not recipe.encoder.is_resnet or recipe.encoder.width <= 1:
        return recipe
    return recipe.model_copy(update={"encoder": recipe.encoder.model_copy(update={"width": 1.0})})


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds_per_image(recipe: Recipe, threads: int) -> float:
    """Of one training step without the making of views: the better of two after a first, of slow ones the second."""
    device = _device()
    work = recipe.method.pixels(recipe) * recipe.method.multiply_adds(recipe)
    smallest, count = recipe.method.smallest_batch, min(TIMED_IMAGES, recipe.training.batch_size)
    count = max(1, min(count, int(TIMED_WORK[device.type] / work)) // smallest) * smallest  # groups of batch norm
    model = build_model(recipe, 2, IMAGES_IN_A_BANK).to(device)
    model.to(memory_format=torch.channels_last)
    batch = blank_batch(recipe, count, device, torch.float32)
    second = None if batch.second is None else torch.rand_like(batch.second)
    batch = replace(batch, views=torch.rand_like(batch.views), second=second)
    best = float("inf")
    with torch_threads(threads):
        for turn in range(3):
            if turn == 2 and best * count > SLOW_STEP:
                break
            started = time.perf_counter()
            inputs = model.prepare(batch)
            with autocast(recipe, device):
                outputs = through(model, inputs, recipe)
            model.loss(outputs, inputs).objective.backward()  # type: ignore[no-untyped-call]
            if device.type == "cuda":
                torch.cuda.synchronize()
            best = min(best, (time.perf_counter() - started) / count)
    return best
