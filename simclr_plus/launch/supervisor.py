"""Owns the processes of a run on one node: starts them, watches them, says how they ended. No torch.

python -m simclr_plus.launch.supervisor RUN --processes N ...

It lives in a session of its own, so that a closed terminal does not matter to it, and holds the run's lock. When it
dies, all that it started dies. SIGTERM, SIGINT and SIGUSR2 ask the run to save and stop, as the STOP file does; a
second one ends the processes within 35 seconds, a third one at once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.launch.hanging import hung
from simclr_plus.launch.sinks import wanted
from simclr_plus.machine import processes, slurm, torchrun
from simclr_plus.machine.cores import cpu_count
from simclr_plus.machine.figures import SECONDS_BETWEEN_LINES, SystemFigures
from simclr_plus.machine.locks import Hold
from simclr_plus.runs import states
from simclr_plus.runs.failures import (
    KILLED,
    Exit,
    Failure,
    forget_failures,
    note_failure,
    noted_failures,
    root_cause,
)
from simclr_plus.runs.folder import STOP_WORDS, Run
from simclr_plus.runs.pulse import Pulse, pulse_file, read_pulse, read_pulses
from simclr_plus.runs.states import FAILED, FINISHED, QUEUED, RUNNING, STARTING, STOPPED, STOPPING

OK, PREEMPTED, INTERRUPTED = 0, 75, 130
SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_PULSES = 0.2, 1.0
SECONDS_BETWEEN_SIGNS = 60.0  # status.json is written at least so often
PROMISE = 2 * SECONDS_BETWEEN_SIGNS  # by then it is written again
SECONDS_FOR_SINKS = 60.0  # to pass on the last lines
SECONDS_TO_END = 35.0  # torchrun gives its processes 30
SECONDS_TO_TAKE = 2.0  # the lock, which who looks at it holds for a moment
SECONDS_TO_SPEAK = 10.0  # until a supervisor that took the lock has written status.json
# what torchrun tells its processes; some schedulers set a part of it too
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
RESERVE = 1 << 16  # bytes kept, so that a full disk does not hide how the run ended


@dataclass(frozen=True)
class Order:
    """What to start on this node. `nodes` is a number or MIN:MAX; `rdzv` is HOST:PORT where the nodes meet."""

    processes: int
    nodes: str = "1"
    rdzv: str = ""
    max_restarts: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether one process does it all, without torchrun."""
        return self.processes == 1 and self.nodes == "1" and not self.rdzv

    def arguments(self) -> list[str]:
        """For the supervisor's command line."""
        several = ["--nodes", self.nodes, "--rdzv", self.rdzv] if self.rdzv else []
        restarts = ["--max-restarts", str(self.max_restarts)] if self.max_restarts else []
        return ["--processes", str(self.processes), *several, *restarts]


@dataclass
class Supervision:
    """What the supervisor knows while it watches."""

    run: Run
    order: Order
    lock: Hold | None  # of the run
    status: dict[str, Any]
    asked: int = 0  # 1: save and stop, 2: end within SECONDS_TO_END, 3: kill
    stopped_by: str = ""
    told: float = field(default_factory=lambda: -1e9)  # when status.json was written last, monotonic

    @property
    def speaks(self) -> bool:
        """Whether this is the supervisor that writes status.json: the holder of the lock."""
        return self.lock is not None

    def tell(self, **changes: Any) -> None:
        """Write status.json; what cannot be written now is written with the next change."""
        self.status |= {**changes, "updated": time.time(), "next_in": PROMISE}
        self.told = time.monotonic()
        if self.lock is None or not self.run.exists:
            return
        self.lock.renew(PROMISE)
        try:
            states.write_status(self.run, self.status)
        except SimclrPlusError as error:
            _say(str(error))
            self._reserve.unlink(missing_ok=True)
            with suppress(SimclrPlusError):
                states.write_status(self.run, self.status)

    def hold_reserve(self) -> None:
        """Take some room on the disk, to give it back when there is none left."""
        if self.speaks:
            with suppress(OSError):
                self._reserve.write_bytes(os.urandom(RESERVE))

    def give_reserve_back(self) -> None:
        """At the end."""
        with suppress(OSError):
            self._reserve.unlink(missing_ok=True)

    @property
    def _reserve(self) -> Path:
        return self.run.path / ".reserve"


def supervise(run: Run, order: Order) -> int:
    """Start the processes, watch them to their end, restart them as ordered; returns the exit code."""
    run.logs.mkdir(exist_ok=True)
    lock = _take_lock(run, order)
    s = Supervision(run, order, lock, _first_status(run, order))
    try:
        if s.speaks:
            _forget_old_stop(run)
        s.hold_reserve()
        with _signals(s):
            with _sinks(s):
                state, failure, why = _attempts(s)
            return _end(s, state, failure, why)
    finally:
        if lock is not None:
            lock.release()


