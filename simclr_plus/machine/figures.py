"""What a node's processors, memory and GPUs do while a run trains there: lines for system.<host>.jsonl. No torch.

Shares are of 1, memory in bytes, power in watts, temperatures in degrees Celsius. GPU figures come from NVML where the
package nvidia-ml-py and a driver exist, the others from psutil; what is not known is left out.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psutil

SECONDS_BETWEEN_LINES = 10.0


class SystemFigures:
    """Looks at this machine; shares of time are those since the look before."""

    def __init__(self) -> None:
        self._nvml = _open_nvml()
        self._before = _processor_seconds()

    def look(self, pids: Iterable[int] = ()) -> dict[str, Any]:
        """A line; `pids` are the run's processes here, whose resident memory is added up."""
        figures: dict[str, Any] = {"time": time.time(), "host": socket.gethostname(), "cpus": os.cpu_count()}
        now = _processor_seconds()
        if now and self._before and now[1] > self._before[1]:
            figures["cpu"] = round((now[0] - self._before[0]) / (now[1] - self._before[1]), 4)
        self._before = now
        figures |= _memory()
        figures["rss"] = sum(map(_resident_bytes, pids))
        if self._nvml is not None:
            figures["gpus"] = _gpus(self._nvml)
        return figures


def _processor_seconds() -> tuple[float, float] | None:
    """(busy, all) seconds of all processors since boot; waiting for disks is not busy."""
    try:
        times = psutil.cpu_times()._asdict()
    except (OSError, RuntimeError):  # a container may hide them
        return None
    total = sum(times.values()) - times.get("guest", 0.0) - times.get("guest_nice", 0.0)  # in user and nice already
    return total - times["idle"] - times.get("iowait", 0.0), total


def _memory() -> dict[str, int]:
    try:
        memory = psutil.virtual_memory()
    except (OSError, RuntimeError):
        return {}
    return {"memory_used": memory.total - memory.available, "memory_total": memory.total}


def _resident_bytes(pid: int) -> int:
    with suppress(psutil.Error, ValueError):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def _open_nvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:  # no driver
        return None
    return pynvml


def _gpus(nvml: Any) -> list[dict[str, Any]]:
    gpus = []
    with suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu: dict[str, Any] = {"index": index}
            for read in (_name, _use, _gpu_memory, _power, _temperature):  # not every GPU tells everything
                with suppress(nvml.NVMLError):
                    gpu |= read(nvml, device)
            gpus.append(gpu)
    return gpus


def _name(nvml: Any, device: Any) -> dict[str, Any]:
    texts = {"name": nvml.nvmlDeviceGetName(device), "uuid": nvml.nvmlDeviceGetUUID(device)}
    return {key: text.decode() if isinstance(text, bytes) else text for key, text in texts.items()}


def _use(nvml: Any, device: Any) -> dict[str, Any]:
    return {"utilisation": nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100}


def _gpu_memory(nvml: Any, device: Any) -> dict[str, Any]:
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    return {"memory_used": memory.used, "memory_total": memory.total}


def _power(nvml: Any, device: Any) -> dict[str, Any]:
    return {"power": nvml.nvmlDeviceGetPowerUsage(device) / 1000}


def _temperature(nvml: Any, device: Any) -> dict[str, Any]:
    return {"temperature": nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)}
