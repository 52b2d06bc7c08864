"""The form of a recipe whose encoder is a network by name: measured by another process, its keys shown and checked."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from driving import until
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.form import FormScreen
from simclr_plus.tui.screens.recipes import RecipesScreen
from simclr_plus.tui.starting import dry_run
from simclr_plus.tui.starting.dry_run import Answer
from simclr_plus.tui.starting.recipe_form import Form, rows_of
from textual.pilot import Pilot
from textual.widgets import Input, Static

from simclr_plus.errors import RecipeError, SimclrPlusError
from simclr_plus.recipe import find_recipe, load_recipe, parse_recipe
from simclr_plus.recipe.plan import make_plan

Steps = Callable[[SimclrPlusApp, FormScreen, Pilot[None]], Awaitable[None]]
VIT = "timm:test_vit"


def form_of(name: str = "places", **overrides: str) -> Form:
    form = Form(name, find_recipe(name).read_text())
    for key, value in overrides.items():
        form.change(key.replace("__", "."), value)
    return form


def plan_of(form: Form, *notes: str) -> Answer:
    """What the dry run could say: that of the recipe's ResNet, with other parameters."""
    plan = make_plan(form.base, 4_224)
    return Answer(replace(plan, encoder_parameters=12_345_678, head_parameters=0), notes)


