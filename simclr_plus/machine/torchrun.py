"""What torchrun says to the processes it starts, in their environment; read here and nowhere else. No torch.

Schedulers set some of the same variables for their own use. Therefore a process belongs to a group where torchrun left
its own mark, TORCHELASTIC_RUN_ID, and is alone everywhere else, whatever WORLD_SIZE and RANK say there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from simclr_plus.errors import EnvironmentNotAbleError

MARK = "TORCHELASTIC_RUN_ID"
NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
# what torchrun sets besides; a torchrun that inherits them from another would take them for its own
BESIDES = (
    "GROUP_RANK",
    "GROUP_WORLD_SIZE",
    "ROLE_RANK",
    "ROLE_WORLD_SIZE",
    "ROLE_NAME",
    "TORCHELASTIC_ERROR_FILE",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_USE_AGENT_STORE",
)
OPTIONS = "PET_"  # begins the variables from which torchrun takes options that its command line leaves out


@dataclass(frozen=True)
class Place:
    """A process among those that torchrun started: its number, and that on its machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1


def started_this_process() -> bool:
    """Whether torchrun did."""
    return MARK in os.environ


def is_first() -> bool:
    """Whether this process speaks for all."""
    return not started_this_process() or os.environ.get("RANK", "0") == "0"


def place() -> Place:
    """This process's place; alone where torchrun did not start it.

    Raises EnvironmentNotAbleError naming the variable where torchrun's mark is there and something else is not.
    """
    if not started_this_process():
        return Place()
    for name in (*NUMBERS, *ADDRESS):
        value = os.environ.get(name, "")
        if not value or (name in NUMBERS and not value.isdigit()):
            raise EnvironmentNotAbleError(
                f"{MARK} says that torchrun started this process, but {name} = {value!r}; "
                f"unset {MARK} to work alone, or start the command by torchrun"
            )
    return Place(*(int(os.environ[name]) for name in NUMBERS))


def disregarded() -> str:
    """What to tell a user whose environment looks like a group of processes and is none; "" where it does not."""
    size = os.environ.get("WORLD_SIZE", "1")
    if started_this_process() or size == "1":
        return ""
    return f"WORLD_SIZE = {size} is disregarded: torchrun did not start this process, so it works alone"


def without_torchrun(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for processes of our own, which must not take those variables for theirs."""
    theirs = {MARK, *NUMBERS, *ADDRESS, *BESIDES}
    return {name: value for name, value in environment.items() if name not in theirs and not name.startswith(OPTIONS)}
