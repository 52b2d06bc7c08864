"""The design's layers: imports point down, trainer and evaluators never meet, light modules stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PARTS = (
    "errors whole_files architecture schedules distributed recipe recipe_keys runs plan encoders heads losses "
    "compared_losses lars global_batch_norm augmentations recipes embedded variants lightly_parts deviations "
    "published processes locks tail metrics_table pulse failures hanging slurm states system_figures overview "
    "printing result_names result_folders file_kinds leftovers torchrun time_left"
)
MODEL = (
    "model precision checkpoints continuation background_saving file_list splits decoding datasets metrics loading "
    "features progress feature_cache image_identity few_labels transfer_sets significance predictions paper_figures "
    "encoder_digest outputs twins"
)
WORK = "trainer evaluators export importers pictures report studies"
LAUNCH = (
    "launch evaluation evaluation_on_sets proof doctor bench verify sinks supervisor agent study_runs study_cell "
    "study_cost study_setting comparisons"
)
TOP = "cli demo tui verbs run_verbs watch_verbs evaluate_verbs bench_verbs recipe_verbs study_verbs clean_verbs"
LAYER = {name: i for i, names in enumerate((PARTS, MODEL, WORK, LAUNCH, TOP)) for name in names.split()}


def imports_of(path: Path) -> set[str]:
    """Names of our modules (first level below the package) that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "simclr_plus":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("simclr_plus."):
            found.add(str(node.module).split(".")[1])
    return found


def modules() -> dict[str, list[Path]]:
    files = [*(ROOT / "simclr_plus").rglob("*.py"), *(ROOT / "tui").rglob("*.py")]
    named: dict[str, list[Path]] = {}
    for path in files:
        relative = path.relative_to(ROOT)
        if relative == Path("simclr_plus/__init__.py"):
            continue
        name = "tui" if relative.parts[0] == "tui" else relative.with_suffix("").parts[1]
        named.setdefault(name, []).append(path)
    return named


def test_every_module_has_a_layer() -> None:
    assert set(modules()) - set(LAYER) == set()


@pytest.mark.parametrize("name", sorted(LAYER.keys() & modules().keys()))
def test_imports_point_down_or_sideways(name: str) -> None:
    for path in modules()[name]:
        upwards = {other for other in imports_of(path) if LAYER[other] > LAYER[name]}
        assert not upwards, f"{path} imports {upwards}"


def test_trainer_and_evaluators_never_meet() -> None:
    assert all("trainer" not in imports_of(path) for path in modules()["evaluators"])
    assert "evaluators" not in imports_of(ROOT / "simclr_plus/trainer.py")


def test_there_is_no_circle_of_imports() -> None:
    graph = {name: set().union(*map(imports_of, paths)) - {name} for name, paths in modules().items()}
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, needs in graph.items() if name not in done and needs & graph.keys() <= done}
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
    "module", ["simclr_plus", "simclr_plus.cli", "simclr_plus.recipe", "simclr_plus.runs", "simclr_plus.plan"]
)
def test_light_modules_import_neither_torch_nor_textual_nor_numba(module: str) -> None:
    assert not loaded_after(f"import {module}") & {"torch", "textual", "numba", "lightly"}


@pytest.mark.parametrize("arguments", [["--help"], ["ps"], ["show", "x"], ["logs", "x"], ["stop", "x"]])
def test_verbs_that_watch_import_neither_torch_nor_textual_nor_numba(arguments: list[str], tmp_path: Path) -> None:
    from simclr_plus.recipe import load_recipe
    from simclr_plus.runs import create_run

    create_run(load_recipe("demo"), tmp_path, "x").logs.mkdir()
    (tmp_path / "x" / "logs" / "rank_0.log").write_text("a line\n")
    given = [*arguments, *([] if arguments == ["--help"] else ["--runs", str(tmp_path)])]
    code = f"from simclr_plus.cli import app\ntry: app({given!r})\nexcept SystemExit as end: assert not end.code"
    loaded = loaded_after(code)
    assert "typer" in loaded and not loaded & {"torch", "textual", "numba", "lightly"}


def test_the_terminal_ui_imports_no_torch() -> None:
    assert "torch" not in loaded_after("import simclr_plus.tui.app")


def test_evaluating_reads_no_code_for_files_of_tensorflow() -> None:
    assert not loaded_after("import simclr_plus.evaluation") & {"simclr_plus.importers.tensor_bundle"}


def test_the_public_names_load_on_first_use() -> None:
    import simclr_plus
    import simclr_plus.augmentations as augmentations

    for package in (simclr_plus, augmentations):
        assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        simclr_plus.nothing_such
