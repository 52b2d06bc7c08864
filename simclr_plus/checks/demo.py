"""The demo: learn from pieces of photographs, then tell which place a new piece is from, beside raw pixels."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simclr_plus.recipe.reading import load_recipe
from simclr_plus.runs.folder import Run, create_numbered_run, default_name

FEW = 5  # labels a class
LINEAR_EPOCHS = 30
QUERIES, NEIGHBOURS = 8, 5  # of the picture
ENCODER = "encoder.safetensors"


def run_demo(
    seed: int, runs: Path, *, quiet: bool, say: Callable[[str], None], overrides: tuple[str, ...] = ()
) -> tuple[dict[str, Any] | None, int]:
    """Train `places`; evaluate it by kNN and linear with FEW labels a class and with all; draw and report.

    Returns what came out and the exit code; None when the training was stopped. overrides: of the recipe's keys.
    """
    recipe = load_recipe("places", [f"training.seed={seed}", *overrides])
    run = create_numbered_run(recipe, runs, f"{default_name('demo')}-seed{seed}")
    say(
        f"learning from pieces of 66 photographs, without labels ({run.path}).\n"
        "The line below says after some seconds how long that takes here; it is meant for four minutes at most"
    )
    from simclr_plus.launch.start import launch

    code = launch(run, 1, quiet=quiet)
    if run.events()[-1].get("reason") != "finished":
        say(f"stopped with a checkpoint; go on with: simclr-plus resume {shlex.quote(str(run.path))}")
        return None, code
    evaluations = [evaluation for labels in (FEW, 0) for evaluation in _evaluations(run, labels, say)]
    files = _pictures_and_report(run)
    return {"run": str(run.path), "encoder": str(run.path / ENCODER), **files, "evaluations": evaluations}, code


def _evaluations(run: Run, labels: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """kNN and linear of h, raw pixels and a random encoder, with so many labels a class (0: all)."""
    from simclr_plus.datasets.images import TRAIN, open_images
    from simclr_plus.evaluators.knn import evaluate_knn
    from simclr_plus.evaluators.linear import evaluate_linear_fast
    from simclr_plus.results.evaluate import evaluate_target
    from simclr_plus.results.targets import open_target

    count = labels * len(open_images(run.recipe().data, TRAIN).classes)
    shared: dict[str, Any] = {"labels": count, "baselines": True, "say": say}
    target = open_target(str(run.path), run.path.parent)
    knn, _ = evaluate_target(target, "knn", evaluate_knn, {}, **shared)
    linear, _ = evaluate_target(target, "linear_fast", evaluate_linear_fast, {"epochs": LINEAR_EPOCHS}, **shared)
    return [knn, linear]


def _pictures_and_report(run: Run) -> dict[str, str]:
    """Draw the curves and the neighbours of some test images, write the report page; returns their paths."""
    import numpy as np

    from simclr_plus.evaluators.subjects import subjects
    from simclr_plus.machine.whole_files import write_text_whole
    from simclr_plus.results.curves import draw_curves, save_png
    from simclr_plus.results.neighbours import neighbours_picture
    from simclr_plus.results.report import as_text, make_report
    from simclr_plus.results.targets import best_device, labelled_images
    from simclr_plus.weights.encoder_files import load_encoder

    recipe = run.recipe()
    train, test = labelled_images(recipe.data, "", "")
    assert test.pixels is not None and test.labels is not None
    contrast = test.pixels.std(axis=(1, 2, 3))  # the richest piece of some places: most skies look alike
    places = np.linspace(0, len(test.classes) - 1, QUERIES).round()
    shown = test.subset(np.array([np.where(test.labels == place, contrast, -1).argmax() for place in places]))
    compared = subjects(load_encoder(run.path / ENCODER), recipe.law, baselines=True, native_size=test.pixels.shape[1])
    curves, neighbours, page = (run.path / name for name in ("curves.png", "neighbours.png", "report.html"))
    draw_curves(run, curves)
    save_png(neighbours_picture(compared[:2], train, shown, k=NEIGHBOURS, device=best_device()), neighbours)
    write_text_whole(page, as_text(make_report([run]), "html"))
    return {"curves": str(curves), "neighbours": str(neighbours), "report": str(page)}
