"""The parts of the terminal UI that need no terminal: lines of machine and reference, colors of runs, exports."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from simclr_plus.tui.reading.feed import Feed, expected_figures
from simclr_plus.tui.reading.machines import Machines
from simclr_plus.tui.screens.compare import colors_of
from simclr_plus.tui.screens.plots import PLOTS, Plot, future_rate, levels_of, plots_of
from simclr_plus.tui.starting.commands import export_words

from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.plan import make_plan
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.schedules import warmup_cosine

GIB = 2**30


def test_a_machine_is_told_in_a_line() -> None:
    machines = Machines()
    line = {"time": 1, "cpu": 0.5, "memory_used": 3 * GIB, "memory_total": 8 * GIB}
    assert machines.in_words({"a": line}, ascii_only=True) == ["CPU - 50%  3.0 of 8.0 GiB"]
    assert machines.in_words({"a": line}, ascii_only=True) == ["CPU - 50%  3.0 of 8.0 GiB"]  # the same look
    (said,) = machines.in_words({"a": line | {"time": 2, "cpu": 1.0}}, ascii_only=True)
    assert said.startswith("CPU -# 100%")
    assert machines.in_words({"a": {}}, ascii_only=True) == []
    gpu = {
        "index": 0,
        "utilisation": 0.93,
        "memory_used": GIB,
        "memory_total": 80 * GIB,
        "temperature": 61,
        "power": 300.4,
    }
    assert machines.in_words({"a": {"gpus": [gpu]}}, ascii_only=True) == ["GPU0 93% 1.0 of 80.0 GiB 61 C 300 W"]
    many = [
        gpu | {"index": i, "utilisation": i / 7, "memory_used": (i + 1) * GIB, "temperature": 60 + i} for i in range(8)
    ]
    assert machines.in_words({"a": {"gpus": many}, "b": {"gpus": "?"}}, ascii_only=False) == [
        "a  8 GPUs ▁▂▃▄▅▆▇█ 50% 8.0 of 80.0 GiB 67 C"
    ]


CHANCE = math.log(2 * 128 - 1)


OTHERS = ("nt_logistic", "margin", "cross_entropy")


def test_the_lines_of_reference_are_chance_and_the_stated_scores() -> None:
    (chance,) = levels_of(PLOTS[0], load_recipe("demo"))
    assert chance.y == pytest.approx(math.log(255)) == CHANCE
    (fewer,) = levels_of(PLOTS[0], load_recipe("demo", ["loss.negatives=other_view"]))
    assert fewer.y == pytest.approx(math.log(128))
    assert [levels_of(PLOTS[0], load_recipe("demo", [f"loss.name={name}"])) for name in OTHERS] == [[], [], []]
    assert levels_of(PLOTS[2], load_recipe("r50_1x")) == []  # the chart draws no linear evaluation
    assert expected_figures("measured, 3 seeds: kNN 80.6 % (pixels 77.6), linear 84.8 % (pixels 82.7)") == {
        "kNN": ("measured", pytest.approx(0.806)),
        "linear": ("measured", pytest.approx(0.848)),
    }
    assert expected_figures("not run by us") == expected_figures("depends on the images") == {}


def task_of(*recipes: Recipe) -> Plot:
    """The chart of the task of runs of these recipes."""
    feeds = [Feed(Run(Path(str(i)))) for i in range(len(recipes))]
    for feed, recipe in zip(feeds, recipes, strict=True):
        feed.facts.recipe = recipe
    return next(plot for plot in plots_of(feeds) if plot.key == "task")


def test_the_chart_of_the_task_has_the_name_and_the_chance_of_its_method() -> None:
    simclr, rotation, labels = (load_recipe("demo", [f"method.name={n}"]) for n in ("simclr", "rotation", "supervised"))
    assert [task_of(recipe).title for recipe in (simclr, rotation)] == ["contrastive accuracy", "rotation accuracy"]
    assert task_of(simclr, rotation).title == task_of(labels).title == "task accuracy"
    assert task_of(simclr, rotation).columns == {
        "contrastive_accuracy": "contrastive accuracy",
        "pretext_accuracy": "rotation accuracy",
    }
    found = [[level.y for level in levels_of(task_of(recipe), recipe)] for recipe in (simclr, rotation, labels)]
    assert found == [[1 / 128], [0.25], []]
    (loss,) = levels_of(PLOTS[0], rotation)
    assert loss.y == pytest.approx(math.log(4))


@pytest.mark.parametrize("overrides", [[], ["checkpoints.every_epochs=7", "training.round_up_to_checkpoint=true"]])
def test_the_learning_rate_to_come_is_the_plans(tmp_path: Path, overrides: list[str]) -> None:
    recipe = load_recipe("demo", overrides)
    plan = make_plan(recipe, 10_000)
    run = create_run(recipe, tmp_path, "r")
    run.log_event("start", steps=plan.total_steps)
    for step in range(10, 110, 10):
        run.log_metrics({"step": step, "epoch": step * 128 / 10_000, "images": step * 128, "learning_rate": 0.003})
    feed = Feed(run)
    feed.look()
    ahead = future_rate(feed, "step")
    assert ahead is not None and ahead.x[0] == 100 and ahead.x[-1] == plan.total_steps
    expected = [  # of the update before, for a line counts its own
        warmup_cosine(int(x) - 1, peak=0.003, warmup_steps=plan.warmup_steps, total_steps=plan.schedule_steps)
        for x in ahead.x
    ]
    np.testing.assert_allclose(ahead.y, expected, rtol=1e-12)
    run.log_metrics({"step": plan.total_steps, "epoch": plan.total_steps * 128 / 10_000, "images": 1})
    feed.look()
    assert future_rate(feed, "step") is None


def test_colours_of_runs_are_stable_and_differ() -> None:
    names = [f"run{i}" for i in range(8)]
    assert sorted(colors_of(names)) == list(range(8))
    assert colors_of(["a", "b"])[0] == colors_of(["a"])[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("e.safetensors", []),
        ("e.onnx", ["--format", "onnx"]),
        ("e.pt2", ["--format", "torch_export"]),
        ("folder", ["--format", "timm"]),
    ],
)
def test_an_export_is_in_the_format_that_its_ending_says(name: str, words: list[str]) -> None:
    assert export_words(Path("step.safetensors"), Path(name)) == ["export", "step.safetensors", "-o", name, *words]
