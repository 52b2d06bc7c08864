"""Studies that are really run, in miniature: each to its report, killed and gone on with, and by SLURM as an array."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import slurm_cluster
from launching import CLI, environment, processes_naming, wait_for
from parameters import slow_or_soak
from PIL import Image

from simclr_plus.errors import RecipeError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.studies.catalogue import STUDIES, find_study
from simclr_plus.studies.running.cells import open_study, plan_study, record

Command = Callable[..., subprocess.CompletedProcess[str]]
# networks of 8 to 64 channels on 64 images for one or two steps
SMOKE = [
    "data.limit=64",
    "augmentation.image_size=16",
    "encoder.width=0.125",
    "head.output_dim=16",
    "training.batch_size=32",
    "training.epochs=1",
    "training.warmup_epochs=0",
    "monitor.log_every_steps=1",
]
# a part of each grid that has every kind of cell; "color or gray" needs a colour set, the embedded one is gray
PARTS = {
    "augmentations": ["first=crop,color", "second=crop,noise"],
    "color-strength": ["policy=1 (+blur),AutoAug"],
    "projection-head": ["dimension=64"],
    "what-h-keeps": ["task=rotation,corrupted"],
    "losses": ["searched=0.4,0.5"],
    "temperature": ["temperature=1.0,10.0"],
    "batch-and-epochs": ["batch=64", "epochs=1.0"],
    "model-size": ["width=0.125", "depth=18"],
    "broader-augmentation": ["policy=default,broader"],
    "supervised-augmentation": ["epochs=1.0"],
    "comparison": ["rate=3", "method=simclr,rotation"],
    "comparison-epochs": ["rate=3", "method=supervised,rotation"],
}
NO_SHARES = ("test_images", "contrastive_entropy", "epochs", "pixels", "side", "seconds", "loss")
CELLS = {
    "augmentations": 4,
    "color-strength": 4,
    "projection-head": 3,
    "what-h-keeps": 2,
    "losses": 5,
    "temperature": 2,
    "batch-and-epochs": 2,
    "model-size": 2,
    "broader-augmentation": 2,
    "supervised-augmentation": 3,
    "comparison": 2,
    "comparison-epochs": 2,
}


def arguments_of(name: str) -> list[str]:
    larger = ["augmentation.image_size=32"] if name.startswith("comparison") else []  # all its methods must fit
    return [name, *SMOKE, *larger, "--seeds", "1", *(word for part in PARTS[name] for word in ("--where", part))]


def study(folder: Path, *arguments: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "study", *arguments, "--runs", str(folder / "runs")]
    return subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, text=True, timeout=seconds, check=False
    )


def refusal(simclr_plus: Command, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Of a study that starts no process of its own."""
    return simclr_plus("study", *arguments, "--runs", folder / "runs", cwd=folder)


