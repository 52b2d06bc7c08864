"""What the screens show of a method: its figures, their chance, its own ways of failing; whatever method it is.

Sections that stand in for kinds of methods: with shares and a plain number, with plain numbers alone, with two losses.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import pytest
from driving import SIZES, a_run, drive, line, screen_text, until
from method_settings import TINY
from parameters import rest_slow
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.charts.line_chart import LineChart
from simclr_plus.tui.reading.feed import Feed
from simclr_plus.tui.reading.run_list import line_of
from simclr_plus.tui.screens.compare import CompareScreen
from simclr_plus.tui.screens.plots import alarms_of, by_digit, figure_name, levels_of, plots_of
from simclr_plus.tui.screens.run import RunScreen
from textual.pilot import Pilot
from tiny_recipe import TINY as ALL_TINY

from simclr_plus.recipe import load_recipe
from simclr_plus.recipe.method_keys import METHODS, Collapse, Figure, MethodKeys
from simclr_plus.recipe.method_keys.base import Sections
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.results.curves import curves_figure
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.progress import figures


class StandIn(MethodKeys):
    """As a method's section, as far as screens ask it."""

    def loss_title(self, recipe: Sections) -> str:
        return "loss"

    def chance_loss(self, recipe: Sections) -> float | None:
        return None

    def parameters_beside(self, recipe: Sections, images: int) -> int:
        return 0


class Queue(StandIn):
    """Keys in a queue: a share and a plain number."""

    name: Literal["queue"] = "queue"

    def chance_loss(self, recipe: Sections) -> float | None:
        return math.log(1 + 4096)

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        return (
            Figure("contrastive_accuracy", "key found", 1 / 4097),
            Figure("queue_age", "age of the queue", None, share=False),
        )


class Decoder(StandIn):
    """A variational autoencoder: plain numbers, one of which falls to nothing."""

    name: Literal["decoder"] = "decoder"

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        return (
            Figure("kl", "KL divergence", None, share=False),
            Figure("active_latents", "active latents", None, share=False),
        )

    def collapses(self, recipe: Sections) -> tuple[Collapse, ...]:
        return (Collapse("active_latents", 1, below=True, sentence="no latent tells anything: lower method.kl_weight"),)


class Players(StandIn):
    """Generator and discriminator: two losses, of which neither stays at chance nor falls when all is well."""

    name: Literal["players"] = "players"

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        return (
            Figure("discriminator_loss", "loss of D", math.log(4), share=False),
            Figure("generator_loss", "loss of G", None, share=False),
            Figure("real_share", "D right of images", 0.5),
            Figure("fake_share", "D right of pairs made", 0.5),
        )


class Triplets(StandIn):
    """A margin just below which a healthy run stays."""

    name: Literal["triplets"] = "triplets"

    def figures(self, recipe: Sections) -> tuple[Figure, ...]:
        return (Figure("embedding_deviation", "deviation of embeddings", None, share=False),)

    def collapses(self, recipe: Sections) -> tuple[Collapse, ...]:
        return (Collapse("embedding_deviation", 0.02, below=True, sentence="all embeddings are one: raise the margin"),)


class AnyRecipe(Recipe):
    """With a section of any method."""

    method: MethodKeys


OWN: dict[str, dict[str, Any]] = {
    "queue": {"contrastive_accuracy": 0.4, "queue_age": 32.0},
    "decoder": {"kl": 12.5, "active_latents": 20.0, "contrastive_accuracy": None},
    "players": {
        "contrastive_accuracy": None,
        "discriminator_loss": 0.3,
        "generator_loss": 4.0,
        "real_share": 0.9,
        "fake_share": 0.95,
    },
    "triplets": {"embedding_deviation": 0.06, "contrastive_accuracy": None},
}
KINDS: dict[str, MethodKeys] = {"queue": Queue(), "decoder": Decoder(), "players": Players(), "triplets": Triplets()}


def recipe_of(kind: str) -> Recipe:
    sections = dict(load_recipe("demo")) | {"method": KINDS[kind]}
    return AnyRecipe.model_construct(**sections)


