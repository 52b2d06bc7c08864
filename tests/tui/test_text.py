"""Text from outside is data: it is shown as it is on every screen and in every table, and steers nothing."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from rich.text import Text
from safetensors.numpy import save_file
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.looks.words import NothingRaw, Words, plain
from simclr_plus.tui.reading.run_list import RunList
from simclr_plus.tui.screens.checkpoints import CheckpointsScreen
from simclr_plus.tui.screens.compare import CompareScreen
from simclr_plus.tui.screens.form import FormScreen
from simclr_plus.tui.screens.recipes import RecipesScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.screens.runs import RunsScreen
from simclr_plus.tui.starting.recipe_form import Form, found_recipes
from simclr_plus.tui.widgets.dialogs import Choose, Tell
from simclr_plus.tui.widgets.rows import Rows
from textual.app import App, ComposeResult
from textual.color import Color
from textual.pilot import Pilot
from textual.widgets import Input

from simclr_plus.machine.printing import UNPRINTABLE, print_table, visible
from simclr_plus.recipe import load_recipe
from simclr_plus.results.report import as_text, make_report
from simclr_plus.runs import progress
from simclr_plus.runs.folder import Run, create_run

Steps = Callable[[SimclrPlusApp, Pilot[None]], Awaitable[None]]
ESCAPE = "\x1b]0;taken\x07\x1b[2J"
NASTY = "[/x] [bold]b[/bold] [@click=app.quit]c[/] [red]"


def drive(folder: Path, steps: Steps, *, size: tuple[int, int] = (120, 34)) -> None:
    async def all_of_it() -> None:
        app = SimclrPlusApp(folder)
        async with app.run_test(size=size, notifications=True) as pilot:
            await steps(app, pilot)

    asyncio.run(all_of_it())


def screen_text(app: Any) -> str:
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, screen_text(pilot.app)
        await pilot.pause(0.05)


def a_run(folder: Path, name: str, root: str = "[/x]") -> Run:
    """A run, its data, host, log, checkpoint and result, all with names that look like markup."""
    run = create_run(load_recipe("folder", [f"data.root={json.dumps(root)}"]), folder, name)
    run.log_event("start", steps=100, processes=2, host="node[b]7")
    run.log_metrics({"step": 10, "epoch": 0.1, "images": 100, "loss": 2.5, "time": 1.0})
    run.log_system("node[b]7", {"time": time.time(), "cpu": 0.5})
    run.log_event("exit", reason="failed", message=f"cannot read [/x]{ESCAPE}")
    run.logs.mkdir()
    (run.logs / "rank_0.log").write_text("a line with [/markup] and [red]colour\n")
    run.checkpoints.mkdir()
    save_file({"[/w]": np.zeros(2, np.float32)}, run.checkpoint_file(10), {"classes": '["[bold]", "[/x]"]'})
    result = {"step": 10, "data": root, "results": {"encoder[/e]": {"top1": 0.5}}}
    run.write_result("knn", {"evaluator": "knn", **result})
    return run


def test_names_that_look_like_markup_stand_on_every_screen_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "r[/b]" / "x"
    runs = [a_run(folder, "[red]one"), a_run(folder, "[two]", root="other")]
    recipe = load_recipe("demo", ["data.root=[/x]"]).to_toml().replace('summary = "', 'summary = "[/s][red]')
    (tmp_path / "[r].toml").write_text(recipe)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "[red]one" in screen_text(app) and "[two]" in screen_text(app))
        await until(pilot, lambda: "r[/b]/x" in screen_text(app))
        await app.push_screen(RunScreen(runs[0]))
        await until(pilot, lambda: "a line with [/markup] and [red]colour" in screen_text(app))
        await until(pilot, lambda: "[red]one" in screen_text(app) and "node[b]7" in screen_text(app))
        await app.push_screen(CheckpointsScreen(runs[0]))
        await until(pilot, lambda: "encoder[/e]" in screen_text(app))
        shown = ("[/w]", '["[bold]", "[/x]"]', "50.0%", "[red]one")
        await until(pilot, lambda: all(text in screen_text(app) for text in shown))
        await app.push_screen(CompareScreen(runs))
        await until(pilot, lambda: '/[/x]"' in screen_text(app))
        assert "[red]one" in screen_text(app).splitlines()[-8 - app.screen.query_one(Rows).size.height // 2] or (
            [str(column.label) for column in app.screen.query_one(Rows).ordered_columns] == ["", "[red]one", "[two]"]
        )
        await app.push_screen(RecipesScreen())
        await until(pilot, lambda: "[/s][red]" in screen_text(app) and "[r].toml" in screen_text(app))
        await pilot.press("enter")
        await until(pilot, lambda: isinstance(app.screen, FormScreen) and "[/s][red]" in screen_text(app))
        await app.push_screen(Choose(f"Stop {NASTY}", [("a", f"label {NASTY}")]))
        await until(pilot, lambda: screen_text(app).count("[/x] [bold]b[/bold]") == 2)
        await app.push_screen(Tell(f"title {NASTY}", f"text {NASTY}"))
        await until(pilot, lambda: screen_text(app).count("[/x] [bold]b[/bold]") == 2)
        app.notify(f"said {NASTY}", title=f"of {NASTY}")
        await until(pilot, lambda: "said [/x] [bold]b[/bold]" in screen_text(app))
        await until(pilot, lambda: "of [/x] [bold]" in screen_text(app))

    drive(folder, steps)


def test_the_palette_offers_a_run_by_its_own_name(tmp_path: Path) -> None:
    a_run(tmp_path, "[red]one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await pilot.press("ctrl+p")
        await until(pilot, lambda: "Run [red]one" in screen_text(app))
        app.screen.query_one(Input).value = "[red]one"
        await until(pilot, lambda: "Recipe demo" not in screen_text(app) and "Run [red]one" in screen_text(app))
        await pilot.press("down", "enter")
        await until(pilot, lambda: isinstance(app.screen, RunScreen))

    drive(tmp_path, steps)


def test_an_empty_folder_with_any_name_opens(tmp_path: Path) -> None:
    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "r[/b]/x" in screen_text(app) and "Welcome" in screen_text(app))

    drive(tmp_path / "r[/b]" / "x", steps)


def test_what_would_steer_the_terminal_is_shown_by_its_code(tmp_path: Path) -> None:
    assert visible(f"a{ESCAPE}\n\u202eb\udcff\x9b") == r"a\x1b]0;taken\x07\x1b[2J\n\u202eb\xff\x9b"
    assert visible("a\nb\x1b\t", lines=True) == "a\nb\\x1b\t"
    assert visible("Łódź 犬 🙂 é") == "Łódź 犬 🙂 é"
    run = a_run(tmp_path, "one")
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/t\xffwo\x1b[2J\nx"))
    run.path.rename(named)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: r"t\xffwo\x1b[2J\nx" in screen_text(app))
        assert all(line.isprintable() for line in screen_text(app).splitlines())
        for screen in (RunScreen(Run(named)), CheckpointsScreen(Run(named))):
            await app.push_screen(screen)
            await pilot.pause(0.3)
            assert all(line.isprintable() for line in screen_text(app).splitlines())

    drive(tmp_path, steps)


any_text = st.text(st.characters(codec=None, categories=None), max_size=12) | st.sampled_from(
    [NASTY, ESCAPE, "[/]", "[[", "\\[", "[b]", "\udcff[/x]", "a\nb", "\u202e[red]"]
)


@settings(deadline=None)
@given(text=any_text)
def test_a_cell_holds_its_text_whole_and_without_a_style(text: str) -> None:
    cell = plain(text)
    assert cell.plain == visible(text) and not cell.spans
    assert UNPRINTABLE.search(plain(Text(text)).plain) is None


def test_rows_and_words_hold_any_text() -> None:
    texts = [NASTY, ESCAPE, "[/]", "[[", "\\[", "[b]", "\udcff[/x]", "a\nb", "\u202e[red]"]

    class OneScreen(App[None]):
        def compose(self) -> ComposeResult:
            yield Rows(id="rows")
            yield Words(NASTY, id="words")

        def get_line_filters(self) -> Any:
            return [*super().get_line_filters(), NothingRaw()]

    async def show() -> None:
        app = OneScreen()
        async with app.run_test(size=(120, 20)) as pilot:
            table = app.query_one(Rows)
            table.add_columns(*texts)
            key = table.add_row(*texts)
            table.add_row(*texts)
            table.update_cell(key, table.ordered_columns[0].key, "[/other]")
            await pilot.pause()
            assert [str(cell) for cell in table.get_row_at(0)] == ["[/other]", *map(visible, texts[1:])]
            assert [str(cell) for cell in table.get_row_at(1)] == list(map(visible, texts))
            assert [str(column.label) for column in table.ordered_columns] == list(map(visible, texts))
            for text in texts:
                app.query_one(Words).update(text)
                await pilot.pause()
                assert UNPRINTABLE.search(screen_text(app).replace("\n", "")) is None

    asyncio.run(show())


@settings(deadline=None)
@given(text=any_text)
def test_the_last_look_at_a_line_keeps_its_width_and_lets_nothing_through(text: str) -> None:
    (after,) = NothingRaw().apply([Segment(text)], Color(0, 0, 0))
    assert cell_len(after.text) == cell_len(text) and visible(after.text) == after.text
    after.text.encode("utf-8")  # what a terminal or a browser is sent


@settings(deadline=None, max_examples=30)
@given(cells=st.lists(any_text, min_size=2, max_size=2), title=any_text)
def test_any_text_stands_in_a_printed_table(cells: list[str], title: str) -> None:
    before, sys.stdout = sys.stdout, io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    try:
        print_table([cells[0], "b"], [cells, ["x", "y"]], title)
        sys.stdout.flush()
        printed = sys.stdout.buffer.getvalue().decode()  # type: ignore[attr-defined]
    finally:
        sys.stdout = before
    assert all(visible(line) == line for line in printed.splitlines())
    if all(len(visible(cell)) < 40 and " " not in cell for cell in cells) and not cells[1].startswith("**"):
        assert all(visible(cell).strip() in printed for cell in cells)


def test_verbs_print_any_name_in_any_encoding(tmp_path: Path) -> None:
    """Names that are no UTF-8, that look like markup, that would steer the terminal; as a table and as JSON."""
    runs = tmp_path / "runs"
    a_run(runs, "[red]one")
    a_run(runs, "two")
    (runs / "two").rename(os.fsdecode(os.fsencode(runs) + b"/t\xe9\x1b[2J"))
    for encoding, locale in (("utf-8", "C.UTF-8"), ("ascii", "C")):
        env = {**os.environ, "PYTHONIOENCODING": encoding, "LANG": locale, "LC_ALL": locale}
        others = (["compare", "[red]one", os.fsdecode(b"t\xe9\x1b[2J")], ["show", "[red]one"])
        for verb in (["ps"], *(others if encoding == "ascii" else [])):
            words = [sys.executable, "-m", "simclr_plus.cli", *verb, "--runs", str(runs)]
            for extra in ([], ["--json"]) if verb == ["ps"] else ([],):
                done = subprocess.run([*words, *extra], env=env, capture_output=True, check=False)
                assert done.returncode == 0, done.stderr
                assert b"\x1b" not in done.stdout and b"[red]one" in done.stdout
                if extra:
                    json.loads(done.stdout)
    done = subprocess.run([*words[:3], "show", "[/x]\x1b[2J", "--runs", str(runs)], capture_output=True, check=False)
    assert done.returncode == 3 and b"[/x]\\x1b[2J" in done.stderr and b"\x1b" not in done.stderr


def test_a_path_that_is_no_utf8_is_printed_as_its_own_bytes(tmp_path: Path) -> None:
    """What a script reads is a path that opens."""
    code = "from simclr_plus.machine.printing import take_any_name; import os; take_any_name()\n"
    code += "print(os.fsdecode(b'a\\xffb')); print('\\u00e9')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert done.stdout == b"a\xffb\n\\xe9\n"


def test_a_progress_bar_shows_the_name_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("TERM", "dumb")
    with progress.TrainingProgress("[red]one[/x]", 0, 10) as bar:
        bar.say("note: [/y] \udcff is left out")
    assert "[red]one[/x]" in terminal.getvalue() and r"[/y] \xff" in terminal.getvalue()


def test_a_report_holds_names_that_look_like_its_own_format(tmp_path: Path) -> None:
    run = a_run(tmp_path, "a|b<script>*c*")
    shutil.rmtree(run.results)
    run.metrics_file.unlink()
    result = {
        "evaluator": "knn",
        "step": 10,
        "data": "$x_{$ | <img src=x>",
        "results": {"[enc](u) $x_{$": {"top1": 0.5}},
    }
    run.write_result("knn", result)
    found = make_report([run])
    markdown, page = as_text(found, "markdown"), as_text(found, "html")
    head, _, row = markdown.splitlines()[:3]
    assert row.replace("\\|", "").count("|") == head.count("|") and r"a\|b&lt;script&gt;\*c\*" in row
    assert "<script>" not in markdown and "<img" not in markdown and "[enc](u)" not in markdown
    assert "<script>" not in page and "<img src=x>" not in page


# bad files: an item says what is wrong with it, the others are there


def test_one_bad_file_empties_no_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deep = "[" * 100_000
    good = load_recipe("demo").to_toml()
    (tmp_path / "good.toml").write_text(good)
    (tmp_path / "comma.toml").write_text("[training]\nepochs = 3,\n")
    (tmp_path / "deep.toml").write_text(f"[training]\nepochs = {deep}")
    (tmp_path / "latin.toml").write_bytes(b"[about]\nsummary = 'caf\xe9'\n[training]\nepochs = 1\n")
    (tmp_path / "folder.toml").mkdir()
    os.mkfifo(tmp_path / "pipe.toml")
    assert {name for name, _ in found_recipes()} >= {"good.toml", "comma.toml", "deep.toml", "latin.toml"}
    runs = tmp_path / "runs"
    for name, file, text in (
        ("deep_status", "status.json", deep),
        ("deep_metrics", "metrics.jsonl", f"{deep}\n"),
        ("huge", "metrics.jsonl", json.dumps({"step": 1, "loss": 10**400, "knn_accuracy": 10**400}) + "\n"),
        ("deep_recipe", "recipe.toml", f"[training]\nepochs = {deep}"),
        ("latin_recipe", "recipe.toml", ""),
        ("whole", "metrics.jsonl", json.dumps({"step": 1, "loss": 2.0}) + "\n"),
    ):
        run = a_run(runs, name)
        (run.path / file).write_text(text)
    (runs / "latin_recipe" / "recipe.toml").write_bytes(b"[about]\nsummary = 'caf\xe9'\n")
    lines = {line.run.name: line for line in RunList(runs).look()}
    assert len(lines) == 6 and lines["whole"].losses
    run = Run(runs / "whole")
    run.checkpoint_file(20).write_bytes(b"")
    (run.results / "deep.json").write_text(deep)
    (run.results / "list.json").write_text("[]")
    (run.results / "folder.json").mkdir()
    os.mkfifo(run.results / "pipe.json")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: isinstance(app.screen, RunsScreen) and app.screen.query_one(Rows).row_count == 6)
        files = CheckpointsScreen(run)
        await app.push_screen(files)
        await until(pilot, lambda: files.query_one("#results", Rows).row_count == 5)
        assert files.query_one("#files", Rows).row_count == 2
        await until(pilot, lambda: "header length" in screen_text(app) and "50.0%" in screen_text(app))
        recipes = RecipesScreen()
        await app.push_screen(recipes)
        await pilot.pause(0.2)
        for name in ("comma.toml", "deep.toml", "latin.toml"):
            assert isinstance(recipes._form(name), str) and name in recipes._form(name)  # type: ignore[operator]
            app.open_recipe(name, tmp_path / name)
            await pilot.pause()
            assert isinstance(app.screen, Tell)
            await app.pop_screen()
        assert isinstance(recipes._form("good.toml"), Form)
        await app.push_screen(CompareScreen([Run(runs / "deep_recipe"), run]))
        await pilot.pause(0.5)

    drive(runs, steps)


def test_a_folder_that_cannot_be_read_is_not_called_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> list[Run]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("simclr_plus.tui.reading.run_list.list_runs", refuse)

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: "Permission denied" in screen_text(app))
        assert "There is no run" not in screen_text(app) and "no runs yet" not in screen_text(app)

    drive(tmp_path, steps)


def test_screens_that_are_left_at_once_and_runs_that_vanish_leave_no_error(tmp_path: Path) -> None:
    run = a_run(tmp_path, "one")

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        for _ in range(3):
            for screen in (CheckpointsScreen(run), RunsScreen(tmp_path), RecipesScreen()):
                app.push_screen(screen)
                app.pop_screen()
                screen.show("") if isinstance(screen, RecipesScreen) and screen.is_whole else None
                await pilot.pause()
                if isinstance(screen, CheckpointsScreen):
                    screen.look()  # a timer's last
                elif isinstance(screen, RunsScreen):
                    screen.show()  # a thread's last
                else:
                    screen.on_screen_resume()
        files = CheckpointsScreen(run)
        await app.push_screen(files)
        await pilot.pause()
        shutil.rmtree(run.path)
        files.look()
        await pilot.pause()
        await until(pilot, lambda: "no checkpoint yet" in screen_text(app))

    drive(tmp_path, steps)
