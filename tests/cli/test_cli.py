"""The command line as a user meets it: in a process of its own, in a folder without a checkout."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from places import ROOT
from safetensors import safe_open

from simclr_plus.runs.folder import Run

Command = Callable[..., subprocess.CompletedProcess[str]]


def refused(done: subprocess.CompletedProcess[str], code: int, *says: str) -> None:
    """One plain message on stderr, no traceback, the exit code of the design."""
    assert done.returncode == code, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    for text in says:
        assert text in done.stderr


def test_help_lists_the_verbs(simclr_plus: Command, tmp_path: Path) -> None:
    done = simclr_plus("--help", cwd=tmp_path)
    verbs = ("run", "resume", "evaluate", "export", "embed", "preview", "recipes", "demo", "tui")
    assert done.returncode == 0 and all(f" {verb} " in done.stdout for verb in verbs)


def test_the_dry_run_of_the_largest_recipe_says_what_it_comes_to(simclr_plus: Command, tmp_path: Path) -> None:
    recipe = ROOT / "recipes" / "r50_4x.toml"
    done = simclr_plus("run", recipe, "--nproc", 64, "--dry-run", "--json", cwd=tmp_path)
    plan = json.loads(done.stdout)
    assert round(plan["encoder_parameters"] / 1e6) == 375 and plan["head_parameters"] == 68_173_952
    assert (plan["global_batch"], plan["batch_per_process"], plan["processes"]) == (4096, 64, 64)
    assert (plan["total_steps"], plan["warmup_steps"], plan["peak_learning_rate"]) == (312_785, 3127, 4.8)
    assert 5 < plan["memory"] / 2**30 < 60 and not (tmp_path / "runs").exists()
    table = simclr_plus("run", "r50_4x", "--nproc", 64, "--dry-run", cwd=tmp_path)
    for text in ("375 M", "4,096", "64 x 64", "312,785", "3,127", "4.8", "GiB (estimate)", "--nproc-per-node 64"):
        assert text in table.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("run", "nowhere"), 3, "no recipe 'nowhere'"),
        (("run", "demo", "training.epoch=3"), 2, "did you mean training.epochs?"),
        (("run", "demo", "training.batch_size=1"), 2, "training.batch_size = 1"),
        (("run", "demo", "loss.temperature=0"), 2, "loss.temperature = 0"),
        (("run", "demo", "augmentation.strength=1.3"), 2, "augmentation.strength = 1.3"),
        (("run", "demo", "augmentation.image_size=7"), 2, "augmentation.image_size = 7"),
        (("run", "demo", "training.warmup_epochs=99"), 2, "is longer than training.epochs"),
        (("run", "demo", "training.batch_size=100", "--nproc", "3"), 2, "does not divide by 3 processes"),
        (("run", "demo", "--nproc", "many"), 2, "--nproc many"),
        (("run", "demo", "data.limit=20"), 2, "exceeds the 20 images"),
        (("run", "folder", "data.root=missing"), 3, "missing does not exist"),
        (("run", "cifar10_r18"), 3, "set data.download=true"),
        (("resume", "latest"), 3, "no run 'latest'"),
        (("evaluate", "knn", "nothing"), 3, "is no file either"),
        (("recipes", "show", "demos"), 3, "did you mean demo"),
        (("preview", "missing.jpg"), 3, "no image missing.jpg"),
        (("export", "nothing", "-o", "x"), 3, "no run 'nothing'"),
        (("recipes", "cp", "demo", "no/such/folder/x.toml"), 4, "no/such/folder"),
        (("run", "r50_4x", "training.compile=true"), 2, "do not work together"),
        (("embed", "latest", "", "-o", "f.safetensors"), 2, "after 'latest' is empty"),
        (("evaluate", "knn", "latest", "--data", ""), 2, "after '--data' is empty"),
        (("ps", "--runs="), 2, "--runs is empty"),
    ],
)
def test_a_mistake_is_one_plain_message_with_its_exit_code(
    simclr_plus: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, says: str
) -> None:
    done = simclr_plus(*arguments, cwd=tmp_path)
    refused(done, code, says)
    assert not (tmp_path / "runs").exists()


def test_debug_shows_the_traceback(simclr_plus: Command, tmp_path: Path) -> None:
    done = simclr_plus("run", "nowhere", "--debug", cwd=tmp_path)
    assert "Traceback" in done.stderr and "NotFoundError" in done.stderr


def test_wrong_weights_are_refused_by_name(simclr_plus: Command, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"PK\x03\x04 a pickle perhaps")
    refused(simclr_plus("evaluate", "knn", "weights.pth", cwd=tmp_path), 1, "weights.pth is no safetensors file")


def test_recipes_can_be_listed_shown_copied_and_checked(simclr_plus: Command, tmp_path: Path) -> None:
    assert json.loads(simclr_plus("recipes", "ls", "--json", cwd=tmp_path).stdout)["r50_4x"]["expected"].startswith(
        "paper"
    )
    shown = simclr_plus("recipes", "show", "r50_2x", "training.seed=9", cwd=tmp_path).stdout
    assert "width = 2" in shown and "seed = 9" in shown
    assert simclr_plus("recipes", "cp", "demo", "mine.toml", cwd=tmp_path).stdout.strip() == "mine.toml"
    refused(simclr_plus("recipes", "cp", "demo", "mine.toml", cwd=tmp_path), 2, "mine.toml exists")
    assert "valid" in simclr_plus("recipes", "validate", "mine.toml", cwd=tmp_path).stdout
    (tmp_path / "mine.toml").write_text("[training]\nepochz = 3")
    refused(simclr_plus("recipes", "validate", "mine.toml", cwd=tmp_path), 2, "did you mean training.epochs?")
    keys = json.loads(simclr_plus("recipes", "keys", "--json", cwd=tmp_path).stdout)
    assert {k: v for k, v in keys_of(keys).items() if k != "help"} == {
        "key": "training.seed",
        "type": "int",
        "default": 0,
    }


def keys_of(keys: list[dict[str, object]]) -> dict[str, object]:
    return next(key for key in keys if key["key"] == "training.seed")


def test_a_preview_is_a_grid_of_the_image_and_its_views(simclr_plus: Command, photos: Path, tmp_path: Path) -> None:
    image = photos / "sand" / "00.jpg"
    for seed, name in ((0, "a.png"), (0, "b.png"), (1, "c.png")):
        assert simclr_plus("preview", image, "--pairs", 3, "--seed", seed, "-o", name, cwd=tmp_path).returncode == 0
    a, b, c = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png", "c.png"))
    assert a.shape == (2 * 228 + 4, 4 * 228 + 4, 3)
    assert (a == b).all() and (a[:, :232] == c[:, :232]).all() and (a[:, 232:] != c[:, 232:]).any()


def test_a_preview_shows_the_operations_of_a_study_on_the_views_that_have_them(
    simclr_plus: Command, photos: Path, tmp_path: Path
) -> None:
    image, plain = photos / "sand" / "00.jpg", ["jitter_prob=0", "gray_prob=0", "blur_prob=0", "same_crop=true"]
    for name, study in (("a.png", []), ("b.png", ['operations=["solarize"]', "operations_on=first"])):
        given = [f"augmentation.{key}" for key in (*plain, *study)]
        assert simclr_plus("preview", image, *given, "--pairs", 2, "-o", name, cwd=tmp_path).returncode == 0
    a, b = (np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png"))
    assert (a[:, :232] == b[:, :232]).all() and (a[232:] == b[232:]).all()
    first, solarized = a[4:228, 232:-4], b[4:228, 232:-4]
    view = np.arange(first.shape[1]) % 228 < 224  # not the gap
    expected = np.asarray(ImageOps.solarize(Image.fromarray(first), 128))
    off = np.abs(solarized[:, view].astype(int) - expected[:, view])  # 1 where halves are rounded
    assert off.max() <= 1 and off.mean() < 0.01 and (solarized != first).any()


def test_a_run_prints_plain_lines_where_there_is_no_terminal(
    simclr_plus: Command, tmp_path: Path, tiny: list[str]
) -> None:
    done = simclr_plus("run", "demo", *tiny, "--name", "x", cwd=tmp_path)
    assert done.returncode == 0 and "\r" not in done.stdout and "\x1b" not in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("step 9/9") and all(t in last for t in ("loss", "contrastive", "images/s", "left"))
    assert "simclr-plus evaluate knn runs/x" in done.stderr
    again = simclr_plus("run", "demo", *tiny, "--name", "x", cwd=tmp_path)
    refused(again, 2, "runs/x exists")
    finished = simclr_plus("resume", "x", cwd=tmp_path)
    assert finished.returncode == 0 and "is finished (9 steps)" in finished.stderr
    as_json = simclr_plus("resume", "x", "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout)["state"] == "finished"


def test_the_commands_that_messages_propose_work_for_a_run_whose_name_holds_a_blank(
    simclr_plus: Command, tmp_path: Path, tiny: list[str]
) -> None:
    def proposed(said: str, verb: str) -> list[str]:
        (line,) = re.findall(rf"simclr-plus ({verb} .+)", said)
        return shlex.split(line)

    name = "it's two words"
    said = simclr_plus("run", "demo", *tiny, "--name", name, cwd=tmp_path).stderr
    unmeasured = simclr_plus("report", name, cwd=tmp_path)
    assert unmeasured.returncode == 3
    for talk in (said, unmeasured.stderr):
        evaluated = simclr_plus(*proposed(talk, "evaluate"), "--labels", "64", cwd=tmp_path)
        assert evaluated.returncode == 0, evaluated.stderr
        (result,) = (tmp_path / "runs" / name / "results").glob("knn_*.json")
        result.unlink()
    longer = proposed(simclr_plus("resume", name, cwd=tmp_path).stderr, "resume")
    planned = simclr_plus(*(word.replace("=N", "=2") for word in longer), "--dry-run", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.slow
def test_ctrl_c_under_torchrun_saves_and_the_run_can_be_resumed(
    simclr_plus: Command, tmp_path: Path, tiny: list[str]
) -> None:
    command = [sys.executable, "-m", "simclr_plus.cli", "run", "demo", *tiny, "training.epochs=50", "--name", "x"]
    process = subprocess.Popen(
        [*command, "--nproc", "2"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    run = Run(tmp_path / "runs" / "x")
    while len(run.metrics()) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=120)
    assert process.returncode == 130 and b"simclr-plus resume" in talk
    assert run.events()[-1]["reason"] == "stopped" and run.latest_checkpoint().exists()


@pytest.mark.slow
def test_a_failure_under_torchrun_is_told_as_plainly(simclr_plus: Command, tmp_path: Path, tiny: list[str]) -> None:
    overrides = [*tiny, "optimizer.name=sgd", "optimizer.learning_rate=1e30"]
    done = simclr_plus("run", "demo", *overrides, "--name", "x", "--nproc", 2, cwd=tmp_path)
    refused(done, 1, "not finite at step")


def test_own_photographs_go_in_and_an_encoder_comes_out(simclr_plus: Command, photos: Path, tmp_path: Path) -> None:
    """As a new user does it: pretrain on a folder, evaluate, embed, export; no code written."""
    small = ["encoder.depth=18", "encoder.width=0.25", "augmentation.image_size=64", "training.batch_size=16"]
    small += ["training.epochs=2", "training.warmup_epochs=0", "optimizer.name=adam"]
    small += ["optimizer.learning_rate=0.001", "optimizer.learning_rate_scaling=none"]
    assert simclr_plus("run", "folder", f"data.root={photos}", *small, "--name", "p", cwd=tmp_path).returncode == 0
    result = json.loads(simclr_plus("evaluate", "knn", "latest", "--k", 5, "--json", cwd=tmp_path).stdout)
    assert (result["train_images"], result["test_images"]) == (38, 10)
    assert result["results"]["encoder"]["top1"] > 0.7  # sea and sand differ
    assert (tmp_path / "runs/p/results").exists()
    linear = simclr_plus("evaluate", "linear", "latest", "--epochs", 3, "--batch-size", 16, "--json", cwd=tmp_path)
    assert 0 <= json.loads(linear.stdout)["results"]["encoder"]["top1"] <= 1
    done = simclr_plus("embed", "p", photos, "-o", "f.safetensors", cwd=tmp_path)
    assert done.returncode == 0 and "48 images, 128 features each" in done.stderr
    with safe_open(tmp_path / "f.safetensors", framework="np") as file:
        header = file.metadata()
        assert file.get_tensor("features").shape == (48, 128) and file.get_tensor("labels").sum() == 24
    assert json.loads(header["files"])[0].startswith("sand/00.jpg") and json.loads(header["classes"]) == [
        "sand",
        "sea",
    ]
    flat = photos / "sand"
    assert simclr_plus("embed", "p", flat, "-o", "g.safetensors", cwd=tmp_path).returncode == 0
    refused(simclr_plus("evaluate", "knn", "p", "--data", flat, cwd=tmp_path), 1, "has no labels")
    refused(
        simclr_plus("export", "p", "--format", "timm", "-o", "t", cwd=tmp_path), 2, "timm cannot express", "width 0.25"
    )
    assert simclr_plus("export", "p", "-o", "e.safetensors", cwd=tmp_path).stdout.strip() == "e.safetensors"
    script = "import simclr_plus as s, torch; print(s.load_encoder('e.safetensors')(torch.rand(2, 3, 64, 64)).shape)"
    out = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "[2, 128]" in out.stdout


@pytest.mark.slow
def test_unreadable_photographs_stop_a_run_or_are_counted(
    simclr_plus: Command, photos: Path, tmp_path: Path, tiny: list[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    for i, path in enumerate(sorted(photos.rglob("*.jpg"))):
        (folder / f"{i:02}.jpg").write_bytes(path.read_bytes() if i else b"not an image")
    small = [*tiny, "data.name=folder", "data.root=mixed", "training.batch_size=16", "training.epochs=2"]
    refused(simclr_plus("run", "demo", *small, "--name", "a", cwd=tmp_path), 1, "00.jpg cannot be read", "on_bad_image")
    done = simclr_plus("run", "demo", *small, "data.on_bad_image=skip", "--name", "b", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["last"]["images_skipped"] == 1
    assert "00.jpg" in (tmp_path / "runs/b/logs/skipped.0.txt").read_text()
    assert "1 images could not be read and were skipped" in done.stderr
    refused(simclr_plus("embed", "b", folder, cwd=tmp_path), 1, "00.jpg cannot be read")
    assert "47 images" in simclr_plus("embed", "b", folder, "--skip-bad", cwd=tmp_path).stderr
