"""The demo: pretrain on the embedded images, then compare the features with raw pixels and a random encoder."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simclr_plus.recipe.reading import load_recipe
from simclr_plus.runs.folder import create_numbered_run, default_name

LABELS, K = 4000, 20


def run_demo(seed: int, runs: Path, *, quiet: bool, say: Callable[[str], None]) -> tuple[dict[str, Any] | None, int]:
    """Train `demo`, evaluate it (4,000 labelled and 2,000 test images, k = 20), draw its curves.

    Returns what was found and the exit code; nothing is found when the training was stopped.
    """
    recipe = load_recipe("demo", [f"training.seed={seed}"])
    run = create_numbered_run(recipe, runs, f"{default_name('demo')}-seed{seed}")
    say(f"pretraining on {recipe.data.name} images, no labels used: three to four minutes on two cores ({run.path})")

    from simclr_plus.evaluators.knn import evaluate_knn
    from simclr_plus.evaluators.linear import evaluate_linear_fast
    from simclr_plus.launch.start import launch
    from simclr_plus.results.curves import draw_curves
    from simclr_plus.results.evaluate import evaluate_target

    code = launch(run, 1, quiet=quiet)
    if run.events()[-1].get("reason") != "finished":
        say(f"stopped with a checkpoint; go on with: simclr-plus resume {shlex.quote(str(run.path))}")
        return None, code
    shared: dict[str, Any] = {"labels": LABELS, "baselines": True, "say": say}
    knn, _ = evaluate_target(str(run.path), "knn", evaluate_knn, {"k": K}, **shared)
    linear, _ = evaluate_target(str(run.path), "linear_fast", evaluate_linear_fast, {}, **shared)
    curves = run.path / "curves.png"
    draw_curves(run, curves)
    outcome = {
        "run": str(run.path),
        "encoder": str(run.path / "encoder.safetensors"),
        "curves": str(curves),
        "knn": knn,
        "linear_fast": linear,
    }
    return outcome, code
