"""The terminal UI in a browser: who is let in, and what one that only looks may do."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.screens.checkpoints import CheckpointsScreen
from simclr_plus.tui.screens.form import FormScreen
from simclr_plus.tui.screens.run import RunScreen
from simclr_plus.tui.served import _guarded, is_our_name, serve_in_browser
from simclr_plus.tui.starting.recipe_form import Form
from textual.pilot import Pilot

from simclr_plus.cli import first_steps
from simclr_plus.errors import RecipeError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run

aiohttp = pytest.importorskip("aiohttp")
textual_serve = pytest.importorskip("textual_serve.server")

TOKEN = "drawn-by-lot"


def a_free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextlib.asynccontextmanager
async def serving(command: str, host: str = "127.0.0.1") -> AsyncIterator[str]:
    """The server in this process; gives its address without the token."""
    from aiohttp import web

    port = a_free_port()
    server = _guarded(textual_serve.Server, TOKEN)(command, host=host, port=port, title="SimCLR+")
    runner = web.AppRunner(await server._make_app())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


class Process:
    """Stands in for textual-serve's process of a visitor."""

    started: list[str]

    def __init__(self, command: str, **_: Any) -> None:
        self.command = command

    async def start(self, width: int, height: int) -> None:
        self.started.append(self.command)

    async def stop(self) -> None: ...


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that were started for visitors."""
    Process.started = []
    monkeypatch.setattr(textual_serve, "AppService", Process)
    return Process.started


async def status_of(session: Any, address: str, **headers: str) -> int:
    async with session.get(address, headers=headers) as answer:
        return int(answer.status)


async def visit(session: Any, address: str, **headers: str) -> int:
    """Open the WebSocket; 101 where it was taken."""
    try:
        async with session.ws_connect(address, headers=headers):
            return 101
    except aiohttp.WSServerHandshakeError as refused:
        return int(refused.status)


def test_only_the_page_of_the_address_itself_may_speak_to_it(started: list[str]) -> None:
    async def try_all() -> dict[str, int]:
        async with serving("the UI") as at, aiohttp.ClientSession() as session:
            found = {
                "page": await status_of(session, f"{at}/{TOKEN}/"),
                "file": await status_of(session, f"{at}/{TOKEN}/static/js/textual.js"),
                "file above": await status_of(session, f"{at}/{TOKEN}/static/..%2fserver.py"),
                "page of another site": await status_of(session, f"{at}/{TOKEN}/", Origin="https://evil.example"),
                "page by another name": await status_of(session, f"{at}/{TOKEN}/", Host="evil.example"),
                "file by another name": await status_of(session, f"{at}/{TOKEN}/static/js/textual.js", Host="a.b"),
                "root": await status_of(session, f"{at}/"),
                "old page": await status_of(session, f"{at}/ws"),
                "page, wrong token": await status_of(session, f"{at}/{TOKEN}x/"),
                "file, wrong token": await status_of(session, f"{at}/static/js/textual.js"),
                "other site": await visit(session, f"{at}/{TOKEN}/ws", Origin="https://evil.example"),
                "other port": await visit(session, f"{at}/{TOKEN}/ws", Origin="http://127.0.0.1:1"),
                "no site": await visit(session, f"{at}/{TOKEN}/ws"),
                "null": await visit(session, f"{at}/{TOKEN}/ws", Origin="null"),
                "rebound": await visit(session, f"{at}/{TOKEN}/ws", Host="evil.example", Origin="http://evil.example"),
                "wrong token": await visit(session, f"{at}/{TOKEN[:-1]}/ws", Origin=at),
                "no token": await visit(session, f"{at}/ws", Origin=at),
            }
            assert started == []  # nobody who was refused started a process
            found["right"] = await visit(session, f"{at}/{TOKEN}/ws", Origin=at)
            return found

    assert asyncio.run(try_all()) == {
        "page": 200,
        "file": 200,
        "file above": 404,
        "page of another site": 403,
        "page by another name": 403,
        "file by another name": 403,
        "root": 404,
        "old page": 404,
        "page, wrong token": 404,
        "file, wrong token": 404,
        "other site": 403,
        "other port": 403,
        "no site": 403,
        "null": 403,
        "rebound": 403,
        "wrong token": 404,
        "no token": 404,
        "right": 101,
    }
    assert started == ["the UI"]


def test_the_page_names_its_files_and_its_socket_as_it_was_asked_for() -> None:
    """Through a tunnel the port is another."""

    async def fetch() -> tuple[str, str]:
        async with serving("true") as at, aiohttp.ClientSession() as session:
            async with session.get(f"{at}/{TOKEN}/", headers={"Host": "localhost:9123"}) as answer:
                assert answer.headers["Referrer-Policy"] == "no-referrer"
                page = await answer.text()
            (script,) = re.findall(r'<script src="([^"]+)"', page)
            (websocket,) = re.findall(r'data-session-websocket-url="([^"]+)"', page)
            assert await status_of(session, f"{at}{script}") == 200
            return script, websocket

    script, websocket = asyncio.run(fetch())
    assert script.startswith(f"/{TOKEN}/static/") and websocket == f"ws://localhost:9123/{TOKEN}/ws"


@pytest.mark.parametrize(
    ("name", "host", "ours"),
    [
        ("127.0.0.1:8000", "127.0.0.1", True),
        ("localhost:9", "127.0.0.1", True),
        ("[::1]:8000", "127.0.0.1", True),
        ("127.0.0.1.evil.example", "127.0.0.1", False),
        ("evil.example:8000", "127.0.0.1", False),
        ("10.0.0.1", "127.0.0.1", False),
        ("10.0.0.1", "0.0.0.0", True),
        ("evil.example", "0.0.0.0", False),
        ("Node7.cluster:8000", "node7.cluster", True),
        ("[", "127.0.0.1", False),
        ("", "127.0.0.1", False),
    ],
)
def test_a_name_that_someone_else_may_point_here_is_not_ours(name: str, host: str, ours: bool) -> None:
    assert is_our_name(name, host) is ours


def test_each_server_draws_a_token_of_its_own_that_no_process_list_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[str] = []

    class Server:
        def __init__(self, command: str, **given: Any) -> None:
            commands.append(command)

        def serve(self) -> None: ...

    monkeypatch.setattr(textual_serve, "Server", Server)
    told: list[str] = []
    for _ in range(2):
        serve_in_browser(["tui"], a_free_port(), told.append)
    tokens = re.findall(r"http://127.0.0.1:\d+/([\w-]{43})/", " ".join(told))
    assert len(set(tokens)) == 2 and not any(token in command for token in tokens for command in commands)


def test_a_browser_only_looks_unless_it_is_told_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    words: list[list[str]] = []
    monkeypatch.setattr("simclr_plus.tui.served.serve_in_browser", lambda given, *_, **__: words.append(given))
    first_steps.tui(Path("runs"), serve=True)
    first_steps.tui(Path("runs"), serve=True, write=True)
    assert ["--readonly" in given for given in words] == [True, False]
    for given in ({"write": True}, {"write": True, "serve": True, "readonly": True}):
        with pytest.raises(RecipeError, match="--write"):
            first_steps.tui(Path("runs"), **given)  # type: ignore[arg-type]


# only looking: every action of every screen


def a_run(folder: Path) -> Run:
    run = create_run(load_recipe("demo"), folder, "one")
    run.log_event("start", steps=100, processes=1, host="here")
    run.checkpoints.mkdir()
    run.checkpoint_file(10).write_bytes(b"rubbish!rubbish!")
    run.results.mkdir()
    return run


def everything_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_no_action_of_any_screen_writes_or_starts_anything_when_only_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Called by name, past the keys: what is not offered cannot be reached either."""
    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path / "runs")
    before = everything_in(tmp_path)
    started: list[object] = []
    monkeypatch.setattr("simclr_plus.tui.starting.commands.start", lambda words, log: started.append(words))

    async def steps(app: SimclrPlusApp, pilot: Pilot[None]) -> None:
        await pilot.pause(0.3)
        form = Form("demo", load_recipe("demo").to_toml(), tmp_path / "runs")
        for screen in (app.screen, RunScreen(run), CheckpointsScreen(run), FormScreen(form)):
            if screen is not app.screen:
                await app.push_screen(screen)
                await pilot.pause(0.3)
            for name in sorted(own_actions(screen)):
                action = getattr(screen, name)
                action(*([1] if inspect.signature(action).parameters else []))
                if app.screen is not screen:  # it asks something: the first answer
                    await pilot.press("enter")
                while app.screen is not screen:
                    await app.pop_screen()
        app.ask_to_stop(run)
        app.resume(run)
        app.ask_to_evaluate(run.path, run)
        assert app.start("anything", ["export"], run.logs) is None
        assert not [command for command in app.get_system_commands(app.screen) if command.title == "Screenshot"]

    async def all_of_it() -> None:
        app = SimclrPlusApp(Path("runs"), readonly=True)
        async with app.run_test(size=(80, 24)) as pilot:
            await steps(app, pilot)

    asyncio.run(all_of_it())
    assert started == [] and everything_in(tmp_path) == before


