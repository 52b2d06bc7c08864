"""What screens may ask of the app, so that they need not import it: the app imports every screen."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

from textual.app import App

from simclr_plus.runs.folder import Run

from .starting.dry_run import Answers
from .starting.jobs import Job


class BaseApp(App[None]):
    """The app as its screens know it: where it reads, whether it may write, what it opens and starts."""

    folder: Path  # of the runs
    readonly: bool
    marks: str  # "braille" or "ascii"
    answers: Answers  # what networks by name come to

    @abstractmethod
    def may_change(self) -> bool:
        """Whether this UI may start, stop and write; where it only reads it says so."""

    @abstractmethod
    def open_run(self, run: Run) -> None:
        """Its charts."""

    @abstractmethod
    def open_comparison(self, runs: list[Run]) -> None:
        """Their curves over each other."""

    @abstractmethod
    def open_recipes(self) -> None:
        """All recipes."""

    @abstractmethod
    def open_recipe(self, name: str, path: Path) -> None:
        """The form of a recipe."""

    @abstractmethod
    def open_checkpoints(self, run: Run) -> None:
        """Its files and results."""

    @abstractmethod
    def ask_to_stop(self, run: Run) -> None:
        """Ask how, then ask the run."""

    @abstractmethod
    def resume(self, run: Run) -> None:
        """Go on with a run."""

    @abstractmethod
    def ask_to_evaluate(self, target: Path, run: Run) -> None:
        """Ask how, then evaluate a run or one of its checkpoints."""

    @abstractmethod
    def start(
        self, title: str, words: Sequence[str], logs: Path, then: Callable[[Job], None] | None = None
    ) -> Job | None:
        """Start a command that outlives this screen, and tell how it ended if the screen is still there."""
