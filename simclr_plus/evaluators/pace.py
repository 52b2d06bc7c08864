"""How far a long work is, told every ten seconds with the time that is left. It does not know the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from simclr_plus.machine.words import duration

SECONDS_BETWEEN_LINES = 10.0


class Pace:
    """Tells of `total` steps of a work; `done` of them were done before, by a process that was cut off."""

    def __init__(self, what: str, total: int, say: Callable[[str], None], *, done: int = 0) -> None:
        self.what, self.total, self.say, self._first = what, total, say, done
        self._started = self._told = time.monotonic()

    def at(self, done: int, more: str = "") -> None:
        """So many steps are done now; told when the last line is ten seconds old."""
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES or done <= self._first:
            return
        self._told = now
        left = (now - self._started) / (done - self._first) * max(0, self.total - done)
        self.say(f"{self.what}: {done:,} of {self.total:,}{more}, {duration(left)} left")


@contextmanager
def telling(encoder: nn.Module, name: str, images: int, say: Callable[[str], None]) -> Iterator[None]:
    """Tell of the images that the encoder is shown meanwhile."""
    pace, images_shown = Pace(f"{name}, images shown", images, say), 0

    def count(_: nn.Module, arguments: tuple[Any, ...], __: Any) -> None:
        nonlocal images_shown
        images_shown += len(arguments[0])
        pace.at(images_shown)

    hook = encoder.register_forward_hook(count)
    try:
        yield
    finally:
        hook.remove()