def own_actions(screen: Any) -> set[str]:
    """Those that our classes add, but for those that leave."""
    ours = [c for c in type(screen).__mro__ if c.__module__.startswith("simclr_plus.tui")]
    return {name for c in ours for name in vars(c) if name.startswith("action_")} - {"action_back", "action_folder"}


# in a process of its own


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """`tui --serve` in a folder of its own; the folder and the address that it tells."""
    create_run(load_recipe("demo"), tmp_path / "runs", "seen_from_afar")
    port = a_free_port()
    words = [sys.executable, "-m", "simclr_plus.cli", "tui", "--serve", "--port", str(port)]
    with (tmp_path / "said").open("wb") as said:
        server = subprocess.Popen(words, cwd=tmp_path, stdout=said, stderr=said)
    try:
        address, end = None, time.monotonic() + 60
        while address is None:
            assert time.monotonic() < end and server.poll() is None, (tmp_path / "said").read_text()
            address = re.search(r"(http://127.0.0.1:\d+/\S+)/ ", (tmp_path / "said").read_text())
            time.sleep(0.1)
        yield tmp_path, address[1]
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.slow
def test_keys_from_a_browser_start_nothing_and_write_nothing(served: tuple[Path, str]) -> None:
    """As a page would: `n`, a recipe, its form, `w`, a name, enter; and `ctrl+l`."""
    folder, address = served
    site = address.rpartition("/")[0]

    async def drive() -> None:
        received, end = b"", time.monotonic() + 90
        async with aiohttp.ClientSession() as session:
            while True:
                with contextlib.suppress(aiohttp.ClientConnectionError):
                    if await status_of(session, f"{address}/") == 200:
                        break
                assert time.monotonic() < end
                await asyncio.sleep(0.2)
            assert await visit(session, f"{address}/ws", Origin="https://evil.example") == 403
            async with session.ws_connect(f"{address}/ws?width=100&height=30", headers={"Origin": site}) as page:
                while b"seen_from_afar" not in received:
                    message = await page.receive(timeout=end - time.monotonic())
                    received += message.data if isinstance(message.data, bytes) else b""
                for keys in ("n", "\r", "w", "\x15mine.toml\r", "\x0c", "\x1b", "s", "r", "e", "\r"):
                    await page.send_json(["stdin", keys])
                    await asyncio.sleep(0.3)

    before = {name: content for name, content in everything_in(folder).items() if name != "said"}
    asyncio.run(drive())
    assert {name: content for name, content in everything_in(folder).items() if name != "said"} == before
