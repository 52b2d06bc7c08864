"""Where the marks of an axis stand and how numbers are written in few characters. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

LEAST_WITHOUT_POWER, MOST_IN_FULL = 1e-3, 9_999.5


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) between two values: at most `most` steps, a value more.

    `whole`: whole numbers alone, for what comes in ones.
    """
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low or most < 1:
        return []
    raw = max((high - low) / most, 1.0 if whole else 0.0)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(step for step in (power, 2 * power, 5 * power, 10 * power, 20 * power) if (high - low) / step <= most)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def decades(low: float, high: float, most: int) -> list[float]:
    """Values for a logarithmic axis from 10^low to 10^high, as exponents: powers of ten, or round values between."""
    whole = [float(i) for i in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
    if len(whole) > most:
        return whole[:: -(-len(whole) // most)]
    if len(whole) >= 2:
        return whole
    values = ticks(10**low, 10**high, most)
    return [math.log10(value) for value in values if value > 0]


def short(value: float | None, digits: int = 3) -> str:
    """A number in about six characters: 4.31, 12.5k, 1.3M, 3e-05; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3:
        mantissa, _, exponent = f"{value:.{max(0, digits - 2)}e}".partition("e")
        return f"{_bare(mantissa)}e{exponent}"
    if size < 9_999.5:
        decimals = max(0, digits - 1 - math.floor(math.log10(size)))
        return _bare(f"{value:.{decimals}f}")
    for limit, unit in ((1e6, "k"), (1e9, "M"), (1e12, "G")):
        if size < limit * 0.99995:
            return f"{short(value / limit * 1e3, digits)}{unit}"
    return f"{value:.1e}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as per cent, with so many decimals."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.{digits}%}"


def labels(values: Sequence[float], form: Callable[[float, int], str]) -> list[str]:
    """The values of an axis, all with the fewest digits that tell them exactly; `form` takes a value and digits."""
    for digits in range(8):
        texts = [form(value, digits) for value in values]
        if all(_plain(text) == _plain(form(value, digits + 3)) for text, value in zip(texts, values, strict=True)):
            break
    return texts if values else []


def axis_labels(values: Sequence[float], form: Callable[[float, int], str]) -> tuple[list[str], int]:
    """The values of an axis as they are written on it, and the one power of ten that all of them are to be taken by."""
    largest = max(map(abs, values), default=0.0)
    if form is not short or not largest:
        return labels(values, form), 0
    power = 0
    if largest < LEAST_WITHOUT_POWER:
        power = math.floor(math.log10(largest) + 1e-9)
    elif largest >= MOST_IN_FULL:
        power = 3 * int(math.log10(largest) / 3 + 1e-9)
    unit = {3: "k", 6: "M", 9: "G"}.get(power, "")
    texts = labels([rounded(value, largest) / 10.0**power for value in values], _in_full)
    return [f"{text}{unit}" if unit and text != "0" else text for text in texts], 0 if unit else power


def _in_full(value: float, digits: int) -> str:
    """Decimals without a power of ten."""
    return _bare(f"{value:.{digits}f}")


def rounded(value: float, axis: float) -> float:
    """0 for what is less than a thousandth of an axis that goes up to `axis`; on it nobody could tell it from 0."""
    return 0.0 if abs(value) < abs(axis) / 1000 else value


def powers(values: Sequence[float], form: Callable[[float, int], str]) -> list[str]:
    """The values of a logarithmic axis: all as powers of ten where one of them is too small to be written out."""
    if form is short and values and min(values) < LEAST_WITHOUT_POWER:
        return [f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e") for value in values]
    return labels(values, form)


def _plain(label: str) -> str:
    return f"{_bare(label[:-1])}%" if label.endswith("%") else label


def _bare(number: str) -> str:
    """Without zeros at the end of its decimals."""
    return number.rstrip("0").rstrip(".") if "." in number else number


def size(number: float) -> str:
    """Bytes as KiB, MiB or GiB."""
    for limit, unit in ((2**20, "KiB"), (2**30, "MiB")):
        if number < limit:
            return f"{number / limit * 1024:.1f} {unit}"
    return f"{number / 2**30:.1f} GiB"


def ago(then: float, now: float | None = None) -> str:
    """How long ago a moment was, in the largest unit."""
    seconds = max(0.0, (time.time() if now is None else now) - then)
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit} ago"
    return "just now"


def spark(values: list[float], width: int, *, ascii_only: bool = False) -> str:
    """A curve in one line of `width` characters, highest value at the top; a blank where a value is missing."""
    marks = "_.-=#" if ascii_only else "▁▂▃▄▅▆▇█"
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    low, high = min(finite), max(finite)
    stretched = [values[i * len(values) // width] for i in range(width)] if len(values) >= width else values
    scale = (len(marks) - 1) / (high - low) if high > low else 0.0
    return "".join(marks[round((v - low) * scale)] if math.isfinite(v) else " " for v in stretched)