def run_of(folder: Path, kind: str, *, lines: int = 80, **changes: Any) -> Run:
    """A run that finished, with the columns of that kind of method."""
    run = create_run(load_recipe("demo"), folder, kind)
    run.log_event("start", steps=lines * 10, processes=1, host="here")
    for i in range(1, lines + 1):
        values = {key: value for key, value in line(i * 10, **OWN[kind], **changes).items() if value is not None}
        run.log_metrics(values)
    run.log_event("exit", reason="finished", step=lines * 10)
    return run


def feed_of(run: Run) -> Feed:
    feed = Feed(run)
    feed.facts.recipe = recipe_of(run.name)
    while feed.look():
        pass
    return feed


def test_shares_stand_in_the_chart_of_the_task_and_other_numbers_in_one_each(tmp_path: Path) -> None:
    feeds = {kind: feed_of(run_of(tmp_path, kind)) for kind in KINDS}
    plots = {kind: plots_of([feed]) for kind, feed in feeds.items()}
    own = {kind: [(p.key, p.title) for p in of if p.key.startswith("own-")] for kind, of in plots.items()}
    assert own["queue"] == [("own-queue_age", "age of the queue")]
    assert own["decoder"] == [("own-kl", "KL divergence"), ("own-active_latents", "active latents")]
    assert [title for _, title in own["players"]] == ["loss of D", "loss of G"]
    tasks = {kind: next(p for p in of if p.key == "task") for kind, of in plots.items()}
    assert (tasks["queue"].title, tasks["queue"].columns) == ("key found", {"contrastive_accuracy": "key found"})
    assert tasks["players"].title == "task accuracy" and len(tasks["players"].columns) == 2
    assert tasks["decoder"].columns == tasks["triplets"].columns == {}
    together = plots_of(list(feeds.values()))
    assert len({p.key for p in together}) == len(together) == 8 + 6
    assert [p.key for p in together][:4] == ["loss", "task", "accuracy", "own-queue_age"]


def test_charts_have_chance_and_where_alarms_begin(tmp_path: Path) -> None:
    def levels(kind: str, key: str) -> list[tuple[str, float]]:
        feed = feed_of(run_of(tmp_path, kind)) if not (tmp_path / kind).exists() else feed_of(Run(tmp_path / kind))
        plot = next(p for p in plots_of([feed]) if p.key == key)
        return [(level.label, pytest.approx(level.y)) for level in levels_of(plot, feed.facts.recipe, feed)]

    assert levels("queue", "task") == [("chance", 1 / 4097)] and levels("queue", "own-queue_age") == []
    assert levels("decoder", "own-active_latents") == [("alarm below", 1)] and levels("decoder", "own-kl") == []
    assert levels("players", "own-discriminator_loss") == [("chance", math.log(4))]
    assert levels("players", "task") == [("chance", 0.5)]  # one line for two shares of one chance
    assert levels("triplets", "own-embedding_deviation") == [("alarm below", 0.02)]


@pytest.mark.parametrize(
    ("kind", "changes", "says"),
    [
        ("queue", {}, []),
        ("queue", {"loss": math.log(4097)}, ["nothing is learnt"]),
        ("decoder", {}, []),
        ("decoder", {"active_latents": 0.0}, ["no latent tells anything: lower method.kl_weight"]),
        ("players", {"loss": math.log(4), "discriminator_loss": 1e-6}, []),  # D wins
        ("triplets", {"loss": 0.498}, []),  # just below the margin
        ("triplets", {"loss": 0.5, "embedding_deviation": 1e-4}, ["all embeddings are one"]),
    ],
)
def test_a_method_is_alarmed_by_its_own_ways_of_failing(
    tmp_path: Path, kind: str, changes: dict[str, float], says: list[str]
) -> None:
    own = OWN[kind] | changes
    others = {key: value for key, value in changes.items() if key not in OWN[kind]}
    feed = feed_of(_with(tmp_path, kind, own, others))
    sentences = alarms_of(feed, None)
    assert len(sentences) == len(says)
    assert all(words in sentence for words, sentence in zip(says, sentences, strict=True)), sentences


