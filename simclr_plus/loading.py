"""Batches of views: batch number s of a run is a pure function of s, whatever the processes, threads and restarts.

Images come as the authors' stream does, epoch after epoch, each a new permutation; a batch may reach over the end of
an epoch. V: views, B: images of this process, S: side in pixels.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock, local

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simclr_plus.augmentations.draws import draw_views, epoch_order
from simclr_plus.augmentations.evaluation import central_parameters
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.views import ViewMaker
from simclr_plus.datasets import Images
from simclr_plus.errors import UnreadableImageError
from simclr_plus.runs import cpu_count


@dataclass(frozen=True)
class Batch:
    """views [V B, 3, S, S] float32, all of view 0 first; labels [B]; seconds the training waited for it."""

    views: Tensor
    labels: Tensor
    waited: float


class ViewBatches:
    """The batches of a run, this process's share of each; the next is made while the last is used."""

    def __init__(
        self,
        images: Images,
        law: ViewLaw,
        *,
        batch_size: int,
        seed: int,
        views: int = 2,
        rank: int = 0,
        processes: int = 1,
        threads: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.images, self.law, self.seed, self.views = images, law, seed, views
        self.batch_size, self.rank, self.processes = batch_size, rank, processes
        self.pin_memory = pin_memory
        self.skipped: set[int] = set()  # indices of images that could not be read
        self._threads = threads or default_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="views")
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._makers = _Makers(law)
        self._lock = Lock()

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Batches number first_step .. last_step - 1."""
        with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as ahead:
            following: Future[tuple[Tensor, Tensor]] | None = None
            for step in range(first_step, last_step):
                started = time.perf_counter()
                views, labels = following.result() if following else self.batch(step)
                waited = time.perf_counter() - started
                following = ahead.submit(self.batch, step + 1) if step + 1 < last_step else None
                yield Batch(views, labels, waited)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Views [V B, 3, S, S] and labels [B] (-1 where there are none) of this process at a step."""
        own = self.batch_size // self.processes
        places = np.arange(self.rank * own, (self.rank + 1) * own)
        stream = step * self.batch_size + places
        epochs = stream // len(self.images)
        indices = np.empty(own, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = self._order(int(epoch))[stream[here] % len(self.images)]
        out = np.empty((self.views, own, 3, self.law.size, self.law.size), dtype=np.float32)
        labels = np.full(own, -1, dtype=np.int64)
        if self.images.pixels is not None:
            self._fill_from_memory(indices, epochs, places, step, out)
        else:
            tasks = [
                self._pool.submit(self._fill_from_file, b, indices, int(epochs[b]), int(places[b]), step, out)
                for b in range(own)
            ]
            for task in tasks:
                task.result()
        if self.images.labels is not None:
            labels = self.images.labels[indices]
        batch = torch.from_numpy(out).flatten(0, 1), torch.from_numpy(labels)
        return (batch[0].pin_memory(), batch[1].pin_memory()) if self.pin_memory else batch

    def _fill_from_memory(
        self,
        indices: NDArray[np.int64],
        epochs: NDArray[np.int64],
        places: NDArray[np.int64],
        step: int,
        out: NDArray[np.float32],
    ) -> None:
        pixels = self.images.pixels
        assert pixels is not None
        parameters = draw_views(
            self.seed,
            epochs,
            indices,
            heights=pixels.shape[1],
            widths=pixels.shape[2],
            law=self.law,
            views=self.views,
            step=step,
            positions=places,
        )
        edges = np.linspace(0, len(indices), self._threads + 1).astype(int)
        tasks = [
            self._pool.submit(
                lambda a, b: self._makers.mine().fill_batch(pixels, indices, parameters, out, a, b), first, last
            )
            for first, last in pairwise(edges)
        ]
        for task in tasks:
            task.result()

    def _fill_from_file(
        self, b: int, indices: NDArray[np.int64], epoch: int, place: int, step: int, out: NDArray[np.float32]
    ) -> None:
        index, image = self._readable(int(indices[b]))
        parameters = draw_views(
            self.seed,
            epoch,
            int(indices[b]),
            heights=image.shape[0],
            widths=image.shape[1],
            law=self.law,
            views=self.views,
            step=step,
            positions=place,
        )
        indices[b] = index
        self._makers.mine().fill(image, parameters[0], out, b)

    def _readable(self, index: int) -> tuple[int, NDArray[np.uint8]]:
        """Image `index`, or where bad images are skipped the next one that can be read."""
        for candidate in range(index, index + len(self.images)):
            try:
                return candidate % len(self.images), self.images.read(candidate % len(self.images))
            except UnreadableImageError:
                if not self.images.skip_bad:
                    raise
                with self._lock:
                    self.skipped.add(candidate % len(self.images))
        raise UnreadableImageError(f"no image of {self.images.name} can be read; all {len(self.images)} were tried")

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = epoch_order(self.seed, epoch, len(self.images))
        return self._orders[epoch]


def evaluation_batches(
    images: Images, law: ViewLaw, batch_size: int = 256, threads: int = 0
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Central crops [B, 3, S, S] of the images in order, with their indices [B]; batches may be smaller at the end,
    and where unreadable images are left out (`images.skip_bad`).
    """
    makers = _Makers(replace(law, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0))

    def fill(index: int, out: NDArray[np.float32], b: int) -> bool:
        try:
            image = images.read(index)
        except UnreadableImageError:
            if not images.skip_bad:
                raise
            return False
        makers.mine().fill(image, central_parameters(image.shape[0], image.shape[1], law), out, b)
        return True

    with ThreadPoolExecutor(threads or default_threads(), thread_name_prefix="views") as pool:
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)))
            out = np.empty((1, len(indices), 3, law.size, law.size), dtype=np.float32)
            read = np.array(list(pool.map(fill, indices.tolist(), [out] * len(indices), range(len(indices)))))
            if read.any():
                yield torch.from_numpy(out[0] if read.all() else out[0, read]), indices[read]


def compile_views(law: ViewLaw) -> None:
    """Compile, or load from the cache, the loops that make views, before anything is timed."""
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    out = np.empty((2, 1, 3, law.size, law.size), dtype=np.float32)
    parameters = draw_views(0, 0, [0], heights=8, widths=8, law=law)
    maker = ViewMaker(law)
    maker.fill(image[0], parameters[0], out, 0)
    maker.fill_batch(image, np.zeros(1, dtype=np.int64), parameters, out, 0, 1)
    epoch_order(0, 0, 1)


def default_threads() -> int:
    """Cores that this process may use, shared with the other processes of this machine."""
    return max(1, cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


class _Makers:
    """One ViewMaker a thread: its buffers must not be shared."""

    def __init__(self, law: ViewLaw) -> None:
        self._law, self._of_thread = law, local()

    def mine(self) -> ViewMaker:
        if not hasattr(self._of_thread, "maker"):
            self._of_thread.maker = ViewMaker(self._law)
        maker: ViewMaker = self._of_thread.maker
        return maker
