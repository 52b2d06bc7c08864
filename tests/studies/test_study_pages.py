"""The report of a study."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up_findings import made_up
from parameters import rest_slow

from simclr_plus.studies.catalogue import STUDIES, find_study
from simclr_plus.studies.findings import Findings
from simclr_plus.studies.page import Claim
from simclr_plus.studies.report import Setting, write_report


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("share", rest_slow([0.4, 1.0, 0.0]))
def test_a_report_is_written_of_a_whole_study_of_a_part_and_of_nothing(name: str, share: float, tmp_path: Path) -> None:
    whole = made_up(name)
    part = Findings(whole.rows[: round(share * len(whole.rows))], "small", 2000)
    study = find_study(name)
    files = write_report(
        tmp_path, study, part, Setting((("scale", "small"),), ("a cell: failed",) if share < 1 else ())
    )
    assert {file.name for file in files} >= {"report.html", "report.md", "results.csv", "results.json"}
    page = study.page(part)
    text = (tmp_path / "report.md").read_text()
    assert all(claim.sentence in text for claim in page.claims)
    assert all(
        (tmp_path / "plots" / f"{p.name}.{kind}").stat().st_size > 1000
        for p in page.pictures
        for kind in ("png", "svg")
    )
    html = (tmp_path / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(page.pictures) and "nan" not in text.lower().split()
    lines = (tmp_path / "results.csv").read_text().splitlines()
    assert len(lines) == 1 + len(part.rows)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert len(saved["cells"]) == len(part.rows) and saved["study"] == name
    if share == 1:
        assert "not measured" not in {claim.verdict for claim in page.claims}
        assert page.claims and all(isinstance(claim, Claim) and claim.evidence for claim in page.claims)
    if share == 0:
        assert {claim.verdict for claim in page.claims} <= {"not measured"}
