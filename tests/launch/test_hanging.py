"""The rank that hangs is named, for every pair of things that processes of a run can do at the same time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from simclr_plus.launch.hanging import behind_the_others, hung
from simclr_plus.runs.heartbeat import LONG, Heartbeat

# what a rank does after step s was trained and before step s + 1 is, in the order of training/trainer.py's loop
LOOP = ("measuring", "evaluating", "saving", "data", "step")
LONGEST = 10.0


def heartbeat(step: int, doing: str, host: str = "here") -> Heartbeat:
    long = LONG if doing in ("preparing", "evaluating", "saving") else 1
    return Heartbeat(step, doing, 0.0, LONGEST * long, 1 << 22, 1, host)


def named(*heartbeats: Heartbeat) -> int | None:
    """Whom the supervisor names once everyone has been silent for long enough."""
    by_rank, seen = dict(enumerate(heartbeats)), {}
    assert hung(by_rank, seen, 0.0) is None
    failure = hung(by_rank, seen, LONG * LONGEST + 1)
    assert failure is not None
    return failure.rank


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize(("early", "late"), list(itertools.combinations(LOOP, 2)))
def test_the_rank_that_stays_in_the_earlier_phase_is_named(early: str, late: str, world: int) -> None:
    for hanging in range(world):
        assert named(*(heartbeat(5, early if rank == hanging else late) for rank in range(world))) == hanging
        next_step = (heartbeat(5, late) if rank == hanging else heartbeat(6, early) for rank in range(world))
        assert named(*next_step) == hanging  # an earlier step is earlier, whatever is done


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("phase", LOOP)
def test_of_ranks_in_one_phase_only_process_0_can_be_what_the_others_wait_for(phase: str, world: int) -> None:
    expected = 0 if phase in ("evaluating", "saving") else None  # process 0 alone evaluates and saves
    assert named(*(heartbeat(5, phase) for _ in range(world))) == expected


def test_who_waits_for_a_save_is_given_the_time_that_a_save_may_take() -> None:
    heartbeats, seen = {0: heartbeat(5, "saving"), 1: heartbeat(5, "step")}, {}
    assert hung(heartbeats, seen, 0.0) is None
    assert hung(heartbeats, seen, LONGEST + 1) is None  # rank 1 is overdue, and waits for one that is not
    failure = hung(heartbeats, seen, LONG * LONGEST + 1)
    assert failure is not None and failure.rank == 0


def test_a_rank_that_prepares_or_is_done_is_told_apart() -> None:
    assert named(heartbeat(0, "preparing"), heartbeat(100, "data")) == 0
    assert named(heartbeat(9, "done"), heartbeat(9, "saving"), heartbeat(9, "done")) == 1


def test_the_rank_of_another_node_is_named_there_and_here() -> None:
    every = {0: heartbeat(5, "saving", "there"), 1: heartbeat(5, "step"), 2: heartbeat(5, "step")}
    mine, seen = {rank: every[rank] for rank in (1, 2)}, {}
    assert hung(mine, seen, 0.0, lambda: every) is None
    assert hung(mine, seen, LONGEST + 1, lambda: every) is None
    failure = hung(mine, seen, LONG * LONGEST + 1, lambda: every)
    assert failure is not None and (failure.rank, failure.host) == (0, "there")
    assert behind_the_others(every, here=mine) == 0


def test_a_rank_of_a_node_that_left_long_ago_is_not_named() -> None:
    left, mine = heartbeat(3, "step", "gone"), {1: replace(heartbeat(50, "data"), time=1000.0)}
    for rank in (2, 3):
        mine[rank] = replace(heartbeat(50, "step"), time=1000.0)
    seen: dict[int, tuple[Heartbeat, float]] = {}
    assert hung(mine, seen, 0.0, lambda: {0: left, **mine}) is None
    failure = hung(mine, seen, LONGEST + 1, lambda: {0: left, **mine})
    assert failure is not None and failure.rank == 1
