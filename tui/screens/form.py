"""A recipe's keys to change, what it comes to, the command it is, and its start."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.events import DescendantFocus
from textual.widgets import Input

from simclr_plus.errors import SimclrPlusError
from simclr_plus.runs.folder import Run

from ..looks.words import Words
from ..starting.commands import shown, toml_value
from ..starting.jobs import Job
from ..starting.recipe_form import Form, Key, rows_of
from ..widgets.dialogs import Ask, Choose, Tell
from ..widgets.key_bar import KeyBar
from ..widgets.rows import Rows
from .measuring import MeasuringScreen

WIDE = 150  # columns of the terminal
LONGEST_KEY = 34
LONGEST_LABEL = 14  # with a space
GAP = 3  # columns between what it comes to


class KeyRows(Rows):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "select_cursor", "Change", id="form.edit", tooltip="another value for the chosen key")
    ]


class FormScreen(MeasuringScreen):
    """A recipe's keys. Enter changes the chosen one; what is typed is checked at once. ctrl+l starts the run."""

    PARTS: ClassVar[tuple[str, ...]] = ("#head", "#keys", "#side", "#below", "#key-help", "#editor-problem", "#editor")
    AUTO_FOCUS = "#keys"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "back", "Back", id="form.back", tooltip="all keys again; back to the recipes"),
        Binding("ctrl+l", "launch", "Start", id="form.launch", tooltip="start the run"),
        Binding("slash", "filter", "Search", id="form.search", tooltip="words in a key or its help; or key=value"),
        Binding("space", "next", "Next value", id="form.next", tooltip="the next of the values to choose from"),
        Binding("backspace,delete", "forget", "Reset", id="form.forget", tooltip="back to the recipe's value"),
        Binding("c", "changed", "Changed", id="form.changed", tooltip="only keys that were changed, or all"),
        Binding("w", "save", "Save as", id="form.save", tooltip="save as a recipe of your own, in this folder"),
        Binding("y", "copy", "Copy", id="form.copy", tooltip="copy the command line"),
    ]

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.form = form
        self.changed_only = False
        self.editing: str | None = None  # a key, "/" for the search, None
        self.wanted = ""
        self.starting: Job | None = None

    def compose(self) -> ComposeResult:
        """Keys, what they come to beside or below, the line to write in."""
        yield Words(id="head")
        with Horizontal():
            yield KeyRows(id="keys")
            with VerticalScroll(id="form-side", can_focus=False):
                yield Words(id="side")
        with Vertical(id="form-below"):
            yield Words(id="below")
        yield Words(id="key-help")
        yield Words(id="editor-problem", classes="problem")
        yield Input(id="editor")
        yield KeyBar()

    def on_mount(self) -> None:
        """Show everything."""
        if self.is_whole:  # else it was left while it was being made
            self.show()

    def on_screen_resume(self) -> None:
        """Back from a dialog."""
        if self.is_whole:
            self.measure(self.form)

    def show_measured(self) -> None:
        """What the network comes to."""
        self._show_summary()

    def on_resize(self) -> None:
        """On a wide screen each key has its explanation beside it."""
        if self.is_whole:
            self.show()

    def show(self) -> None:
        """Fill the table and say what it comes to."""
        table = self.query_one(Rows)
        chosen = self.chosen()
        table.clear(columns=True)
        table.add_column("key", width=min(LONGEST_KEY, self.size.width - 16))
        rows = list(rows_of(self.form, self.wanted, changed_only=self.changed_only))
        table.add_column("value", width=max([len("value"), *(len(value) for _, value, _ in rows)]))
        if self.size.width >= WIDE:
            table.add_column("what it is", width=max([len("what it is"), *(len(key.help) for key, _, _ in rows)]))
        for i, (key, value, changed) in enumerate(rows):
            style = "bold yellow" if changed else ""
            cells = [Text(key.name, style=style), Text(value, style=style), Text(key.help, style="dim")]
            table.add_row(*cells[: len(table.columns)], key=key.name)
            if chosen is not None and key.name == chosen.name:
                table.move_cursor(row=i, animate=False)
        self.measure(self.form)
        self._show_summary()
        self._show_help()

    def chosen(self) -> Key | None:
        """The key under the cursor."""
        name = self.query_one(Rows).chosen_key
        return None if name is None else self.form.keys().get(name)

    def _show_summary(self) -> None:
        about = self.form.base.about
        head = Text().append(self.form.name, style="bold")
        only = " ".join([*(["changed"] if self.changed_only else []), self.wanted]).strip()
        head.append(f"   only: {only} (escape: all keys)" if only else "", style="yellow")
        head.append(f"  {about.summary}", style="dim")
        self.query_one("#head", Words).update(head)
        side, below = Text(), Text()
        side.append("what it comes to\n", style="bold")
        try:
            rows = self.form.comes_to()
        except SimclrPlusError as error:
            rows = [("error", str(error))]
        for label, value in rows:
            side.append(f"{label:<{LONGEST_LABEL}}", style="dim")
            side.append(f"{value}\n", style=_style_of(label))
        used = 0
        for label, value in rows:
            name = "" if label in ("note", "error") else f"{label} "
            used += len(name + value) + GAP
            if below and used > self.size.width:  # a label and its value stay together
                below.append("\n")
                used = len(name + value) + GAP
            below.append(name, style="dim")
            below.append(f"{value}{' ' * GAP}", style=_style_of(label))
        changes = self.form.changes()
        if changes:
            side.append("\nchanged\n", style="bold")
            for key, was, now in changes:
                side.append(f"{key}\n", style="yellow")
                side.append(f"  {was} -> {now}\n")
        side.append("\ncommand\n", style="bold")
        side.append(f"{shown(self.form.words())}\n")
        if about.expected:
            side.append(f"\nexpected{' without these changes' if changes else ''}\n", style="bold")
            side.append(about.expected)
        below.append(f"\n{len(changes)} changed  ", style="yellow" if changes else "dim")
        below.append(shown(self.form.words()), style="dim")
        self.query_one("#side", Words).update(side)
        self.query_one("#below", Words).update(below)

    def _show_help(self) -> None:
        key = self.chosen()
        text = Text("no key holds these words" if key is None else "")
        if key is not None:
            text.append(f"{key.name}  ", style="bold")
            text.append(key.help)
            default = f"; default {toml_value(key.default)}" if key.default != "" else ""
            text.append(f"  ({key.type}{default})", style="dim")
        self.query_one("#key-help", Words).update(text)

    def on_data_table_row_highlighted(self) -> None:
        """Another key."""
        if self.editing is None and self.is_whole:
            self._show_help()

    def on_data_table_row_selected(self) -> None:
        """Enter."""
        self.action_edit()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Nothing is started or saved when only reading; keys that are written mean nothing else."""
        if self.editing is not None and action in ("filter", "next", "forget", "changed", "save", "copy"):
            return False
        return not (self.app.readonly and action in ("launch", "save"))

    def action_edit(self) -> None:
        """Write another value for the chosen key."""
        key = self.chosen()
        if not self._settle() or key is None:
            return
        if key.name == "method.name":
            self._choose_method()
        else:
            self._open_editor(key.name, self.form.value(key.name), key.help)

    def _choose_method(self) -> None:
        """From a list that says what each is, or why it does not go with the rest of the recipe."""

        def answered(name: str | None) -> None:
            if name is None:
                return
            try:
                self.form.change("method.name", name)
            except SimclrPlusError as error:
                self.app.push_screen(Tell(f"{name} does not go with this recipe", str(error)))
            self.show()

        methods = self.form.methods()
        longest = max(len(name) for name, _ in methods)
        choices = [(name, f"{name:<{longest}}  {about}") for name, about in methods]
        now = self.form.value("method.name").strip('"')
        self.app.push_screen(Choose("What is trained", choices, now, one_line=True), answered)

    def action_filter(self) -> None:
        """Words to look for, or key=value."""
        if self._settle():
            self._open_editor("/", self.wanted, "words in a key or its help; or key=value")

    def _open_editor(self, what: str, value: str, placeholder: str) -> None:
        self.editing = what
        editor = self.query_one("#editor", Input)
        editor.add_class("open")
        editor.placeholder = placeholder
        editor.value = value
        editor.focus()

    def _close_editor(self) -> None:
        self.editing = None
        self.query_one("#editor").remove_class("open")
        self.query_one("#editor-problem", Words).update("")
        self.query_one(Rows).focus()
        self.show()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check, or search, while typing."""
        if self.editing is None:
            return
        if self.editing == "/":
            self.query_one("#editor-problem", Words).update(self._problem_of_pair(event.value))
            if "=" not in event.value:
                self.wanted = event.value
                self.show()
            return
        self.query_one("#editor-problem", Words).update(self.form.problem(self.editing, event.value))

    def _problem_of_pair(self, text: str) -> str:
        key, equals, value = text.partition("=")
        return self.form.problem(key.strip(), value) if equals else ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Take the value, if it can stand."""
        self._settle()

    def on_descendant_focus(self, event: DescendantFocus) -> None:
        """Whoever leaves the line, by the mouse or by tab, has written what is in it."""
        if self.editing is not None and event.widget.id != "editor":
            self._settle()

    def _settle(self) -> bool:
        """Take what is being typed; where it cannot stand, say why, put the cursor there and return False.

        Whatever uses the values begins with it: what is on the screen is what is started, saved and copied.
        """
        if self.editing is None:
            return True
        editor = self.query_one("#editor", Input)
        key, value = self.editing, editor.value
        if key == "/":
            if "=" not in value:
                self._close_editor()
                return True
            key, _, value = (part.strip() for part in value.partition("="))
        try:
            self.form.change(key, value)
        except SimclrPlusError as error:
            self.query_one("#editor-problem", Words).update(str(error))
            editor.focus()
            return False
        if self.editing == "/":
            self.wanted = ""
        self._close_editor()
        return True

    def action_next(self) -> None:
        """The next of a few values."""
        key = self.chosen()
        if not self._settle() or key is None:
            return
        if not key.choices:
            self.action_edit()
            return
        now = self.form.value(key.name).strip('"')
        place = key.choices.index(now) + 1 if now in key.choices else 0
        for choice in (*key.choices[place:], *key.choices[:place]):
            try:
                self.form.change(key.name, choice)
                break
            except SimclrPlusError as error:  # the one after it may do
                self.notify(str(error), severity="error")
        self.show()

    def action_forget(self) -> None:
        """The recipe's value."""
        key = self.chosen()
        if self._settle() and key is not None:
            self.form.forget(key.name)
            self.show()

    def action_changed(self) -> None:
        """Only changed keys, or all."""
        if not self._settle():
            return
        self.changed_only = not self.changed_only
        self.show()

    def action_back(self) -> None:
        """Leave the editor, then the search, then the form."""
        if self.editing is not None:
            if self.editing == "/":
                self.wanted = ""
            self._close_editor()
        elif self.wanted or self.changed_only:
            self.wanted, self.changed_only = "", False
            self.show()
        else:
            self.app.pop_screen()

    def action_copy(self) -> None:
        """The command line into the clipboard."""
        if not self._settle():
            return
        text = shown(self.form.words())
        self.app.copy_to_clipboard(text)
        self.notify(text, title="copied")

    def action_save(self) -> None:
        """Save as a recipe of one's own."""
        if not self.app.may_change() or not self._settle():
            return

        def answered(name: str | None) -> None:
            if name is None:
                return
            try:
                self.form.save_as(Path(name))
            except SimclrPlusError as error:
                self.app.push_screen(Tell("not saved", str(error)))
                return
            self.notify(f"simclr-plus run {name}", title="saved")

        stem = Path(self.form.name).stem
        self.app.push_screen(Ask("Save the edited recipe as", f"my_{stem}.toml", _file_problem), answered)

    def action_launch(self) -> None:
        """Start it, once."""
        if not self.app.may_change() or not self._settle():
            return
        if self.starting is not None and self.starting.process.poll() is None:
            self.notify("it is being started", severity="warning")
            return
        try:
            self.form.schedule()
        except SimclrPlusError as error:
            self.app.push_screen(Tell("it cannot be started like this", str(error)))
            return
        problem = self.form.problem("start.name", self.form.launch["start.name"])
        if problem:
            self.app.push_screen(Tell("it cannot be started like this", problem))
            return
        run = Run(self.app.folder / self.form.launch["start.name"])
        words = self.form.words()
        logs = self.app.folder / ".started"
        self.starting = self.app.start(f"start {run.name}", words, logs, lambda _: self._open(run))
        if self.starting is not None:
            self.query_one("#head", Words).update(
                Text(f"starting {run.name}: PyTorch is loaded and the images are looked for ...", style="bold green")
            )

    def _open(self, run: Run) -> None:
        """Its charts, in the place of the form."""
        if self.is_current:
            self.app.pop_screen()
            self.app.open_run(run)


def _style_of(label: str) -> str:
    return {"error": "red", "note": "yellow"}.get(label, "")


def _file_problem(name: str) -> str:
    if not name.endswith(".toml"):
        return "the name ends in .toml"
    return f"{name} exists" if Path(name).exists() else ""
