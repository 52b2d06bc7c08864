"""Names of result files: what was evaluated, how, on which weights and images; no two evaluations share one.

linear_step_00012500.json                          the protocol as it stands
linear_step_00012500_embedded_on-z_epochs-30.json  other data than the recipe's; what was changed, with its value
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

LONGEST = 180  # of a name: file systems take 255 bytes, and endings are added


def changed_settings(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults."""
    return {key: value for key, value in settings.items() if value != defaults.get(key)}


def result_name(*parts: str, changed: Mapping[str, Any]) -> str:
    """The parts that are not empty, then what was changed."""
    texts = [*(plain(part, keep="_.") for part in parts if part)]
    texts += [f"{key}-{plain(_text(value, '-'), keep='_.')}" for key, value in changed.items()]
    name = "_".join(texts)
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def described(changed: Mapping[str, Any]) -> str:
    """For people: "epochs 30, batch size 512"."""
    return ", ".join(f"{key.replace('_', ' ')} {_text(value, ' ')}" for key, value in changed.items())


def in_order(name: str) -> list[tuple[int, str]]:
    """To sort names by: numbers in them count as numbers, 5 before 20."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def plain(name: str, *, keep: str = "") -> str:
    """Letters, digits and what is to be kept; a hyphen for the rest."""
    return re.sub(rf"[^A-Za-z0-9{re.escape(keep)}]+", "-", name).strip("-")


def _text(value: Any, between: str) -> str:
    if isinstance(value, list | tuple):
        return between.join(_text(part, between) for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