@pytest.mark.parametrize(
    "name", slow_or_soak(list(STUDIES), ["comparison-epochs", "broader-augmentation", "color-strength"])
)
def test_every_study_runs_to_its_report(name: str, tmp_path: Path) -> None:
    done = study(tmp_path, *arguments_of(name), "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["cells"]) == CELLS[name] and found["study"] == name
    for cell in found["cells"]:
        accuracies = {key: value for key, value in cell["numbers"].items() if key not in NO_SHARES}
        assert accuracies and all(0 <= value <= 1 for value in accuracies.values())
        assert cell["numbers"]["test_images"] == 2000
    folder = tmp_path / "runs" / f"study-{name}"
    assert (folder / "report.html").stat().st_size > 10_000 and list((folder / "plots").glob("*.svg"))
    if name == "temperature":
        again = study(tmp_path, *arguments_of(name), "--json")
        assert json.loads(again.stdout)["cells"] == found["cells"] and "cells to run" not in again.stderr


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others_and_is_named(tmp_path: Path) -> None:
    """A run of another recipe lies in its place."""
    folder = tmp_path / "runs" / "study-temperature"
    create_run(load_recipe("demo"), folder / "cells", "yes_0.5_seed0")
    done = study(tmp_path, "temperature", *SMOKE, "--seeds", "1", "--where", "temperature=0.1,0.5")
    assert done.returncode == 1
    assert "1 of 2 cells failed" in done.stderr and "yes_0.5_seed0: failed: " in done.stderr
    assert "has another recipe" in done.stderr
    report = (folder / "report.md").read_text()
    assert "cells measured: 1 of 6" in report and "yes_0.5_seed0: failed: run" in report and "(see " in report
    assert "4 cells that have not been run" in report


def test_gray_images_are_refused_where_colour_is_asked_for_before_anything_is_trained(
    tmp_path: Path, simclr_plus: Command
) -> None:
    done = refusal(simclr_plus, tmp_path, "what-h-keeps", *SMOKE)
    assert done.returncode == 2 and "--where task=rotation,corrupted,sobel" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_missing_labels_test_images_and_great_batches_are_told_before_anything_is_trained(
    tmp_path: Path, simclr_plus: Command
) -> None:
    for name in ("train/a.png", "train/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32), "teal").save(tmp_path / name)
    asked = ["temperature", *SMOKE, "data.name=folder", f"data.root={tmp_path}", "data.limit=0"]
    assert "has train but neither val nor test" in refusal(simclr_plus, tmp_path, *asked).stderr
    (tmp_path / "val").mkdir()
    Image.new("RGB", (32, 32), "teal").save(tmp_path / "val" / "c.png")
    assert "has no labels" in refusal(simclr_plus, tmp_path, *asked).stderr
    large = refusal(simclr_plus, tmp_path, "batch-and-epochs", *SMOKE, "--where", "batch=512")
    assert large.returncode == 2 and "training.batch_size = 512 exceeds the 64 images" in large.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_processes_share_the_measures_of_a_cell_whose_folder_a_kill_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study-broader-augmentation" / "cells" / "0.125_default_seed0"
    folder.mkdir(parents=True)
    (folder / ".recipe.toml.17.part").write_text("[tra")
    asked = ["broader-augmentation", *SMOKE, "--seeds", "1", "--nproc", "2", "--at-once", "1"]
    done = study(tmp_path, *asked, "--where", "policy=default", "--json")
    assert done.returncode == 0, done.stderr
    (cell,) = json.loads(done.stdout)["cells"]
    assert {"top1", "top1_1pct", "top1_10pct", "top1_100pct"} < set(cell["numbers"])


@pytest.mark.slow
def test_a_cell_that_someone_stops_is_not_measured_and_goes_on_later(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study-temperature"
    longer = [word if word != "training.epochs=1" else "training.epochs=60" for word in SMOKE]
    asked = ["temperature", *longer, "checkpoints.every_epochs=2", "--seeds", "1", "--where", "temperature=0.1"]
    command = [*CLI, "study", *asked, "--runs", str(tmp_path / "runs")]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    cell = Run(folder / "cells" / "yes_0.1_seed0")
    wait_for(lambda: cell.checkpoint_files(), "a checkpoint")
    cell.ask_to_stop()
    _, talk = running.communicate(timeout=120)
    assert running.returncode == 1 and "was stopped before its end" in talk
    assert not results(folder) and "stopped before its end" in (folder / "report.md").read_text()
    done = study(tmp_path, *asked)
    assert done.returncode == 0 and len(results(folder)) == 1, done.stderr
    assert "Not measured\n\n- 5 cells that have not been run" in (folder / "report.md").read_text()


def test_options_of_slurm_and_of_another_study_are_not_passed_over(tmp_path: Path, simclr_plus: Command) -> None:
    assert "go with --slurm" in refusal(simclr_plus, tmp_path, "temperature", *SMOKE, "--time", "60").stderr
    planned = plan_study(tmp_path / "runs" / "x", find_study("losses"), "small", 1, load_recipe("study"))
    record(planned, 1)
    other = refusal(simclr_plus, tmp_path, "temperature", "--name", "x", "--report")
    assert other.returncode == 2 and "holds the study losses, not temperature" in other.stderr


def results(folder: Path) -> dict[str, float]:
    """The finished cells, with when their result files were written."""
    return {file.parent.parent.name: file.stat().st_mtime for file in folder.glob("cells/*/results/cell.json")}


@pytest.mark.parametrize(
    "kill", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), pytest.param(signal.SIGINT, marks=pytest.mark.soak)]
)
def test_a_study_killed_in_the_middle_repeats_no_cell_and_loses_none(kill: signal.Signals, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "study-temperature"
    longer = [word if word != "training.epochs=1" else "training.epochs=40" for word in SMOKE]
    asked = ["temperature", *longer, "checkpoints.every_epochs=2", "--seeds", "1", "--at-once", "1"]
    asked += ["--where", "l2=yes", "--runs", str(tmp_path / "runs")]
    command = [*CLI, "study", *asked]
    running = subprocess.Popen(command, cwd=tmp_path, env=environment(tmp_path), stderr=subprocess.PIPE, text=True)
    second = folder / "cells" / "yes_0.1_seed0" / "checkpoints"
    wait_for(lambda: len(results(folder)) == 1 and list(second.glob("*.safetensors")), "a cell and a half")
    running.send_signal(kill)
    _, talk = running.communicate(timeout=120)
    assert running.returncode == (-signal.SIGKILL if kill == signal.SIGKILL else 130), talk
    before = results(folder)
    done = subprocess.run(
        [*command, "--json"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    after = results(folder)
    assert len(after) == len(json.loads(done.stdout)["cells"]) == 4
    assert before and all(after[cell] == written for cell, written in before.items())
    events = [
        json.loads(line)["event"] for line in (second.parent / "events.jsonl").read_text().splitlines()
    ]  # it went on where it was, or, killed alone with its study, to its end without it
    assert events.count("start") == 1 and events.count("exit") == (1 if "resume" not in events else 2)
    wait_for(lambda: not processes_naming(Run(folder)), "the end of all processes")


@pytest.mark.slow
def test_slurm_runs_the_missing_cells_as_an_array(cluster: slurm_cluster.Cluster, tmp_path: Path) -> None:
    variables = {**cluster.environment, **environment(tmp_path), "PATH": slurm_cluster.PATH}

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*CLI, "study", "temperature", *arguments, "--runs", str(tmp_path / "runs"), "--json"]
        return subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=200, check=False
        )

    folder = tmp_path / "runs" / "study-temperature"
    done = ask(*SMOKE, "--seeds", "1", "--where", "temperature=0.05", "--slurm")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cells"] == 1 and "--array=0\n" in (folder / "slurm.sh").read_text()
    wait_for(lambda: len(results(folder)) == 1, "the first cell")

    def rest_of_it() -> subprocess.CompletedProcess[str] | None:
        asked = ask(*SMOKE, "--seeds", "1", "--where", "temperature=0.05,0.1,10.0", "--slurm")
        assert asked.returncode == 0 or "works on" in asked.stderr  # refused while the first job is at work
        return None if asked.returncode else asked

    rest = wait_for(rest_of_it, "the end of the first job")
    assert json.loads(rest.stdout)["cells"] == 2 and "--array=1,4" in (folder / "slurm.sh").read_text()
    wait_for(lambda: len(results(folder)) == 3, "the other two")
    report = ask("--report")
    assert report.returncode == 0 and len(json.loads(report.stdout)["cells"]) == 3
    assert "every cell" in ask(*SMOKE, "--seeds", "1", "--where", "temperature=0.1", "--slurm").stderr


def test_a_dry_run_counts_cells_images_and_time_and_writes_nothing(
    tmp_path: Path, simclr_plus: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = simclr_plus("study", *arguments_of("batch-and-epochs"), "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["cells"], found["done"]) == (2, 0) and found["seconds"] > 0
    assert found["images"] == sum(cell["steps"] * cell["batch"] for cell in found["plan"])
    assert not (tmp_path / "runs").exists()


def test_studies_are_listed_and_a_wrong_name_or_scale_says_what_there_is(
    tmp_path: Path, simclr_plus: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    listed = json.loads(simclr_plus("study", "--json", cwd=tmp_path).stdout)["studies"]
    assert [entry["name"] for entry in listed] == list(STUDIES)
    wrong = simclr_plus("study", "temprature", cwd=tmp_path)
    assert wrong.returncode == 3 and "there are augmentations" in wrong.stderr
    scale = simclr_plus("study", "temperature", "--scale", "huge", cwd=tmp_path)
    assert scale.returncode == 2 and "small or paper" in scale.stderr
    nothing = simclr_plus("study", "temperature", "--report", cwd=tmp_path)
    assert nothing.returncode == 3 and "no folder of a study" in nothing.stderr


def test_the_cells_of_a_study_have_one_folder_wherever_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe("study", ["data.name=folder", "data.root=photos"])
    record(plan_study(tmp_path / "x", find_study("losses"), "small", 1, recipe), 1)
    monkeypatch.chdir(tmp_path / "there")
    assert {cell.recipe.data.root for cell in open_study(tmp_path / "x").cells} == {str(tmp_path / "photos")}
    with pytest.raises(RecipeError, match=r"data\.root"):
        record(plan_study(tmp_path / "x", find_study("losses"), "small", 1, recipe), 1)
