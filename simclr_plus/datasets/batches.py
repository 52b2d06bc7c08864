"""Batches of views: batch number s of a run is a pure function of s, whatever the processes, threads and restarts.

Images come as the authors' stream does, epoch after epoch, each a new permutation; a batch may reach over the end of
an epoch. V: views, B: images of this process, S: side in pixels.

An unreadable image that is to be skipped is replaced by one that is not in its batch: copies would be each other's
negatives. Who replaces it follows from the batch and from what is readable, the same in every process.

Threads write views straight into the batch; or they write crops, and the device does colour and blur for all of them.
Where the law has operations of studies, they are done to the whole batch, where its views were finished.
Threads, because decoding and the compiled loops leave the GIL, nothing is pickled or copied between processes, and a
batch is held once: `simclr-plus bench data` measures them beside DataLoader's worker processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from threading import Lock, local
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from simclr_plus.augmentations.central_crop import central_parameters
from simclr_plus.augmentations.draws import COLUMNS, draw_views, epoch_order
from simclr_plus.augmentations.finishing import Finish, finish_in_parts, packed
from simclr_plus.augmentations.further_operations import apply_operations
from simclr_plus.augmentations.law import ViewLaw
from simclr_plus.augmentations.views import ViewMaker
from simclr_plus.datasets.file_list import shown_name
from simclr_plus.datasets.images import Images
from simclr_plus.errors import UnreadableImageError
from simclr_plus.machine.cores import default_threads

CPU = torch.device("cpu")
Shown = Callable[[int, int, ViewLaw], NDArray[np.float32]]  # of an image's height and width: the parameters of a view


class Counters(NamedTuple):
    """What random draws of a batch depend on, on the CPU, where they are made: each [B], int64."""

    indices: Tensor
    epochs: Tensor
    places: Tensor


@dataclass(frozen=True)
class Batch:
    """views [V B, 3, S, S] float32, all of view 0 first; labels [B], or [B, C] where an image has several.

    indices, epochs [B]: of the images that are really shown, where unreadable ones are skipped of those that stand in.
    step, seed: with `counters` all that random draws depend on: indices, epochs, and places in the global batch, on the
    CPU, so that the host waits for no device. second [B, 3, S2, S2]: one view of each image by another law, where the
    method has one. waited: seconds that the loop waited for the batch.
    """

    views: Tensor
    labels: Tensor
    indices: Tensor
    epochs: Tensor
    step: int
    seed: int
    counters: Counters
    second: Tensor | None = None
    waited: float = 0.0


class ViewBatches:
    """The batches of a run, this process's share of each; the next is made while the last is used.

    `finish` (finishing.finish_views, or that compiled) leaves colour and blur to the device, to which crops go as
    `crops` says: "float32", exact, or "float16" or "uint8". repeats: where too few images can be read, one may stand in
    a batch twice; not where images are compared, whose copies would be each other's negatives.
    """

    # thirteen parameters: what a batch follows from, each named by another part of the recipe, the run and the machine
    def __init__(
        self,
        images: Images,
        law: ViewLaw,
        *,
        batch_size: int,
        seed: int,
        views: int = 2,
        repeats: bool = False,
        second: ViewLaw | None = None,
        rank: int = 0,
        processes: int = 1,
        threads: int = 0,
        device: torch.device = CPU,
        finish: Finish | None = None,
        crops: str = "float32",
    ) -> None:
        self.images, self.law, self.seed, self.views, self.repeats = images, law, seed, views, repeats
        self.batch_size, self.rank, self.processes = batch_size, rank, processes
        self.device, self.finish, self.crops = device, finish, crops
        self.skipped: set[int] = set()  # indices of images that could not be read
        self._threads = threads or default_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="views")
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._kinds = [_Kind(law, 0, views, _Makers(law, crops_only=finish is not None))]
        if second is not None:
            self._kinds.append(_Kind(second, views, 1, _Makers(second, crops_only=finish is not None)))
        self._lock, self._choosing = Lock(), Lock()
        self._spares: dict[int, NDArray[np.int64]] = {}  # of a step
        self._stand_ins: dict[int, dict[int, int]] = {}  # of a step: who stands at a place for whom
        self._readable = np.zeros(len(images), dtype=np.int8)  # 1 yes, -1 no, 0 not tried
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """Batches number first_step .. last_step - 1."""
        if first_step >= last_step:
            return
        with ThreadPoolExecutor(1, thread_name_prefix="next-batch") as ahead:
            following: Future[Batch] = ahead.submit(self._ready, first_step)
            for step in range(first_step, last_step):
                started = time.perf_counter()
                batch = following.result()
                waited = time.perf_counter() - started
                if step + 1 < last_step:
                    following = ahead.submit(self._ready, step + 1)
                if self._side is not None:  # made on one stream, used on another: the memory must outlive both
                    for tensor in _tensors_of(batch):
                        tensor.record_stream(torch.cuda.current_stream(self.device))
                yield replace(batch, waited=waited)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Views [V B, 3, S, S] and labels [B] (-1 where there are none) of this process at a step, on the device."""
        batch = self.at(step)
        return batch.views, batch.labels

    def at(self, step: int) -> Batch:
        """The whole batch of a step, on the device."""
        epochs, indices = self._shown(step)
        made, labels, seen = self._made_by_threads(step, epochs, indices)
        views, *second = [self._finished(kind, m) for kind, m in zip(self._kinds, made, strict=True)]
        if self.law.operations:
            views = apply_operations(views, self.law, seed=self.seed, epochs=epochs, indices=indices)
            views = views.pin_memory() if self._side is not None and views.device == CPU else views
        views, *second = (x.flatten(0, 1).to(self.device, non_blocking=True) for x in (views, *second))
        counters = Counters(*(torch.from_numpy(x) for x in (seen, epochs, self._places())))
        numbers = (labels, counters.indices, counters.epochs)
        labels, shown_indices, shown_epochs = (x.to(self.device, non_blocking=True) for x in numbers)
        other = second[0] if second else None
        return Batch(views, labels, shown_indices, shown_epochs, step, self.seed, counters, other)

    def _finished(self, kind: _Kind, made: _Made) -> Tensor:
        """Views as the threads made them, or their crops finished on the device: [V, B, 3, S, S]."""
        out = made.memory
        if self.finish is None:
            return out
        views = out.flatten(0, 1)
        draws = torch.from_numpy(made.parameters).transpose(0, 1).flatten(0, 1)
        if self.crops != "float32":
            small = packed(views, self.crops)
            views = small.pin_memory() if self._side is not None else small
        crops = views.to(self.device, non_blocking=True)
        finished = finish_in_parts(crops, draws.to(self.device), kind.law, self.finish)
        return torch.unflatten(finished, 0, out.shape[:2])

    def _ready(self, step: int) -> Batch:
        """`at`; with CUDA on a stream beside that of the training, and only when all of it is there."""
        if self._side is None:
            return self.at(step)
        with torch.cuda.device(self.device), torch.cuda.stream(self._side):
            batch = self.at(step)
            self._side.synchronize()  # this thread waits, not the loop: what the loop waits is what data costs it
        return batch

    def _shown(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and indices [B] of the images that this process shows at a step."""
        return self._at(step * self.batch_size + self._places())

    def _batch(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Epochs and indices of the images of all processes."""
        return self._at(step * self.batch_size + np.arange(self.batch_size))

    def _at(self, stream: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        epochs = stream // len(self.images)
        indices = np.empty(len(stream), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = self._order(int(epoch))[stream[here] % len(self.images)]
        return epochs, indices

    def _places(self) -> NDArray[np.int64]:
        share = self.batch_size // self.processes
        return np.arange(self.rank * share, (self.rank + 1) * share)

    def _made_by_threads(
        self, step: int, epochs: NDArray[np.int64], indices: NDArray[np.int64]
    ) -> tuple[list[_Made], Tensor, NDArray[np.int64]]:
        """Views or crops of each kind in memory that CUDA can fetch, with their draws; labels and indices."""
        count, places = len(indices), self._places()
        indices = indices.copy()  # another image may take the place of an unreadable one, with its draws
        pinned = self._side is not None
        made = [kind.room(count, pinned=pinned) for kind in self._kinds]
        per_image = () if self.images.labels is None else self.images.labels.shape[1:]  # several labels: one a class
        labels = torch.full((count, *per_image), -1, pin_memory=pinned)
        if self.images.pixels is not None:
            self._fill_from_memory(indices, epochs, places, step, made)
        else:
            tasks = [
                self._pool.submit(self._fill_from_file, b, indices, int(epochs[b]), int(places[b]), step, made)
                for b in range(count)
            ]
            for task in tasks:
                task.result()
        if self.images.labels is not None:
            labels.copy_(torch.from_numpy(self.images.labels[indices]))
        return made, labels, indices

    def _fill_from_memory(
        self,
        indices: NDArray[np.int64],
        epochs: NDArray[np.int64],
        places: NDArray[np.int64],
        step: int,
        made: list[_Made],
    ) -> None:
        pixels = self.images.pixels
        assert pixels is not None
        edges = np.linspace(0, len(indices), self._threads + 1).astype(int)
        for kind, m in zip(self._kinds, made, strict=True):
            m.parameters[:] = kind.draws(self.seed, epochs, indices, pixels.shape[1:3], step, places)
            out = m.memory.numpy()
            tasks = [
                self._pool.submit(_fill_part, kind, pixels, indices, m.parameters, out, first, last)
                for first, last in pairwise(edges)
            ]
            for task in tasks:
                task.result()

    def _fill_from_file(
        self, b: int, indices: NDArray[np.int64], epoch: int, place: int, step: int, made: list[_Made]
    ) -> None:
        index, image = self._read(int(indices[b]), place, step)
        for kind, m in zip(self._kinds, made, strict=True):
            m.parameters[b] = kind.draws(self.seed, epoch, int(indices[b]), image.shape[:2], step, place)[0]
            kind.makers.mine().fill(image, m.parameters[b], m.memory.numpy(), b)
        indices[b] = index

    def _read(self, index: int, place: int, step: int) -> tuple[int, NDArray[np.uint8]]:
        """Image `index`, or where bad images are skipped the one that stands in at this place of the global batch.

        Each place has spare images of its own, so that processes need not ask each other. Only where none of them can
        be read the whole batch is looked at.
        """
        image = self._try(index)
        if image is not None:
            return index, image
        for spare in self._spares_of(step)[place :: self.batch_size].tolist():
            image = self._try(spare)
            if image is not None:
                return spare, image
        stand_in = self._all_stand_ins(step)[place]
        return stand_in, self.images.read(stand_in)

    def _try(self, index: int) -> NDArray[np.uint8] | None:
        """The image, or None where it cannot be read and is to be skipped."""
        try:
            image = self.images.read(index)
        except UnreadableImageError:
            if not self.images.skip_bad:
                raise
            with self._lock:
                self.skipped.add(index)
            self._readable[index] = -1
            return None
        self._readable[index] = 1
        return image

    def _can_be_read(self, index: int) -> bool:
        if not self._readable[index]:
            self._try(index)
        return bool(self._readable[index] > 0)

    def _spares_of(self, step: int) -> NDArray[np.int64]:
        """The images that are not in the batch of a step, as they come after it in the epoch's order."""
        with self._lock:
            if step not in self._spares:
                self._spares = {step: self._following(step)}
            return self._spares[step]

    def _following(self, step: int) -> NDArray[np.int64]:
        end = (step + 1) * self.batch_size
        epoch, place = divmod(end - 1, len(self.images))
        order = np.roll(self._order(epoch), -place - 1)
        in_batch = np.zeros(len(self.images), dtype=bool)
        in_batch[self._batch(step)[1]] = True
        return order[~in_batch[order]]

    def _all_stand_ins(self, step: int) -> dict[int, int]:
        """Who stands in at each place of the global batch, where the places' own spares do not suffice."""
        spares = self._spares_of(step).tolist()
        with self._choosing:
            if step not in self._stand_ins:
                self._stand_ins = {step: self._chosen_stand_ins(self._batch(step)[1].tolist(), spares)}
            return self._stand_ins[step]

    def _chosen_stand_ins(self, batch: list[int], spares: list[int]) -> dict[int, int]:
        stand_ins: dict[int, int] = {}
        without = []
        for place in (place for place, index in enumerate(batch) if not self._can_be_read(index)):
            spare = next((spare for spare in spares[place :: self.batch_size] if self._can_be_read(spare)), None)
            if spare is None:
                without.append(place)
            else:
                stand_ins[place] = spare
        taken = set(stand_ins.values())
        left = [spare for spare in spares if spare not in taken and self._can_be_read(spare)]
        if self.repeats:
            left += [index for index in dict.fromkeys(batch) if self._can_be_read(index)] or list(taken)
            left *= 1 if not left else -(-len(without) // len(left))
        if len(left) < len(without):
            count, readable = len(self.images), int((self._readable > 0).sum())
            if not readable:
                raise UnreadableImageError(f"no image of {self.images.name} can be read; all {count:,} were tried")
            raise UnreadableImageError(
                f"{count - readable:,} of the {count:,} images of {self.images.name} cannot be read, e.g. "
                f"{shown_name(self.images.paths[batch[without[0]]])}: {readable:,} are too few for batches of "
                f"{self.batch_size} different images; lower training.batch_size, or replace the damaged files"
            )
        return stand_ins | dict(zip(without, left, strict=False))

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            self._orders = {e: order for e, order in self._orders.items() if e >= epoch - 1}
            self._orders[epoch] = epoch_order(self.seed, epoch, len(self.images))
        return self._orders[epoch]


def evaluation_batches(
    images: Images, law: ViewLaw, batch_size: int = 256, threads: int = 0, *, shown: Shown = central_parameters
) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
    """Central crops [B, 3, S, S] of the images in order, with their indices [B]; batches may be smaller at the end,
    and where unreadable images are left out (`images.skip_bad`). shown: the part of an image, where it is another.
    """
    makers = _Makers(replace(law, jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0))

    def fill(index: int, out: NDArray[np.float32], b: int) -> bool:
        try:
            image = images.read(index)
        except UnreadableImageError:
            if not images.skip_bad:
                raise
            return False
        makers.mine().fill(image, shown(image.shape[0], image.shape[1], law), out, b)
        return True

    with ThreadPoolExecutor(threads or default_threads(), thread_name_prefix="views") as pool:
        for start in range(0, len(images), batch_size):
            indices = np.arange(start, min(start + batch_size, len(images)))
            out = np.empty((1, len(indices), 3, law.size, law.size), dtype=np.float32)
            read = np.array(list(pool.map(fill, indices.tolist(), [out] * len(indices), range(len(indices)))))
            if read.any():
                yield torch.from_numpy(out[0] if read.all() else out[0, read]), indices[read]


class _Made(NamedTuple):
    """The views of one kind in a batch: memory [V, B, 3, S, S], their draws [B, V, 16]."""

    memory: Tensor
    parameters: NDArray[np.float32]


@dataclass(frozen=True)
class _Kind:
    """Views by one law: `count` of each image, numbered from `first` on, and who makes them."""

    law: ViewLaw
    first: int
    count: int
    makers: _Makers

    def room(self, images: int, *, pinned: bool) -> _Made:
        """Where the views of so many images go."""
        shape = (self.count, images, 3, self.law.size, self.law.size)
        return _Made(torch.empty(shape, pin_memory=pinned), np.empty((images, self.count, COLUMNS), dtype=np.float32))

    def draws(
        self, seed: int, epochs: ArrayLike, indices: ArrayLike, sides: tuple[int, ...], step: int, places: ArrayLike
    ) -> NDArray[np.float32]:
        """[B, V, 16] for images of sides height and width."""
        drawn = draw_views(
            seed,
            epochs,
            indices,
            heights=sides[0],
            widths=sides[1],
            law=self.law,
            views=self.first + self.count,
            step=step,
            positions=places,
        )
        return drawn[:, self.first :]


def _fill_part(
    kind: _Kind,
    pixels: NDArray[np.uint8],
    indices: NDArray[np.int64],
    parameters: NDArray[np.float32],
    out: NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    kind.makers.mine().fill_batch(pixels, indices, parameters, out, first, last)


def _tensors_of(batch: Batch) -> list[Tensor]:
    """What was made on another stream."""
    tensors = (batch.views, batch.labels, batch.indices, batch.epochs, batch.second)
    return [tensor for tensor in tensors if tensor is not None]


class _Makers:
    """One ViewMaker a thread: its buffers must not be shared."""

    def __init__(self, law: ViewLaw, *, crops_only: bool = False) -> None:
        self._law, self._crops_only, self._of_thread = law, crops_only, local()

    def mine(self) -> ViewMaker:
        if not hasattr(self._of_thread, "maker"):
            self._of_thread.maker = ViewMaker(self._law, crops_only=self._crops_only)
        maker: ViewMaker = self._of_thread.maker
        return maker
