"""The command line's first look: every command under one heading, where to begin, versions, recipes to choose from."""

from __future__ import annotations

import json
import re
from importlib.metadata import version

import pytest
import torch
import typer
from typer.testing import CliRunner

from simclr_plus.cli.app import app
from simclr_plus.cli.first_look import BEGIN, GROUPS

plain_terminal = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}


def test_every_command_stands_under_one_heading_in_the_order_of_use() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(typer.main.get_group(app).commands)
    text = CliRunner().invoke(app, ["--help"], env=plain_terminal).stdout
    places = [text.index(f"─ {heading} ─") for heading in GROUPS]
    assert places == sorted(places)
    for heading, start, end in zip(GROUPS, places, [*places[1:], len(text)], strict=True):
        assert tuple(re.findall(r"^│ (\w+) ", text[start:end], re.MULTILINE)) == GROUPS[heading]


def test_the_command_alone_names_three_to_begin_with() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0 and len(BEGIN) == 3
    lines = [line.strip() for line in result.stdout.splitlines() if line.startswith("  ")]
    assert [line.partition("  ")[0] for line in lines] == [command for command, _ in BEGIN]


def test_versions_name_torch_lightly_and_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        result = CliRunner().invoke(app, ["--version"])
        assert result.exit_code == 0
        return result.stdout

    assert said().splitlines()[0] == f"simclr-plus {version('simclr-plus')}"
    assert f"torch {torch.__version__} " in said() and f"lightly {version('lightly')}" in said()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert "(CUDA 13.0, 2 GPUs here)" in said()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "(without CUDA)" in said()


def test_run_without_a_recipe_lists_them_and_trains_nothing() -> None:
    result = CliRunner().invoke(app, ["run"], env=plain_terminal | {"COLUMNS": "200"})
    assert result.exit_code == 2
    listed = CliRunner().invoke(app, ["recipes", "ls", "--json"])
    for name in json.loads(listed.stdout):
        assert re.search(rf"^│ {name} +│ \S", result.stdout, re.MULTILINE)
