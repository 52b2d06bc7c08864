"""A training step beside the loop of Lightly's example, and whether the data path keeps up with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from simclr_plus import lightly_parts
from simclr_plus.augmentations.views import compile_views
from simclr_plus.bench.data import needs
from simclr_plus.bench.pictures_to_decode import files_to_decode, small_images
from simclr_plus.bench.rounds import Report, clock_for, compare, hardware, in_turns, times_as_fast, torch_threads
from simclr_plus.datasets.batches import Batch, ViewBatches
from simclr_plus.datasets.images import PRETRAIN, Images, open_images
from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.machine.cores import default_threads
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run
from simclr_plus.runs.progress import TrainingProgress
from simclr_plus.training.model import build_encoder, build_model
from simclr_plus.training.optimizers import build_optimizer
from simclr_plus.training.precision import autocast_enabled
from simclr_plus.training.state import Training
from simclr_plus.training.trainer import update, view_batches
from simclr_plus.weights.background_saving import CheckpointSaver

OURS, LIGHTLYS = "SimCLR+ step", "Lightly's step"
OUR_VIEWS, LIGHTLYS_VIEWS = "SimCLR+ views", "Lightly's views"
EXAMPLE_RATE = 0.06  # learning rate of Lightly's example


def bench_step(recipe: Recipe, *, rounds: int, threads: int, device: torch.device) -> Report:
    """One update of a recipe's network on batches that are ready, then the data path alone, then both together."""
    if recipe.method.name != "simclr":
        raise RecipeError(
            f'method.name = "{recipe.method.name}": bench step compares with Lightly\'s SimCLR; take "simclr"'
        )
    images, source = _images_of(recipe)
    compile_views(recipe.law)
    training = _training(recipe, images, device)
    batches = view_batches(recipe, images, device)
    batch = batches.at(0)
    turns = {
        OURS: _ours(training, batch),
        LIGHTLYS: _lightlys(recipe, batch.views, device),
        OUR_VIEWS: _our_views(images, recipe),
        LIGHTLYS_VIEWS: _lightlys_views(images, recipe),
    }
    with torch_threads(threads):
        seconds = in_turns(turns, rounds, clock=clock_for(threads, device))
        taken = recipe.training.batch_size / float(np.median(seconds[OURS]))
        delivered = _delivered(batches, rounds)
        wait = _wait(training, batches, rounds)
    ratios = _times_lightly(seconds) | {"data_wait": wait}
    batch_size, workers = recipe.training.batch_size, recipe.data.threads or default_threads()
    return Report(
        name="step",
        settings={
            "images": source,
            **_of_network(recipe),
            "rounds": rounds,
            "threads": threads,
            "device": str(device),
        },
        comparisons=[
            compare(
                f"one update of {batch_size} images, and their views on one thread",
                seconds,
                base=LIGHTLYS,
                items="images/s",
                count=batch_size,
            )
        ],
        ratios=ratios | {"images_per_second": taken, "data_images_per_second": delivered},
        verdicts=[
            f"step and views are {ratios['times_lightly']:.2f} times as fast as in Lightly's example with the same "
            f"network, the step alone {ratios['step_times_lightly']:.2f} times",
            f"{needs(taken, delivered, workers, delivered / workers)}; run together, the step waits for data "
            f"{wait:.1%} of the time",
        ],
        machine=hardware(device),
    )


def _times_lightly(seconds: dict[str, list[float]]) -> dict[str, float]:
    """How many times as fast as Lightly's example: step and views together, and the step alone."""
    both = {"ours": (OURS, OUR_VIEWS), "lightly's": (LIGHTLYS, LIGHTLYS_VIEWS)}
    loops = {
        who: [sum(parts) for parts in zip(*(seconds[n] for n in names), strict=True)] for who, names in both.items()
    }
    return {
        "times_lightly": times_as_fast(loops, "ours", "lightly's"),
        "step_times_lightly": times_as_fast(seconds, OURS, LIGHTLYS),
    }


def _of_network(recipe: Recipe) -> dict[str, Any]:
    return {
        "batch_size": recipe.training.batch_size,
        "encoder": recipe.encoder_title,
        "image_size": recipe.augmentation.image_size,
        "precision": recipe.training.precision,
    }


