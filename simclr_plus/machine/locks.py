"""A lock that holds on every file system: the system's lock of an open file and, beside it, a claim. No torch.

The system's locks may not reach other machines, and some file systems have none (Lustre mounted without them, some of
clouds). So a lock NAME is also claimed by the newest of the files NAME.1, NAME.2, ...: who finds that one free makes
the next, which only one process can. A claim is free when its owner let it go, is known to be dead, or is silent for
longer than it said. The newest is never deleted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simclr_plus.machine import processes
from simclr_plus.machine.json_lines import is_number

GRACE = 60.0  # seconds that another machine's sign may come late: clocks, network file systems
WIDTH = 1024  # of a claim, which is overwritten in place
IsOver = Callable[[object], bool]


def lock_at_once(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file (flock) until it is closed: True; False: another holds it; None: here are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@dataclass
class Hold:
    """A lock that is held until `release`, or until its process ends."""

    descriptor: int  # of the file with the system's lock
    who: dict[str, Any]
    claim: int = -1  # descriptor of the claim

    def renew(self, seconds: float) -> bool:
        """Say that it will be renewed or released within so many seconds; whether that could be written."""
        return self._say(until=time.time() + seconds)

    def release(self) -> None:
        """Let it go."""
        self._say(released=True)
        for descriptor in (self.descriptor, self.claim):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self.claim = -1

    def _say(self, **values: Any) -> bool:
        if self.claim >= 0:
            line = json.dumps({**self.who, **values}).encode().ljust(WIDTH - 1) + b"\n"
            with suppress(OSError):  # a full disk, a folder that was deleted
                written = os.pwrite(self.claim, line, 0)
                os.fsync(self.claim)  # other machines read it
                return written == len(line)
        return False


def hold(
    path: Path, renewed_within: float = 0.0, *, job: Mapping[str, Any] | None = None, is_over: IsOver | None = None
) -> Hold | None:
    """Take the lock of a path; None when another has it.

    `renewed_within`: see Hold.renew. `job`: what this process is part of (slurm.job_here). `is_over`: tells of
    another's job that it has ended, and its claim with it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    locked = lock_at_once(descriptor)
    held = Hold(descriptor, {**processes.me(), "job": dict(job or {})})
    if locked is not False and _claim(path, held, renewed_within, locked is True, is_over or (lambda _: False)):
        return held
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool | None:
    """Whether a process of this machine holds the lock of a path; None where that cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return None
    try:
        locked = lock_at_once(descriptor, shared=True)
    finally:
        os.close(descriptor)
    if locked is not None:
        return not locked
    newest = _newest(path)
    return not _is_free(_numbered(path, newest), False, lambda _: False) if newest else None


def _claim(path: Path, held: Hold, renewed_within: float, locked: bool, is_over: IsOver) -> bool:
    """Make the next claim; whether that could be done. `locked`: the system's lock is held already."""
    newest = _newest(path)
    if newest and not _is_free(_numbered(path, newest), locked, is_over):
        return False
    mine = _numbered(path, newest + 1)
    try:
        held.claim = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:  # another was quicker
        return False
    except OSError:  # a full disk: the system's lock must do
        if locked:
            return True
        raise
    is_said = held.renew(renewed_within)
    if not is_said or _newest(path) != newest + 1:  # a full disk; or others came and went, and one is there now
        os.close(held.claim)
        held.claim = -1
        mine.unlink(missing_ok=True)
        return locked and not is_said
    for number in _numbers(path):
        if number <= newest:
            _numbered(path, number).unlink(missing_ok=True)
    return True


def _is_free(claim: Path, locked: bool, is_over: IsOver) -> bool:
    """Whether the owner of a claim is gone: the system's lock, where it is held, tells that of one on this machine."""
    try:
        with claim.open("rb") as file:
            written, text = os.fstat(file.fileno()).st_mtime, file.read(WIDTH)
    except OSError:
        return False
    try:
        who = json.loads(text)
    except (ValueError, RecursionError):
        who = None
    if not isinstance(who, dict):  # it is just being written, or its owner was killed before
        return time.time() - written > 2 * GRACE
    if who.get("released") is True or (locked and processes.is_this_boot(who.get("boot_id"))):
        return True
    if is_over(who.get("job")):
        return True
    lives, until = processes.lives(who), who.get("until")
    if lives is None:
        return not is_number(until) or time.time() > until + GRACE
    return not lives


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _numbers(path: Path) -> list[int]:
    ends = (other.name.removeprefix(f"{path.name}.") for other in path.parent.glob(f"{path.name}.*"))
    return [int(end) for end in ends if end.isdecimal()]


def _newest(path: Path) -> int:
    """The number of the newest claim; 0: there is none. A network file system may list a folder as it was before."""
    newest = max(_numbers(path), default=0)
    while _numbered(path, newest + 1).exists():
        newest += 1
    return newest
