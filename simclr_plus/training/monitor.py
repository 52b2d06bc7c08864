"""What is written while training: a line of metrics.jsonl, the monitor's kNN, images that were skipped."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
import torch

from simclr_plus import distributed
from simclr_plus.datasets.batches import ViewBatches
from simclr_plus.datasets.images import Images, open_monitor_images
from simclr_plus.features import metrics
from simclr_plus.features.extraction import features_of, labels_of
from simclr_plus.recipe.plan import KNN_BANK, KNN_NEIGHBOURS, KNN_QUERIES
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.training.state import Training, Update


def measure(t: Training, updated: Update, rate: float, clock: Clock, batches: ViewBatches) -> dict[str, Any]:
    """A line of metrics.jsonl; every process takes part, each mean is over the global batch."""
    result, probe = updated.result, updated.probe
    line: dict[str, Any] = {
        "step": t.step,
        "epoch": t.step * t.plan.global_batch / t.plan.images,
        "images": t.step * t.plan.global_batch,
        "time": time.time(),
        "loss": distributed.mean_over_processes(result.loss),
        **result.metrics(),
    }
    if probe is not None:
        line["probe_accuracy"] = distributed.mean_over_processes(probe.accuracy)
    line |= {
        "learning_rate": rate,
        **clock.rates(t.step, t.plan.global_batch),
    }
    if t.is_main:  # of its own rows; it alone writes the line
        h = result.features
        line |= {"feature_std": metrics.feature_std(h), "effective_rank": metrics.effective_rank(h[:256])}
    if t.recipe.data.on_bad_image == "skip":
        line["images_skipped"] = _note_skipped(t, batches)
    return line


class Clock:
    """Seconds since the last line, and how many of them the loop waited for data."""

    def __init__(self, step: int) -> None:
        self.restart(step)

    def restart(self, step: int) -> None:
        """Count from here."""
        self.step, self.started, self.waited = step, time.perf_counter(), 0.0

    def rates(self, step: int, batch_size: int) -> dict[str, float]:
        """What metrics.jsonl says of the time since the last line; counts anew."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        figures = {
            "images_per_second": (step - self.step) * batch_size / seconds,
            "data_wait": min(1.0, self.waited / seconds),
        }
        self.restart(step)
        return figures


def knn_images_of(recipe: Recipe) -> tuple[Images, Images]:
    """The monitor's bank and queries."""
    bank, queries = open_monitor_images(recipe)
    return _spread(bank, KNN_BANK), _spread(queries, KNN_QUERIES)


def knn_in_numbers(knn_images: tuple[Images, Images] | None) -> dict[str, int] | None:
    """What an accuracy of the monitor's kNN stands on, for the start event."""
    if knn_images is None:
        return None
    bank, queries = map(len, knn_images)
    return {"bank": bank, "queries": queries, "neighbours": min(KNN_NEIGHBOURS, bank)}


def _spread(images: Images, count: int) -> Images:
    """At most `count` images, evenly from all."""
    count = min(count, len(images))
    return images.subset(np.arange(count) * len(images) // count)


def knn_accuracy(t: Training) -> dict[str, float]:
    """kNN on held-out images by process 0 (20 neighbours among 4,000 training images, 2,000 queries)."""
    figures: dict[str, float] = {}
    if t.knn_images is not None:
        h_bank, bank = features_of(t.model.encoder, t.knn_images[0], t.recipe.law, device=t.device)
        h, queries = features_of(t.model.encoder, t.knn_images[1], t.recipe.law, device=t.device)
        scores = metrics.knn_scores(h, h_bank, labels_of(bank), len(bank.classes), k=KNN_NEIGHBOURS)
        figures["knn_accuracy"] = metrics.top_k_accuracy(scores, labels_of(queries), 1)
    distributed.barrier()
    return figures


def _note_skipped(t: Training, batches: ViewBatches) -> int:
    """Images skipped since the start of these processes, over all of them; each lists its own in logs/skipped.N.txt."""
    if batches.skipped:
        t.run.logs.mkdir(exist_ok=True)
        names = sorted(os.fsencode(t.images.paths[i]).replace(b"\n", b"\\n") for i in batches.skipped)
        (t.run.logs / f"skipped.{distributed.rank()}.txt").write_bytes(b"\n".join(names) + b"\n")
    skipped = torch.zeros(len(t.images), device=t.device)
    skipped[sorted(batches.skipped)] = 1
    return int((distributed.sum_over_processes(skipped) > 0).sum())
