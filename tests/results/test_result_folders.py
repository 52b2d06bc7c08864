"""Which file a result is: of two encoders never one, of one encoder always the same, and never lost on the way."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from simclr_plus.encoders import ResNet
from simclr_plus.errors import NotFoundError, RecipeError
from simclr_plus.evaluators import kept_outcomes
from simclr_plus.evaluators.kept_outcomes import KeptOutcomes
from simclr_plus.evaluators.knn import evaluate_knn
from simclr_plus.evaluators.linear import evaluate_linear, evaluate_linear_fast
from simclr_plus.recipe import load_recipe
from simclr_plus.results.comparisons import compare_named
from simclr_plus.results.evaluate import evaluate_target
from simclr_plus.results.evaluate_on_sets import few_labels, transfer
from simclr_plus.results.report import make_report, results_folder
from simclr_plus.results.targets import open_target, weights_of
from simclr_plus.runs.folder import Run, create_run
from simclr_plus.runs.result_folders import noted
from simclr_plus.training.model import build_model
from simclr_plus.weights.checkpoints import save_checkpoint
from simclr_plus.weights.encoder_files import load_encoder, save_encoder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of three levels, a class each, which overlap: no encoder is right of all."""
    root, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    for label in range(3):
        (root / f"class_{label}").mkdir()
        for i in range(20):
            pixels = np.clip(rng.normal(100 + 12 * label, 40, (20, 20, 3)) + rng.normal(0, 12), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"class_{label}" / f"{i}.png")
    return root


def a_run(folder: Path, tiny: list[str], name: str, *, steps: tuple[int, ...] = (1,)) -> Run:
    """A run with a checkpoint of random weights a step, and the encoder of the last."""
    recipe = load_recipe("demo", [*tiny, "augmentation.image_size=16"])
    run = create_run(recipe, folder / "runs", name)
    for step in steps:
        torch.manual_seed(sum(map(ord, name)) + step)
        model = build_model(load_recipe("demo", [*tiny, f"training.seed={step + ord(name[0])}"]), 10).eval()
        file = run.checkpoint_file(step)
        save_checkpoint(file, model, torch.optim.SGD(model.parameters()), step=step, recipe=recipe)
    save_encoder(load_encoder(file), run.path / "encoder.safetensors", {"recipe": recipe.to_toml(), "step": str(step)})
    return run


