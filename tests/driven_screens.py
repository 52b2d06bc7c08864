"""What tests of screens share: the keys of a footer, a process that was started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from textual.widgets import Footer


def footer_keys(app: Any) -> set[str]:
    return {child.description for child in app.screen.query_one(Footer).query("FooterKey")}


class Started:
    """Stands in for the commands: keeps their words and runs a small program that ends as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, program: str = "") -> None:
        self.words: list[list[str]] = []

        def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
            self.words.append(list(words))
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("ab") as file:
                process = subprocess.Popen([sys.executable, "-c", program], stdout=file, stderr=file)
            process.wait()
            return process

        monkeypatch.setattr("simclr_plus.tui.starting.commands.start", start)
