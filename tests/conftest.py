"""What several tests share: a tiny recipe, drawn photographs, the command line in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import slurm_cluster
from drawn_photos import drawn_photo
from tiny_recipe import TINY
from warm_commands import Warm

os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the command line: see cli.main
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads that share a core wait for each other ten times as long


@pytest.fixture
def tiny() -> list[str]:
    """Overrides that make the demo recipe tiny."""
    return list(TINY)


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """Where commands are forked from."""
    with Warm() as server:
        yield server


@pytest.fixture
def simclr_plus(warm: Warm) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line as a user does, in a process of its own; `cwd` is where."""

    def run(*arguments: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        return warm.run(list(map(str, arguments)), cwd=cwd, timeout=timeout)

    return run


@pytest.fixture(scope="module")
def cluster() -> Iterator[slurm_cluster.Cluster]:
    """SLURM on this machine, started for a file of tests."""
    absent = slurm_cluster.missing()
    if absent:
        pytest.skip(f"needs SLURM (Debian: slurm-wlm, munge); not found: {', '.join(absent)}")
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # sockets want a short path
    folder.chmod(0o755)
    try:
        with slurm_cluster.Cluster(folder) as found:
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 48 colour JPEGs like photographs, in two classes, one folder each."""
    from PIL import Image

    root = tmp_path_factory.mktemp("photos")
    for place, (label, tint) in enumerate({"sand": (0.6, 0.2, -0.6), "sea": (-0.6, 0.0, 0.6)}.items()):
        (root / label).mkdir()
        for i in range(24):
            Image.fromarray(drawn_photo(24 * place + i, tint=tint)).save(root / label / f"{i:02}.jpg", quality=90)
    return root
