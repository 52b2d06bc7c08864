"""torchrun ... train_in_turn.py RUN [RUN ...]: the same processes train one run after the other, for tests."""

import sys
from pathlib import Path

from simclr_plus import distributed
from simclr_plus.runs.folder import Run
from simclr_plus.training.trainer import train

for folder in sys.argv[1:]:
    assert train(Run(Path(folder)), quiet=True) == "finished"
distributed.stop()
