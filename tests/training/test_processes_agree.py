"""Three processes of a run: they agree before they begin, hear a stop together, and go on where they were.

torchrun starts this file itself as a program; its three processes (gloo, CPU) do everything under "what each process
does" once and leave what came of it in a folder, which the tests then look at.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from launching import in_processes
from method_settings import TINY as METHODS
from tiny_recipe import TINY

from simclr_plus import distributed
from simclr_plus.errors import NotFoundError, SimclrPlusError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.training import preparing, trainer
from simclr_plus.training.methods import colorization, jigsaw
from simclr_plus.training.trainer import train

PROCESSES = 3
STEPS = [
    *TINY,
    "data.limit=192",
    "training.batch_size=48",
    "optimizer.name=sgd",
    "training.epochs=2",
    "checkpoints.every_epochs=0.25",
    "checkpoints.keep_last=100",
]


# what each process does


def new_run(folder: Path, name: str, *overrides: str, begin_at: tuple[int, ...] = ()) -> Run:
    """Made by process 0; it begins with copies of the unbroken run's checkpoints."""
    run = Run(folder / name)
    if distributed.rank() == 0:
        create_run(load_recipe("demo", [*STEPS, *overrides]), folder, name)
        run.checkpoints.mkdir()
        for step in begin_at:
            shutil.copyfile(Run(folder / "unbroken").checkpoint_file(step), run.checkpoint_file(step))
    distributed.barrier()
    return run


def outcome(run: Run) -> dict[str, Any]:
    """How a training ended on this process."""
    begun = time.monotonic()
    try:
        found = {"ended": train(run, quiet=True)}
    except SimclrPlusError as error:
        found = {"error": str(error), "kind": type(error).__name__}
    return {**found, "seconds": time.monotonic() - begun}


@contextmanager
def patched(rank: int, target: Any, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """On that process alone."""
    with pytest.MonkeyPatch.context() as patch:
        if distributed.rank() == rank:
            patch.setattr(target, name, value)
        yield


def work(folder: Path) -> dict[str, Any]:
    return {**with_other_data(folder), **with_other_weights(folder), **cut_off(folder)}


def with_other_data(folder: Path) -> dict[str, Any]:
    """Runs of which a process has other checkpoints or images than the rest."""
    found = {"unbroken": outcome(new_run(folder, "unbroken"))}
    found["resumed"] = outcome(new_run(folder, "resumed", begin_at=(3,)))

    files = Run.checkpoint_files
    with patched(1, Run, "checkpoint_files", lambda run: files(run)[:-1]):
        found["behind"] = outcome(new_run(folder, "behind", begin_at=(2, 3)))

    opened = preparing.open_training_images

    def in_another_order(recipe: Any) -> Any:
        images = opened(recipe)
        return images.subset(np.arange(len(images))[::-1].copy())

    with patched(1, preparing, "open_training_images", in_another_order):
        found["other images"] = outcome(new_run(folder, "other images"))

    def one_less(recipe: Any) -> Any:
        images = opened(recipe)
        return images.first(len(images) - 1)

    with patched(2, preparing, "open_training_images", one_less):
        found["one less"] = outcome(new_run(folder, "one less"))

    def absent(_recipe: Any) -> Any:
        raise NotFoundError("data folder /photos does not exist")

    with patched(2, preparing, "open_training_images", absent):
        found["no images"] = outcome(new_run(folder, "no images"))

    in_order = jigsaw.permutation_set
    with patched(1, jigsaw, "permutation_set", lambda count, patches: in_order(count, patches)[::-1].copy()):
        puzzles = new_run(folder, "other permutations", "method.name=jigsaw", *METHODS["jigsaw"])
        found["other permutations"] = outcome(puzzles)

    with patched(2, colorization, "color_prior", lambda *_: torch.full((colorization.COLORS,), 1 / 313)):
        colors = new_run(folder, "other prior", "method.name=colorization", *METHODS["colorization"])
        found["other prior"] = outcome(colors)

    with patched(0, preparing, "knn_images_of", absent):
        found["no test images"] = outcome(new_run(folder, "no test images", "monitor.knn_every_epochs=1"))
    return found


def with_other_weights(folder: Path) -> dict[str, Any]:
    """Runs of which a process cannot read the checkpoint that rank 0 chose, or reads another."""
    found = {}
    elsewhere = preparing.appeared
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "SECONDS_TO_APPEAR", 0.3)
        with patched(1, preparing, "appeared", lambda path: elsewhere(folder / "node1" / path.name)):
            found["no such file"] = outcome(new_run(folder, "no such file", begin_at=(3,)))

    read = preparing.load_checkpoint

    def of_another_run(path: Path) -> Any:
        checkpoint = read(path)
        return replace(checkpoint, tensors={name: 2 * tensor for name, tensor in checkpoint.tensors.items()})

    with patched(2, preparing, "load_checkpoint", of_another_run):
        found["other file"] = outcome(new_run(folder, "other file", begin_at=(3,)))
    return found


