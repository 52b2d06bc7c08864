"""What this machine can do: versions, devices, memory, disk, terminal, and the proof that W processes equal one.

A look says what was found; a remedy beside it means that something will not work, or not well.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from simclr_plus.machine.cores import cpu_count

GIB = 2**30
IMAGENET_IMAGES = 1_281_167
PACKAGES = ("simclr-plus", "torch", "torchvision", "lightly", "numba", "simplejpeg", "safetensors", "textual", "timm")
OPTIONAL = ("timm",)


@dataclass(frozen=True)
class Look:
    """Something looked at, what was found, and what to do about it where something should be done."""

    group: str
    name: str
    found: str
    remedy: str = ""


def look_around(runs: Path) -> list[Look]:
    """Versions, processors, devices, memory, disk and terminal. Importing PyTorch takes seconds."""
    return [*_versions(), *_processor(), *_banks(), *_devices(), *_disk(runs), *_terminal()]


def prove_processes(processes: int, say: Callable[[str], None]) -> list[Look]:
    """Train the proof's cases with one process and with `processes`; raises SimclrPlusError where a run fails."""
    from simclr_plus.checks.proof import CASES, prove

    looks = []
    with tempfile.TemporaryDirectory(prefix="simclr-plus-doctor-") as folder:
        for name, case in CASES.items():
            say(f"training {case.steps} steps with 1 and with {processes} processes: {name} in {case.precision}")
            findings, device = prove(case, processes, Path(folder) / name)
            group = f"{processes} processes equal 1 ({'NCCL' if device.startswith('cuda') else 'gloo'}, {name})"
            for f in findings:
                remedy = f"largest at {f.where}; only {f.tolerance:g} is rounding: report it, with this table"
                looks.append(
                    Look(group, f.kind, f"differ by {f.difference:.1e} at most", "" if f.equal else remedy),
                )
    return looks


def _versions() -> Iterator[Look]:
    yield Look("versions", "python", f"{platform.python_version()} on {platform.platform()}")
    for package in PACKAGES:
        try:
            yield Look("versions", package, version(package))
        except PackageNotFoundError:
            remedy = "" if package in OPTIONAL else f"pip install {package}"
            yield Look("versions", package, "not installed", remedy)


def _processor() -> Iterator[Look]:
    total = psutil.virtual_memory().total
    yield Look("this machine", "cores", f"{cpu_count()} for this process, {os.cpu_count()} in all")
    yield Look("this machine", "memory", f"{total / GIB:.1f} GiB")
    shared = Path("/dev/shm")
    if shared.is_dir():
        usage = shutil.disk_usage(shared)
        remedy = "NCCL and DataLoader workers need more; in Docker: --shm-size=8g, or --ipc=host"
        yield Look("this machine", "shared memory", _free(usage), remedy if usage.total < GIB else "")
    yield Look("this machine", "compiled loops", *_numba_cache())


def _banks() -> Iterator[Look]:
    """What methods with memory banks and queues keep in each process for ImageNet, beside this machine's memory."""
    from simclr_plus.recipe.method_keys import METHODS
    from simclr_plus.recipe.reading import parse_recipe

    recipes = {name: parse_recipe("", [f"method.name={name}"]) for name in METHODS}
    kept = {name: recipe.method.memory_beside(recipe, IMAGENET_IMAGES) for name, recipe in recipes.items()}
    text = ", ".join(f"{name} {size / GIB:.2f} GiB" for name, size in kept.items() if size)
    low = max(kept.values()) > psutil.virtual_memory().total / 4
    remedy = "each process and each checkpoint holds it: fewer processes a machine, or another method"
    yield Look("this machine", "banks, queues for ImageNet", text or "no method keeps any", remedy if low else "")


def _numba_cache() -> tuple[str, str]:
    """Where numba keeps compiled code, and the remedy where it cannot."""
    from simclr_plus import augmentations

    chosen_folder = os.environ.get("NUMBA_CACHE_DIR")
    folder = Path(chosen_folder) if chosen_folder else Path(str(augmentations.__file__)).parent / "__pycache__"
    nearest = next(p for p in (folder, *folder.parents) if p.exists())
    if os.access(nearest, os.W_OK):
        return f"kept in {folder}", ""
    return f"cannot be kept in {folder}", "set NUMBA_CACHE_DIR to a writable folder, else each start compiles anew"


def _devices() -> Iterator[Look]:
    import torch

    if not torch.cuda.is_available():
        built = f"PyTorch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "PyTorch is built for CPUs"
        yield Look("devices", "GPU", f"none found ({built}); training runs on the CPU, processes talk by gloo")
        return
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        can = "bfloat16" if gpu.major >= 8 else "no fast bfloat16"
        remedy = "" if gpu.major >= 8 else 'training.precision = "auto" means "float32" there, "bfloat16" is refused'
        text = f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB, compute capability {gpu.major}.{gpu.minor}, {can}"
        yield Look("devices", f"GPU {i}", text, remedy)
    yield Look("devices", "CUDA", str(torch.version.cuda))
    nccl = torch.distributed.is_nccl_available()
    text = ".".join(map(str, torch.cuda.nccl.version())) if nccl else "missing"  # type: ignore[no-untyped-call]
    yield Look("devices", "NCCL", text, "" if nccl else "several GPUs need a PyTorch with NCCL")


def _disk(runs: Path) -> Iterator[Look]:
    nearest = next(p for p in (runs.absolute(), *runs.absolute().parents) if p.exists())
    usage = shutil.disk_usage(nearest)
    remedy = "a checkpoint of ResNet-50 (4x) takes 3 GiB; free some space, or say --runs ELSEWHERE"
    if not os.access(nearest, os.W_OK):
        remedy, low = f"{nearest} cannot be written; say --runs ELSEWHERE", True
    else:
        low = usage.free < 10 * GIB
    yield Look("disk", f"runs go to {runs}", _free(usage), remedy if low else "")


def _terminal() -> Iterator[Look]:
    columns, lines = shutil.get_terminal_size()
    encoding = (sys.stdout.encoding or "unknown").lower()
    kind = f"{os.environ.get('TERM', 'TERM not set')}, {os.environ.get('COLORTERM') or 'no COLORTERM'}"
    if not sys.stdout.isatty():
        yield Look("terminal", "output", f"no terminal ({kind}); plain lines are printed")
        return
    small = columns < 80 or lines < 24
    yield Look("terminal", "size", f"{columns} x {lines}", "`simclr-plus tui` wants 80 x 24" if small else "")
    yield Look("terminal", "kind", kind)
    plain = "utf" not in encoding
    yield Look("terminal", "encoding", encoding, "charts need UTF-8: export LANG=C.UTF-8" if plain else "")


def _free(usage: shutil._ntuple_diskusage) -> str:
    return f"{usage.free / GIB:.1f} of {usage.total / GIB:.1f} GiB free"
