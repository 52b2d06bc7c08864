"""Findings of a study that were not measured: from rows, or made up for each of its cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from simclr_plus.recipe import load_recipe
from simclr_plus.studies.catalogue import find_study
from simclr_plus.studies.findings import Findings, Found


def findings(rows: list[tuple[dict[str, Any], int, dict[str, float]]], test_images: int = 2000) -> Findings:
    return Findings([Found(place, seed, numbers) for place, seed, numbers in rows], "small", test_images)


def made_up(name: str, scale: str = "small", *, seeds: int = 2) -> Findings:
    """Figures for every cell of a study, from a generator."""
    shipped, changes = find_study(name).bases[scale]
    recipe = load_recipe(shipped, list(changes))
    rng = np.random.default_rng(0)
    figures = ["top1", "top1_z", "validation_top1", "contrastive_accuracy", "contrastive_entropy", "from_h", "from_z"]
    figures += ["chance", "top1_1pct", "top1_10pct", "top1_100pct", "top1_knn", "top1_start", "top1_knn_start", "task"]
    figures += ["task_chance", "epochs", "pixels", "seconds"]
    cells = find_study(name).cells(recipe, scale, seeds)
    return findings([(dict(c.place), c.seed, {f: float(rng.uniform(0.2, 0.9)) for f in figures}) for c in cells])
