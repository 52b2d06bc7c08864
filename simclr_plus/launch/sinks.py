"""Passes metrics.jsonl on to TensorBoard and Weights & Biases, from a process of its own. No torch.

python -m simclr_plus.launch.sinks RUN tensorboard|wandb PARENT

It only reads the run folder, so that whatever goes wrong here (no network, no such package, a crash) cannot disturb
training. The supervisor starts it and ends it with SIGTERM: what is still to be passed on then is passed on.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from simclr_plus.errors import EnvironmentNotAbleError, SimclrPlusError
from simclr_plus.machine.json_lines import Tail
from simclr_plus.machine.processes import die_with_parent
from simclr_plus.machine.whole_files import write_text_whole
from simclr_plus.recipe.recipe import Recipe
from simclr_plus.runs.folder import Run

SECONDS_BETWEEN_LOOKS = 2.0
BYTES_AT_ONCE = 1 << 18
SECONDS_FOR_SINKS = 60.0  # to pass on the last lines


class Sink(Protocol):
    """Takes the numbers of a step; steps that a resumed run goes through again come again."""

    def take(self, step: int, numbers: dict[str, float]) -> None:
        """Pass a line on."""

    def close(self) -> None:
        """Pass on what waits, and end."""


class TensorBoard:
    """Event files, written without TensorFlow or torch."""

    def __init__(self, run: Run, recipe: Recipe, last_step: int) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise EnvironmentNotAbleError(
                "monitor.tensorboard needs TensorBoard: pip install 'simclr-plus[tensorboard]'"
            ) from None
        self._event, self._summary, self._log = event_pb2.Event, summary_pb2.Summary, event_pb2.SessionLog
        self._writer = EventFileWriter(str(run.path / "tensorboard"))
        self._last = last_step

    def take(self, step: int, numbers: dict[str, float]) -> None:
        """TensorBoard drops what it has from a step on when a session is said to start there."""
        now = time.time()
        if step <= self._last:
            start = self._log(status=self._log.START)
            self._writer.add_event(self._event(wall_time=now, step=step, session_log=start))
        self._last = step
        values = [self._summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        self._writer.add_event(self._event(wall_time=now, step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Flush the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases with the run folder's name; a resumed run goes on in it."""

    def __init__(self, run: Run, recipe: Recipe, last_step: int) -> None:
        try:
            import wandb
        except ImportError:
            raise EnvironmentNotAbleError("monitor.wandb needs wandb: pip install 'simclr-plus[wandb]'") from None
        self._run = wandb.init(
            project=recipe.monitor.wandb_project,
            name=run.name,
            id=f"{run.name}-{int(run.recipe_file.stat().st_mtime)}",  # others may use that name in the project too
            resume="allow",
            mode="offline" if recipe.monitor.wandb == "offline" else "online",
            dir=str(run.path),
            config=recipe.model_dump(),
        )
        self._run.define_metric("*", step_metric="train_step")  # its own step cannot go back, ours can

    def take(self, step: int, numbers: dict[str, float]) -> None:
        """Pass a line on."""
        self._run.log({"train_step": step, **numbers})

    def close(self) -> None:
        """Wait until all is sent."""
        self._run.finish()


def wanted(recipe: Recipe) -> dict[str, Callable[[Run, Recipe, int], Sink]]:
    """The sinks that a recipe asks for."""
    sinks: dict[str, Callable[[Run, Recipe, int], Sink]] = {}
    if recipe.monitor.tensorboard:
        sinks["tensorboard"] = TensorBoard
    if recipe.monitor.wandb != "off":
        sinks["wandb"] = WeightsAndBiases
    return sinks


@contextmanager
def sink_processes(run: Run) -> Iterator[None]:
    """A process for each sink that the run's recipe asks for; how they do does not matter to the run."""
    names: list[str] = []
    with suppress(SimclrPlusError):
        names = list(wanted(run.recipe()))
    sinks = []
    for name in names:
        command = [sys.executable, "-m", "simclr_plus.launch.sinks", str(run.path), name, str(os.getpid())]
        with (run.logs / f"sink.{name}.log").open("ab") as log:
            sinks.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    try:
        yield
    finally:
        for process in sinks:
            process.terminate()
        end = time.monotonic() + SECONDS_FOR_SINKS
        for process in sinks:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def pass_on(run: Run, name: str, make: Callable[[Run, Recipe, int], Sink], ending: Callable[[], bool]) -> None:
    """Pass lines on to a sink until `ending`; where it got to is kept in logs, for the resumed run."""
    place_file = run.logs / f"sink.{name}.json"
    try:
        place = json.loads(place_file.read_bytes())
    except (OSError, ValueError):
        place = {"lines": 0, "step": 0}
    tail = Tail(run.metrics_file)
    sink = make(run, run.recipe(), place["step"])
    count = 0
    while True:
        last_look = ending()
        lines = tail.read(BYTES_AT_ONCE)
        for line in lines:
            count += 1
            if count > place["lines"] and isinstance(line.get("step"), int):
                sink.take(line["step"], _numbers(line))
                place |= {"step": line["step"]}
        if count > place["lines"]:
            place["lines"] = count
            write_text_whole(place_file, json.dumps(place) + "\n")
        if last_look and not tail.more:
            sink.close()
            return
        if not tail.more:
            _sleep(SECONDS_BETWEEN_LOOKS, ending)


def _sleep(seconds: float, ending: Callable[[], bool]) -> None:
    """In pieces, for a signal's handler does not cut a sleep short."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and not ending():
        time.sleep(0.1)


def _numbers(line: dict[str, Any]) -> dict[str, float]:
    numbers = {k: float(v) for k, v in line.items() if type(v) in (int, float) and k not in ("step", "time")}
    return {key: value for key, value in numbers.items() if math.isfinite(value)}


def main() -> None:
    """Entry of the process of one sink."""
    run, name, parent = Run(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
    die_with_parent(parent)
    signals: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        signals.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pass_on(run, name, wanted(run.recipe())[name], lambda: bool(signals))
    except EnvironmentNotAbleError as error:
        sys.stderr.write(f"{name}: {error}; training goes on without it\n")
        sys.exit(error.exit_code)
    except Exception:
        traceback.print_exc()
        sys.stderr.write(f"{name} failed; training goes on without it\n")
        sys.stderr.flush()
        os._exit(1)  # a sink's threads may not want to end


if __name__ == "__main__":
    main()