def _with(folder: Path, kind: str, own: dict[str, Any], others: dict[str, Any]) -> Run:
    run = create_run(load_recipe("demo"), folder, kind)
    for i in range(1, 81):
        values = {key: value for key, value in line(i * 10, **(own | others)).items() if value is not None}
        run.log_metrics(values)
    return run


def test_a_way_of_failing_is_not_told_before_an_epoch_is_through(tmp_path: Path) -> None:
    """Latents that are not active at the beginning may come to be."""
    run = create_run(load_recipe("demo"), tmp_path, "decoder")
    for i in range(1, 81):
        run.log_metrics(line(i, active_latents=0.0, epoch=i / 100))
    assert alarms_of(feed_of(run), None) == []


def test_features_that_come_to_be_alike_are_no_failure_of_methods_that_are_to_make_them_so(tmp_path: Path) -> None:
    found = {}
    for name in ("simclr", "rotation", "supervised", "amdim"):
        overrides = [f"method.name={name}", *(["encoder.stem=cifar"] if name == "amdim" else [])]
        run = create_run(load_recipe("demo", overrides), tmp_path, name)
        for i in range(1, 81):
            run.log_metrics(line(i * 10, effective_rank=60.0 if i < 40 else 2.0, loss=1.0))
        feed = Feed(run)
        feed.look()
        found[name] = alarms_of(feed, None)
    assert found["rotation"] == found["supervised"] == []
    assert "higher loss.temperature" in found["simclr"][0]
    assert "effective rank fell" in found["amdim"][0] and "temperature" not in found["amdim"][0]


def test_digits_choose_charts_and_nine_a_methods_own_in_turn(tmp_path: Path) -> None:
    plots = plots_of([feed_of(run_of(tmp_path, "decoder"))])
    assert [by_digit(plots, digit, "") for digit in (1, 2, 3, 8)] == ["loss", "task", "accuracy", "spread"]
    first = by_digit(plots, 9, "loss")
    second = by_digit(plots, 9, first)
    assert (first, second, by_digit(plots, 9, second)) == ("own-kl", "own-active_latents", "own-active_latents")
    assert by_digit(plots_of([]), 9, "loss") == ""


@pytest.mark.parametrize("size", rest_slow(SIZES))
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_drawn_with_its_own_charts(tmp_path: Path, kind: str, size: tuple[int, int]) -> None:
    run = run_of(tmp_path, kind)
    own = [figure for figure in KINDS[kind].figures(recipe_of(kind)) if not figure.share]

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        screen = RunScreen(run)
        screen.feed.facts.recipe = recipe_of(kind)
        app.push_screen(screen)
        await until(pilot, lambda: len(screen.query(LineChart)) == 8 + len(own) and screen.feed.lines == 80)
        await until(pilot, lambda: all(chart.curves for chart in screen.query(LineChart) if chart.display))
        for figure in own:
            await pilot.press("9")
            await until(pilot, lambda title=figure.title: title in screen_text(app))
            (alone,) = (chart for chart in screen.query(LineChart) if chart.display)
            assert alone.title == figure.title and alone.curves[-1].y[-1] == OWN[kind][figure.column]
        await pilot.press("9")
        await until(pilot, lambda: sum(bool(chart.display) for chart in screen.query(LineChart)) > 1)

    drive(SimclrPlusApp(tmp_path, ascii_only=False), steps, size)


