"""Views in DataLoader workers: neither how many there are nor how they start changes what is drawn.

The tests start this file itself as a program, because workers that do not fork import the program's file again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from simclr_plus.augmentations.law import simclr_law
from simclr_plus.augmentations.transform import SimCLRTransform
from simclr_plus.datasets import Images, open_folder
from simclr_plus.datasets.batches import ViewBatches

COUNT, SIZE, SEED, EPOCH = 8, 64, 5, 2
WAYS = [("fork", 0), ("fork", 1), ("fork", 3), ("fork", 2), ("forkserver", 2), ("spawn", 2)]


class Pairs(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """An image's views as `views_of` makes them, and as a call draws them."""

    def __init__(self, images: Images) -> None:
        self.images, self.transform = images, SimCLRTransform(SIZE)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image = self.images.read(index)
        by_index = self.transform.views_of(image, seed=SEED, epoch=EPOCH, index=index)
        return torch.stack(by_index), torch.stack(self.transform(image))


def digest(views: torch.Tensor) -> str:
    return hashlib.sha256(views.contiguous().numpy().tobytes()).hexdigest()


def work(folder: Path) -> dict[str, dict[str, str]]:
    pairs = Pairs(open_folder(folder))
    found: dict[str, dict[str, str]] = {}
    for method, workers in WAYS:
        torch.manual_seed(0)
        start: dict[str, Any] = {"multiprocessing_context": method} if workers else {}
        batches = list(DataLoader(pairs, batch_size=2, num_workers=workers, **start))
        by_index, called = (torch.cat(part) for part in zip(*batches, strict=True))
        found[f"{method} {workers}"] = {"views_of": digest(by_index), "called": digest(called)}
    return found


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]))))


@pytest.fixture(scope="module")
def found(photos: Path) -> dict[str, dict[str, str]]:
    done = subprocess.run([sys.executable, __file__, photos], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_views_of_are_those_of_a_run_whatever_the_workers(found: dict[str, dict[str, str]], photos: Path) -> None:
    images, law = open_folder(photos), simclr_law(SIZE)
    run = ViewBatches(images, law, batch_size=len(images), seed=SEED)
    views = run.batch(EPOCH)[0].unflatten(0, (2, -1)).transpose(0, 1)  # one batch is one epoch
    place = np.argsort(run._order(EPOCH))
    expected = digest(views[torch.from_numpy(place[:COUNT])])
    assert {way: digests["views_of"] for way, digests in found.items()} == {f"{m} {w}": expected for m, w in WAYS}


@pytest.mark.slow
def test_a_call_draws_the_same_views_however_the_workers_start(found: dict[str, dict[str, str]]) -> None:
    of_two = {found[f"{method} 2"]["called"] for method in ("fork", "forkserver", "spawn")}
    assert len(of_two) == 1
    assert found["fork 3"]["called"] not in of_two  # another number of workers, other generators


@pytest.mark.slow
def test_without_a_place_for_compiled_code_views_are_made_all_the_same() -> None:
    """As where the installation is read-only and there is no home."""
    code = """
import numba.core.caching as caching
caching.CacheImpl._locator_classes = []
for kind in caching.CacheImpl.__subclasses__():
    kind._locator_classes = []
from simclr_plus.augmentations import draws
from simclr_plus.importers.tensor_bundle import crc32c
print(draws.epoch_order(0, 0, 50).tolist() == EXPECTED, hex(crc32c(b"123456789")))
"""
    from simclr_plus.augmentations.draws import epoch_order

    code = code.replace("EXPECTED", str(epoch_order(0, 0, 50).tolist()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["True", "0xe3069283"]  # RFC 3720's check value, done.stderr


@pytest.mark.slow
def test_the_first_use_says_what_takes_so_long_and_the_second_is_quiet(tmp_path: Path) -> None:
    code = "from simclr_plus import SimCLRTransform; SimCLRTransform(16)"
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    first, second = (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        for _ in range(2)
    )
    assert first.stderr == "simclr_plus: compiling the loops that make views, once (about half a minute)\n"
    assert second.stderr in ("", first.stderr)  # a slow disk may take a second to load what was kept
    assert any(tmp_path.rglob("*.nbc"))


def test_nothing_is_left_to_compile_when_views_are_made() -> None:
    code = """
import numpy as np
from simclr_plus.augmentations import draws, views
from simclr_plus.augmentations.law import simclr_law

def forms():
    loops = (views._fill_one, views._fill_many, draws._draw, draws._order_keys)
    return [len(loop.signatures) for loop in loops]

law = simclr_law(64, brightness_law="additive", resize="bicubic_legacy", blur_sigma_group=4)
views.compile_views(law)
before = forms()
images = np.zeros((3, 100, 150, 3), np.uint8)
out = np.empty((2, 3, 3, 64, 64), np.float32)
rows = draws.draw_views(1, 2, [0, 1, 2], heights=100, widths=150, law=law, step=7, positions=np.arange(3))
for crops_only in (False, True):
    maker = views.ViewMaker(law, crops_only=crops_only)
    maker.fill(images[0], rows[0], out, 0)
    maker.fill_batch(images, np.arange(3), rows, out, 0, 3)
draws.epoch_order(1, 2, 10)
print(before, forms())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[1, 1, 1, 1] [1, 1, 1, 1]", done.stderr
