"""Why a run failed: what each process says of its own end, and which of them began it. No torch.

A process that fails leaves logs/rank_N.failure.json; one that is killed leaves nothing, but its exit code is known to
who started it. The others then fail too, for they wait for it: theirs is not the cause.
"""

from __future__ import annotations

import json
import signal
import socket
import time
import traceback
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from simclr_plus.errors import AnotherProcessError, EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.machine.json_lines import is_number
from simclr_plus.machine.whole_files import write_text_whole

RAISED, KILLED, OUT_OF_MEMORY, HUNG, TOLD = "raised", "killed", "out of memory", "hung", "told"
ANOTHERS = "another's"  # of another process, which ended this one
_CONNECTION = ("connection closed by peer", "connection reset", "timed out waiting", "nccl", "gloo", "broken pipe")


@dataclass(frozen=True)
class Failure:
    """The end of a process; `kind` "told" is a mistake or a want that its message explains: it would happen again."""

    kind: str
    message: str
    rank: int | None = None
    host: str = ""
    time: float = 0.0
    exit_code: int = 1

    @property
    def would_happen_again(self) -> bool:
        """Whether a restart would only fail in the same way."""
        return self.kind == TOLD

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """For the screen."""
        if self.kind in (TOLD, ANOTHERS):
            return self.message
        who = "a process" if self.rank is None else f"rank {self.rank}"
        where = f" on {self.host}" if self.host else ""
        return f"{who}{where} {self.message}"


@dataclass(frozen=True)
class Exit:
    """How a process ended, as who started it saw it; a negative code is a signal's number."""

    rank: int
    code: int


def failure_of(error: BaseException, rank: int) -> Failure:
    """What an exception means."""
    of = partial(Failure, rank=rank, host=socket.gethostname(), time=time.time())
    if isinstance(error, AnotherProcessError):
        return of(ANOTHERS, str(error), exit_code=error.exit_code)
    if isinstance(error, SimclrPlusError):
        return of(TOLD, str(error), exit_code=error.exit_code)
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):  # a file, a disk
        return of(TOLD, str(error), exit_code=EnvironmentNotAbleError.exit_code)
    text = str(error).strip() or "no message"
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text.lower():
        return of(OUT_OF_MEMORY, f"ran out of memory ({text.splitlines()[0]}); lower training.batch_size")
    frames = traceback.extract_tb(error.__traceback__)
    at = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return of(RAISED, f"raised {type(error).__name__}{at}: {text.splitlines()[0]}")


def note_failure(logs: Path, failure: Failure) -> None:
    """Leave word for who looks for the cause; not where the run folder was deleted."""
    if not logs.is_dir():
        return
    who = failure.host if failure.rank is None else failure.rank
    write_text_whole(logs / f"rank_{who}.failure.json", json.dumps(failure.as_dict()) + "\n")


def noted_failures(logs: Path) -> list[Failure]:
    """The words that failing processes left, earliest first."""
    failures = []
    for path in logs.glob("rank_*.failure.json"):
        try:
            failure = Failure(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError):
            continue
        texts = (failure.kind, failure.message, failure.host)
        is_usable = (failure.rank is None or type(failure.rank) is int) and type(failure.exit_code) is int
        if is_usable and is_number(failure.time) and all(isinstance(text, str) for text in texts):
            failures.append(failure)
    return sorted(failures, key=lambda failure: failure.time)


def forget_failures(logs: Path) -> None:
    """Delete what an earlier attempt left."""
    for path in logs.glob("rank_*.failure.json"):
        path.unlink(missing_ok=True)


def root_cause(noted: list[Failure], exits: list[Exit], *, memory_kills: int = 0) -> Failure:
    """Which failure began it: a kill, else the earliest failure that is not about another process's going away.

    `memory_kills`: processes that the kernel killed for want of memory meanwhile.
    """
    causes = [failure for failure in noted if not _is_about_others(failure)]
    told_before = {failure.rank for failure in causes}
    for end in exits:
        if end.code < 0 and end.rank not in told_before:
            return _killed(end, memory_kills)
    if causes:
        return causes[0]
    silent = [end for end in exits if end.rank not in {failure.rank for failure in noted}]
    if silent:
        rank, code = silent[0].rank, silent[0].code
        return Failure(RAISED, f"ended with exit code {code} without a word; see logs/rank_{rank}.log", rank=rank)
    return noted[0] if noted else Failure(RAISED, "ended without a word")


def _killed(end: Exit, memory_kills: int) -> Failure:
    name = signal.Signals(-end.code).name if -end.code in {s.value for s in signal.Signals} else f"signal {-end.code}"
    if end.code == -signal.SIGKILL and memory_kills:
        message = (
            "was killed by the kernel for want of memory; lower training.batch_size or data.threads, "
            "or give the run more memory"
        )
        return Failure(OUT_OF_MEMORY, message, rank=end.rank, host=socket.gethostname(), time=time.time())
    return Failure(KILLED, f"was killed by {name}", rank=end.rank, host=socket.gethostname(), time=time.time())


def _is_about_others(failure: Failure) -> bool:
    if failure.kind == ANOTHERS:
        return True
    return failure.kind == RAISED and any(word in failure.message.lower() for word in _CONNECTION)
