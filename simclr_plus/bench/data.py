"""Views beside Lightly's transform and decoding alone; threads beside worker processes; what a GPU would find."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from simclr_plus import lightly_parts
from simclr_plus.augmentations.draws import draw_views
from simclr_plus.augmentations.law import ViewLaw, simclr_law
from simclr_plus.augmentations.transform import SimCLRTransform
from simclr_plus.augmentations.views import ViewMaker, compile_views
from simclr_plus.bench.pictures_to_decode import files_to_decode, small_images
from simclr_plus.bench.rounds import Comparison, Report, compare, in_turns, times_as_fast, torch_threads
from simclr_plus.datasets.batches import ViewBatches
from simclr_plus.datasets.decoding import decode_image
from simclr_plus.datasets.images import Images, open_folder
from simclr_plus.machine.cores import default_threads

OURS, LIGHTLYS, DECODING = "SimCLR+ views", "Lightly SimCLRTransform", "decoding alone"
SMALL, SMALL_COUNT, SMALL_LIGHTLY = 32, 512, 32  # pixels; images a turn of ours, and of Lightly's, which is slower


def bench_data(
    folder: Path | None, *, size: int, files: int, rounds: int, threads: int = 0, needed: float = 0.0
) -> Report:
    """Pairs of views a second; `needed`: images a second that a GPU takes, for the verdict."""
    threads = threads or default_threads()
    contents, source = files_to_decode(folder, files)
    law, small_law = simclr_law(size), simclr_law(SMALL, 0.5, blur_prob=0.0)
    for each in (law, small_law):
        compile_views(each)
    with torch_threads(1):
        large, of_lightly, of_decoding = _large(contents, law, rounds)
        small, small_of_lightly = _small(contents, small_law, rounds)
        many, delivered, scaling = _many(contents, law, rounds, threads)
    ratios = {
        "times_lightly": of_lightly,
        "share_of_decoding": of_decoding,
        "small_times_lightly": small_of_lightly,
        **scaling,
    }
    per_core = next(row.per_second for row in large.rows if row.name == OURS)
    return Report(
        name="data",
        settings={"images": source, "size": size, "rounds": rounds, "threads": threads, "needed": needed},
        comparisons=[large, small, many],
        ratios=ratios,
        verdicts=[
            f"{size}-pixel views: {of_lightly:.1f} times Lightly's images/s a core, {of_decoding:.0%} of decoding "
            f"alone; {SMALL}-pixel views of a set in memory: {small_of_lightly:.0f} times",
            needs(needed, delivered, threads, per_core) if needed else _supplies(delivered, threads, per_core),
        ],
    )


def needs(needed: float, delivered: float, threads: int, per_core: float) -> str:
    """The verdict: does the data path keep up with a consumer of `needed` images a second, and what to do if not."""
    sentence = f"the step takes {needed:,.0f} images/s, {threads} threads deliver {delivered:,.0f}"
    if delivered >= 1.1 * needed:
        return f"{sentence}: data is not the bottleneck"
    if delivered >= 0.9 * needed:
        return f"{sentence}: just enough; a core more would be safe"
    cores = int(np.ceil(1.1 * needed / per_core))
    return (
        f"{sentence}: data is the bottleneck; give a process {cores} cores (data.threads), store smaller images, "
        'or, with a GPU, set augmentation.augment_on = "device"'
    )


def _supplies(delivered: float, threads: int, per_core: float) -> str:
    return (
        f"{threads} threads deliver {delivered:,.0f} images/s, one core {per_core:,.0f}; --needed N compares this with "
        "the images/s that your GPU takes (`simclr-plus bench step RECIPE` measures them)"
    )


def _large(contents: list[bytes], law: ViewLaw, rounds: int) -> tuple[Comparison, float, float]:
    """One thread, processor time: file contents to two views."""
    transform = lightly_parts.simclr_transform(law.size)
    maker, out = ViewMaker(law), np.empty((2, len(contents), 3, law.size, law.size), dtype=np.float32)
    lightly_count = max(1, len(contents) // 4)
    scale = len(contents) / lightly_count

    def ours() -> None:
        for b, data in enumerate(contents):
            image = decode_image(data)
            parameters = draw_views(0, 0, b, heights=image.shape[0], widths=image.shape[1], law=law)
            maker.fill(image, parameters[0], out, b)

    def lightlys() -> float:
        started = time.process_time()
        for data in contents[:lightly_count]:
            transform(Image.open(io.BytesIO(data)).convert("RGB"))
        return (time.process_time() - started) * scale

    def decoding() -> None:
        for data in contents:
            decode_image(data)

    seconds = in_turns({LIGHTLYS: lightlys, OURS: ours, DECODING: decoding}, rounds, clock=time.process_time)
    table = compare(
        f"file to two {law.size}-pixel views, one thread, {len(contents)} images a turn",
        seconds,
        base=LIGHTLYS,
        items="images/s",
        count=len(contents),
    )
    return table, times_as_fast(seconds, OURS, LIGHTLYS), times_as_fast(seconds, OURS, DECODING)


def _small(contents: list[bytes], law: ViewLaw, rounds: int) -> tuple[Comparison, float]:
    """One thread, processor time: a set in memory to pairs of small views."""
    pixels = small_images(contents, SMALL, SMALL_COUNT)
    indices = np.arange(SMALL_COUNT)
    transform = lightly_parts.simclr_transform(SMALL, cj_strength=0.5, gaussian_blur=0.0)
    maker, out = ViewMaker(law), np.empty((2, SMALL_COUNT, 3, SMALL, SMALL), dtype=np.float32)

    def ours() -> None:
        parameters = draw_views(0, 0, indices, heights=SMALL, widths=SMALL, law=law)
        maker.fill_batch(pixels, indices, parameters, out, 0, SMALL_COUNT)

    def lightlys() -> float:
        started = time.process_time()
        for image in pixels[:SMALL_LIGHTLY]:
            transform(Image.fromarray(image))
        return (time.process_time() - started) * (SMALL_COUNT / SMALL_LIGHTLY)

    seconds = in_turns({LIGHTLYS: lightlys, OURS: ours}, rounds, clock=time.process_time)
    table = compare(
        f"set in memory to two {SMALL}-pixel views, one thread, {SMALL_COUNT} images a turn",
        seconds,
        base=LIGHTLYS,
        items="images/s",
        count=SMALL_COUNT,
    )
    return table, times_as_fast(seconds, OURS, LIGHTLYS)


def _many(contents: list[bytes], law: ViewLaw, rounds: int, threads: int) -> tuple[Comparison, float, dict[str, float]]:
    """Wall clock: batches by threads (one, then all), and by as many DataLoader worker processes."""
    one, all_of_them, processes = "1 thread", f"{threads} threads", f"{threads} DataLoader workers"
    with _as_folder(contents) as images, _workers(images, law, threads) as of_workers:
        batch = len(images)
        turns: dict[str, Callable[[], object]] = {}
        for name, count in {one: 1, all_of_them: threads}.items():
            batches = ViewBatches(images, law, batch_size=batch, seed=0, threads=count)
            turns[name] = partial(batches.batch, 0)
        turns[processes] = of_workers
        seconds = in_turns(turns, rounds)
    table = compare(
        f"files to batches of {law.size}-pixel pairs, wall clock", seconds, base=one, items="images/s", count=batch
    )
    delivered = next(row.per_second for row in table.rows if row.name == all_of_them)
    scaling = {"threads_over_one": times_as_fast(seconds, all_of_them, one)} if threads > 1 else {}
    return table, delivered, scaling | {"threads_over_workers": times_as_fast(seconds, all_of_them, processes)}


@contextmanager
def _as_folder(contents: list[bytes]) -> Iterator[Images]:
    with tempfile.TemporaryDirectory(prefix="simclr-plus-bench-") as name:
        for i, data in enumerate(contents):
            (Path(name) / f"{i:05}.jpg").write_bytes(data)
        yield open_folder(Path(name))


class _Pairs(Dataset[list[torch.Tensor]]):
    """What a user's DataLoader would be given: each image twice."""

    def __init__(self, images: Images, size: int) -> None:
        self.images, self.transform = images, SimCLRTransform(size)

    def __len__(self) -> int:
        return 2 * len(self.images)

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.transform(self.images.read(index % len(self.images)))


@contextmanager
def _workers(images: Images, law: ViewLaw, count: int) -> Iterator[Callable[[], float]]:
    """A turn of a DataLoader whose workers are kept, so that they are started in no measured turn."""
    loader = DataLoader(
        _Pairs(images, law.size),
        batch_size=8,
        num_workers=count,
        persistent_workers=True,
        multiprocessing_context="forkserver",
    )

    def turn() -> float:
        started = time.perf_counter()
        for _ in loader:
            pass
        return (time.perf_counter() - started) / 2  # it goes through the images twice

    yield turn
