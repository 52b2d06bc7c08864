"""What opens over a screen: a choice, a question, a text to read, the help made from the bindings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import ActiveBinding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from simclr_plus.machine.printing import visible

from ..looks.words import Words, plain

WIDE, FRAME = 110, 10  # columns of a wide dialog, and those that its frame takes


class Dialog(ModalScreen[str | None]):
    """A frame in the middle of the screen; escape leaves it without an answer."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "leave", "Back")]

    def action_leave(self) -> None:
        """Close it."""
        self.dismiss(None)


class Choose(Dialog):
    """One of a few things, each with a word of explanation; `now` is the one that holds.

    one_line: what does not fit on a line is cut, so that many can be seen.
    """

    def __init__(
        self, title: str, choices: Sequence[tuple[str, str]], now: str | None = None, *, one_line: bool = False
    ) -> None:
        super().__init__()
        self.title_text, self.choices, self.now, self.one_line = visible(title), choices, now, one_line

    def compose(self) -> ComposeResult:
        """A title and a list."""
        with Vertical(classes="dialog many" if self.one_line else "dialog"):
            yield Words(self.title_text, classes="dialog-title")
            yield OptionList(*(Option(self._label(label), id=key) for key, label in self.choices))

    def on_mount(self) -> None:
        """Begin at the one that holds."""
        keys = [key for key, _ in self.choices]
        for options in self.query(OptionList):
            options.highlighted = keys.index(self.now) if self.now in keys else 0

    def _label(self, label: str) -> Text:
        room = min(WIDE, int(0.96 * self.app.size.width)) - FRAME
        return plain(f"{label[: room - 2]}.." if self.one_line and len(label) > room else label)

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """The answer."""
        self.dismiss(event.option.id)


class Ask(Dialog):
    """A line of text; `problem` says why one will not do."""

    def __init__(self, title: str, value: str, problem: Callable[[str], str] = lambda _: "") -> None:
        super().__init__()
        self.title_text, self.value, self.problem = visible(title), value, problem

    def compose(self) -> ComposeResult:
        """A title, a line to write in, what is wrong with it."""
        with Vertical(classes="dialog"):
            yield Words(self.title_text, classes="dialog-title")
            yield Input(self.value)
            yield Words(id="problem", classes="problem")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check while typing."""
        self.query_one("#problem", Words).update(self.problem(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """The answer, if it will do."""
        if not self.problem(event.value):
            self.dismiss(event.value)


class Tell(Dialog):
    """A text to read: how a command failed."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self.title_text, self.text = visible(title), text

    def compose(self) -> ComposeResult:
        """A title and the text."""
        with Vertical(classes="dialog wide"):
            yield Words(self.title_text, classes="dialog-title")
            with VerticalScroll():
                yield Words(self.text)
            yield Words("escape: back", classes="hint")


class Help(Dialog):
    """What a screen is for and its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [("question_mark", "leave", "Back")]

    def __init__(self, screen: Screen[object]) -> None:
        super().__init__()
        self.about, _, self.more = inspect.cleandoc(screen.__doc__ or "").partition("\n\n")
        active = sorted(screen.active_bindings.values(), key=lambda active: _distance(screen, active))
        keys: dict[str, list[str]] = {}
        for a in active:
            if a.binding.description and (not a.binding.system or a.binding.action == "command_palette"):
                keys.setdefault(a.tooltip or a.binding.description, []).append(screen.app.get_key_display(a.binding))
        self.keys = [(" ".join(dict.fromkeys(names)), text) for text, names in keys.items()]

    def compose(self) -> ComposeResult:
        """The screen's sentence, then a line a key."""
        table = Table.grid(padding=(0, 2))
        for key, text in self.keys:
            table.add_row(Text(key, style="bold"), Text(text))
        with Vertical(classes="dialog wide"):
            yield Words(Text(self.about), classes="dialog-title")
            with VerticalScroll():
                if self.more:
                    yield Words(Text(f"{' '.join(self.more.split())}\n"))
                yield Static(table)
            yield Words("escape: back", classes="hint")


def _distance(screen: Screen[object], active: ActiveBinding) -> int:
    """The screen's own keys first, then the app's, then what Textual adds. Ours have ids."""
    if not active.binding.id:
        return 2
    return 0 if active.node is screen else 1
