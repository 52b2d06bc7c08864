"""How long the loop stops for a checkpoint: saved plainly, and in the background of the next step."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from simclr_plus.bench.rounds import Report, compare, hardware, in_turns, times_as_fast, torch_threads
from simclr_plus.errors import EnvironmentNotAbleError
from simclr_plus.lars import LARS, parameter_groups
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.model import build_model
from simclr_plus.weights.background_saving import CheckpointSaver
from simclr_plus.weights.checkpoints import checkpoint_header, checkpoint_tensors, save_checkpoint

PLAIN, TORCH, OURS = "plain save", "torch.save, flushed", "SimCLR+, in the background"
IMAGES, SIZE = 4, 64  # of the step that runs meanwhile: far shorter than a real one


def bench_checkpoint(recipe: Recipe, folder: Path, *, rounds: int, threads: int, device: torch.device) -> Report:
    """Weights and momenta of a recipe's model, written to `folder`'s disk; the files are removed afterwards."""
    model = build_model(recipe, 0).to(device).to(memory_format=torch.channels_last)
    optimizer = LARS(parameter_groups(model, 1e-6), lr=1e-3)
    images = torch.rand(IMAGES, 3, SIZE, SIZE, device=device)

    def forward_and_backward() -> None:
        z = model(images)["z"]
        z.square().mean().backward()

    forward_and_backward()
    optimizer.step()
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".simclr-plus-bench-") as name, torch_threads(threads):
            turns, saver = _turns(Path(name), recipe, model, optimizer, forward_and_backward)
            with saver:
                seconds = in_turns(turns, rounds)
    except OSError as error:
        raise EnvironmentNotAbleError(f"cannot write to {folder}: {error}; name another --folder") from None
    size = sum(x.numel() * x.element_size() for x in checkpoint_tensors(model, optimizer).values())
    stop = 1 / times_as_fast(seconds, OURS, PLAIN)
    return Report(
        name="checkpoint",
        settings={
            "encoder": recipe.encoder_title,
            "bytes": size,
            "folder": str(folder),
            "rounds": rounds,
            "threads": threads,
            "device": str(device),
        },
        comparisons=[compare(f"seconds the loop stops for {size / 1e6:.0f} MB", seconds, base=PLAIN, items="saves/s")],
        ratios={"stop_of_plain_save": stop, "stop_of_torch_save": 1 / times_as_fast(seconds, OURS, TORCH)},
        verdicts=[f"saved in the background the loop stops for {stop:.1%} of the time a plain save takes"],
        machine=hardware(device),
    )


def _turns(
    folder: Path, recipe: Recipe, model: torch.nn.Module, optimizer: LARS, work: Callable[[], None]
) -> tuple[dict[str, Callable[[], object]], CheckpointSaver]:
    saver = CheckpointSaver()

    def plain() -> None:
        save_checkpoint(folder / "plain.safetensors", model, optimizer, step=1, recipe=recipe)

    def with_torch() -> None:
        path = folder / "torch.pt"
        with path.open("wb") as file:
            torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
            file.flush()
            os.fsync(file.fileno())

    def background() -> float:
        """The loop's own time: beginning the save, then what the next update waits after a forward and backward."""
        started = time.perf_counter()
        saver.save(folder / "background.safetensors", model, optimizer, checkpoint_header(1, recipe))
        begun = time.perf_counter()
        work()
        worked = time.perf_counter()
        saver.before_update()
        stopped = time.perf_counter()
        saver.wait()  # the next contender has the disk to itself
        return (begun - started) + (stopped - worked)

    return {PLAIN: plain, TORCH: with_torch, OURS: background}, saver
