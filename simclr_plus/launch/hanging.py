"""Which process of a run hangs, told from the pulses. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from simclr_plus.machine import processes
from simclr_plus.machine.locks import GRACE
from simclr_plus.runs.failures import HUNG, Failure
from simclr_plus.runs.pulse import ORDER_OF_WORK, Pulse

WORK_OF_MAIN = ("evaluating", "saving")  # there the others only wait for process 0
Pulses = Mapping[int, Pulse]


def hung(
    pulses: Pulses, seen: dict[int, tuple[Pulse, float]], now: float, every: Callable[[], Pulses] | None = None
) -> Failure | None:
    """Who has not changed its pulse for longer than it promised; `seen` keeps what was seen when, by monotonic `now`.

    That clock cannot jump. Of processes that wait for each other it names the one that began it. Who waits for a
    process that may take longer than itself is given that time too. `every`: the pulses of all nodes, not only of this.
    """
    for rank, pulse in pulses.items():
        if rank not in seen or seen[rank][0] != pulse:
            seen[rank] = (pulse, now)
    silent = {rank: now - seen[rank][1] for rank in pulses}
    if not any(_is_overdue(pulse, silent[rank]) for rank, pulse in pulses.items()):
        return None
    latest = max(pulse.time for pulse in pulses.values())  # without those that the others have gone on without since
    others = {rank: p for rank, p in every().items() if p.time + p.next_in + GRACE >= latest} if every else {}
    everyone = {**others, **pulses}
    last = last_of(everyone, here=pulses)
    allowed = max((everyone[rank].next_in for rank in last), default=0.0)
    overdue = [r for r, p in pulses.items() if _is_overdue(p, silent[r]) and (r in last or silent[r] > allowed)]
    if not overdue:
        return None
    behind = behind_the_others(everyone, here=pulses)
    named = overdue[0] if behind is None else behind
    pulse, seconds = everyone[named], silent.get(named, silent[overdue[0]])
    which = "; which rank began it is not known" if behind is None else ""
    message = (
        f"gave no sign for {seconds:.0f} s at step {pulse.step} ({pulse.doing}) and was ended{which}; "
        "what every process was doing stands at the end of logs/rank_*.log"
    )
    return Failure(HUNG, message, rank=behind, host=pulse.host, time=time.time())


def behind_the_others(pulses: Pulses, here: Pulses | None = None) -> int | None:
    """The one rank that keeps the others waiting; None where several do not get on and nothing tells them apart.

    `here`: those of them that are processes of this machine.
    """
    last = last_of(pulses, here)
    if len(last) == 1:
        return last[0]
    return 0 if 0 in last and pulses[0].doing in WORK_OF_MAIN else None


def last_of(pulses: Pulses, here: Pulses | None = None) -> list[int]:
    """The ranks that the others wait for: the one stopped by a signal, else those that are behind all others."""
    stopped = [rank for rank, pulse in (pulses if here is None else here).items() if processes.is_stopped(pulse.pid)]
    if len(stopped) == 1:
        return stopped
    place = {rank: (pulse.step, ORDER_OF_WORK.index(pulse.doing)) for rank, pulse in pulses.items()}
    return [rank for rank in place if place[rank] == min(place.values())]


def _is_overdue(pulse: Pulse, silent: float) -> bool:
    return pulse.next_in > 0 and pulse.doing != "done" and silent > pulse.next_in