def a_file(path: Path, seed: int, **header: Any) -> Path:
    torch.manual_seed(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_encoder(ResNet(18, 0.125, stem="cifar"), path, {"image_size": "16", **header})
    return path


def knn(target: Path | str, data: Path, runs: Path, k: int = 5, **more: Any) -> tuple[dict[str, Any], Path]:
    return evaluate_target(open_target(str(target), runs), "knn", evaluate_knn, {"k": k}, data=str(data), **more)


def transferred(target: Path | str, data: Path, runs: Path, **more: Any) -> dict[str, Any]:
    given = {"test": "", "relative_to": "sum", "seed": 0, "baselines": False, "say": lambda _: None, **more}
    return transfer(open_target(str(target), runs), str(data), "", **given)


def test_the_result_of_a_checkpoint_is_its_runs_and_its_own(tmp_path: Path, tiny: list[str], drawn: Path) -> None:
    run = a_run(tmp_path, tiny, "r", steps=(20, 24))
    planted = {"evaluator": "knn", "results": {"encoder": {"top1": 0.988}}}
    run.write_result("knn_step_00000020", planted)
    result, file = knn(run.checkpoint_file(24), drawn, run.path.parent)
    assert file.parent == run.results.absolute() and result["step"] == 24
    assert json.loads(file.read_text())["results"] == result["results"]
    assert json.loads((run.results / "knn_step_00000020.json").read_text()) == planted
    link = tmp_path / "elsewhere.safetensors"
    link.symlink_to(run.checkpoint_file(20))
    result, file = knn(link, drawn, run.path.parent)
    assert file.parent.resolve() == run.results.resolve() and result["step"] == 20


def test_a_recipe_beside_a_file_makes_no_run_of_its_folder(tmp_path: Path) -> None:
    file = a_file(tmp_path / "work" / "encoder.safetensors", 0)
    (file.parent / "recipe.toml").write_text("")
    assert weights_of(str(file), tmp_path / "runs") == (file, None)
    (file.parent / "events.jsonl").write_text("")
    assert weights_of(str(file), tmp_path / "runs") == (file, Run(file.parent))


def test_a_result_names_the_network_of_a_file_that_does_not_say_how_it_was_trained(tmp_path: Path, drawn: Path) -> None:
    file = a_file(tmp_path / "e.safetensors", 1)
    result, path = knn(file, drawn, tmp_path / "runs")
    title = ResNet(18, 0.125, stem="cifar").title
    assert result["encoder"] == json.loads(path.read_text())["encoder"] == title
    assert noted(path.parent.parent)["encoder"] == title


def test_encoders_of_one_name_keep_their_results_apart(tmp_path: Path, drawn: Path) -> None:
    files = [a_file(tmp_path / name / "encoder.safetensors", ord(name)) for name in "ab"]
    runs = tmp_path / "runs"
    written = [(knn(file, drawn, runs)[1], transferred(file, drawn, runs)["file"]) for file in files]
    assert len({Path(path).parent for pair in written for path in pair}) == 2
    for file, paths in zip(files, written, strict=True):
        assert all(json.loads(Path(path).read_text())["weights"] == str(file) for path in paths)
        assert results_folder(str(file), runs).results == Path(paths[0]).parent
    with pytest.raises(NotFoundError, match="ambiguous"):
        results_folder("encoder", runs)
    again = knn(files[0], drawn, runs)[1]
    assert again == written[0][0] and len(list(runs.glob("*/results/knn*.json"))) == 2
    shutil.copy(files[1], files[0])  # other weights under the old path
    assert knn(files[0], drawn, runs)[1].parent == written[1][0].parent
    assert weights_of(str(again.parent.parent), runs)[0] == files[0]


def test_a_run_and_its_encoder_file_share_a_folder_and_one_row(tmp_path: Path, tiny: list[str], drawn: Path) -> None:
    run = a_run(tmp_path, tiny, "r", steps=(3, 8))
    paths = {knn(target, drawn, run.path.parent)[1] for target in ("r", run.path / "encoder.safetensors")}
    paths.add(knn(run.checkpoint_file(3), drawn, run.path.parent)[1])
    assert len(paths) == 3 and {path.parent for path in paths} == {run.results.absolute()} | {run.results}
    rows = [(row.encoder, row.n) for row in make_report([run]).rows]
    assert sorted(rows) == [("r 3", 1), ("r 8", 1)]


def test_other_images_under_the_same_name_are_another_result(tmp_path: Path, drawn: Path) -> None:
    file, runs = a_file(tmp_path / "e.safetensors", 0), tmp_path / "runs"
    data = tmp_path / "drawn"
    shutil.copytree(drawn, data)
    first, path = knn(file, data, runs)
    for image in sorted(data.glob("class_2/*"))[:8]:
        image.unlink()
    second, other = knn(file, data, runs)
    assert path != other and json.loads(path.read_text())["results"] == first["results"]
    assert json.loads(other.read_text())["results"] == second["results"]
    rows = make_report([Run(path.parent.parent)]).rows
    assert {row.n for row in rows} == {1} and len({row.data for row in rows}) == 2


def test_baselines_that_were_found_stay_when_the_encoder_alone_is_evaluated_again(tmp_path: Path, drawn: Path) -> None:
    file, runs = a_file(tmp_path / "e.safetensors", 3), tmp_path / "runs"
    first, path = knn(file, drawn, runs, baselines=True)
    assert knn(file, drawn, runs)[1] == path
    assert json.loads(path.read_text())["results"] == first["results"] and len(first["results"]) == 3
    both = transferred(file, drawn, runs, baselines=True)
    transferred(file, drawn, runs)
    pair = compare_named(str(file), str(file), "encoder", "random encoder", runs)[0]
    assert pair.found.a == pytest.approx(both["results"]["encoder"]["top1"])
    assert pair.found.b == pytest.approx(both["results"]["random encoder"]["top1"])


def test_names_of_encoders_are_compared_by_their_own_predictions(tmp_path: Path, tiny: list[str], drawn: Path) -> None:
    runs = tmp_path / "runs"
    run, file = a_run(tmp_path, tiny, "r", steps=(3, 8)), a_file(tmp_path / "x" / "encoder.safetensors", 5)
    found = {
        str(target): transferred(target, drawn, runs)["results"]["encoder"]["top1"]
        for target in (run.checkpoint_file(3), "r", file)
    }
    for a, b in ((str(run.checkpoint_file(3)), "r"), ("r", str(file)), (str(file), str(run.checkpoint_file(3)))):
        (pair,) = compare_named(a, b, "encoder", "encoder", runs)
        assert (pair.found.a, pair.found.b) == (pytest.approx(found[a]), pytest.approx(found[b]))
        with_file = compare_named(str(pair.a.file), b, "encoder", "encoder", runs)[0]
        assert with_file.found == pair.found


def test_nothing_is_compared_with_itself(tmp_path: Path, tiny: list[str], drawn: Path) -> None:
    runs, run = tmp_path / "runs", a_run(tmp_path, tiny, "r")
    copy = tmp_path / "copy.safetensors"
    shutil.copy(run.path / "encoder.safetensors", copy)
    for target in ("r", copy):
        transferred(target, drawn, runs)
    predictions = next(run.results.glob("predictions/*.safetensors"))
    names = ["r", str(copy), str(run.latest_checkpoint()), str(predictions)]
    for a in names:
        for b in names:
            with pytest.raises(RecipeError, match="compared with itself"):
                compare_named(a, b, "encoder", "encoder", runs)
    with pytest.raises(NotFoundError, match="Evaluate it first"):
        compare_named("r", str(a_file(tmp_path / "never.safetensors", 7)), "encoder", "encoder", runs)


class KilledError(Exception):
    """What ends a command in its middle."""


def killed_at(subject: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Kill when an outcome is asked for the nth time; returns the names of the parts that are computed."""
    real, computed = KeptOutcomes.perhaps, list[str]()

    def perhaps(self: KeptOutcomes, results: Path, name: str, key: str, compute: Any, *, whole: bool = True) -> Any:
        def counted() -> Any:
            if len(computed) + 1 == subject:
                raise KilledError
            computed.append(name)
            return compute()

        return real(self, results, name, key, counted, whole=whole)

    monkeypatch.setattr(kept_outcomes.KeptOutcomes, "perhaps", perhaps)
    return computed


@pytest.mark.parametrize("evaluator", [evaluate_knn, evaluate_linear_fast, evaluate_linear])
def test_what_one_subject_cost_outlives_a_kill_in_the_next(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch, evaluator: Any
) -> None:
    file, settings = a_file(tmp_path / "e.safetensors", 0), {} if evaluator is evaluate_knn else {"epochs": 2}

    def evaluated(runs: str) -> tuple[dict[str, Any], Path]:
        target = open_target(str(file), tmp_path / runs)
        return evaluate_target(target, evaluator.__name__, evaluator, settings, data=str(drawn), baselines=True)

    whole, _ = evaluated("whole")
    with monkeypatch.context() as patch:
        killed_at(2, patch)
        with pytest.raises(KilledError):
            evaluated("cut")
    with monkeypatch.context() as patch:
        computed = killed_at(0, patch)
        found, path = evaluated("cut")
    assert [name.rpartition("_")[2] for name in computed] == ["raw pixels", "random encoder"]
    assert found["results"] == whole["results"] == json.loads(path.read_text())["results"]
    assert not list(path.parent.glob(".*"))


def test_seeds_sets_and_baselines_that_are_done_are_not_done_again(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = a_file(tmp_path / "e.safetensors", 0)

    def evaluated(runs: str) -> list[dict[str, Any]]:
        kept, target = KeptOutcomes(), open_target(str(file), tmp_path / runs)
        given: dict[str, Any] = {"test": "", "say": lambda _: None, "kept": kept, "baselines": True}
        few: dict[str, Any] = {"list_file": "", "protocol_name": "paper", "rates": (), "head_file": ""}
        found = [transfer(target, str(drawn), "", relative_to="sum", seed=0, **given)]
        changes = {"epochs": 1, "batch_size": 8}
        for seed in (0, 1):
            found.append(few_labels(target, data=str(drawn), share=0.5, changes=changes, seed=seed, **few, **given))
        kept.forget()
        return [result["results"] for result in found]

    whole = evaluated("whole")
    with monkeypatch.context() as patch:
        killed_at(6, patch)
        with pytest.raises(KilledError):
            evaluated("cut")
    with monkeypatch.context() as patch:
        computed = killed_at(0, patch)
        found = evaluated("cut")
    assert [name.rpartition("_")[2] for name in computed] == ["random encoder"] and found == whole
    assert not list((tmp_path / "cut").glob("*/results/.*"))


def test_a_kept_outcome_of_other_weights_is_not_taken(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the time of the file: copied back, weights are the same, and others written at that time are not."""
    import os

    file, runs = a_file(tmp_path / "run" / "encoder.safetensors", 0), tmp_path / "runs"
    (tmp_path / "run" / "recipe.toml").write_text("")
    (tmp_path / "run" / "checkpoints").mkdir()
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    with monkeypatch.context() as patch:
        killed_at(2, patch)
        with pytest.raises(KilledError):
            knn(file, drawn, runs, baselines=True)
    a_file(file, 1)
    os.utime(file, ns=times)
    other, _ = knn(file, drawn, tmp_path / "apart", baselines=True)
    copy = a_file(tmp_path / "copy.safetensors", 1)
    assert other["results"] == knn(copy, drawn, runs, baselines=True)[0]["results"]


def test_json_tells_what_was_found_and_where_it_was_written(
    tmp_path: Path, tiny: list[str], drawn: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from simclr_plus.cli.evaluate import app

    monkeypatch.chdir(tmp_path)
    run = a_run(tmp_path, tiny, "r", steps=(20, 24))
    shared = ["--data", str(drawn), "--json"]
    for verb, target in (("knn", run.checkpoint_file(20)), ("linear --fast", "r"), ("transfer", "r")):
        app(["evaluate", *verb.split(), str(target), *shared][1:], standalone_mode=False)
        told = json.loads(capsys.readouterr().out)
        one = told["results"][0] if verb == "transfer" else told
        kept = json.loads(Path(one["file"]).read_text())
        assert kept == {key: value for key, value in one.items() if key != "file"}
        assert kept["step"] == (24 if target == "r" else 20) and kept["results"]["encoder"]["top1"] > 0


KILLED = """
import functools, os, signal, sys
import simclr_plus.evaluators.{module} as module
real, calls = module.{function}, [0]
@functools.wraps(real)
def evaluate(*arguments, **named):
    calls[0] += 1
    if calls[0] == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
module.{function} = evaluate
from simclr_plus.cli.evaluate import app
app(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["knn", "linear"])
def test_a_command_that_is_killed_in_its_second_subject_goes_on_there(tmp_path: Path, drawn: Path, verb: str) -> None:
    file = a_file(tmp_path / "e.safetensors", 3)
    arguments = [verb, str(file), "--data", str(drawn), "--baselines", "--json"]
    arguments += ["--epochs", "2"] if verb == "linear" else []

    def evaluated(runs: str, *, killed_at: int) -> subprocess.CompletedProcess[str]:
        code = KILLED.format(module=verb, function=f"evaluate_{verb}", call=killed_at)
        command = [sys.executable, "-c", code, *arguments, "--runs", str(tmp_path / runs)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert evaluated("cut", killed_at=2).returncode == -signal.SIGKILL
    done, whole = evaluated("cut", killed_at=3), evaluated("whole", killed_at=4)  # two more subjects, not three
    assert done.returncode == whole.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["results"] == json.loads(whole.stdout)["results"]
    assert not list((tmp_path / "cut").glob("*/results/.*"))


def test_a_runs_own_folder_is_the_same_however_it_is_written(
    drawn: Path, tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = a_run(tmp_path, [*tiny, "data.name=folder", f"data.root={drawn}"], "r")
    monkeypatch.chdir(drawn.parent)
    ways = ("", str(drawn), drawn.name, f"./{drawn.name}/")
    target = open_target(str(run.path), run.path.parent)
    files = {evaluate_target(target, "knn", evaluate_knn, {"k": 3}, data=data)[1] for data in ways}
    assert len(files) == 1


def test_an_evaluation_reads_files_as_its_encoders_training_did(drawn: Path, tmp_path: Path, tiny: list[str]) -> None:
    """Black drawings on nothing: alike where transparency is dropped, told apart where they lie on white."""
    for label, side in (("large", 14), ("small", 4)):
        (tmp_path / "logos" / label).mkdir(parents=True)
        for i in range(10):
            alpha = np.zeros((16, 16), np.uint8)
            alpha[1 + i % 2 : 1 + i % 2 + side, 1 : 1 + side] = 255
            logo = np.dstack([np.zeros((16, 16, 3), np.uint8), alpha])
            Image.fromarray(logo).save(tmp_path / "logos" / label / f"{i}.png")
    found = {}
    for background in ("drop", "white"):
        keys = [*tiny, "data.name=folder", f"data.root={drawn}", f"data.background={background}"]
        target = open_target(str(a_run(tmp_path, keys, background).path), tmp_path)
        result = transfer(
            target, str(tmp_path / "logos"), "", test="", relative_to="sum", seed=0, baselines=False, say=print
        )
        found[background] = result["results"]["encoder"]["top1"]
    assert found == {"drop": 0.5, "white": 1.0}
