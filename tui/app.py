"""The terminal UI: it reads run folders, draws them, and starts `simclr-plus` commands; it imports no torch.

Nothing here owns a run: leaving the screen, or losing it, changes nothing for those that train.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.filter import LineFilter
from textual.screen import Screen

from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch.start import stop
from simclr_plus.machine.printing import visible
from simclr_plus.recipe.reading import recipe_text
from simclr_plus.runs.folder import Run

from .base_app import BaseApp
from .looks import named_colors
from .looks.ascii_only import KEYS, AsciiOnly
from .looks.words import NothingRaw
from .reading.scores import score
from .screens.checkpoints import CheckpointsScreen
from .screens.compare import CompareScreen
from .screens.form import FormScreen
from .screens.recipes import RecipesScreen
from .screens.run import RunScreen
from .screens.runs import RunsScreen
from .starting import commands
from .starting.dry_run import Answers
from .starting.jobs import Job
from .starting.recipe_form import Form
from .widgets.dialogs import Choose, Help, Tell
from .widgets.palette import RunsAndRecipes

THEMES = {"dark": ("textual-dark",), "light": ("textual-light",), "16": ("ansi-dark", "textual-ansi")}
STOPS = (
    ("", "save and stop: a checkpoint is written first, resume goes on from it"),
    ("now", "end it within 35 seconds, saved if that is enough"),
    ("kill", "kill it at once: what was not saved is lost"),
)
EVALUATIONS = (
    ("knn", "kNN: 20 nearest neighbours on frozen features"),
    ("linear --fast", "linear, fast: a linear classifier on cached features"),
    ("linear", "linear: the paper's protocol, with augmentation; slow"),
)

SECONDS_OF_A_RESULT = 30.0


class SimclrPlusApp(BaseApp):
    """Watch, start, stop and compare runs."""

    TITLE = "SimCLR+"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = True
    COMMANDS = App.COMMANDS | {RunsAndRecipes}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark", "help", "Help", id="help", tooltip="what this screen is for, and its keys"),
        Binding("t", "theme", "Theme", id="theme", show=False, tooltip="next theme: dark, light, 16 colours"),
        Binding("q", "quit", "Quit", id="quit", tooltip="leave; runs go on"),
    ]

    def __init__(
        self, folder: Path, *, readonly: bool = False, theme: str = "", ascii_only: bool | None = None
    ) -> None:
        super().__init__()
        self.folder, self.readonly = folder, readonly
        self.marks = "ascii" if (not speaks_unicode() if ascii_only is None else ascii_only) else "braille"
        self._ascii_only = AsciiOnly(enabled=self.marks == "ascii")
        self._nothing_raw = NothingRaw()
        self.jobs: list[Job] = []
        self.answers = Answers()
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide"), (150, "-widest")]
        self.VERTICAL_BREAKPOINTS = [(0, "-low"), (22, "-high")]
        self._wanted_theme = theme

    def on_mount(self) -> None:
        """Begin with the runs."""
        self.ansi_theme_dark, self.ansi_theme_light = named_colors.DARK, named_colors.LIGHT
        few_colors = self.console.color_system == "standard" and not self.is_headless
        if self._wanted_theme or few_colors:
            self._set_theme(self._wanted_theme or "16")
        self.sub_title = f"{self.folder}{' (read only)' if self.readonly else ''}"
        self.push_screen(RunsScreen(self.folder))
        self.set_interval(0.5, self._look_at_jobs)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What every line goes through before it is shown."""
        ascii_only = [self._ascii_only] if self._ascii_only.enabled else []
        return [*super().get_line_filters(), self._nothing_raw, *ascii_only]

    def get_key_display(self, binding: Binding) -> str:
        """The name of a key, in words where there are no signs for it."""
        name = super().get_key_display(binding)
        return KEYS.get(name, name) if self.marks == "ascii" else name

    def action_help(self) -> None:
        """What the screen is for, and its keys."""
        if not isinstance(self.screen, Help):
            self.push_screen(Help(self.screen))

    def action_theme(self) -> None:
        """The next theme."""
        names = list(THEMES)
        now = next((i for i, name in enumerate(names) if self.theme in THEMES[name]), -1)
        self._set_theme(names[(now + 1) % len(names)])

    def _set_theme(self, name: str) -> None:
        self.theme = next(theme for theme in THEMES[name] if theme in self.available_themes)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What Textual offers; no screenshot where nothing is to be written, or in a browser, which has its own."""
        for command in super().get_system_commands(screen):
            if command.title != "Screenshot" or not (self.readonly or self.is_web):
                yield command

    def notify(self, message: str, *, title: str = "", markup: bool = False, **given: Any) -> None:
        """Say something in a corner, as it is: nothing in it is markup."""
        super().notify(visible(message, lines=True), title=visible(title), markup=False, **given)

    def may_change(self) -> bool:
        """Whether this UI may start, stop and write; where it only reads it says so."""
        if self.readonly:
            self.notify("read only: nothing is started, stopped or written", severity="warning")
        return not self.readonly

    # what several screens do

    def open_run(self, run: Run) -> None:
        """Its charts."""
        self.push_screen(RunScreen(run))

    def open_comparison(self, runs: list[Run]) -> None:
        """Their curves over each other."""
        self.push_screen(CompareScreen(runs))

    def open_recipes(self) -> None:
        """All recipes."""
        self.push_screen(RecipesScreen())

    def open_recipe(self, name: str, path: Path) -> None:
        """The form of a recipe."""
        self.answers.refusals.clear()  # what was missing may be there now
        try:
            form = Form(name, recipe_text(path), self.folder, answers=self.answers)
        except (SimclrPlusError, OSError, ValueError, RecursionError) as error:
            self.push_screen(Tell(f"recipe {name} cannot be used", str(error)))
            return
        self.push_screen(FormScreen(form))

    def open_checkpoints(self, run: Run) -> None:
        """Its files and results."""
        self.push_screen(CheckpointsScreen(run))

    def ask_to_stop(self, run: Run) -> None:
        """Ask how, then ask the run."""
        if not self.may_change():
            return

        def answered(word: str | None) -> None:
            if word is None:
                return
            try:
                asked = stop(run, word)
            except (SimclrPlusError, OSError) as error:
                self.push_screen(Tell(f"{run.name} cannot be asked to stop", str(error)))
                return
            self.notify(
                f"{run.name} is asked to {'end' if word else 'save and stop'}" if asked else "it is not at work"
            )

        self.push_screen(Choose(f"Stop {run.name}", [(key or "save", label) for key, label in STOPS]), _saved(answered))

    def resume(self, run: Run) -> None:
        """Go on with a run."""
        self.start(f"resume {run.name}", commands.resume_words(run.path), run.logs)

    def ask_to_evaluate(self, target: Path, run: Run) -> None:
        """Ask how, then evaluate a run or one of its checkpoints."""
        if not self.may_change():
            return
        named = run.name if target == run.path else f"{run.name} {target.stem}"

        def answered(evaluator: str | None) -> None:
            if evaluator is not None:
                words = commands.evaluate_words(target, evaluator, self.folder)
                self.start(f"evaluate {evaluator} of {named}", words, run.logs, self._tell_result)

        self.push_screen(Choose(f"Evaluate {named}", EVALUATIONS), answered)

    def _tell_result(self, job: Job) -> None:
        """The figures that the command itself printed, and where they lie."""
        try:
            text = result_in_words(commands.answer(job.log), commands.answer_file(job.log))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            self.notify(f"it ended without a result that can be read: {error}", title=job.title, severity="error")
            return
        self.notify(text, title=job.title, timeout=SECONDS_OF_A_RESULT)

    def start(
        self, title: str, words: Sequence[str], logs: Path, then: Callable[[Job], None] | None = None
    ) -> Job | None:
        """Start a command that outlives this screen, and tell how it ended if the screen is still there."""
        if not self.may_change():
            return None
        try:
            log = commands.new_log(logs, words)
            job = Job(title, commands.start(words, log), log, then)
        except OSError as error:
            self.push_screen(Tell(f"{title}: cannot be started", str(error)))
            return None
        self.jobs.append(job)
        self.notify(f"started: {commands.shown(words)}", title=title)
        return job

    def _look_at_jobs(self) -> None:
        for job in [job for job in self.jobs if job.process.poll() is not None]:
            self.jobs.remove(job)
            if job.process.returncode:
                self.push_screen(Tell(f"{job.title} failed", commands.last_words(job.log)))
                continue
            if job.then is None:
                self.notify("done", title=job.title)
            else:
                job.then(job)


def result_in_words(result: dict[str, Any], answer: Path) -> str:
    """What an evaluation says that it found, of which step, and the file that holds it."""
    scores = [f"{who}: {score(scores_of, result.get('test_images'))}" for who, scores_of in result["results"].items()]
    step = [f"step {result['step']:,}"] if isinstance(result.get("step"), int) else []
    return "\n".join([*scores, ", ".join([*step, f"in {result.get('file') or answer}"])])


def _saved(answered: Callable[[str | None], None]) -> Callable[[str | None], None]:
    """An option needs a name, the word of a plain stop is empty."""
    return lambda key: answered("" if key == "save" else key)


def speaks_unicode() -> bool:
    """Whether the terminal can be expected to show braille: UTF-8, and not Linux's own console, whose font lacks it."""
    encoding = (getattr(sys.stdout, "encoding", "") or "").lower().replace("-", "")
    return encoding.startswith("utf") and os.environ.get("TERM") not in ("linux", "dumb")
