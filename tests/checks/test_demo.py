"""The demo on a fraction of its images: the table, the pictures, the page and the encoder that it ends with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_recipe import TINY
from typer.testing import CliRunner

from simclr_plus import load_encoder
from simclr_plus.checks import demo
from simclr_plus.cli.app import app


@pytest.mark.slow
def test_the_demo_ends_with_figures_pictures_a_report_and_an_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[..., object] = demo.run_demo
    monkeypatch.setattr(demo, "run_demo", lambda *words, **more: run(*words, **more, overrides=tuple(TINY)))
    result = CliRunner().invoke(app, ["demo", "--runs", str(tmp_path)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    rows = re.findall(r"^│ (encoder|raw pixels, 32x32|random encoder) +│(.*)│$", result.output, re.MULTILINE)
    assert [name for name, _ in rows] == ["encoder", "raw pixels, 32x32", "random encoder"]
    (folder,) = tmp_path.iterdir()
    for name, cells in rows:
        shown = [float(cell.strip(" %")) for cell in cells.split("│")]
        files = sorted(
            (folder / "results").glob("*.json"), key=lambda file: json.loads(file.read_text())["train_images"]
        )
        found = {
            (r["evaluator"], r["train_images"]): r["results"][name]["top1"]
            for r in (json.loads(file.read_text()) for file in files)
        }
        columns = [("knn", 330), ("linear_fast", 330), ("knn", 4224), ("linear_fast", 4224)]
        assert shown == [pytest.approx(100 * found[column], abs=0.051) for column in columns]
    for name in ("neighbours.png", "curves.png"):
        with Image.open(folder / name) as picture:
            assert picture.size[0] > 500
    assert "raw pixels" in (folder / "report.html").read_text()
    assert load_encoder(folder / "encoder.safetensors").feature_dim == 64
