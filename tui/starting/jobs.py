"""A command that was started from a screen."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Job:
    """Its process, the file that takes what it says, and what is done when it has ended."""

    title: str
    process: subprocess.Popen[bytes]
    log: Path
    then: Callable[[Job], None] | None = None
