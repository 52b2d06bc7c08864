"""The design's layers: imports point down, trainer and evaluators never meet, light modules stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

# A package, or a file at the top, imports from the lines above its own, and within itself.
LAYERS = """
errors lazy schedules lars lightly_parts color_spaces full_precision recipes
machine
distributed
augmentations losses global_batch_norm
encoders heads parts
recipe
datasets weights runs
features importers launch
training evaluators tui
results bench
studies
checks
cli supervisor study_cell
"""
LAYER = {name: i for i, line in enumerate(LAYERS.split("\n")) for name in line.split()}


def dotted(path: Path) -> str:
    """The name of a file from simclr_plus on; tui/ is installed there too. "" for simclr_plus itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in (parts if parts[0] == "tui" else parts[1:]) if part != "__init__")


FILES = {dotted(path): path for folder in ("simclr_plus", "tui") for path in (ROOT / folder).rglob("*.py")}
FILES.pop("")


def package(module: str) -> str:
    """The package or file at the top that a dotted name belongs to."""
    return module.partition(".")[0]


def imports_of(module: str) -> set[str]:
    """Dotted names of our modules that a file imports: by whole or relative name, at its top or in a function."""
    found = set()
    inside = module.split(".") if FILES[module].stem == "__init__" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("simclr_plus.") for alias in node.names if "simclr_plus." in alias.name}
        elif isinstance(node, ast.ImportFrom):
            base = inside[: len(inside) + 1 - node.level] if node.level else (node.module or "").split(".")
            if not node.level and base.pop(0) != "simclr_plus":
                continue
            base += (node.module or "").split(".") if node.level and node.module else []
            below = {".".join([*base, alias.name]) for alias in node.names}
            found |= (below & FILES.keys()) or {".".join(base)}
    return found - {""}


def test_every_package_has_a_layer() -> None:
    assert {package(module) for module in FILES} | {"recipes"} == LAYER.keys()


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_down(module: str) -> None:
    others = {other for other in imports_of(module) if package(other) != package(module)}
    not_below = {other for other in others if LAYER[package(other)] >= LAYER[package(module)]}
    assert not not_below, f"{FILES[module]} imports {not_below}"


def test_there_is_no_circle_of_imports() -> None:
    graph = {module: imports_of(module) & FILES.keys() for module in FILES}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {module for module, needs in graph.items() if module not in done and needs - {module} <= done}
        assert ready, f"a circle among {sorted(graph.keys() - done)}"
        done |= ready


def test_lightly_is_imported_in_one_module() -> None:
    importing = re.compile(r"^\s*(from|import) (lightly|pytorch_lightning)\b", re.MULTILINE)
    files = [*(ROOT / "simclr_plus").rglob("*.py"), *(ROOT / "tui").rglob("*.py")]
    assert [path.name for path in files if importing.search(path.read_text())] == ["lightly_parts.py"]


def loaded_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(out.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "simclr_plus",
        "simclr_plus.cli.app",
        "simclr_plus.recipe.reading",
        "simclr_plus.runs.folder",
        "simclr_plus.recipe.plan",
    ],
)
def test_light_modules_import_neither_torch_nor_textual_nor_numba(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "textual", "numba", "lightly"}


@pytest.mark.parametrize("arguments", [["--help"], ["ps"], ["show", "x"], ["logs", "x"], ["stop", "x"]])
def test_verbs_that_watch_import_neither_torch_nor_textual_nor_numba(arguments: list[str], tmp_path: Path) -> None:
    from simclr_plus.recipe import load_recipe
    from simclr_plus.runs.folder import create_run

    create_run(load_recipe("demo"), tmp_path, "x").logs.mkdir()
    (tmp_path / "x" / "logs" / "rank_0.log").write_text("a line\n")
    given = [*arguments, *([] if arguments == ["--help"] else ["--runs", str(tmp_path)])]
    code = f"from simclr_plus.cli.app import app\ntry: app({given!r})\nexcept SystemExit as end: assert not end.code"
    loaded = loaded_after(code)
    assert "typer" in loaded and not loaded & {"torch", "textual", "numba", "lightly"}


def test_the_terminal_ui_imports_no_torch() -> None:
    assert "torch" not in loaded_after("import simclr_plus.tui.app")


# the list of runs, a run with its charts, two runs side by side, the form of a recipe, and its methods
LOOKED_AT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from pathlib import Path
from driving import drive, screen_text, until
from simclr_plus.tui.app import SimclrPlusApp
from simclr_plus.tui.starting.recipe_form import Form, rows_of

async def look(app, pilot):
    await until(pilot, lambda: "2 runs" in screen_text(app))
    await pilot.press("enter")
    await until(pilot, lambda: "effective rank" in screen_text(app))
    await pilot.press("escape", "space", "down", "space", "c")
    await until(pilot, lambda: "effective rank" in screen_text(app))
    await pilot.press("escape")
    app.open_recipe("mine.toml", Path("mine.toml"))
    await until(pilot, lambda: "measuring it" in screen_text(app))
    for method in ("dim", "amdim", "moco", "pirl"):  # which look at maps and norms
        app.screen.form.change("method.name", method)
        app.screen.show()

drive(SimclrPlusApp(Path("runs")), look)
form = Form("mine.toml", Path("mine.toml").read_text())
assert form.comes_to() and form.methods() and list(rows_of(form)) and form.question()
"""


def test_the_terminal_ui_needs_no_torch_for_networks_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simclr_plus.recipe import load_recipe
    from simclr_plus.runs.folder import create_run

    monkeypatch.chdir(tmp_path)
    by_name = load_recipe("places", ["encoder.name=timm:test_vit", "data.limit=256"])
    for name in ("one", "two"):
        run = create_run(by_name, Path("runs"), name)
        run.log_event("start", steps=48, images=256, processes=1, feature_dim=64)
        for step in range(1, 20):
            run.log_metrics({"step": step, "epoch": step / 2, "loss": 4.0, "learning_rate": 1.0, "effective_rank": 9.0})
    Path("mine.toml").write_text('[encoder]\nname = "timm:test_vit"\n')
    assert not loaded_after(LOOKED_AT) & {"torch", "timm"}


def test_evaluating_reads_no_code_for_files_of_tensorflow() -> None:
    assert not loaded_after("import simclr_plus.results.evaluate") & {"simclr_plus.importers.tensor_bundle"}


def test_the_public_names_load_on_first_use() -> None:
    import simclr_plus
    import simclr_plus.augmentations as augmentations

    for package in (simclr_plus, augmentations):
        assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        simclr_plus.nothing_such
