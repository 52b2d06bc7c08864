"""Which process of a run hangs, told from the heartbeats. No torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from simclr_plus.machine import processes
from simclr_plus.machine.locks import GRACE
from simclr_plus.runs.failures import HUNG, Failure
from simclr_plus.runs.heartbeat import ORDER_OF_WORK, Heartbeat

WORK_OF_MAIN = ("evaluating", "saving")  # there the others only wait for process 0
Heartbeats = Mapping[int, Heartbeat]


def hung(
    heartbeats: Heartbeats,
    seen: dict[int, tuple[Heartbeat, float]],
    now: float,
    every: Callable[[], Heartbeats] | None = None,
) -> Failure | None:
    """Who has not changed its heartbeat for longer than it said; `seen` keeps what was seen when, by monotonic `now`.

    That clock cannot jump. Of processes that wait for each other it names the one that began it. Who waits for a
    process that may take longer than itself is given that time too. `every`: the heartbeats of all nodes.
    """
    for rank, heartbeat in heartbeats.items():
        if rank not in seen or seen[rank][0] != heartbeat:
            seen[rank] = (heartbeat, now)
    silent = {rank: now - seen[rank][1] for rank in heartbeats}
    if not any(_is_overdue(heartbeat, silent[rank]) for rank, heartbeat in heartbeats.items()):
        return None
    # without those that the others have gone on without since
    latest = max(heartbeat.time for heartbeat in heartbeats.values())
    others = {rank: p for rank, p in every().items() if p.time + p.next_in + GRACE >= latest} if every else {}
    everyone = {**others, **heartbeats}
    last = last_of(everyone, here=heartbeats)
    allowed = max((everyone[rank].next_in for rank in last), default=0.0)
    overdue = [r for r, p in heartbeats.items() if _is_overdue(p, silent[r]) and (r in last or silent[r] > allowed)]
    if not overdue:
        return None
    behind = behind_the_others(everyone, here=heartbeats)
    named = overdue[0] if behind is None else behind
    heartbeat, seconds = everyone[named], silent.get(named, silent[overdue[0]])
    which = "; which rank began it is not known" if behind is None else ""
    message = (
        f"gave no sign for {seconds:.0f} s at step {heartbeat.step} ({heartbeat.doing}) and was ended{which}; "
        "what every process was doing stands at the end of logs/rank_*.log"
    )
    return Failure(HUNG, message, rank=behind, host=heartbeat.host, time=time.time())


def behind_the_others(heartbeats: Heartbeats, here: Heartbeats | None = None) -> int | None:
    """The one rank that keeps the others waiting; None where several do not get on and nothing tells them apart.

    `here`: those of them that are processes of this machine.
    """
    last = last_of(heartbeats, here)
    if len(last) == 1:
        return last[0]
    return 0 if 0 in last and heartbeats[0].doing in WORK_OF_MAIN else None


def last_of(heartbeats: Heartbeats, here: Heartbeats | None = None) -> list[int]:
    """The ranks that the others wait for: the one stopped by a signal, else those that are behind all others."""
    stopped = [
        rank
        for rank, heartbeat in (heartbeats if here is None else here).items()
        if processes.is_stopped(heartbeat.pid)
    ]
    if len(stopped) == 1:
        return stopped
    place = {rank: (heartbeat.step, ORDER_OF_WORK.index(heartbeat.doing)) for rank, heartbeat in heartbeats.items()}
    return [rank for rank in place if place[rank] == min(place.values())]


def _is_overdue(heartbeat: Heartbeat, silent: float) -> bool:
    return heartbeat.next_in > 0 and heartbeat.doing != "done" and silent > heartbeat.next_in
