"""The report of a study: tables, pictures and the paper's claims, each seen, not seen or undecided at this scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simclr_plus.studies.findings import Difference, Findings

SEEN, NOT_SEEN, UNDECIDED, MISSING = "seen", "not seen", "undecided", "not measured"


@dataclass(frozen=True)
class Table:
    """Cells as text; what is missing is a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A file name without its ending, a caption, and the drawing on matplotlib axes."""

    name: str
    caption: str
    draw: Callable[[Any], None]
    size: tuple[float, float] = (7.0, 4.2)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, whether it was seen here, and the figures that say so."""

    sentence: str
    verdict: str
    evidence: str


@dataclass(frozen=True)
class Page:
    """What a report shows, in order."""

    tables: Sequence[Table]
    pictures: Sequence[Picture]
    claims: Sequence[Claim]


def higher(
    findings: Findings,
    sentence: str,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    *,
    figure: str = "top1",
    other: str = "",
) -> Claim:
    """The claim that the figure at place a is above the figure at place b."""
    return decided(sentence, findings.difference(a, b, figure, other))


def decided(sentence: str, difference: Difference | None, evidence: str = "") -> Claim:
    """Seen where the whole 95 % interval lies above 0, not seen where it lies below, else undecided."""
    if difference is None:
        return Claim(sentence, MISSING, "no cells that could be compared have been measured")
    verdict = SEEN if difference.is_above else NOT_SEEN if difference.is_below else UNDECIDED
    return Claim(sentence, verdict, ": ".join(part for part in (evidence, difference.text()) if part))


def best_of(findings: Findings, places: Sequence[Mapping[str, Any]], figure: str = "top1") -> Mapping[str, Any] | None:
    """The place with the highest mean; None unless all of them were measured."""
    values = [findings.value(figure, **place) for place in places]
    if not places or any(math.isnan(value) for value in values):
        return None
    return places[max(range(len(places)), key=lambda i: values[i])]


def group_ahead(
    findings: Findings, sentence: str, group: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> Claim:
    """The claim that the best place of a group is above the best of the others; the evidence says how both were chosen.

    The interval is that of the two places. It does not hold that they were chosen among several by the same figures.
    """
    a, b = best_of(findings, group), best_of(findings, others)
    if a is None or b is None:
        return Claim(sentence, MISSING, "not all of these places have been measured")
    of = f"best of {len(group)} against best of {len(others)}, chosen on these figures, which the interval leaves out"
    return decided(sentence, findings.difference(a, b), f"{_name(a)} against {_name(b)} ({of})")


def _name(place: Mapping[str, Any]) -> str:
    return ", ".join(f"{axis} {value}" for axis, value in place.items())
