"""What a supervisor is ordered to start, torchrun's options for it, and the exit codes of a run. No torch."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from simclr_plus.runs.folder import Run

OK, PREEMPTED, INTERRUPTED = 0, 75, 130


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


def torchrun_options(run: Run, order: Order) -> list[str]:
    """What torchrun is told, before the trainer's name."""
    each = ["--nproc-per-node", str(order.processes)]
    if not order.rdzv:
        return ["--standalone", *each]
    meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", order.rdzv, "--rdzv-id", run.name]
    return ["--nnodes", order.nodes, *each, *meeting, "--max-restarts", str(order.max_restarts)]


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