def test_runs_of_several_methods_are_compared_by_what_they_share_and_what_each_has(tmp_path: Path) -> None:
    runs = [run_of(tmp_path, "queue"), run_of(tmp_path, "players")]

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        screen = CompareScreen(runs)
        for feed in screen.feeds:
            feed.facts.recipe = recipe_of(feed.run.name)
        app.push_screen(screen)
        await until(pilot, lambda: any(len(chart.curves) >= 2 for chart in screen.query(LineChart)))
        assert "losses of different kinds" in screen_text(app)
        await pilot.press("2")
        assert "losses of different kinds" not in screen_text(app)
        labels = {curve.label for curve in screen.query_one(LineChart).curves if curve.label}
        assert labels == {"queue key found", "players D right of images", "players D right of pairs made"}
        for title in ("age of the queue", "loss of D", "loss of G"):
            await pilot.press("9")
            assert screen.query_one(LineChart).title == title
        await pilot.press("right_square_bracket")
        assert screen.query_one(LineChart).title == "learning rate"
        assert "loss of D" in {row[0].plain.strip() for row in screen._table_rows()}

    drive(SimclrPlusApp(tmp_path, ascii_only=False), steps)


def test_a_column_is_called_what_the_methods_call_it(tmp_path: Path) -> None:
    feeds = [feed_of(run_of(tmp_path, kind)) for kind in ("queue", "decoder")]
    assert [figure_name(key, feeds) for key in ("contrastive_accuracy", "kl", "data_wait")] == [
        *("key found", "KL divergence", "data wait")
    ]


def test_a_run_whose_recipe_cannot_be_read_still_shows_its_shares(tmp_path: Path) -> None:
    run = a_run(tmp_path, "lost")
    run.recipe_file.unlink()
    feed = Feed(run)
    feed.look()
    task = next(plot for plot in plots_of([feed]) if plot.key == "task")
    assert feed.facts.recipe is None and task.columns == {"contrastive_accuracy": "contrastive accuracy"}


def test_the_list_of_runs_has_the_first_share_of_the_method(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo", ["method.name=amdim", "encoder.stem=cifar"]), tmp_path, "amdim")
    run.log_metrics(line(10, coarse_accuracy=0.25, fine_accuracy=0.75))
    assert line_of(run).last == {"task": 0.25, "probe": line(10)["probe_accuracy"]}


def test_the_line_of_progress_and_the_picture_of_curves_have_the_figures(tmp_path: Path) -> None:
    run = create_run(load_recipe("demo", ["method.name=amdim", "encoder.stem=cifar"]), tmp_path, "amdim")
    values = line(10, coarse_accuracy=0.25, fine_accuracy=0.75, score_size=2.345)
    for step in (10, 20):
        run.log_metrics(values | {"step": step})
    recipe = run.recipe()
    text = figures(values, recipe.method.figures(recipe))
    assert "coarse places 25.0%" in text and "size of scores 2.35" in text
    left, right, own = curves_figure(run).axes
    assert (
        left.get_legend_handles_labels()[1][1].startswith("chance, ")
        and "ln" not in left.get_legend_handles_labels()[1][1]
    )
    assert right.get_legend_handles_labels()[1][:2] == [
        *("coarse places, training batch", "fine places, training batch")
    ]
    assert own.lines[0].get_ydata().tolist() == [2.345, 2.345]


@pytest.mark.parametrize("name", METHODS)
def test_each_figure_of_each_method_has_its_place_and_each_alarm_its_figure(tmp_path: Path, name: str) -> None:
    recipe = load_recipe("demo", [*ALL_TINY, f"method.name={name}", *TINY[name]])
    method, feed = recipe.method, Feed(create_run(recipe, tmp_path, name))
    feed.look()
    figures_of_method, plots = method.figures(recipe), plots_of([feed])
    for figure in figures_of_method:
        (plot,) = (plot for plot in plots if figure.column in plot.columns)
        assert plot.key == ("task" if figure.share else f"own-{figure.column}")
        levels = [level.y for level in levels_of(plot, recipe, feed)]
        assert figure.chance is None or figure.share or figure.chance in levels
    assert {collapse.column for collapse in method.collapses(recipe)} <= {figure.column for figure in figures_of_method}
    assert all(";" in c.sentence or ":" in c.sentence for c in method.collapses(recipe))  # a cause, and a remedy
    assert alarms_of(feed, None) == []
