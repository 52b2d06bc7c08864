"""How long a run trained, over all its starts. No torch."""

from __future__ import annotations

from simclr_plus.machine.json_lines import Tail
from simclr_plus.runs.folder import Run


def seconds_of_training(run: Run) -> float:
    """From each start to the end that followed it, or to the last logged step where it was killed."""
    begins = [event["time"] for event in run.events() if event.get("event") in ("start", "resume")]
    ends = [event["time"] for event in run.events() if event.get("event") == "exit"]
    ends += [line["time"] for line in Tail(run.metrics_file).read()]
    seconds = 0.0
    for begin, following in zip(begins, [*begins[1:], float("inf")], strict=True):
        seconds += max((end for end in ends if begin <= end < following), default=begin) - begin
    return seconds
