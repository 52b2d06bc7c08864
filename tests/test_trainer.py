"""The promises of the loop: resumed equals unbroken byte for byte, bad numbers stop it. See also test_proof.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from simclr_plus.augmentations.law import OPERATIONS
from simclr_plus.checkpoints import load_checkpoint, load_encoder
from simclr_plus.datasets import TEST, TRAIN, open_images, open_training_images
from simclr_plus.errors import CheckpointError, RecipeError, SimclrPlusError
from simclr_plus.recipe import load_recipe
from simclr_plus.runs import Run, create_run
from simclr_plus.states import read_status, state_of
from simclr_plus.trainer import train

Command = Callable[..., subprocess.CompletedProcess[str]]
EACH_STEP = ["checkpoints.every_epochs=0.125", "checkpoints.keep_last=100"]  # 32 of 256 images


def trained(folder: Path, overrides: list[str], name: str = "run") -> Run:
    run = create_run(load_recipe("demo", overrides), folder, name)
    train(run, quiet=True)
    return run


def last_bytes(run: Run) -> bytes:
    return run.checkpoint_files()[-1].read_bytes()


def test_a_killed_and_resumed_run_ends_with_the_bytes_of_an_unbroken_one(
    tmp_path: Path, tiny: list[str], simclr_plus: Command
) -> None:
    overrides = [*tiny, "training.epochs=3", "checkpoints.every_epochs=0.5", "checkpoints.keep_last=2"]
    unbroken = trained(tmp_path, overrides, "unbroken")
    command = [
        sys.executable,
        "-m",
        "simclr_plus.cli",
        "run",
        "demo",
        *overrides,
        "--name",
        "killed",
        "--runs",
        tmp_path,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed = Run(tmp_path / "killed")
    while len(killed.metrics()) < 7:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    os.kill(read_status(killed)["pid"], signal.SIGKILL)
    assert process.wait() == 1 and state_of(killed).name == "lost"
    assert 0 < len(killed.metrics()) < len(unbroken.metrics())
    done = simclr_plus("resume", "killed", "--runs", tmp_path, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert last_bytes(killed) == last_bytes(unbroken)
    assert (killed.path / "encoder.safetensors").read_bytes() == (unbroken.path / "encoder.safetensors").read_bytes()
    assert [e["event"] for e in killed.events() if e["event"] in ("start", "resume")] == ["start", "resume"]
    volatile = {"time", "images_per_second", "data_wait"}
    a, b = ([{k: v for k, v in x.items() if k not in volatile} for x in run.metrics()] for run in (unbroken, killed))
    assert a == b


def test_a_stop_file_saves_a_checkpoint_and_the_resumed_run_ends_the_same(tmp_path: Path, tiny: list[str]) -> None:
    unbroken = trained(tmp_path, tiny, "unbroken")
    stopped = create_run(load_recipe("demo", tiny), tmp_path, "stopped")
    original = Run.log_metrics

    def stop_at_three(run: Run, values: dict[str, object]) -> None:
        original(run, values)
        if values["step"] == 3:
            run.stop_file.parent.mkdir(exist_ok=True)
            run.stop_file.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log_metrics", stop_at_three)
        assert train(stopped, quiet=True) == "stopped"
    assert [p.stem for p in stopped.checkpoint_files()] == ["step_00000003"]
    assert train(stopped, quiet=True) == "finished"
    assert last_bytes(stopped) == last_bytes(unbroken)


def test_ctrl_c_saves_and_exits_with_130(tmp_path: Path, tiny: list[str]) -> None:
    command = [sys.executable, "-m", "simclr_plus.cli", "run", "demo", *tiny, "training.epochs=50", "--name", "x"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    run = Run(tmp_path / "runs" / "x")
    while len(run.metrics()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=60)
    assert process.returncode == 130 and "simclr-plus resume" in talk
    assert run.latest_checkpoint().exists() and run.events()[-1]["reason"] == "stopped"


@pytest.mark.parametrize("setting", ["training.activation_checkpointing=true", "training.channels_last=false"])
def test_ways_to_compute_do_not_change_what_is_learned(tmp_path: Path, tiny: list[str], setting: str) -> None:
    plain, other = trained(tmp_path, tiny, "plain"), trained(tmp_path, [*tiny, setting], "other")
    losses = [[line["loss"] for line in run.metrics()] for run in (plain, other)]
    assert losses[0] == pytest.approx(losses[1], abs=2e-3)
    assert losses[0][:2] == pytest.approx(losses[1][:2], abs=1e-5)


def test_bfloat16_gradient_clipping_and_adam_train(tmp_path: Path, tiny: list[str]) -> None:
    extra = ["training.precision=bfloat16", "optimizer.gradient_clip=0.5", "training.epochs=3"]
    losses = [line["loss"] for line in trained(tmp_path, [*tiny, *extra]).metrics()]
    plain = [line["loss"] for line in trained(tmp_path, [*tiny, "training.epochs=3"], "plain").metrics()]
    assert losses[0] == pytest.approx(plain[0], abs=0.05) and losses != plain
    assert sum(losses[-4:]) / 4 < sum(losses[:4]) / 4 - 0.1


def test_a_loss_that_is_not_finite_stops_with_step_rate_and_last_good_checkpoint(
    tmp_path: Path, tiny: list[str]
) -> None:
    overrides = [*tiny, *EACH_STEP, "optimizer.name=sgd", "optimizer.learning_rate=1e30", "training.warmup_epochs=0.5"]
    run = create_run(load_recipe("demo", overrides), tmp_path, "run")
    with pytest.raises(SimclrPlusError) as caught:
        train(run, quiet=True)
    good = run.checkpoint_files()[-1]
    assert f"the last good checkpoint is {good}" in str(caught.value)
    assert "not finite at step" in str(caught.value) and "learning rate" in str(caught.value)
    assert all(torch.isfinite(v).all() for k, v in load_file(good).items() if k.startswith("encoder"))


def test_init_from_starts_from_given_weights(tmp_path: Path, tiny: list[str]) -> None:
    first = trained(tmp_path, tiny, "first")
    encoder = first.path / "encoder.safetensors"
    given = create_run(load_recipe("demo", [*tiny, *EACH_STEP, f"training.init_from={encoder}"]), tmp_path, "given")
    train(given, quiet=True)
    after_one = load_checkpoint(given.checkpoint_files()[0])  # its learning rate was 0
    assert torch.equal(after_one.tensors["encoder.conv1.weight"], load_encoder(encoder).state_dict()["conv1.weight"])
    other = create_run(load_recipe("demo", [f"training.init_from={encoder}"]), tmp_path, "other")
    with pytest.raises(CheckpointError, match=r"init_from .*set \[encoder\] to match"):
        train(other, quiet=True)


def test_the_newest_checkpoints_and_one_each_n_epochs_are_kept(tmp_path: Path, tiny: list[str]) -> None:
    keep = [
        "training.epochs=5",
        "checkpoints.every_epochs=0.5",
        "checkpoints.keep_last=2",
        "checkpoints.keep_every_epochs=2",
    ]
    run = trained(tmp_path, [*tiny, *keep])
    assert [int(p.stem[5:]) for p in run.checkpoint_files()] == [16, 32, 40, 41]


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path, tiny: list[str]) -> None:
    run = trained(tmp_path, tiny)
    run.recipe_file.write_text(run.recipe_file.read_text().replace("limit = 256", "limit = 255"))
    with pytest.raises(CheckpointError, match=r"was trained on 256 images .* now holds 255"):
        train(run, quiet=True)


def test_knn_without_labelled_images_is_refused_before_training(tmp_path: Path, tiny: list[str], photos: Path) -> None:
    flat = [*tiny, "data.name=folder", f"data.root={photos / 'Aqua'}", "data.limit=0", "training.batch_size=8"]
    run = create_run(load_recipe("demo", [*flat, "monitor.knn_every_epochs=1"]), tmp_path, "run")
    with pytest.raises(SimclrPlusError, match=r"monitor.knn_every_epochs needs labelled images.*set it to 0"):
        train(run, quiet=True)
    assert run.metrics() == []


def test_a_batch_larger_than_the_data_never_starts(tmp_path: Path, tiny: list[str]) -> None:
    run = create_run(load_recipe("demo", [*tiny, "data.limit=20"]), tmp_path, "run")
    with pytest.raises(RecipeError, match="exceeds the 20 images"):
        train(run, quiet=True)


def test_the_monitor_measures_knn_without_changing_the_training(tmp_path: Path, tiny: list[str]) -> None:
    plain, watched = (
        trained(tmp_path, tiny, "plain"),
        trained(tmp_path, [*tiny, "monitor.knn_every_epochs=1"], "watched"),
    )
    weights = [load_file(run.path / "encoder.safetensors") for run in (plain, watched)]
    assert all(torch.equal(weights[0][k], weights[1][k]) for k in weights[0])
    assert 0.1 < watched.metrics()[-1]["knn_accuracy"] < 1 and "knn_accuracy" not in plain.metrics()[-1]
    (start,) = [event for event in watched.events() if event["event"] == "start"]  # what the accuracy stands on
    bank, queries = (open_images(watched.recipe().data, split) for split in (TRAIN, TEST))
    assert start["knn"] == {"bank": min(4000, len(bank)), "queries": min(2000, len(queries)), "neighbours": 20}
    assert (start["images"], start["classes"]) == (len(open_training_images(watched.recipe())), 10)


def test_a_run_that_augments_on_the_device_is_that_of_the_cpu_and_resumes_bit_for_bit(
    tmp_path: Path, tiny: list[str]
) -> None:
    overrides = [*tiny, "augmentation.augment_on=device", *EACH_STEP]
    device, again, cpu = (
        trained(tmp_path, overrides, "device"),
        trained(tmp_path, overrides, "again"),
        trained(tmp_path, [*tiny, "augmentation.augment_on=cpu"], "cpu"),
    )
    first, of_cpu = device.metrics()[0], cpu.metrics()[0]
    assert first["loss"] == pytest.approx(of_cpu["loss"], abs=1e-4)
    assert last_bytes(device) == last_bytes(again)
    for path in again.checkpoint_files()[4:]:
        path.unlink()
    assert train(again, quiet=True) == "finished"
    assert last_bytes(device) == last_bytes(again)


def test_a_run_with_every_operation_of_the_studies_ends_the_same_in_one_piece_and_resumed(
    tmp_path: Path, tiny: list[str]
) -> None:
    names = ", ".join(f'"{name}"' for name in OPERATIONS)
    study = [*tiny, f"augmentation.operations=[{names}]", "augmentation.operation_prob=0.3", *EACH_STEP]
    whole = trained(tmp_path, study, "whole")
    assert whole.metrics()[-1]["step"] == 9 and len(whole.metrics()) == 9
    cut = create_run(load_recipe("demo", study), tmp_path, "cut")
    cut.checkpoints.mkdir(parents=True)
    middle = whole.checkpoint_files()[4]
    (cut.checkpoints / middle.name).write_bytes(middle.read_bytes())
    train(cut, quiet=True)
    assert last_bytes(cut) == last_bytes(whole)
    assert last_bytes(trained(tmp_path, tiny, "plain")) != last_bytes(whole)
