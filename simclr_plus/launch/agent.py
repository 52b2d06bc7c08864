"""torchrun for a run on one node, which also writes down how its processes ended; started by the supervisor.

python -m simclr_plus.launch.agent RUN EXITS_FILE PARENT TORCHRUN_OPTIONS...
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from simclr_plus.machine.processes import die_with_parent
from simclr_plus.machine.whole_files import write_text_whole


def main() -> None:
    """Start the processes and wait for them."""
    folder, exits_file, parent, *options = sys.argv[1:]
    die_with_parent(int(parent))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # SLURM may send it to all processes; the supervisor takes it
    trainer = ["-m", "simclr_plus.training.process", folder, "--to-logs", "--parent", str(os.getpid())]
    try:
        run(parse_args([*options, *trainer]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        ends = sorted(error.failures.items(), key=lambda end: end[1].timestamp)
        write_text_whole(
            Path(exits_file), json.dumps([{"rank": rank, "code": end.exitcode} for rank, end in ends]) + "\n"
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
