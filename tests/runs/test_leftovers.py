"""`clean` takes away what can be made again, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from simclr_plus.cli import main

WEEK = 8 * 86_400
GO = {
    ".features/0a.safetensors": 0,
    "r/checkpoints/.step_8.safetensors.99.part": WEEK,
    "r/results/.linear_step_8_encoder.safetensors": WEEK,
    "r/results/cells/step_8_cars/0b.state.safetensors": WEEK,
}
STAY = {
    "r/checkpoints/.step_9.safetensors.99.part": 60,
    "r/results/.linear_step_9_encoder.safetensors": 86_400,
    "r/results/cells/step_8_cars/0b.json": WEEK,
    "r/results/linear_step_8.json": WEEK,
    "r/results/linear_step_8.safetensors": WEEK,
    "r/results/predictions/transfer_step_8_cars.safetensors": WEEK,
    "r/checkpoints/step_00000008.safetensors": WEEK,
    "r/encoder.safetensors": WEEK,
    "r/recipe.toml": WEEK,
    "r/status.json": WEEK,
    "r/.notes.safetensors": WEEK,
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere" / ".features"
    for name, age in (GO | STAY).items():
        path = runs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(10))
        os.utime(path, (time.time() - age - 1,) * 2)
    elsewhere.mkdir(parents=True)
    (elsewhere / "a.safetensors").write_bytes(b"x")
    (runs / "link").symlink_to(tmp_path / "elsewhere")
    return runs


def files_in(runs: Path) -> set[str]:
    return {path.relative_to(runs).as_posix() for path in runs.rglob("*") if path.is_file()}


def test_what_can_be_made_again_goes_and_all_else_stays(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for dry in ([], ["--dry-run"])[::-1]:
        monkeypatch.setattr("sys.argv", ["simclr-plus", "clean", "--runs", str(runs), "--json", *dry])
        with pytest.raises(SystemExit) as ended:
            main()
        told = json.loads(capsys.readouterr().out)
        assert not ended.value.code and told["bytes"] == 40 and told["removed"] is not bool(dry)
        assert {Path(file["path"]).relative_to(runs).as_posix() for file in told["files"]} == GO.keys()
        assert files_in(runs) >= STAY.keys() | (GO.keys() if dry else set())
    assert files_in(runs) & GO.keys() == set()
    assert (runs.parent / "elsewhere" / ".features" / "a.safetensors").is_file()
