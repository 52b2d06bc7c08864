"""Why a run ends early: it is asked to, or a number is no longer finite. All processes decide it together."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from simclr_plus import distributed
from simclr_plus.errors import SimclrPlusError
from simclr_plus.machine.processes import signals_go_to
from simclr_plus.training.saving import note_saved
from simclr_plus.training.state import Training


class StopListener:
    """Whether the run is asked to stop: by a signal to any process, or by the STOP file.

    All processes look together, each so many steps as take process 0 some seconds: it counts them by its own clock and
    the same collective tells the others. One process alone looks by its clock at every step.
    """

    SECONDS = 2.0  # between two looks
    MOST_STEPS = 100  # so that steps which become slow all at once do not put the next look off for long

    def __init__(self, t: Training, stop: StopRequest) -> None:
        self._t, self._stop = t, stop
        self._last, self._next, self._at = t.step, t.step + 1, time.monotonic()

    def is_due(self, step: int) -> bool:
        """The same answer on all processes."""
        if distributed.world_size() == 1:
            return self._stop.asked or time.monotonic() - self._at >= self.SECONDS
        return step >= self._next

    def asked(self, first_bad: Tensor) -> bool:
        """Look; raises SimclrPlusError on all processes where a loss was not finite, so that none is left behind."""
        t = self._t
        asked = self._stop.asked or (t.is_main and t.run.stop_file.exists())
        steps = self._steps_to_wait() if t.is_main else 0
        votes = [float(asked), float(first_bad < t.plan.total_steps), float(steps)]
        if distributed.world_size() > 1:
            votes = distributed.sum_over_processes(torch.tensor(votes, device=t.device)).tolist()
        stop, bad, steps = votes[0] > 0, votes[1] > 0, int(votes[2])
        self._last, self._next, self._at = t.step, t.step + steps, time.monotonic()
        if bad:
            require_finite(t, first_bad)
        return stop

    def _steps_to_wait(self) -> int:
        done = self._t.step - self._last
        a_step = (time.monotonic() - self._at) / done if done else self.SECONDS
        return max(1, min(self.MOST_STEPS, int(self.SECONDS / max(a_step, 1e-9))))


def require_finite(t: Training, first_bad: Tensor) -> None:
    """All processes stop together when a loss was not finite since the last look, or the weights no longer are."""
    norms = torch.stack(list(torch._foreach_norm([p.detach() for p in t.model.parameters()])))
    here = torch.stack([first_bad.to(torch.float64), torch.isfinite(norms).all().to(torch.float64)])
    bad, weights = here.tolist()
    if distributed.world_size() > 1:
        bad, weights = distributed.all_gather(here).amin(dim=0).tolist()
    if bad == t.plan.total_steps and weights:
        return
    note_saved(t, t.saver.wait())
    what, step = ("the loss is", int(bad)) if bad < t.plan.total_steps else ("the updated weights are", t.step - 1)
    saved = t.run.checkpoint_files()
    good = f"the last good checkpoint is {saved[-1]}" if saved else "no checkpoint was saved before"
    raise SimclrPlusError(
        f"{what} not finite at step {step} (learning rate {t.plan.learning_rate(step):.6g}): training stopped; "
        f"{good}. Lower optimizer.learning_rate, lengthen training.warmup_epochs, or set optimizer.gradient_clip"
    )


class StopRequest:
    """What a signal handler leaves for the loop."""

    asked = False
    signal_number = 0


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """SIGINT, SIGTERM and SIGUSR2 ask the loop to save and leave; a second SIGINT interrupts at once."""
    request = StopRequest()

    def ask(number: int, _frame: Any) -> None:
        if request.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.asked, request.signal_number = True, number

    with signals_go_to(ask):
        yield request
