"""A new user's whole way in a real terminal (tmux), with a real run on the CPU."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.overview import glance
from simclr_plus.runs.states import state_of

pytestmark = pytest.mark.slow


class Terminal:
    """A tmux server of our own with one window."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, str(folder / "tmux.socket")

    def tmux(self, *words: str) -> str:
        done = subprocess.run(["tmux", "-S", self.socket, *words], capture_output=True, text=True, check=False)
        return done.stdout

    def open(self, *words: str, size: tuple[int, int] = (120, 34)) -> None:
        command = f"cd {self.folder} && OMP_NUM_THREADS=1 {sys.executable} -m simclr_plus.cli {' '.join(words)}"
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(size[0]), "-y", str(size[1]), command)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.tmux("send-keys", key)
            time.sleep(0.1)

    def write(self, text: str) -> None:
        self.tmux("send-keys", "-l", text)

    def text(self) -> str:
        return self.tmux("capture-pane", "-p")

    def kill(self) -> None:
        self.tmux("kill-server")

    def until(self, what: str | Callable[[], Any], seconds: float = 90) -> Any:
        end = time.monotonic() + seconds
        while True:
            found = re.search(what, self.text()) if isinstance(what, str) else what()
            if found:
                return found
            assert time.monotonic() < end, f"{what} not within {seconds} s:\n{self.text()}"
            time.sleep(0.2)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    found = Terminal(tmp_path)
    yield found
    found.kill()


def lines_of(run: Run) -> int:
    return len(run.metrics_file.read_bytes().splitlines()) if run.metrics_file.exists() else 0


CHANGES = (
    "start.name=mine",
    "start.processes=2",
    "data.limit=1024",
    "training.epochs=60",
    "training.batch_size=32",
    "augmentation.image_size=32",
    "encoder.width=0.125",
    "checkpoints.every_epochs=1",
)


def type_change(t: Terminal, change: str) -> None:
    key, _, value = change.partition("=")
    t.press("/")
    t.until("key=value")
    t.write(change)
    t.press("Enter")
    t.until(lambda: re.search(f"{re.escape(key)} .*{re.escape(value)}", t.text()))
    t.until(lambda: "⏎ Change" in t.text())


@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_new_user_starts_watches_loses_finds_stops_resumes_and_evaluates_a_run(terminal: Terminal) -> None:
    t = terminal
    run = Run(t.folder / "runs" / "mine")
    t.open("tui")
    t.until("Welcome to SimCLR")
    t.press("d")
    t.until("start.processes")
    for change in CHANGES:
        type_change(t, change)
    t.press("C-l")
    t.until(lambda: run.recipe_file.exists(), 180)
    assert (run.recipe().training.batch_size, run.recipe().training.epochs) == (32, 60)
    t.until(r"mine running +epoch", 240)
    t.until(lambda: lines_of(run) > 20, 240)
    dots = re.compile("[\u2801-\u28ff]")
    before = dots.findall(t.until(lambda: t.text() if len(dots.findall(t.text())) > 40 else ""))
    seen = lines_of(run)
    t.until(lambda: lines_of(run) > seen + 5 and dots.findall(t.text()) != before)

    t.kill()  # the terminal is lost; the run is not
    seen = lines_of(run)
    t.until(lambda: lines_of(run) > seen + 5)
    t.open("tui", size=(80, 24))
    t.until(r"mine +running")
    t.press("s")
    t.until("save and stop")
    t.press("Enter")
    t.until(lambda: state_of(run).name == "stopped", 120)
    t.until(r"mine +stopped")
    at = glance(run)["step"]
    assert run.latest_checkpoint() == run.checkpoint_file(at)

    t.press("r")
    t.until(lambda: state_of(run).name == "running" and glance(run)["step"] > at, 240)
    t.until(r"mine +running")
    t.press("s")
    t.until("save and stop")
    t.press("Enter")
    t.until(lambda: state_of(run).name == "stopped", 120)
    t.until(r"mine +stopped")
    t.press("e")
    t.until("nearest neighbours")
    t.press("Enter")
    t.until(lambda: list(run.results.glob("knn_*.json")), 240)
    result = json.loads(next(run.results.glob("knn_*.json")).read_text())
    t.press("k")
    t.until(f"{result['results']['encoder']['top1']:.1%}")
    t.press("x")
    t.until("Write the encoder to")
    t.press("Enter")
    t.until(lambda: list(t.folder.glob("mine_*.safetensors")), 120)
    t.press("Escape", "q")


def test_a_browser_gets_the_runs_from_this_machine_only(tmp_path: Path) -> None:
    """By the websocket that the page opens."""
    pytest.importorskip("textual_serve")
    import aiohttp

    create_run(load_recipe("demo"), tmp_path / "runs", "seen_from_afar")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "simclr_plus.cli", "tui", "--serve", "--port", str(port)]
    with (tmp_path / "said").open("wb") as said:
        server = subprocess.Popen(words, cwd=tmp_path, stdout=said, stderr=said)

    async def visit() -> None:
        received = b""
        end = time.monotonic() + 90
        while not (told := re.search(rf"(http://127.0.0.1:{port})(/\S+)/ ", (tmp_path / "said").read_text())):
            assert time.monotonic() < end
            await asyncio.sleep(0.2)
        site, token = told.groups()
        async with aiohttp.ClientSession() as session:
            while b"seen_from_afar" not in received:
                assert time.monotonic() < end, received[-2000:]
                try:
                    address = f"{site}{token}/ws?width=100&height=30"
                    async with session.ws_connect(address, headers={"Origin": site}) as page:
                        while b"seen_from_afar" not in received:
                            message = await page.receive(timeout=end - time.monotonic())
                            received += message.data if isinstance(message.data, bytes) else b""
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.2)

    try:
        asyncio.run(visit())
        others = {a for _, _, _, _, (a, *_) in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)}
        for address in others - {"127.0.0.1", "127.0.1.1"}:
            with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):
                pass
    finally:
        server.terminate()
        server.wait(30)
