"""What a network by name comes to, as `simclr-plus run --dry-run` tells it: its library loads PyTorch, in a process of
its own. No Textual, no torch.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from simclr_plus.errors import SimclrPlusError
from simclr_plus.recipe.plan import Plan

from .commands import plain_environment

Question = tuple[str, ...]  # the recipe's text, then the words of the command


@dataclass(frozen=True)
class Answer:
    """The plan, and what a user should know of it."""

    plan: Plan
    notes: tuple[str, ...] = ()


@dataclass
class Answers:
    """What is known: plans, and sentences where there is none."""

    plans: dict[Question, Answer] = field(default_factory=dict)
    refusals: dict[Question, str] = field(default_factory=dict)

    def hold(self, question: Question) -> bool:
        """Whether it needs not be asked."""
        return question in self.plans or question in self.refusals

    async def ask(self, question: Question) -> None:
        """Ask and keep the answer; whoever cancels it ends the process too."""
        try:
            self.plans[question] = await planned(question[1:])
        except (SimclrPlusError, OSError) as error:
            self.refusals[question] = str(error)


async def planned(words: Sequence[str]) -> Answer:
    """What a command prints as JSON; raises SimclrPlusError with the sentence that it says instead."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "simclr_plus.cli", *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=plain_environment(),
    )
    try:
        printed, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.communicate()
        raise
    if process.returncode:
        text = said.decode(errors="replace").strip()
        raise SimclrPlusError(text.rpartition("error: ")[2] or f"the dry run ended with code {process.returncode}")
    text = printed.decode(errors="replace")
    try:
        answer = json.loads(text[max(0, text.find("{\n")) :])  # a library may have printed before
        plan = Plan(**{each.name: answer[each.name] for each in fields(Plan)})
        return Answer(plan, tuple(map(str, answer.get("notes", ()))))
    except (ValueError, LookupError, TypeError) as error:
        raise SimclrPlusError(f"the dry run printed no plan: {error}") from None
