"""What our screens share: they know the app, and read files in a thread so that keys are never kept waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.message import Message
from textual.screen import Screen

from ..widgets.key_bar import KeyBar

if TYPE_CHECKING:
    from ..base_app import BaseApp


class AppScreen(Screen[None]):
    """A screen of this app."""

    PARTS: ClassVar[tuple[str, ...]] = ()  # selectors of the widgets that its own work looks for

    if TYPE_CHECKING:

        @property
        def app(self) -> BaseApp:  # type: ignore[override]
            """The app."""

    @property
    def is_whole(self) -> bool:
        """Whether the widgets are there: not while the screen is still made, nor once it is being taken apart.

        Timers, threads and messages may come at any moment; Textual removes widgets one by one.
        """
        here = self.is_attached and self.is_running and self.display and bool(self.query(KeyBar))
        return here and all(self.query(part) for part in self.PARTS)


class LiveScreen(AppScreen):
    """Calls `read` in a thread, again and again, one at a time, and after each `show` on the screen."""

    SECONDS_BETWEEN_LOOKS: ClassVar[float] = 2.0

    class HasRead(Message):
        """There may be something new to show."""

    def __init__(self) -> None:
        super().__init__()
        self._reading = False

    def read(self) -> None:
        """Read files; in a thread, so it touches no widget."""
        raise NotImplementedError

    def show(self) -> None:
        """Show what was read."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Begin, and go on."""
        self.look()
        self.set_interval(self.SECONDS_BETWEEN_LOOKS, self.look)

    def on_screen_resume(self) -> None:
        """Something may have happened meanwhile."""
        self.look()

    def look(self) -> None:
        """Read and show once, unless that is under way, or another screen is in front."""
        if self.is_whole and not self._reading and self.app.screen is self:
            self._reading = True
            self.run_worker(self._read, thread=True, group="read")

    def _read(self) -> None:
        try:
            self.read()
        finally:
            self._reading = False
        self.post_message(self.HasRead())

    def on_live_screen_has_read(self) -> None:
        """Back from the thread."""
        if self.is_whole:
            self.show()
