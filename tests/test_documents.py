"""The documents are true: their command lines run, their links lead somewhere, the site is built without a warning."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from drawn_photos import drawn_photo
from PIL import Image
from places import ROOT
from tiny_recipe import TINY
from warm_commands import Warm

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = shlex.join([*(word for word in TINY if not word.startswith("loss.")), "training.epochs=2"])

# What is added to a line that has the pattern, so that it ends within seconds; None: it is not run here, and why.
HOW: tuple[tuple[str, str | None], ...] = (
    (r"^make ", None),  # the README's two commands: CI runs them
    (r"^simclr-plus tui", None),  # tests/tui
    (r"--nodes|--slurm|--part|--grid|--data all|simclrv2|moco_v2|IMAGENET/val", None),  # machines and data of others
    (r"compare A B|loss\|optimizer", None),  # words that stand for others
    (r"my_networks|WEIGHTS", None),  # modules and weights of others
    (
        r"^simclr-plus run .*(encoder\.name|continue)",
        "training.batch_size=32 --dry-run",
    ),  # networks of hours; weights in no cache here
    (r"^simclr-plus bench|--nproc gpu", None),  # tests/bench; GPUs
    (r"^simclr-plus (resume|stop) a", None),  # tests/launch
    (r"--dry-run$", ""),
    (r"study augmentations", "training.batch_size=32 --dry-run"),
    (
        r"^simclr-plus (run|study) .*(r50|cifar10|mine\.toml|temperature|comparison)",
        "--dry-run",
    ),  # hours, or other tests
    (r"^simclr-plus run (folder|places|rotation_demo)", SMALL),
    (r"evaluate linear RUN$", "--epochs 1"),
    (r"evaluate few-labels", "--epochs 1"),
)


def lines_of(page: Path) -> list[str]:
    """The commands of a page's sh blocks, without comments, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [command for line in lines if (command := re.sub(r"\s+#.*", "", line).strip())]


COMMANDS = [(page.name, line) for page in PAGES for line in lines_of(page)]


def added(line: str) -> str | None:
    """The words that a line needs here; None: it is not run."""
    return next((words for pattern, words in HOW if re.search(pattern, line)), "")


@pytest.fixture(scope="module")
def folder(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a newcomer types: a folder PHOTOS of three classes, and a run "a" that was trained on them."""
    folder = tmp_path_factory.mktemp("newcomer")
    for i in range(60):
        place = folder / "PHOTOS" / f"class {i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn_photo(i, height=32, width=40, tint=(i % 3, 0, 0))).save(place / f"{i}.png")
    typed(warm, f"simclr-plus run folder data.root=PHOTOS {SMALL} --name a", folder)
    return folder


def typed(warm: Warm, line: str, folder: Path) -> str:
    """What a command prints in the folder; that it succeeds."""
    done = warm.run(shlex.split(line)[1:], cwd=folder, timeout=300)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), [(page, line) for page, line in COMMANDS if added(line) is not None])
def test_a_command_of_the_documents_runs(page: str, line: str, warm: Warm, folder: Path) -> None:
    words = re.sub(r"\bRUN( RUN)*\b|\blatest\b", "a", line)
    if "recipes cp" in line:
        (folder / "mine.toml").unlink(missing_ok=True)
    assert typed(warm, f"{words} {added(line)}", folder), f"{page}: {line} says nothing"


@pytest.mark.slow
def test_the_readmes_encoder_goes_into_lightlys_classifier(
    warm: Warm, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed(warm, "simclr-plus export a -o encoder.safetensors", folder)
    monkeypatch.chdir(folder)
    block = re.search(r"```python\n([^`]*load_encoder\(.*?)```", PAGES[0].read_text(), re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
        exec(compile(block[1], "README.md", "exec"), names)
    h = names["encoder"].eval()(torch.rand(2, 3, 32, 32))
    assert h.shape == (2, names["encoder"].feature_dim)
    assert names["classifier"].classification_head(h).shape == (2, 10)


def test_most_commands_of_the_documents_are_run() -> None:
    """A pattern of HOW that takes too much in would let a wrong line pass."""
    ran = [line for _, line in COMMANDS if added(line) is not None]
    assert len(COMMANDS) > 45 and len(ran) > 0.6 * len(COMMANDS)
    for pattern, _ in HOW:
        assert any(re.search(pattern, line) for _, line in COMMANDS), f"{pattern} stands for no line"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for page in ("index", "commands/index", "api/index", "studies/temperature/report/index"):
        assert "<h1" in (tmp_path / f"{page}.html").read_text()
    assert "nt_xent" in (tmp_path / "api" / "index.html").read_text()


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(ROOT / "docs" / "first_steps.ipynb", as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "install" not in cell.metadata.get("tags", [])]
    monkeypatch.setenv("EPOCHS", "1")
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in outputs)
    assert (tmp_path / "runs" / "notebook" / "encoder.safetensors").is_file()
    rows = re.findall(r"│ +(encoder|raw pixels, 32x32|random encoder) +│.*\d%", text)
    assert [rows.count(name) for name in ("encoder", "raw pixels, 32x32", "random encoder")] == [3, 2, 3], [
        line for line in text.splitlines() if "random" in line
    ]
    assert "error" not in text
    assert any("image/png" in output.get("data", {}) for output in outputs)