class Measuring:
    """Stands in for the dry run: each question waits until it is answered or given up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.given_up: list[list[str]] = []
        self.answers: list[asyncio.Future[Answer]] = []
        monkeypatch.setattr(dry_run, "planned", self._planned)
        monkeypatch.setattr("simclr_plus.tui.screens.measuring.SECONDS_TO_TYPE_ON", 0.01)

    async def _planned(self, words: Sequence[str]) -> Answer:
        self.asked.append(list(words))
        self.answers.append(asyncio.get_running_loop().create_future())
        try:
            return await self.answers[-1]
        except asyncio.CancelledError:
            self.given_up.append(list(words))
            raise


@pytest.fixture
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Measuring:
    monkeypatch.chdir(tmp_path)
    return Measuring(monkeypatch)


def in_the_form(form: Form, steps: Steps) -> None:
    async def all_of_it() -> None:
        app = SimclrPlusApp(Path("runs"))
        async with app.run_test(size=(160, 50)) as pilot:
            screen = FormScreen(form)
            await app.push_screen(screen)
            await pilot.pause()
            await steps(app, screen, pilot)

    asyncio.run(all_of_it())


def shown(screen: FormScreen) -> str:
    return str(screen.query_one("#side", Static).render())


async def change(screen: FormScreen, pilot: Pilot[None], pair: str) -> None:
    await pilot.press("slash")
    screen.query_one("#editor", Input).value = pair
    await pilot.press("enter")
    await pilot.pause()


def test_a_network_by_name_is_measured_while_keys_are_taken(measuring: Measuring) -> None:
    form = form_of()

    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        assert measuring.asked == [] and "parameters" in shown(screen)  # a ResNet's have a closed form
        await change(screen, pilot, f"encoder.name={VIT}")
        assert "measuring it" in shown(screen) and "memory" not in shown(screen)
        assert "793, warm-up 16" in shown(screen)  # steps need no network
        await until(pilot, lambda: len(measuring.asked) == 1)
        words = ["run", "places", f"encoder.name={VIT}", "--nproc", "1", "--dry-run", "--json"]
        assert measuring.asked == [words]
        await pilot.press("c", "escape")  # other things are shown meanwhile
        measuring.answers[0].set_result(plan_of(form))
        await until(pilot, lambda: "12.3 M" in shown(screen))
        assert "measuring" not in shown(screen) and "a view" in shown(screen) and "MiB a process" in shown(screen)
        await change(screen, pilot, "start.name=another")
        await change(screen, pilot, "encoder.name=resnet")
        await change(screen, pilot, f"encoder.name={VIT}")
        assert "12.3 M" in shown(screen) and len(measuring.asked) == 1  # it is known

    in_the_form(form, steps)


@pytest.mark.slow
def test_what_was_asked_before_a_change_is_given_up(measuring: Measuring) -> None:
    form = form_of(encoder__name=VIT)

    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: len(measuring.asked) == 1)
        await change(screen, pilot, "augmentation.image_size=32")
        await until(pilot, lambda: len(measuring.asked) == 2)
        assert measuring.given_up == measuring.asked[:1]
        measuring.answers[1].set_exception(SimclrPlusError("test_vit takes no such images"))
        await until(pilot, lambda: "test_vit takes no such images" in shown(screen))
        await change(screen, pilot, "augmentation.image_size=64")
        await until(pilot, lambda: len(measuring.asked) == 3)
        assert "no such images" not in shown(screen)
        await pilot.press("escape")  # left while it is measured
        await until(pilot, lambda: len(measuring.given_up) == 2)

    in_the_form(form, steps)


def test_a_recipe_of_ones_own_with_a_network_by_name_is_measured_in_the_list(measuring: Measuring) -> None:
    Path("mine.toml").write_text(f'[encoder]\nname = "{VIT}"\n')

    async def all_of_it() -> None:
        app = SimclrPlusApp(Path("runs"))
        async with app.run_test(size=(120, 34)) as pilot:
            app.open_recipes()
            await until(pilot, lambda: len(measuring.asked) == 1)
            screen = app.screen
            assert isinstance(screen, RecipesScreen) and screen.chosen() == "mine.toml"
            measuring.answers[0].set_result(plan_of(form_of()))
            await until(pilot, lambda: "12.3 M" in str(screen.query_one("#text", Static).render()))
            await pilot.press("enter")  # its form knows it too
            await until(pilot, lambda: isinstance(app.screen, FormScreen))
            assert "12.3 M" in str(app.screen.query_one("#below", Static).render()) and len(measuring.asked) == 1

    asyncio.run(all_of_it())


def test_keys_of_the_network_that_is_chosen_are_shown() -> None:
    def encoders_keys(form: Form) -> set[str]:
        return {key.name.removeprefix("encoder.") for key, _, _ in rows_of(form) if key.name.startswith("encoder.")}

    of_both = {"name", "mean", "std", "input"}
    by_name = {"options", "pretrained", "download", "freeze_patch_embedding"}
    resnet, vit = encoders_keys(form_of()), encoders_keys(form_of(encoder__name=VIT))
    assert resnet & vit == of_both and vit - of_both == by_name and {"depth", "width", "stem"} <= resnet


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("options", '{ drop_rate = 0.1, norm = "a b", "odd key" = [1, "x"] }', None),
        ("options", "{}", {}),
        ("pretrained", "true", True),
        ("pretrained", "TRUE", True),
        ("pretrained", '"true"', "true"),  # a file of that name
        ("pretrained", "weights of mine.pth", "weights of mine.pth"),
        ("download", "true", True),
        ("freeze_patch_embedding", "true", True),
    ],
)
def test_what_is_typed_for_a_network_by_name_is_what_is_run(key: str, text: str, value: object) -> None:
    form = form_of(encoder__name=VIT)
    form.change(f"encoder.{key}", text)
    expected = {"drop_rate": 0.1, "norm": "a b", "odd key": [1, "x"]} if value is None else value
    assert getattr(form.recipe().encoder, key) == expected
    overrides = [word for word in form.words() if "=" in word]
    assert parse_recipe(form.text, overrides) == form.recipe()
    form.change(f"encoder.{key}", form.value(f"encoder.{key}"))  # as it stands in the editor
    assert getattr(form.recipe().encoder, key) == expected


@pytest.mark.parametrize(
    ("key", "text", "says"),
    [
        ("name", "timm:", "encoder.name"),
        ("name", "keras:VGG16", "torchvision:NAME"),
        ("options", "drop_rate", "encoder.options"),
        ("options", "{ num_classes = 10 }", "num_classes"),
        ("pretrained", "", "encoder.pretrained"),
        ("pretrained", '""', "names no file"),
        ("pretrained", "3 = 4\x00", "encoder.pretrained"),
        ("download", "maybe", "encoder.download"),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(key: str, text: str, says: str) -> None:
    form = form_of(encoder__name=VIT)
    problem = form.problem(f"encoder.{key}", text)
    assert says in problem and "\n" not in problem
    with pytest.raises(RecipeError):
        form.change(f"encoder.{key}", text)
    assert form.recipe() == form_of(encoder__name=VIT).recipe()


def test_a_network_is_measured_before_there_are_images(measuring: Measuring) -> None:
    form = form_of("folder", encoder__name=VIT, data__root="nowhere")
    assert "data.expected_images=1" in form.question()
    form.answers.plans[form.question()] = plan_of(form)
    rows = dict(form.comes_to())
    assert rows["parameters"] == "12.3 M" and "nowhere" in rows["images"] and "memory" not in rows
    Path("nowhere").mkdir()  # then they are counted
    assert "data.expected_images=1" not in form.question()
    form.answers.plans[form.question()] = plan_of(form)
    assert dict(form.comes_to())["images"] == "4,224"


def test_a_mean_that_weights_tell_is_shown_and_saved_as_such(tmp_path: Path) -> None:
    form = form_of(encoder__name=VIT)
    assert {key.name: value for key, value, _ in rows_of(form)}["encoder.mean"] == "[0, 0, 0]"
    form.change("encoder.pretrained", "true")
    shown_values = {key.name: value for key, value, _ in rows_of(form)}
    assert "weights" in shown_values["encoder.mean"] and "weights" in shown_values["encoder.std"]
    form.answers.plans[form.question()] = plan_of(form, "weights of ImageNet, in the cache")
    assert ("note", "weights of ImageNet, in the cache") in form.comes_to()
    form.save_as(tmp_path / "mine.toml")
    saved = load_recipe(tmp_path / "mine.toml")
    assert saved.normalisation_is_open and saved == form.recipe()
    form.change("encoder.mean", "[0.5, 0.5, 0.5]")
    form.change("encoder.std", "[0.5, 0.5, 0.5]")
    assert {key.name: value for key, value, _ in rows_of(form)}["encoder.mean"] == "[0.5, 0.5, 0.5]"
    form.save_as(tmp_path / "told.toml")
    assert not load_recipe(tmp_path / "told.toml").normalisation_is_open


@pytest.mark.slow
def test_the_dry_run_answers_the_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    form = form_of(encoder__name=VIT, training__activation_checkpointing="true")

    async def steps(app: SimclrPlusApp, screen: FormScreen, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "measuring" not in shown(screen), seconds=120)
        assert form.plan() == make_plan(form.recipe(), 4_224)
        await change(screen, pilot, "encoder.name=timm:test_vitt")
        await until(pilot, lambda: "measuring" not in shown(screen), seconds=120)
        error = dict(form.comes_to())["error"]
        assert "test_vitt" in error and "did you mean test_vit" in error and "\n" not in error

    in_the_form(form, steps)


@pytest.mark.slow
def test_a_question_that_is_given_up_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def noted(*words: str, **options: object) -> asyncio.subprocess.Process:
        started.append(await create(*words, **options))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", noted)

    async def all_of_it() -> None:
        task = asyncio.create_task(dry_run.planned(["run", "places", f"encoder.name={VIT}", "--dry-run", "--json"]))
        while not started:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(all_of_it())
    with pytest.raises(ProcessLookupError):
        os.kill(started[0].pid, 0)
