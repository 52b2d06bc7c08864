"""What the machines of a run do, in a line: processors, memory, GPUs, each with its last looks. Pure."""

from __future__ import annotations

from collections import deque
from typing import Any

from ..charts.ticks import size, spark
from .feed import is_number

LOOKS = 10  # that a processor's sparkline shows
FEW = 2  # GPUs that are told one by one


class Machines:
    """Keeps the last looks at each machine, so that a sparkline can be drawn."""

    def __init__(self) -> None:
        self._cpu: dict[str, deque[float]] = {}
        self._stamps: dict[str, Any] = {}

    def in_words(self, lines: dict[str, dict[str, Any]], *, ascii_only: bool) -> list[str]:
        """A phrase a machine; `lines` holds the newest line of each system.<host>.jsonl."""
        parts = []
        for host, line in lines.items():
            words = [*self._processor(host, line, ascii_only), *_memory(line), *_gpus(line, ascii_only)]
            if words:
                parts.append("  ".join([host, *words] if len(lines) > 1 else words))
        return parts

    def _processor(self, host: str, line: dict[str, Any], ascii_only: bool) -> list[str]:
        cpu = line.get("cpu")
        if not is_number(cpu):
            return []
        looks = self._cpu.setdefault(host, deque(maxlen=LOOKS))
        if self._stamps.get(host) != line.get("time") or not looks:
            self._stamps[host] = line.get("time")
            looks.append(float(cpu))
        return [f"CPU {_bars(list(looks), ascii_only)} {cpu:.0%}"]


def _memory(line: dict[str, Any]) -> list[str]:
    used, total = line.get("memory_used"), line.get("memory_total")
    return [_part(used, total)] if is_number(used) and is_number(total) else []


def _gpus(line: dict[str, Any], ascii_only: bool) -> list[str]:
    """Each GPU by its number; many as a bar each, with their average and the fullest memory."""
    listed = line.get("gpus")
    gpus = [gpu for gpu in listed if isinstance(gpu, dict)] if isinstance(listed, list) else []
    if len(gpus) <= FEW:
        return [" ".join([f"GPU{gpu.get('index')}", *_of_gpu(gpu)]) for gpu in gpus]
    shares = [float(gpu["utilisation"]) for gpu in gpus if is_number(gpu.get("utilisation"))]
    words = [f"{len(gpus)} GPUs"]
    words += [f"{_bars(shares, ascii_only)} {sum(shares) / len(shares):.0%}"] if shares else []
    fullest = max(gpus, key=lambda gpu: gpu["memory_used"] if is_number(gpu.get("memory_used")) else -1)
    words += _memory(fullest)
    hot = [gpu["temperature"] for gpu in gpus if is_number(gpu.get("temperature"))]
    words += [f"{max(hot):.0f} C"] if hot else []
    return [" ".join(words)]


def _of_gpu(gpu: dict[str, Any]) -> list[str]:
    words = [f"{gpu['utilisation']:.0%}"] if is_number(gpu.get("utilisation")) else []
    words += _memory(gpu)
    words += [f"{gpu['temperature']:.0f} C"] if is_number(gpu.get("temperature")) else []
    return words + ([f"{gpu['power']:.0f} W"] if is_number(gpu.get("power")) else [])


def _part(used: float, total: float) -> str:
    """3.2 of 23.5 GiB: the unit once where it is the same."""
    (number, unit), whole = size(used).split(), size(total)
    return f"{number} of {whole}" if whole.endswith(unit) else f"{number} {unit} of {whole}"


def _bars(shares: list[float], ascii_only: bool) -> str:
    """A bar for each share of 1."""
    return spark([0.0, *(min(1.0, max(0.0, share)) for share in shares), 1.0], len(shares) + 2, ascii_only=ascii_only)[
        1:-1
    ]
