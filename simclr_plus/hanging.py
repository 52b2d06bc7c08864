"""Which process of a run hangs, told from the pulses. No torch."""

from __future__ import annotations

import time

from simclr_plus import processes
from simclr_plus.failures import HUNG, Failure
from simclr_plus.pulse import Pulse

ORDER_OF_WORK = ("preparing", "data", "step", "measuring", "evaluating", "saving", "done")


def hung(pulses: dict[int, Pulse], seen: dict[int, tuple[Pulse, float]], now: float) -> Failure | None:
    """Who has not changed its pulse for longer than it promised; `seen` keeps what was seen when, by monotonic `now`.

    That clock cannot jump. Of processes that wait for each other it names the one that began it.
    """
    for rank, pulse in pulses.items():
        if rank not in seen or seen[rank][0] != pulse:
            seen[rank] = (pulse, now)
    overdue = [
        rank
        for rank, pulse in pulses.items()
        if pulse.next_in > 0 and pulse.doing != "done" and now - seen[rank][1] > pulse.next_in
    ]
    if not overdue:
        return None
    behind = behind_the_others(pulses)
    shown = overdue[0] if behind is None else behind
    pulse, silent = pulses[shown], now - seen[shown][1]
    which = "; which rank began it is not known" if behind is None else ""
    message = (
        f"gave no sign for {silent:.0f} s at step {pulse.step} ({pulse.doing}) and was ended{which}; "
        "what every process was doing stands at the end of logs/rank_*.log"
    )
    return Failure(HUNG, message, rank=behind, host=pulse.host, time=time.time())


def behind_the_others(pulses: dict[int, Pulse]) -> int | None:
    """The one rank that keeps the others waiting: a stopped process, or the one that is behind all others."""
    stopped = [rank for rank, pulse in pulses.items() if processes.is_stopped(pulse.pid)]
    if len(stopped) == 1 or len(pulses) == 1:
        return (stopped or list(pulses))[0]
    place = {rank: (pulse.step, ORDER_OF_WORK.index(pulse.doing)) for rank, pulse in pulses.items()}
    last = [rank for rank in place if place[rank] == min(place.values())]
    return last[0] if len(last) == 1 else None
