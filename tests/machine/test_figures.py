from __future__ import annotations

import os
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from simclr_plus.machine.figures import SystemFigures


class NVMLError(Exception):
    """As NVML's own."""


def stand_in(**changes: Any) -> types.ModuleType:
    """A driver with two GPUs that says what it is told to."""

    def unable(*_: Any) -> Any:
        raise NVMLError("Not Supported")

    nvml = types.ModuleType("pynvml")
    given = {
        "NVMLError": NVMLError,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda i: i,
        "nvmlDeviceGetName": lambda d: b"Old" if d else "New",
        "nvmlDeviceGetUUID": lambda d: f"GPU-{d}",
        "nvmlDeviceGetUtilizationRates": lambda d: types.SimpleNamespace(gpu=40 + d),
        "nvmlDeviceGetMemoryInfo": lambda d: types.SimpleNamespace(used=2**30, total=2**34),
        "nvmlDeviceGetPowerUsage": lambda d: unable() if d else 250_500,
        "nvmlDeviceGetTemperature": lambda d, kind: 61,
    }
    for name, value in {**given, **changes}.items():
        setattr(nvml, name, value)
    return nvml


def test_processors_and_memory_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    figures = SystemFigures()
    sum(i * i for i in range(300_000))
    line = figures.look([os.getpid(), 2**22 + 1])
    with Path("/proc/self/status").open() as file:
        resident = next(int(x.split()[1]) * 1024 for x in file if x.startswith("VmRSS"))
    assert line["rss"] == pytest.approx(resident, rel=0.1)
    assert 0 < line["cpu"] <= 1 and line["cpus"] == os.cpu_count() and "gpus" not in line
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert line["memory_total"] == pytest.approx(total, rel=0.01) and 0 < line["memory_used"] < total


def test_a_gpu_that_does_not_tell_its_power_tells_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", stand_in())
    new, old = SystemFigures().look()["gpus"]
    assert new["power"] == 250.5 and new["utilisation"] == 0.4 and new["name"] == "New"
    assert "power" not in old and old["utilisation"] == 0.41 and old["name"] == "Old"
    assert (old["memory_used"], old["memory_total"], old["temperature"], old["uuid"]) == (2**30, 2**34, 61, "GPU-1")


def test_a_machine_without_a_driver_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", stand_in(nvmlInit=no_driver))
    assert "gpus" not in SystemFigures().look()
