"""The report of a study as files: HTML in one piece, Markdown, pictures as PNG and SVG, all numbers as CSV and JSON."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simclr_plus.machine.whole_files import write_text_whole, write_whole
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Page, Picture
from simclr_plus.studies.study import Study

VERDICT_COLORS = {"seen": "#1a7f37", "not seen": "#cf222e", "undecided": "#9a6700", "not measured": "#57606a"}


@dataclass(frozen=True)
class Setting:
    """How the study was run, for people: (what, how much) in order; and what failed or is still missing."""

    facts: Sequence[tuple[str, str]]
    missing: Sequence[str] = ()


def write_report(folder: Path, study: Study, findings: Findings, setting: Setting) -> list[Path]:
    """Write report.html, report.md, results.csv, results.json and plots/; returns the files."""
    page = study.page(findings)
    pictures = [_drawn(picture, folder / "plots") for picture in page.pictures]
    texts = {
        "report.html": _html(study, page, setting, pictures),
        "report.md": _markdown(study, page, setting),
        "results.csv": _csv(findings),
        "results.json": _json(study, findings, page, setting),
    }
    for name, text in texts.items():
        write_text_whole(folder / name, text)
    return [*(folder / name for name in texts), *pictures]


def _drawn(picture: Picture, folder: Path) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=picture.size, constrained_layout=True)
    picture.draw(figure)
    for kind in ("svg", "png"):
        path = folder / f"{picture.name}.{kind}"
        write_whole(path, lambda aside, kind=kind: figure.savefig(aside, format=kind, dpi=120))  # type: ignore[misc]
    pyplot.close(figure)
    return path


def _markdown(study: Study, page: Page, setting: Setting) -> str:
    parts = [f"# {study.title}", f"{study.question} ({study.source})"]
    parts.append("\n".join(f"- {what}: {how}" for what, how in setting.facts))
    if page.claims:
        parts.append("## What the paper claims, here")
        rows = [[claim.sentence, f"**{claim.verdict}**", claim.evidence] for claim in page.claims]
        parts.append(_markdown_table(["claim", "", "figures"], rows))
    for table in page.tables:
        parts += [f"## {table.title}", _markdown_table(table.columns, table.rows)]
        parts += [table.note] if table.note else []
    parts += [f"![{picture.caption}](plots/{picture.name}.png)" for picture in page.pictures]
    for title, lines in _notes(study, setting):
        parts += [f"## {title}", "\n".join(f"- {line}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *map(list, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _html(study: Study, page: Page, setting: Setting, pictures: Sequence[Path]) -> str:
    parts = [
        f"<h1>{html.escape(study.title)}</h1><p>{html.escape(study.question)} <i>{html.escape(study.source)}</i></p>"
    ]
    facts = "".join(f"<dt>{html.escape(what)}</dt><dd>{html.escape(how)}</dd>" for what, how in setting.facts)
    parts.append(f"<dl>{facts}</dl>")
    if page.claims:
        rows = "".join(
            f"<tr><td>{html.escape(c.sentence)}</td><td style='color:{VERDICT_COLORS[c.verdict]}'><b>{c.verdict}</b>"
            f"</td><td>{html.escape(c.evidence)}</td></tr>"
            for c in page.claims
        )
        parts.append(f"<h2>What the paper claims, here</h2><table>{rows}</table>")
    for picture, path in zip(page.pictures, pictures, strict=True):
        data = base64.b64encode(path.read_bytes()).decode()
        caption = html.escape(picture.caption)
        parts.append(
            f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'>"
            f"<figcaption>{caption}</figcaption></figure>"
        )
    for table in page.tables:
        parts += [f"<h2>{html.escape(table.title)}</h2>", _html_table(table.columns, table.rows)]
        parts += [f"<p>{html.escape(table.note)}</p>"] if table.note else []
    for title, lines in _notes(study, setting):
        items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        parts.append(f"<h2>{title}</h2><ul>{items}</ul>")
    style = (
        "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:60em;padding:0 1em;color:#1f2328}"
        "table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:left;border-bottom:1px solid #d0d7de}"
        "figure{margin:1.5em 0}img{max-width:100%}figcaption{color:#57606a}"
        "dl{display:grid;grid-template-columns:max-content auto;gap:.1em 1em}dt{color:#57606a}dd{margin:0}"
    )
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{html.escape(study.title)}</title>"
        f"<style>{style}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _notes(study: Study, setting: Setting) -> list[tuple[str, Sequence[str]]]:
    notes: list[tuple[str, Sequence[str]]] = []
    notes += [("Choices that no source fixes", study.choices)] if study.choices else []
    notes += [("Not measured", setting.missing)] if setting.missing else []
    return notes


def _csv(findings: Findings) -> str:
    axes = list(dict.fromkeys(axis for row in findings.rows for axis in row.place))
    figures = list(dict.fromkeys(figure for row in findings.rows for figure in row.numbers))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*axes, "seed", *figures])
    for row in findings.rows:
        places, numbers = [row.place.get(a, "") for a in axes], [row.numbers.get(n, "") for n in figures]
        writer.writerow([*places, row.seed, *numbers])
    return text.getvalue()


def _json(study: Study, findings: Findings, page: Page, setting: Setting) -> str:
    value: dict[str, Any] = {
        "schema": 1,
        "study": study.name,
        "source": study.source,
        "scale": findings.scale,
        "facts": dict(setting.facts),
        "claims": [asdict(claim) for claim in page.claims],
        "cells": [{"place": dict(r.place), "seed": r.seed, "numbers": dict(r.numbers)} for r in findings.rows],
        "tables": [asdict(table) for table in page.tables],
        "choices": list(study.choices),
        "missing": list(setting.missing),
    }
    return json.dumps(value, indent=2) + "\n"