def cut_off(folder: Path) -> dict[str, Any]:
    """Runs that a process ends: by a loss that is not finite, by a signal."""
    found = {}
    updated = trainer.update

    def not_finite(*arguments: Any) -> Any:
        outputs = updated(*arguments)
        return replace(outputs, objective=outputs.objective * float("nan"))

    with patched(1, trainer, "update", not_finite):
        found["not finite"] = outcome(new_run(folder, "not finite"))

    endless = new_run(
        folder, "endless", "training.epochs=5000", "monitor.log_every_steps=100000", "checkpoints.every_epochs=5000"
    )
    if distributed.rank() == 1:
        threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
    found["endless"] = outcome(endless)
    return found


if __name__ == "__main__":
    distributed.start("cpu")
    place = Path(sys.argv[1])
    results = work(place)
    (place / f"{distributed.rank()}.json").write_text(json.dumps(results))
    distributed.barrier()
    distributed.stop()


# what came of it


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    in_processes(__file__, folder, processes=PROCESSES)
    return folder


@pytest.fixture(scope="module")
def each(place: Path) -> list[dict[str, dict[str, Any]]]:
    """What each process tells."""
    return [json.loads((place / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


def last_bytes(run: Run) -> bytes:
    return run.checkpoint_files()[-1].read_bytes()


def untouched(run: Run) -> bool:
    """Whether nothing was written to a run that was refused."""
    return run.events() == [] and run.metrics() == [] and len(run.checkpoint_files()) <= 1


def test_three_processes_resumed_end_with_the_bytes_of_three_unbroken_ones(place: Path) -> None:
    assert last_bytes(Run(place / "resumed")) == last_bytes(Run(place / "unbroken"))


def test_a_process_that_sees_an_older_checkpoint_goes_on_from_that_of_process_0(place: Path) -> None:
    run = Run(place / "behind")
    assert run.events()[0]["from_step"] == 3
    assert last_bytes(run) == last_bytes(Run(place / "unbroken"))


@pytest.mark.parametrize(
    ("case", "who"),
    [
        ("other images", "process 1"),
        ("one less", "process 2"),
        ("other permutations", "process 1"),
        ("other prior", "process 2"),
    ],
)
def test_processes_that_see_other_images_or_make_other_numbers_of_them_are_refused_on_all_of_them(
    place: Path, each: list[dict[str, dict[str, Any]]], case: str, who: str
) -> None:
    errors = {found[case]["error"] for found in each}
    assert len(errors) == 1 and who in errors.pop()
    assert untouched(Run(place / case))


def test_a_checkpoint_of_the_same_step_with_other_content_is_refused(
    place: Path, each: list[dict[str, dict[str, Any]]]
) -> None:
    assert all("step_00000003" in found["other file"]["error"] for found in each)
    assert untouched(Run(place / "other file"))


def test_what_fails_on_one_process_while_preparing_ends_all_with_its_words(
    place: Path, each: list[dict[str, dict[str, Any]]]
) -> None:
    for case, rank in (("no images", 2), ("no test images", 0), ("no such file", 1)):
        kinds = [found[case]["kind"] for found in each]
        assert [kind == "AnotherProcessError" for kind in kinds] == [number != rank for number in range(PROCESSES)]
        assert all(each[rank][case]["error"] in found[case]["error"] for found in each)
        assert all(found[case]["seconds"] < 60 for found in each) and untouched(Run(place / case))
    assert str(place / "node1" / "step_00000003.safetensors") in each[0]["no such file"]["error"]


def test_a_loss_that_is_not_finite_on_one_process_stops_all_at_the_same_step(
    each: list[dict[str, dict[str, Any]]],
) -> None:
    assert all("not finite at step 0" in found["not finite"]["error"] for found in each)


def test_a_signal_to_one_process_is_heard_by_all_long_before_the_end_though_nothing_is_logged(
    place: Path, each: list[dict[str, dict[str, Any]]]
) -> None:
    assert {found["endless"]["ended"] for found in each} == {"stopped"}
    assert max(found["endless"]["seconds"] for found in each) < 60
    run = Run(place / "endless")
    assert run.metrics() == [] and len(run.checkpoint_files()) == 1


def test_a_checkpoint_that_a_network_shows_late_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "step_00000003.safetensors"
    threading.Timer(0.5, file.write_bytes, (b"",)).start()
    assert preparing.appeared(file).exists()
