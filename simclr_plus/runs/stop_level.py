"""How much a run is asked to do when it is asked to stop, and the words for it in the STOP file."""

from __future__ import annotations

from enum import IntEnum


class StopLevel(IntEnum):
    """Each asks for more than the one before."""

    NONE = 0
    SAVE = 1  # and then stop
    END = 2  # within 35 seconds
    KILL = 3


STOP_WORDS = {"": StopLevel.SAVE, "requeue": StopLevel.SAVE, "now": StopLevel.END, "kill": StopLevel.KILL}