def _forget_old_stop(run: Run) -> None:
    """Remove a STOP file from before the last word on the run: an attempt that was killed since, or the submission.

    A job that SLURM starts again by itself would heed it and stop at once. What was asked since then stays.
    """
    with suppress(OSError):
        if run.stop_file.stat().st_mtime <= states.read_status(run).get("updated", 0.0):
            run.stop_file.unlink()


def _attempts(s: Supervision) -> tuple[str, Failure | None, str]:
    """Start the processes until they end well or a restart is of no use: state, failure, why no restart."""
    saved, without_progress = _saved_step(s.run), 0
    while True:
        failure = _attempt(s)
        if failure is None:
            return STOPPED if s.asked else FINISHED, None, ""
        without_progress = without_progress + 1 if _saved_step(s.run) == saved else 0
        saved = _saved_step(s.run)
        wanted = len(s.status["restarts"]) < s.order.max_restarts and not s.order.rdzv  # several nodes: torchrun's part
        if not wanted or failure.would_happen_again or s.asked:
            return FAILED, failure, ""
        if without_progress > 1:
            return FAILED, failure, "failed twice without a new checkpoint, so it is not restarted"
        s.tell(restarts=[*s.status["restarts"], failure.as_dict()])
        _say(f"{failure.sentence()}; restarting from step {saved}")


def _first_status(run: Run, order: Order) -> dict[str, Any]:
    before = states.read_status(run)
    job = slurm.job_here()
    return {
        "state": STARTING,
        "run": run.name,
        "why": "",
        **processes.me(),
        "attempt": before.get("attempt", 0),
        "started": time.time(),
        "processes": order.processes,
        "nodes": order.nodes,
        "rdzv": order.rdzv,
        "restarts": [],
        "failure": None,
        **({"slurm": job} if job else {}),
    }


def _attempt(s: Supervision) -> Failure | None:
    """One start of the processes, to their end; returns why they failed, None when they did not."""
    run = s.run
    if s.speaks:
        forget_failures(run.logs)
        for rank in read_pulses(run.logs):
            (run.logs / f"rank_{rank}.pulse").unlink(missing_ok=True)
    s.tell(
        state=STARTING,
        attempt=s.status["attempt"] + 1,
        attempt_started=time.time(),
        events_before=states.events_size(run),
        from_step=_saved_step(run),
    )
    memory_kills = processes.out_of_memory_kills()
    exits_file = run.logs / f".exits.{socket.gethostname()}.json"
    exits_file.unlink(missing_ok=True)
    process = _start(s, exits_file)
    failure = _watch(s, process)
    left = _end_leftovers(run, process)
    if left:
        _say(f"processes {left} do not end")
    if failure:
        return failure
    event = states.last_exit(run, after=s.status["events_before"])
    reason = event.get("reason")
    if reason == STOPPED:  # it may have been quicker than the last look at the STOP file
        _note_asker(s, event.get("asked"), int(event.get("signal") or 0))
    if reason in (FINISHED, STOPPED):  # whatever the exit code: torchrun calls it a failure when SIGTERM stopped them
        s.asked = max(s.asked, 1) if reason == STOPPED else 0
        return None
    if s.asked >= 2 and not noted_failures(run.logs):
        return None
    return _cause(s, process.returncode, exits_file, processes.out_of_memory_kills() - memory_kills)