def _images_of(recipe: Recipe) -> tuple[Images, str]:
    """The recipe's images; where they are not on this machine, stand-ins of the same size."""
    try:
        images = open_images(recipe.data, PRETRAIN)
        return images, f"{len(images)} images of {images.name}"
    except SimclrPlusError:
        files, source = files_to_decode(None, 16)
        count = max(512, recipe.training.batch_size)
        pixels = small_images(files, 32 if recipe.augmentation.image_size <= 32 else 375, count)
        stand_ins = Images("stand-ins", pixels, (), np.zeros(count, dtype=np.int64), ("any", "other"))
        return stand_ins, f"{recipe.data.name} is not here: {pixels.shape[1]}-pixel stand-ins in memory, {source}"


def _training(recipe: Recipe, images: Images, device: torch.device) -> Training:
    classes = len(images.classes) if recipe.training.probe and images.labels is not None else 0
    layout = torch.channels_last if recipe.training.channels_last else torch.contiguous_format
    model = build_model(recipe, classes, len(images)).to(device).to(memory_format=layout).train()
    if recipe.training.compile:
        model.encoder.compile()
    return Training(
        run=Run(Path()),
        recipe=recipe,
        plan=make_plan(recipe, len(images)),
        images=images,
        model=model,
        optimizer=build_optimizer(model, recipe),
        device=device,
        progress=TrainingProgress("bench", 0, 1, quiet=True),
        saver=CheckpointSaver(),
        knn_images=None,
    )


def _ours(training: Training, batch: Batch) -> Callable[[], None]:
    def step() -> None:
        update(training, training.model, batch, training.plan.peak_learning_rate)
        _finish(training.device)

    return step


def _lightlys(recipe: Recipe, views: Tensor, device: torch.device) -> Callable[[], None]:
    """The loop of Lightly's examples/pytorch/simclr.py: each view through the network by itself, SGD."""
    encoder = build_encoder(recipe).to(device).train()
    head = lightly_parts.projection_head(
        encoder.feature_dim, recipe.head_hidden_dim, recipe.head.output_dim, max(2, recipe.head.num_layers)
    ).to(device)
    criterion = lightly_parts.nt_xent_loss(recipe.loss.temperature)
    optimizer = torch.optim.SGD([*encoder.parameters(), *head.parameters()], lr=EXAMPLE_RATE)
    half = autocast_enabled(recipe, device)

    def step() -> None:
        x0, x1 = views.to(device, non_blocking=True).chunk(2)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            z0, z1 = head(encoder(x0)), head(encoder(x1))
        loss = criterion(z0.float(), z1.float())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        _finish(device)

    return step


def _our_views(images: Images, recipe: Recipe) -> Callable[[], object]:
    t = recipe.training
    batches = ViewBatches(images, recipe.law, batch_size=t.batch_size, seed=t.seed, threads=1)
    return lambda: batches.batch(0)


def _lightlys_views(images: Images, recipe: Recipe) -> Callable[[], float]:
    """A part of the batch, because it is slow, counted as the whole."""
    count = max(1, min(16, recipe.training.batch_size))
    a = recipe.augmentation
    transform = lightly_parts.simclr_transform(
        a.image_size, cj_strength=a.strength, gaussian_blur=a.blur_prob, min_scale=a.min_scale
    )

    def turn() -> float:
        started = time.process_time()
        for i in range(count):
            transform(Image.fromarray(images.read(i)))
        return (time.process_time() - started) * (recipe.training.batch_size / count)

    return turn


def _delivered(batches: ViewBatches, rounds: int) -> float:
    """Images a second of the data path alone, wall clock."""
    seconds = []
    for step in range(rounds):
        started = time.perf_counter()
        batches.batch(step)
        _finish(batches.device)
        seconds.append(time.perf_counter() - started)
    return batches.batch_size / float(np.median(seconds))


def _wait(training: Training, batches: ViewBatches, rounds: int) -> float:
    """The share of the time that the loop waits for data when the next batch is made during the step."""
    started, waited = 0.0, 0.0
    for i, batch in enumerate(batches.batches(0, rounds + 1)):
        if i == 0:
            started = time.perf_counter()  # nothing could run ahead of the first
        else:
            waited += batch.waited
        update(training, training.model, batch, training.plan.peak_learning_rate)
        _finish(training.device)
    return waited / (time.perf_counter() - started)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
