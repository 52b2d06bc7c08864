"""Networks by name are measured in another process while keys are taken."""

from __future__ import annotations

import asyncio

from simclr_plus.errors import SimclrPlusError

from ..starting.dry_run import Answers, Question
from ..starting.recipe_form import Form
from .live import AppScreen

SECONDS_TO_TYPE_ON = 0.3  # before a network is measured that may be another one soon


class MeasuringScreen(AppScreen):
    """Shows what a recipe's network comes to when that is known."""

    def __init__(self) -> None:
        super().__init__()
        self._asked: Question = ()

    def show_measured(self) -> None:
        """Show what is known now."""
        raise NotImplementedError

    def measure(self, form: Form) -> None:
        """Ask what the form's network comes to, unless that is known or asked; what was asked before is given up."""
        try:
            question = form.question()
        except SimclrPlusError:
            question = ()
        wanted = () if form.answers.hold(question) else question
        if wanted == self._asked:
            return
        self._asked = wanted
        self.workers.cancel_group(self, "measure")
        if wanted:
            self.run_worker(self._ask(form.answers, wanted), group="measure")

    async def _ask(self, answers: Answers, question: Question) -> None:
        await asyncio.sleep(SECONDS_TO_TYPE_ON)
        await answers.ask(question)
        if self._asked == question:
            self._asked = ()
        if self.is_whole:
            self.show_measured()

    def on_screen_suspend(self) -> None:
        """Another screen is in front: what is asked for it comes first."""
        self._asked = ()
        self.workers.cancel_group(self, "measure")
