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
    "errors machine.whole_files encoders.architecture schedules distributed recipe.recipe recipe.keys runs.folder "
    "recipe.plan encoders.resnet heads losses.contrastive losses.compared lars global_batch_norm augmentations "
    "recipes datasets.embedded recipe.variants lightly_parts recipe.deviations results.published machine.processes "
    "machine.locks machine.json_lines runs.metrics_table runs.pulse runs.failures launch.hanging "
    "launch.batch_scripts runs.states machine.figures runs.overview machine.printing runs.result_names "
    "runs.result_folders weights.file_kinds runs.leftovers machine.torchrun runs.time_left"
)
MODEL = (
    "training.model training.precision weights.checkpoints training.continuation weights.background_saving "
    "datasets.file_list datasets.splits datasets.decoding datasets.images features.metrics datasets.batches "
    "features.extraction runs.progress features.cache datasets.identity datasets.few_labels datasets.transfer_sets "
    "evaluators.significance results.predictions results.paper_figures encoders.digest weights.outputs "
    "datasets.twins"
)
WORK = "training.trainer evaluators weights.export importers results.curves results.report studies"
LAUNCH = (
    "launch.start results.evaluate results.evaluate_on_sets checks.proof checks.doctor bench results.verify "
    "launch.sinks launch.supervisor launch.agent studies.running.cells studies.running.cell studies.running.cost "
    "studies.running.setting results.comparisons"
)
TOP = (
    "cli.app checks.demo tui weights.file_header cli.options cli.run cli.watch cli.evaluate cli.bench cli.recipes "
    "cli.study cli.clean"
)
LAYER = {name: i for i, names in enumerate((PARTS, MODEL, WORK, LAUNCH, TOP)) for name in names.split()}


def dotted(path: Path) -> str:
    """The name of a file from simclr_plus on; tui/ is installed there too. "" for simclr_plus itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in (parts if parts[0] == "tui" else parts[1:]) if part != "__init__")


FILES = {dotted(path): path for folder in ("simclr_plus", "tui") for path in (ROOT / folder).rglob("*.py")}
FILES.pop("")


def listed(module: str) -> str:
    """The longest beginning of a dotted name that has a layer."""
    while module and module not in LAYER:
        module = module.rpartition(".")[0]
    return module


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


def test_every_module_has_a_layer() -> None:
    assert [module for module in FILES if not listed(module) and FILES[module].stem != "__init__"] == []


@pytest.mark.parametrize("module", sorted(filter(listed, FILES)))
def test_imports_point_down_or_sideways(module: str) -> None:
    upwards = {other for other in imports_of(module) if LAYER[listed(other)] > LAYER[listed(module)]}
    assert not upwards, f"{FILES[module]} imports {upwards}"


def test_trainer_and_evaluators_never_meet() -> None:
    trainers = [module for module in FILES if module.split(".")[-1] == "trainer"]
    assert trainers and not any(other.startswith("evaluators") for other in imports_of(trainers[0]))
    for module in FILES:
        if module.startswith("evaluators"):
            assert trainers[0] not in imports_of(module), module


def test_there_is_no_circle_of_imports() -> None:
    graph: dict[str, set[str]] = {}
    for module in filter(listed, FILES):
        graph.setdefault(listed(module), set()).update(listed(other) for other in imports_of(module))
    done: set[str] = set()
    while len(done) < len(graph):
        ready = {name for name, needs in graph.items() if name not in done and needs - {name} <= done}
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
        "simclr_plus.recipe.recipe",
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


def test_evaluating_reads_no_code_for_files_of_tensorflow() -> None:
    assert not loaded_after("import simclr_plus.results.evaluate") & {"simclr_plus.importers.tensor_bundle"}


def test_the_public_names_load_on_first_use() -> None:
    import simclr_plus
    import simclr_plus.augmentations as augmentations

    for package in (simclr_plus, augmentations):
        assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="nothing_such"):
        simclr_plus.nothing_such
