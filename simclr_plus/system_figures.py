"""What a node's processors, memory and GPUs do while a run trains there: lines for system.<host>.jsonl. No torch.

Shares are of 1, memory in bytes, power in watts, temperatures in degrees Celsius. GPU figures come from NVML where the
package nvidia-ml-py and a driver exist, the others from Linux's /proc; what is not known is left out.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LINES = 10.0


class SystemFigures:
    """Looks at this machine; shares of time are those since the look before."""

    def __init__(self) -> None:
        self._nvml = _open_nvml()
        self._before: tuple[int, int] | None = _processor_ticks()

    def look(self, pids: Iterable[int] = ()) -> dict[str, Any]:
        """A line; `pids` are the run's processes here, whose resident memory is added up."""
        figures: dict[str, Any] = {"time": time.time(), "host": socket.gethostname(), "cpus": os.cpu_count()}
        now = _processor_ticks()
        if now and self._before and now[1] > self._before[1]:
            figures["cpu"] = round((now[0] - self._before[0]) / (now[1] - self._before[1]), 4)
        self._before = now
        figures |= _memory()
        figures["rss"] = sum(map(_resident_bytes, pids))
        if self._nvml is not None:
            figures["gpus"] = _gpus(self._nvml)
        return figures


def _processor_ticks() -> tuple[int, int] | None:
    """(busy, all) ticks of all processors since boot."""
    with suppress(OSError, ValueError, IndexError):
        ticks = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks)  # idle and waiting for disks
    return None


def _memory() -> dict[str, int]:
    with suppress(OSError, ValueError, KeyError):
        lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
        kib = {fields[0].rstrip(":"): int(fields[1]) for fields in lines}
        return {
            "memory_used": (kib["MemTotal"] - kib["MemAvailable"]) * 1024,
            "memory_total": kib["MemTotal"] * 1024,
        }
    return {}


def _resident_bytes(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
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
    found = []
    with suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetCount()):
            device = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu: dict[str, Any] = {"index": index}
            for read in (_name, _use, _gpu_memory, _power, _temperature):  # not every GPU tells everything
                with suppress(nvml.NVMLError):
                    gpu |= read(nvml, device)
            found.append(gpu)
    return found


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
