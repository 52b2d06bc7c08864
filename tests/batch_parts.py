"""Parts of a batch, and the same batch elsewhere in the global one, to show what random draws depend on."""

from __future__ import annotations

from dataclasses import replace

from simclr_plus.datasets.batches import Batch, Counters


def part_of(batch: Batch, rows: slice) -> Batch:
    """Some images of a batch of one view each."""
    fields = {name: getattr(batch, name)[rows] for name in ("views", "labels", "indices", "epochs")}
    second = None if batch.second is None else batch.second[rows]
    return replace(batch, **fields, second=second, counters=Counters(*(x[rows] for x in batch.counters)))


def moved(batch: Batch, by: int) -> Batch:
    """The same images, so many places further on."""
    return replace(batch, counters=batch.counters._replace(places=batch.counters.places + by))
