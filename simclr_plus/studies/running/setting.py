"""How a study was run, as its report tells it: data, network, images a cell, seeds, time, and what is missing."""

from __future__ import annotations

import json
from statistics import median

from simclr_plus.studies.report import Setting
from simclr_plus.studies.running.cells import PlannedStudy, why_missing

_SCALED = {"none": "whatever the batch", "linear": "times B/256", "sqrt": "times the root of B"}


def setting_of(planned: PlannedStudy) -> Setting:
    """The facts of a study's folder."""
    recipe, results = planned.recipe, planned.results()
    sets = {json.dumps(result["data"]): result["data"] for _, result in results}
    images = sorted({int(result["images"]) for _, result in results})
    seeds = sorted({cell.seed for cell, _ in results})
    seconds = [result["seconds_training"] + result["seconds_measuring"] for _, result in results]
    devices = ", ".join(dict.fromkeys(result["device"] for _, result in results))
    hosts = len({result["host"] for _, result in results})
    seen = f"{images[0]:,}" + (f" to {images[-1]:,}" if len(images) > 1 else "") if images else "none yet"
    facts = [
        ("scale", planned.scale),
        ("cells measured", f"{len(results)} of {planned.total}, seeds {', '.join(map(str, seeds)) or 'none'}"),
        *(
            ("data", f"{d['name']}: {d['train']:,} training and {d['test']:,} test images, {d['classes']} classes")
            for d in sets.values()
        ),
        (
            "network",
            f"{recipe.architecture.title} at {recipe.augmentation.image_size} pixels, unless an axis says other",
        ),
        ("images seen by a cell", seen),
        (
            "training",
            f"batch {recipe.training.batch_size}, {recipe.optimizer.name} at {recipe.optimizer.learning_rate:g} "
            f"{_SCALED[recipe.optimizer.learning_rate_scaling]}, unless an axis says other",
        ),
    ]
    if seconds:
        facts.append(
            ("time", f"{median(seconds):.0f} s a cell (median), {sum(seconds) / 3600:.1f} h of all cells together")
        )
        facts.append(("hardware", f"{devices}{f', on {hosts} machines' if hosts > 1 else ''}"))
    reasons = {cell.name: why_missing(planned, cell) for cell in planned.missing()}
    missing = [f"{name}: {why}" for name, why in reasons.items() if why]
    if len(missing) < len(reasons):
        missing.append(f"{len(reasons) - len(missing)} cells that have not been run")
    return Setting(tuple(facts), tuple(missing))
