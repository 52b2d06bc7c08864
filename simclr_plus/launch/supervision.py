"""What the supervisor of a run knows while it watches, and how it tells others: status.json. No torch."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from simclr_plus.errors import SimclrPlusError
from simclr_plus.launch.order import Order
from simclr_plus.machine.locks import Hold
from simclr_plus.runs import states
from simclr_plus.runs.folder import Run
from simclr_plus.runs.stop_level import STOP_WORDS, StopLevel

SECONDS_BETWEEN_SIGNS = 60.0  # status.json is written at least so often
RENEWED_WITHIN = 2 * SECONDS_BETWEEN_SIGNS  # by then it is written again
RESERVE = 1 << 16  # bytes kept, so that a full disk does not hide how the run ended


@dataclass
class Supervision:
    """What the supervisor knows while it watches."""

    run: Run
    order: Order
    lock: Hold | None  # of the run
    status: dict[str, Any]
    stop_level: StopLevel = StopLevel.NONE  # what was asked for so far
    stopped_by: str = ""
    last_written: float = -1e9  # when status.json was written last, monotonic

    @property
    def speaks(self) -> bool:
        """Whether this is the supervisor that writes status.json: the holder of the lock."""
        return self.lock is not None

    def tell(self, **changes: Any) -> None:
        """Write status.json; what cannot be written now is written with the next change."""
        self.status |= {**changes, "updated": time.time(), "next_in": RENEWED_WITHIN}
        self.last_written = time.monotonic()
        if self.lock is None or not self.run.exists:
            return
        self.lock.renew(RENEWED_WITHIN)
        try:
            states.write_status(self.run, self.status)
        except SimclrPlusError as error:
            say(str(error))
            self._reserve.unlink(missing_ok=True)
            with suppress(SimclrPlusError):
                states.write_status(self.run, self.status)

    def hold_reserve(self) -> None:
        """Take some room on the disk, to give it back when there is none left."""
        if self.speaks:
            with suppress(OSError):
                self._reserve.write_bytes(os.urandom(RESERVE))

    def give_reserve_back(self) -> None:
        """At the end."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    def look_at_stop_file(self) -> None:
        """Take over what the STOP file asks for."""
        word = self.run.stop_word()
        if word is not None:
            self.note_asker(word)
            self.stop_level = max(self.stop_level, STOP_WORDS.get(word, StopLevel.SAVE))

    def note_asker(self, word: str | None, number: int = 0) -> None:
        """Who asked first: a signal's name, "requeue" or "a STOP file"."""
        if word is not None:
            self.stopped_by = self.stopped_by or (word if word == "requeue" else "a STOP file")
        elif number:
            self.stopped_by = self.stopped_by or signal.Signals(number).name

    def heed_signal(self, number: int, _frame: FrameType | None) -> None:
        """A handler: each signal asks for more than the one before."""
        self.note_asker(None, number)
        self.stop_level = StopLevel(min(self.stop_level + 1, StopLevel.KILL))
        if self.stop_level == StopLevel.SAVE:
            with suppress(OSError, SimclrPlusError):
                self.run.ask_to_stop()

    @property
    def _reserve(self) -> Path:
        return self.run.path / ".reserve"


def say(text: str) -> None:
    """To the launcher's log."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
