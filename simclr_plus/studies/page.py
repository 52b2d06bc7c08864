"""The report of a study: tables, pictures and the paper's claims, each seen, not seen or undecided at this scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simclr_plus.studies.findings import Findings

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
    """The claim that the figure at place a is above the figure at place b: two standard errors decide."""
    found = findings.difference(a, b, figure, other)
    if found is None:
        return Claim(sentence, MISSING, "no cell of both places has been measured with the same seed")
    verdict = SEEN if found.is_above else NOT_SEEN if found.is_below else UNDECIDED
    return Claim(sentence, verdict, found.text())


def stated(sentence: str, verdict: bool | None, evidence: str) -> Claim:
    """A claim about an order of several places: True, False, or None where too little was measured."""
    return Claim(sentence, MISSING if verdict is None else SEEN if verdict else NOT_SEEN, evidence)
