"""The wheel: what a user gets from `pip install .`, away from the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from doc_tables import pages
from places import ROOT
from test_layers import LAYER


def test_the_embedded_images_fit_and_carry_their_licence() -> None:
    folder = ROOT / "simclr_plus" / "datasets" / "embedded"
    assert (folder / "fashion_mnist.npz").stat().st_size < 6_000_000
    notice = (folder / "LICENSE.fashion-mnist").read_text()
    assert "Zalando SE" in notice and "The MIT License" in notice
    photographs = list((folder / "places").iterdir())
    assert len(photographs) == 66 and sum(file.stat().st_size for file in photographs) < 6_000_000
    assert "public domain" in (folder / "LICENSE.places").read_text()


def test_the_tables_of_the_documents_are_as_the_code_says() -> None:
    old = [page.name for page, text in pages() if page.read_text() != text]
    assert old == [], "python tests/doc_tables.py writes them anew"


def test_the_architecture_names_every_module_under_its_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    files = [file for top in ("simclr_plus", "tui") for file in (ROOT / top).rglob("*.py")]
    modules = [file.relative_to(ROOT) for file in files if file.name != "__init__.py"]
    named = {
        Path(package) / file
        for package, part in re.findall(r"^### ([\w/]+)/$(.*?)(?=^###|\Z)", text, re.MULTILINE | re.DOTALL)
        for file in re.findall(r"^\| `(\w+\.py)` \|", part, re.MULTILINE)
    }
    assert named == set(modules)


def test_the_architecture_has_the_layers_that_the_imports_are_held_to() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)(?:/|\.py)` \|", text, re.MULTILINE)
    assert {name: int(layer) for layer, name in rows} == LAYER


def test_links_between_the_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    links = [(page, link) for page in documents for link in re.findall(r"\]\(([^)#]+)\)", page.read_text())]
    local = [(page, link) for page, link in links if not link.startswith("https://")]
    assert len(local) > 20
    assert [f"{page.name}: {link}" for page, link in local if not (page.parent / link).is_file()] == []
    readme = [link for page, link in local if page.name == "README.md"]
    stubs = {"index.md", "changelog.md", "contributing.md"}  # the site's pages of README and the two others
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.name not in stubs} <= set(readme)


@pytest.mark.slow
def test_the_wheel_works_away_from_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "simclr_plus/tui/app.py",
        "simclr_plus/recipes/r50_4x.toml",
        "simclr_plus/importers/authors.py",
        "simclr_plus/datasets/embedded/fashion_mnist.npz",
        "simclr_plus/parts/color_bins.npz",
        "simclr_plus/parts/LICENSE.color-bins",
    ):
        assert needed in names
    assert not any(name.startswith(("tui/", "recipes/", "tests/")) for name in names)
    assert any(name.endswith("LICENSE.fashion-mnist") for name in names)
    assert sum(name.startswith("simclr_plus/datasets/embedded/places/") for name in names) == 66
    assert "simclr_plus/datasets/embedded/LICENSE.places" in names
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}

    def simclr_plus(*arguments: str) -> str:
        command = [sys.executable, "-m", "simclr_plus.cli", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import simclr_plus.tui.app as a; print(a.__file__)"
    out = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert str(site) in out.stdout, out.stderr
    assert "r50_4x" in json.loads(simclr_plus("recipes", "ls", "--json"))
    small = ["data.limit=64", "training.batch_size=32", "training.epochs=1", "training.warmup_epochs=0"]
    assert json.loads(simclr_plus("run", "demo", *small, "--name", "x", "--json"))["state"] == "finished"
