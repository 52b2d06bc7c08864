"""How a study was run, as its report tells it: data, network, images a cell, seeds, time, and what is missing."""

from __future__ import annotations

from statistics import median

from simclr_plus.datasets import TEST, TRAIN, open_images
from simclr_plus.runs import Run
from simclr_plus.states import state_of
from simclr_plus.studies.study_report import Setting
from simclr_plus.study_runs import PlannedStudy


def setting_of(planned: PlannedStudy) -> Setting:
    """The facts of a study's folder."""
    recipe, results = planned.recipe, planned.results()
    train, test = open_images(recipe.data, TRAIN), open_images(recipe.data, TEST)
    images = sorted({int(result["images"]) for _, result in results})
    seeds = sorted({cell.seed for cell, _ in results})
    seconds = [result["seconds_training"] + result["seconds_measuring"] for _, result in results]
    hosts = sorted({result["host"] for _, result in results})
    seen = f"{images[0]:,}" + (f" to {images[-1]:,}" if len(images) > 1 else "") if images else "none yet"
    facts = [
        ("scale", planned.scale),
        ("cells measured", f"{len(results)} of {len(planned.cells)}, seeds {', '.join(map(str, seeds)) or 'none'}"),
        ("data", f"{train.name}: {len(train):,} training and {len(test):,} test images, {len(train.classes)} classes"),
        (
            "network",
            f"{recipe.architecture.title} at {recipe.augmentation.image_size} pixels, unless an axis says other",
        ),
        ("images seen by a cell", seen),
        (
            "training",
            f"batch {recipe.training.batch_size}, {recipe.optimizer.name} at {recipe.optimizer.learning_rate:g} "
            f"({recipe.optimizer.learning_rate_scaling} scaling), unless an axis says other",
        ),
    ]
    if seconds:
        facts.append(
            ("time", f"{median(seconds):.0f} s a cell (median), {sum(seconds) / 3600:.1f} h of all cells together")
        )
        facts.append(("machines", f"{len(hosts)}"))
    missing = [
        f"{cell.name}: {state.name}{f', {state.why}' if state.why else ''}"
        for cell in planned.missing()
        for state in [state_of(Run(planned.runs / cell.name))]
    ]
    return Setting(tuple(facts), tuple(missing))