def _start(s: Supervision, exits_file: Path) -> subprocess.Popen[bytes]:
    """The trainer itself or torchrun, in a session of its own, with the lock in its hands."""
    me = str(os.getpid())
    environment = torchrun.without_torchrun(os.environ)
    if s.order.is_alone:
        for name in OF_TORCHRUN:  # left over from who started us: the process would wait for others that nobody starts
            environment.pop(name, None)
        command = [sys.executable, "-m", "simclr_plus.training.process", str(s.run.path), "--to-logs", "--parent", me]
    else:
        agent = [sys.executable, "-m", "simclr_plus.launch.agent", str(s.run.path), str(exits_file), me]
        command = [*agent, *torchrun_options(s.run, s.order)]
        environment.setdefault("OMP_NUM_THREADS", str(max(1, cpu_count() // s.order.processes)))  # torchrun would say 1
        if s.order.rdzv:
            # a node that comes back would wait for an address that nobody tells it (torch 2.14, dynamic_rendezvous.py)
            environment.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    log = s.run.logs / f"launcher.{socket.gethostname()}.log"
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            env=environment,
            start_new_session=True,
            pass_fds=[] if s.lock is None else [s.lock.descriptor],
        )


def torchrun_options(run: Run, order: Order) -> list[str]:
    """What torchrun is told, before the trainer's name."""
    each = ["--nproc-per-node", str(order.processes)]
    if not order.rdzv:
        return ["--standalone", *each]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", order.rdzv, "--rdzv-id", run.name]
    return ["--nnodes", order.nodes, *each, *meeting, "--max-restarts", str(order.max_restarts)]


def _watch(s: Supervision, process: subprocess.Popen[bytes]) -> Failure | None:
    """Wait for the end; meanwhile pass on what is asked, keep figures, find out whether it hangs."""
    figures, next_line, next_pulse = SystemFigures(), time.monotonic(), time.monotonic()
    pulses: dict[int, Pulse] = {}
    seen: dict[int, tuple[Pulse, float]] = {}
    deadline = 0.0
    level = 0
    while process.poll() is None:
        _look_at_stop_file(s)
        if s.asked >= 2 and level < 2:
            level, deadline = 2, time.monotonic() + SECONDS_TO_END
            process.terminate()
        if (s.asked >= 3 or (level == 2 and time.monotonic() > deadline)) and level < 3:
            level = 3
            _kill_group(process)
        if time.monotonic() >= next_pulse:
            next_pulse = time.monotonic() + SECONDS_BETWEEN_PULSES
            pulses = _own_pulses(s, pulses)
            _note_progress(s, pulses)
            failure = hung(pulses, seen, time.monotonic(), lambda: read_pulses(s.run.logs))
            if failure and level < 3:
                with suppress(SimclrPlusError):  # the disk may be full
                    note_failure(s.run.logs, failure)
                _end_hung(pulses, process)
                return failure
        if pulses and time.monotonic() >= next_line:  # from when there are processes to speak of
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            with suppress(OSError):
                s.run.log_system(socket.gethostname(), figures.look(pulse.pid for pulse in pulses.values()))
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_BETWEEN_LOOKS)
    _look_at_stop_file(s)
    return None


def _own_pulses(s: Supervision, before: dict[int, Pulse]) -> dict[int, Pulse]:
    """The pulses of the processes on this node; those of hundreds on others are not read once its own are known."""
    found = {rank: read_pulse(pulse_file(s.run.logs, rank)) for rank in before}
    own = {rank: p for rank, p in found.items() if p is not None and p.host == socket.gethostname()[:64]}
    if len(own) < s.order.processes or not all(processes.is_alive(p.pid, p.started) for p in own.values()):
        return {rank: p for rank, p in read_pulses(s.run.logs).items() if p.host == socket.gethostname()[:64]}
    return own


def _look_at_stop_file(s: Supervision) -> None:
    word = s.run.stop_word()
    if word is not None:
        _note_asker(s, word)
        s.asked = max(s.asked, STOP_WORDS.get(word, 1))


def _note_asker(s: Supervision, word: str | None, number: int = 0) -> None:
    """Who asked first: a signal's name, "requeue" or "a STOP file"."""
    if word is not None:
        s.stopped_by = s.stopped_by or (word if word == "requeue" else "a STOP file")
    elif number:
        s.stopped_by = s.stopped_by or signal.Signals(number).name


def _note_progress(s: Supervision, pulses: dict[int, Pulse]) -> None:
    state = s.status["state"]
    at_work = any(pulse.doing != "preparing" for pulse in pulses.values())
    now = STOPPING if s.asked else RUNNING if at_work else STARTING
    if now != state or time.monotonic() - s.told > SECONDS_BETWEEN_SIGNS:
        s.tell(state=now)


def _end_hung(pulses: dict[int, Pulse], process: subprocess.Popen[bytes]) -> None:
    """SIGABRT makes each process write its stacks (faulthandler) and end; then everything is killed."""
    for pulse in pulses.values():
        processes.kill(pulse.pid, pulse.started, signal.SIGABRT)
    time.sleep(2)
    _kill_group(process)
    process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end_leftovers(run: Run, process: subprocess.Popen[bytes], patience: float = 10.0) -> list[int]:
    """Kill what still lives of the processes here, known by id and start; returns those that do not go."""
    _kill_group(process)
    end = time.monotonic() + patience
    while True:
        mine = [p for p in read_pulses(run.logs).values() if p.host == socket.gethostname()[:64]]
        alive = [p for p in mine if processes.is_alive(p.pid, p.started)]
        for pulse in alive:
            processes.kill(pulse.pid, pulse.started)
        if not alive or time.monotonic() > end:
            return [p.pid for p in alive]
        time.sleep(0.05)


def _cause(s: Supervision, code: int, exits_file: Path, memory_kills: int) -> Failure:
    noted = noted_failures(s.run.logs)
    if not s.run.exists:
        return Failure(KILLED, f"the run folder {s.run.path} was deleted while it trained")
    if s.order.is_alone:
        return root_cause(noted, [Exit(0, code)], memory_kills=memory_kills)
    try:
        exits = [Exit(end["rank"], end["code"]) for end in json.loads(exits_file.read_bytes())]
    except (OSError, ValueError):
        exits = []
    if code < 0 and not exits and not noted:
        name = signal.Signals(-code).name
        return Failure(KILLED, f"torchrun was killed by {name}", host=socket.gethostname(), time=time.time())
    if not exits and not noted:
        log = s.run.logs / f"launcher.{socket.gethostname()}.log"
        tail = log.read_bytes()[-2000:].decode(errors="replace").strip().splitlines()[-5:]
        return Failure(KILLED, f"torchrun ended with {code}; {log} says:\n" + "\n".join(tail))
    return root_cause(noted, exits, memory_kills=memory_kills)


def _end(s: Supervision, state: str, failure: Failure | None, why: str) -> int:
    code = failure.exit_code if failure else _code(s) if state == STOPPED else OK
    sentence = failure.sentence() if failure else ""
    if state == STOPPED and s.stopped_by == "requeue":
        state = QUEUED
    s.give_reserve_back()
    s.tell(
        state=state,
        why="; ".join(x for x in (sentence, why) if x),
        stopped_by=s.stopped_by or None,
        failure=failure.as_dict() if failure else None,
        exit_code=code,
        ended=time.time(),
        step=_saved_step(s.run),
    )
    if sentence:
        _say(sentence)
    return code


def _code(s: Supervision) -> int:
    if not s.speaks:  # srun would kill the others for it, the one that speaks too
        return OK
    if s.stopped_by == "SIGINT":
        return INTERRUPTED
    return PREEMPTED if s.stopped_by in ("SIGTERM", "SIGUSR2", "requeue") else OK


@contextmanager
def _signals(s: Supervision) -> Iterator[None]:
    def ask(number: int, _frame: FrameType | None) -> None:
        _note_asker(s, None, number)
        s.asked += 1
        if s.asked == 1:
            with suppress(OSError, SimclrPlusError):
                s.run.ask_to_stop()

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    previous = {n: signal.signal(n, ask) for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _take_lock(run: Run, order: Order) -> Hold | None:
    """The run's lock, or None on a node whose supervisor does not speak for the run.

    Of several nodes' supervisors the one where the nodes meet speaks; the lock decides where that is not unique.
    """
    if order.rdzv and not meets_here(order.rdzv):
        return None
    states.require_not_elsewhere(run)
    lock = run.try_lock(SECONDS_TO_TAKE, promise=PROMISE, job=slurm.job_here(), is_over=states.is_over)
    if lock is None and not (order.rdzv and _is_met_at(run, order.rdzv)):
        raise SimclrPlusError(f"run {run.path} is being trained by another process; wait for it or stop it")
    return lock


def _is_met_at(run: Run, rdzv: str) -> bool:
    """Whether the supervisor that holds the lock is one of those that meet there, and no other."""
    end = time.monotonic() + SECONDS_TO_SPEAK
    while True:
        status = states.read_status(run)
        if status.get("state") in states.ALIVE and status.get("rdzv") == rdzv and processes.lives(status) is not False:
            return True
        if time.monotonic() > end:
            return False
        time.sleep(SECONDS_BETWEEN_LOOKS)


@contextmanager
def _sinks(s: Supervision) -> Iterator[None]:
    """Processes that pass the metrics on to TensorBoard and the like; how they do does not matter to the run."""
    started = []
    names = []
    with suppress(SimclrPlusError):
        names = list(wanted(s.run.recipe())) if s.speaks else []
    for name in names:
        command = [sys.executable, "-m", "simclr_plus.launch.sinks", str(s.run.path), name, str(os.getpid())]
        with (s.run.logs / f"sink.{name}.log").open("ab") as log:
            started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    try:
        yield
    finally:
        for process in started:
            process.terminate()
        end = time.monotonic() + SECONDS_FOR_SINKS
        for process in started:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def meets_here(rdzv: str) -> bool:
    """Whether HOST of HOST:PORT is an address of this machine."""
    host = rdzv.rpartition(":")[0].strip("[]")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except OSError:
        return False
    return True


def _saved_step(run: Run) -> int:
    files = run.checkpoint_files()
    return int(files[-1].stem.removeprefix("step_")) if files else 0


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main() -> None:
    """Entry of the process."""
    parser = argparse.ArgumentParser("simclr_plus.launch.supervisor")
    parser.add_argument("run", type=Path)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--nodes", default="1")
    parser.add_argument("--rdzv", default="")
    parser.add_argument("--max-restarts", type=int, default=0)
    given = parser.parse_args()
    try:
        code = supervise(Run(given.run), Order(given.processes, given.nodes, given.rdzv, given.max_restarts))
    except (SimclrPlusError, OSError) as error:
        _say(str(error))
        code = error.exit_code if isinstance(error, SimclrPlusError) else EnvironmentNotAbleError.exit_code
    sys.exit(code)


if __name__ == "__main__":
    main()
