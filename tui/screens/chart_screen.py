"""What a screen with charts lets a reader choose: kind of x, scale of y, average, what part is shown, the crosshair."""

from __future__ import annotations

from collections.abc import Iterable

from ..reading.feed import AXES
from .live import LiveScreen
from .plots import SMOOTHINGS


class ChartScreen(LiveScreen):
    """Holds the choices and answers their keys; a screen draws by them in `draw`."""

    def __init__(self) -> None:
        super().__init__()
        self.axis, self.log_y, self.average = "step", False, next(iter(SMOOTHINGS))
        self.span: tuple[float, float] | None = None  # zoomed to
        self.done_only, self.tight = False, False
        self.crosshair: float | None = None
        self.pinned = False  # the crosshair stays when the mouse leaves

    def draw(self) -> None:
        """Draw the charts by the choices."""
        raise NotImplementedError

    def choice_changed(self) -> None:
        """Draw anew; a screen that names its choices elsewhere does that too."""
        self.draw()

    def action_axis(self) -> None:
        """The next kind of x; zoom and crosshair would mean something else there."""
        self.axis = after(self.axis, AXES)
        self.forget_place()
        self.choice_changed()

    def action_log(self) -> None:
        """Linear or logarithmic y."""
        self.log_y = not self.log_y
        self.choice_changed()

    def action_smooth(self) -> None:
        """The next width of the average."""
        self.average = after(self.average, SMOOTHINGS)
        self.choice_changed()

    def action_done(self) -> None:
        """To what is done, or to the planned end."""
        self.done_only, self.span = not self.done_only, None
        self.choice_changed()

    def action_tight(self) -> None:
        """y as narrow as its values, or as far as they mean something."""
        self.tight = not self.tight
        self.choice_changed()

    def action_whole(self) -> None:
        """Everything."""
        self.forget_place()
        self.draw()

    def forget_place(self) -> None:
        """No zoom, no crosshair."""
        self.span = self.crosshair = None
        self.pinned = False


def after(choice: str, choices: Iterable[str]) -> str:
    """The choice that follows one, the first after the last."""
    names = list(choices)
    return names[(names.index(choice) + 1) % len(names)]


def average_in_words(average: str) -> tuple[str, ...]:
    """For the title of a chart, in several lengths."""
    if average == "none":
        return "not averaged (m)", "not averaged", "raw"
    return f"average: {average} (m)", f"{average} average", f"avg {average}"


def place_in_words(axis: str, x: float) -> str:
    """The place of the crosshair."""
    return {"step": f"step {x:,.0f}", "epoch": f"epoch {x:.2f}", "images": f"image {x:,.0f}"}.get(
        axis, f"{x:.3f} hours"
    )
